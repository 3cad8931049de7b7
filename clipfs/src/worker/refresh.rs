//! Newer credentials for the mount of a container that is here: sent by the control plane, or asked for after a loss. One at a time for each task;
//! the newest wins.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::v1;
use credplugin::ContainerRequest;
use secrecy::SecretString;
use tokio::sync::{Mutex, MutexGuard};
use tonic::Code;

use super::agent::{Agent, NotTaken, lease_message};
use super::engine::Engine;
use super::task::{AGAIN, Stop, Task};

/// Whose turn it is to write a task's credentials.
#[derive(Debug, Default)]
pub(super) struct Turns {
    newest: AtomicU64,
    writing: Mutex<()>,
}

impl Turns {
    /// Newer credentials: those before need not be written any more.
    fn next(&self) -> u64 {
        self.newest.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// While this is held, nobody else writes.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().await
    }
}

impl<E: Engine> Agent<E> {
    /// Newer credentials for the mount of a task. What is returned ends when they are in place, or nobody needs them any more.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub fn refresh(
        self: &Arc<Self>,
        lease: Option<v1::Lease>,
        credentials: SecretString,
    ) -> Result<impl Future<Output = ()> + Send + use<E>, NotTaken> {
        let task = self.task(lease)?;
        // Here, not when the future is first polled: in the order in which they came.
        let task = task.map(|task| {
            let number = task.credentials.next();
            (task, number)
        });
        let agent = self.clone();
        Ok(async move {
            if let Some((task, number)) = task {
                put(&agent, &task, number, &credentials).await;
            }
        })
    }
}

/// Puts credentials in place, and tries until it works.
async fn put<E: Engine>(agent: &Agent<E>, task: &Task, number: u64, credentials: &SecretString) {
    let mut pause = AGAIN.0;
    loop {
        let turn = task.credentials.turn().await;
        if task.credentials.newest() != number || task.has_ended() {
            return;
        }
        let container = &task.lease().container_id;
        match agent.engine.refresh(&task.job(), credentials).await {
            Ok(()) => return tracing::info!(container, "newer credentials are in place"),
            Err(error) => {
                tracing::warn!(container, %error, "newer credentials are not in place, trying again")
            }
        }
        drop(turn);
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(AGAIN.1),
            () = task.until_ended() => {}
        }
    }
}

/// Asks for a container's credentials as they are now, until they are there or cannot be had. Gives up where newer ones arrive by themselves.
pub(super) async fn fetch<E: Engine>(agent: Arc<Agent<E>>, task: Arc<Task>) {
    let number = task.credentials.newest();
    let mut pause = AGAIN.0;
    while !task.has_ended() && task.credentials.newest() == number {
        let request = v1::FetchCredentialsRequest { lease: Some(lease_message(task.lease())) };
        let mut client = agent.control.workers();
        let answer = tokio::select! {
            answer = client.fetch_credentials(agent.control.request(request)) => answer,
            () = task.until(Stop::Revoke) => return,
            () = task.until_ended() => return,
        };
        match answer {
            Ok(answer) => {
                let credentials = SecretString::from(answer.into_inner().image_credentials);
                if replace(&agent, &task, number, &credentials).await {
                    return;
                }
            }
            Err(status) => {
                let container = &task.lease().container_id;
                tracing::warn!(container, code = ?status.code(), reason = status.message(), "no credentials");
                if matches!(status.code(), Code::NotFound | Code::FailedPrecondition | Code::DataLoss) {
                    return;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(AGAIN.1),
            () = task.until(Stop::Revoke) => return,
            () = task.until_ended() => return,
        }
    }
}

/// Writes a request that was lost, as far as a mount needs it. `false`: it cannot be written.
async fn replace<E: Engine>(agent: &Agent<E>, task: &Task, number: u64, credentials: &SecretString) -> bool {
    let _turn = task.credentials.turn().await;
    if task.has_ended() || task.credentials.newest() != number {
        return true;
    }
    let (record, job) = (task.record().clone(), task.job());
    let request = ContainerRequest {
        container_id: record.lease.container_id,
        workspace_id: record.lease.workspace_id,
        image_id: record.image_id,
        ..ContainerRequest::default()
    };
    let request = request.with_image_credentials(credentials.clone()).to_json();
    if let Err(error) = agent.store.write_request(&job.key, request.as_bytes()) {
        tracing::warn!(key = job.key, %error, "credentials cannot be written");
        return false;
    }
    match agent.engine.refresh(&job, credentials).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(key = job.key, %error, "credentials are not in place");
            false
        }
    }
}
