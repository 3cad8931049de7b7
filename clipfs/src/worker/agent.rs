//! What is here: every task of this node, from the moment it is written down until its end was taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::v1;
use credplugin::ContainerRequest;
use secrecy::SecretString;
use tokio::sync::{RwLock, RwLockWriteGuard};
use zeroize::Zeroizing;

use super::WorkerError;
use super::control::Control;
use super::engine::Engine;
use super::indexes::Indexes;
use super::outbox::Outbox;
use super::runtime::{ContainerRequestView, JobState};
use super::task::{self, Stop, Task};
use super::tasks::{Outcome, Record, TaskLease, Tasks, view};

/// How long the end of this process waits for mounts and starts that are under way, and for what is to be said.
const SETTLE: Duration = Duration::from_secs(45);

/// And for the last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Dispatches that are remembered when they are over.
const MAX_OVER: usize = 4096;

/// The node.
#[derive(Debug)]
pub struct Agent<E> {
    pub(super) engine: E,
    pub(super) store: Tasks,
    pub(super) indexes: Indexes,
    pub(super) control: Control,
    pub(super) outbox: Outbox,
    here: Mutex<Here>,
    draining: AtomicBool,
    /// Read by who mounts or starts; written by who ends the process.
    pub(super) busy: RwLock<()>,
}

/// Dispatches by their fencing tokens.
#[derive(Debug, Default)]
struct Here {
    tasks: BTreeMap<u64, Arc<Task>>,
    /// Those that ended, or were revoked: a dispatch may have been on its way once more while its end was told. It must not run again.
    over: BTreeSet<u64>,
}

impl Here {
    fn end(&mut self, token: u64) {
        self.tasks.remove(&token);
        self.over.insert(token);
        if self.over.len() > MAX_OVER {
            self.over.pop_first();
        }
    }

    /// The newest attempt of a container.
    fn newest(&self, lease: &TaskLease) -> Option<Arc<Task>> {
        let same = |task: &Task| {
            task.lease().container_id == lease.container_id && task.lease().workspace_id == lease.workspace_id
        };
        self.tasks.values().rev().find(|task| same(task)).cloned()
    }
}

/// Why a message of the control plane is not acknowledged: it comes again.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It makes no sense.
    #[error("the control plane sends a message without {0}")]
    Lacks(&'static str),
}

impl<E: Engine> Agent<E> {
    /// With what is here. Nothing is adopted yet.
    pub fn new(engine: E, store: Tasks, indexes: Indexes, control: Control) -> Self {
        Self {
            engine,
            store,
            indexes,
            control,
            outbox: Outbox::default(),
            here: Mutex::default(),
            draining: AtomicBool::new(false),
            busy: RwLock::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Here> {
        // Nothing that can panic is done while it is held.
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with what an earlier process has written down, and removes what nobody has.
    ///
    /// A task that never ran and whose request is gone, or that ran when the machine was started again, is forgotten: the control plane sees
    /// from our Hello that we do not have it, and gives it to somebody.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub async fn adopt(self: &Arc<Self>) -> Result<(), WorkerError> {
        let mut known = Vec::new();
        for record in self.store.load()? {
            let key = record.key();
            let request = self.store.request(&key);
            let lost = request.is_none();
            let job = self.store.job(&record, request.unwrap_or_default(), self.index_path(&record));
            let state = self.engine.state(&job).await;
            if let Err(error) = &state {
                // It is looked at again, and again. The others must not wait for it.
                tracing::warn!(key, %error, "the container cannot be looked at");
            }
            let begun = !matches!(state, Ok(JobState::NotStarted | JobState::Mounted));
            let interrupted = matches!(&state, Ok(JobState::Ended(end)) if end.is_machines());
            if record.outcome.is_none() && (lost && !begun || interrupted) {
                tracing::info!(key, ?state, "a task that cannot go on here is forgotten");
                self.engine
                    .clean(&job)
                    .await
                    .unwrap_or_else(|error| tracing::warn!(%error, "something is left"));
                self.store.remove(&key).map_err(WorkerError::io("remove", &job.dir))?;
                continue;
            }
            tracing::info!(key, container = record.lease.container_id, ?state, "adopted");
            known.push(job.clone());
            // As when it arrived: the process before this one may have died before the older attempt had.
            let older = self.lock().newest(&record.lease);
            self.begin(Arc::new(Task::new(record, job, lost)), older);
        }
        if let Err(error) = self.engine.reap(&known).await {
            tracing::warn!(%error, "what nobody owns is not all gone");
        }
        Ok(())
    }

    /// `older`: an attempt of the same container, which is stopped first.
    fn begin(self: &Arc<Self>, task: Arc<Task>, older: Option<Arc<Task>>) {
        if let Some(older) = &older {
            let lease = older.lease();
            tracing::info!(
                container = lease.container_id,
                attempt = lease.attempt,
                "an older attempt is stopped"
            );
            older.stop(Stop::Revoke);
        }
        self.lock().tasks.insert(task.token(), task.clone());
        tokio::spawn(task::run(self.clone(), task, older));
    }

    /// Takes a dispatch: when this returns, it is written down and will be run, whatever dies. The same again is nothing.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub async fn dispatch(self: &Arc<Self>, dispatch: v1::Dispatch) -> Result<(), NotTaken> {
        let lease = lease(dispatch.lease)?;
        let token = lease.fencing_token;
        let (known, other) = {
            let here = self.lock();
            (here.tasks.contains_key(&token) || here.over.contains(&token), here.newest(&lease))
        };
        if known || other.as_ref().is_some_and(|other| other.token() > token) {
            return Ok(());
        }
        let mut request = dispatch.request.ok_or(NotTaken::Lacks("a request"))?;
        let credentials = SecretString::from(std::mem::take(&mut request.image_credentials));
        let mut record = Record {
            lease,
            image_id: request.image_id.clone(),
            image: dispatch.image,
            digest: dispatch.digest,
            index_digest: dispatch.index_digest,
            outcome: None,
            cost: None,
            logged: 0,
        };
        let view = match prepare(&request, &credentials) {
            Ok((bytes, view)) => {
                // First what may be lost, then what says that it is there.
                if let Err(error) = self.store.write_request(&record.key(), bytes.as_bytes()) {
                    record.outcome = Some(not_written(&error));
                }
                view
            }
            Err(reason) => {
                record.outcome = Some(Outcome::Failed { code: 3, reason });
                ContainerRequestView::default()
            }
        };
        if let Err(error) = self.store.write(&record) {
            // Nothing runs that is not written down. If this process dies before it is told, the control plane sees that it is not here.
            record.outcome = Some(not_written(&error));
        }
        let job = self.store.job(&record, view, self.index_path(&record));
        self.begin(Arc::new(Task::new(record, job, false)), other);
        Ok(())
    }

    /// Somebody wants the container to end. What is not here has ended.
    pub fn cancel(&self, lease: Option<v1::Lease>) -> Result<(), NotTaken> {
        if let Some(task) = self.task(lease)? {
            task.stop(Stop::Cancel);
        }
        Ok(())
    }

    /// It is not ours any more: it ends, and nothing is said about it.
    pub fn revoke(&self, lease: Option<v1::Lease>) -> Result<(), NotTaken> {
        let token = lease.as_ref().ok_or(NotTaken::Lacks("a lease"))?.fencing_token;
        match self.task(lease)? {
            Some(task) => {
                task.stop(Stop::Revoke);
                self.outbox.forget(token);
            }
            // Its dispatch may be on its way still.
            None => self.lock().end(token),
        }
        Ok(())
    }

    pub(super) fn task(&self, lease: Option<v1::Lease>) -> Result<Option<Arc<Task>>, NotTaken> {
        let token = lease.ok_or(NotTaken::Lacks("a lease"))?.fencing_token;
        Ok(self.lock().tasks.get(&token).cloned())
    }

    /// A task's end was taken, or is nobody's business any more.
    pub(super) fn forget(&self, token: u64) {
        self.lock().end(token);
        self.outbox.forget(token);
    }

    /// All that is here.
    #[must_use]
    pub fn leases(&self) -> Vec<v1::Lease> {
        self.lock().tasks.values().map(|task| lease_message(task.lease())).collect()
    }

    /// Whether nothing is here, and nothing of anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let none = self.lock().tasks.is_empty();
        none && self.store.is_empty()
    }

    /// Whether no new containers are wanted.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Turns it around; tells what it is now.
    pub fn toggle_draining(&self) -> bool {
        !self.draining.fetch_xor(true, Ordering::Relaxed)
    }

    /// Before this process ends: waits until nothing is half mounted or half started. As long as the guard lives, nothing begins.
    pub async fn settle(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        let settled = tokio::time::timeout(SETTLE, self.busy.write()).await;
        if settled.is_err() {
            tracing::warn!("a mount is still under way");
        }
        settled.ok()
    }

    /// Waits a moment for everything to be taken, while somebody sends it.
    pub(super) async fn last_words(&self) {
        let all = async {
            while !self.outbox.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
    }

    fn index_path(&self, record: &Record) -> PathBuf {
        record.digest.parse().map(|digest| self.indexes.path(&digest)).unwrap_or_default()
    }
}

/// The request as it is written, with its credentials, and what a runtime needs to know of it. The reason never holds a value.
fn prepare(
    request: &v1::ContainerRequest,
    credentials: &SecretString,
) -> Result<(Zeroizing<String>, ContainerRequestView), String> {
    let wrong = |reason: &str| format!("the request cannot be used: {reason}");
    // Variables may be secret.
    let plain = api::request::to_json(request).map(Zeroizing::new);
    let plain = plain.map_err(|e| wrong(&e.to_string()))?;
    let parsed = ContainerRequest::parse(plain.as_bytes()).map_err(|e| wrong(&e.message))?;
    let view = view(&parsed);
    Ok((parsed.with_image_credentials(credentials.clone()).to_json(), view))
}

fn not_written(error: &std::io::Error) -> Outcome {
    let reason = format!("the node cannot write down what it is to run: {error}");
    Outcome::Failed { code: tonic::Code::Internal.into(), reason }
}

fn lease(lease: Option<v1::Lease>) -> Result<TaskLease, NotTaken> {
    let lease = lease.ok_or(NotTaken::Lacks("a lease"))?;
    Ok(TaskLease {
        workspace_id: lease.workspace_id,
        container_id: lease.container_id,
        attempt: lease.attempt,
        fencing_token: lease.fencing_token,
    })
}

pub(super) fn lease_message(lease: &TaskLease) -> v1::Lease {
    v1::Lease {
        workspace_id: lease.workspace_id.clone(),
        container_id: lease.container_id.clone(),
        attempt: lease.attempt,
        fencing_token: lease.fencing_token,
    }
}

#[cfg(test)]
mod tests;
