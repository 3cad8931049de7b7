//! One container of this node, from dispatch to end.

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::v1;
use api::v1::worker_message::Message;
use tokio::sync::watch;
use tonic::Code;

use super::agent::{Agent, lease_message};
use super::engine::Engine;
use super::indexes::IndexFailure;
use super::refresh::{self, Turns};
use super::runtime::{End, Job, JobState, LogStream, RuntimeError};
use super::tasks::{Cost, Outcome, Record, TaskLease};
use crate::index::ClipIndex;
use crate::num::to_u64;

/// How long a container that is cancelled gets to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// Most output that is on its way at once.
const OUTPUT: usize = 256 << 10;

/// How often output is looked for: soon after the last, later and later while there is none.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Pauses before the control plane, or a container that cannot be looked at, is tried again.
pub(super) const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Longest pause before what is left of a container is tried to be removed again.
const CLEAN: Duration = Duration::from_secs(60);

/// What somebody wants of a task. Only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// Nothing.
    No,
    /// To end, and tell.
    Cancel,
    /// To be gone at once, and say nothing.
    Revoke,
}

/// A container.
#[derive(Debug)]
pub(super) struct Task {
    lease: TaskLease,
    record: Mutex<Record>,
    job: Mutex<Job>,
    /// The run directory was lost: its mount has no credentials to renew from.
    lost: bool,
    arrived: Instant,
    stop: watch::Sender<Stop>,
    pub(super) credentials: Turns,
    /// Its program has ended.
    ended: watch::Sender<bool>,
    /// Nothing of it is left.
    gone: watch::Sender<bool>,
}

/// Nobody wants to hear of it any more.
struct Revoked;

impl Task {
    pub(super) fn new(record: Record, job: Job, lost: bool) -> Self {
        Self {
            lease: record.lease.clone(),
            ended: watch::Sender::new(record.outcome.is_some()),
            record: Mutex::new(record),
            job: Mutex::new(job),
            lost,
            arrived: Instant::now(),
            stop: watch::Sender::new(Stop::No),
            credentials: Turns::default(),
            gone: watch::Sender::new(false),
        }
    }

    pub(super) const fn lease(&self) -> &TaskLease {
        &self.lease
    }

    pub(super) const fn token(&self) -> u64 {
        self.lease.fencing_token
    }

    pub(super) fn job(&self) -> Job {
        self.job.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Asks for an end.
    pub(super) fn stop(&self, stop: Stop) {
        self.stop.send_if_modified(|now| {
            let more = stop > *now;
            *now = stop.max(*now);
            more
        });
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        // Nothing that can panic is done while it is held.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn until_ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    pub(super) async fn until(&self, stop: Stop) {
        // The sender is ours: it lives.
        let _ = self.stop.subscribe().wait_for(|now| *now >= stop).await;
    }

    async fn until_gone(&self) {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    fn is(&self, stop: Stop) -> bool {
        *self.stop.borrow() >= stop
    }
}

/// Everything about a task, to its end. `older`: an attempt of the same container, which must be gone first.
pub(super) async fn run<E: Engine>(agent: Arc<Agent<E>>, task: Arc<Task>, older: Option<Arc<Task>>) {
    if let Some(older) = older {
        older.until_gone().await;
    }
    let run = Run { agent: &agent, task: &task };
    let ended = Box::pin(run.live()).await;
    task.ended.send_replace(true);
    // Whoever writes credentials has written them, and sees from now on that there is nothing to write them for.
    drop(task.credentials.turn().await);
    let cleaned = if let Ok(outcome) = ended {
        let answer = agent.outbox.put(task.token(), run.final_report(&outcome));
        let cleaned = clean(&agent, &task).await;
        tokio::select! {
            // Either it was taken, or the message was forgotten with the task.
            _ = answer => {}
            () = task.until(Stop::Revoke) => {}
        }
        cleaned
    } else {
        agent.outbox.forget(task.token());
        clean(&agent, &task).await
    };
    if cleaned {
        remove(&agent, &task).await;
    } else {
        tokio::spawn(clean_later(agent.clone(), task.clone()));
    }
    agent.forget(task.token());
    task.gone.send_replace(true);
}

/// Removes what is written down. As long as it is there, the next process cleans up.
async fn remove<E: Engine>(agent: &Arc<Agent<E>>, task: &Task) {
    let key = task.job().key;
    let (owner, directory) = (agent.clone(), key.clone());
    let removed = tokio::task::spawn_blocking(move || owner.store.remove(&directory)).await;
    match removed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(key, %error, "a task's directory is left"),
        Err(error) => tracing::error!(key, %error, "a task's directory is left"),
    }
}

/// Removes processes, mounts, files. `false`: not all of them.
async fn clean<E: Engine>(agent: &Agent<E>, task: &Task) -> bool {
    let cleaned = agent.engine.clean(&task.job()).await;
    if let Err(error) = &cleaned {
        tracing::warn!(container = task.lease.container_id, %error, "something of a container is left");
    }
    cleaned.is_ok()
}

/// What could not be removed at once is removed as soon as it can be.
async fn clean_later<E: Engine>(agent: Arc<Agent<E>>, task: Arc<Task>) {
    let mut pause = AGAIN.0;
    loop {
        tokio::time::sleep(pause).await;
        if clean(&agent, &task).await {
            return remove(&agent, &task).await;
        }
        pause = (pause * 2).min(CLEAN);
    }
}

struct Run<'a, E> {
    agent: &'a Arc<Agent<E>>,
    task: &'a Arc<Task>,
}

impl<E: Engine> Run<'_, E> {
    /// Until its end is known, written down, and all output taken.
    async fn live(&self) -> Result<Outcome, Revoked> {
        let known = self.task.record().outcome.clone();
        let life = async {
            let outcome = match known {
                Some(outcome) => outcome,
                None => self.life().await?,
            };
            // Most of it was fetched while the program ran.
            let fetched = self.agent.engine.fetched_bytes(&self.task.job()).await.unwrap_or_default();
            self.write_down(|record| {
                record.outcome = Some(outcome.clone());
                if let Some(cost) = &mut record.cost {
                    cost.fetched_bytes = cost.fetched_bytes.max(fetched);
                }
            })
            .await;
            self.task.ended.send_replace(true);
            Ok(outcome)
        };
        let (outcome, ()) = tokio::join!(life, self.output());
        if self.task.is(Stop::Revoke) { Err(Revoked) } else { outcome }
    }

    async fn life(&self) -> Result<Outcome, Revoked> {
        let job = self.task.job();
        match self.state(&job).await? {
            JobState::Ended(end) => return Ok(outcome(end)),
            JobState::Running => self.recover(),
            JobState::NotStarted | JobState::Mounted => {
                if let Err(outcome) = self.start().await {
                    return Ok(outcome);
                }
            }
        }
        self.report(v1::ContainerState::Running);
        let job = self.task.job();
        tokio::select! {
            ended = self.wait(&job) => return Ok(outcome(ended)),
            () = self.task.until(Stop::Cancel) => {}
        }
        let grace = if self.task.is(Stop::Revoke) { Duration::ZERO } else { GRACE };
        tokio::select! {
            () = self.end(&job, grace) => {}
            () = self.task.until(Stop::Revoke), if !grace.is_zero() => self.end(&job, Duration::ZERO).await,
        }
        if self.task.is(Stop::Revoke) { Err(Revoked) } else { Ok(outcome(self.wait(&job).await)) }
    }

    /// Mounts and starts.
    async fn start(&self) -> Result<(), Outcome> {
        self.report(v1::ContainerState::Mounting);
        let index = tokio::select! {
            biased;
            () = self.task.until(Stop::Cancel) => return Err(stopped()),
            index = self.index() => index.map_err(|e| Outcome::Failed { code: e.code(), reason: e.to_string() })?,
        };
        self.task.job.lock().unwrap_or_else(PoisonError::into_inner).index = index;
        let job = self.task.job();
        let busy = self.agent.busy.read().await;
        let mounted = self.agent.engine.mount(&job).await.map_err(failed)?;
        let serves = self.task.arrived.elapsed();
        if self.task.is(Stop::Cancel) {
            return Err(stopped());
        }
        let since = Instant::now();
        self.agent.engine.start(&job).await.map_err(failed)?;
        drop(busy);
        let cost = Cost {
            mount_micros: micros(serves),
            start_micros: micros(since.elapsed()),
            fetched_bytes: mounted.fetched_bytes,
            image_bytes: image_bytes(&job).await,
        };
        self.write_down(|record| record.cost = Some(cost)).await;
        Ok(())
    }

    async fn index(&self) -> Result<std::path::PathBuf, IndexFailure> {
        let record = self.task.record().clone();
        let mut pause = AGAIN.0;
        loop {
            match self.agent.indexes.get(&self.agent.control, &record).await {
                Err(error) if error.is_passing() => {
                    tracing::info!(key = record.key(), %error, "trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN.1);
                }
                done => return done,
            }
        }
    }

    async fn state(&self, job: &Job) -> Result<JobState, Revoked> {
        let mut pause = AGAIN.0;
        loop {
            match self.agent.engine.state(job).await {
                Ok(state) => return Ok(state),
                Err(error) => tracing::warn!(key = job.key, %error, "the container cannot be looked at"),
            }
            if self.task.is(Stop::Revoke) {
                return Err(Revoked);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    async fn wait(&self, job: &Job) -> End {
        match self.agent.engine.wait(job).await {
            Ok(end) => end,
            Err(error) => End { exit_code: 0, code: error.code(), reason: Some(error.to_string()) },
        }
    }

    /// Until it has ended: a container that cannot be stopped must not be forgotten.
    async fn end(&self, job: &Job, grace: Duration) {
        let mut pause = AGAIN.0;
        while let Err(error) = self.agent.engine.stop(job, grace).await {
            if matches!(error, RuntimeError::NotStarted(_)) {
                return;
            }
            tracing::warn!(key = job.key, %error, "the container cannot be stopped");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    /// Gives the mount of a container that runs its credentials again.
    fn recover(&self) {
        if !self.task.lost {
            return;
        }
        // Beside it: the container needs no credentials to be waited for.
        tokio::spawn(refresh::fetch(self.agent.clone(), self.task.clone()));
    }

    /// Sends output as it comes, until the program has ended and all of it was taken.
    async fn output(&self) {
        let job = self.task.job();
        let mut ended = self.task.ended.subscribe();
        let mut from = self.task.record().logged;
        let mut pause = LOOK.0;
        loop {
            // Looked at before the output is: what was written until then is seen.
            let last = *ended.borrow_and_update();
            let pieces = match self.agent.engine.read_output(&job, from, OUTPUT).await {
                Ok(pieces) => whole(pieces),
                Err(error) => {
                    tracing::warn!(key = job.key, %error, "output cannot be read");
                    Vec::new()
                }
            };
            if pieces.is_empty() {
                if last {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(LOOK.1),
                    _ = ended.changed() => {}
                    () = self.task.until(Stop::Revoke) => return,
                }
                continue;
            }
            pause = LOOK.0;
            let mut answers = Vec::new();
            for (stream, offset, data) in pieces {
                from = offset + to_u64(data.len());
                let stream = match stream {
                    LogStream::Stdout => v1::log_chunk::Stream::Stdout,
                    LogStream::Stderr => v1::log_chunk::Stream::Stderr,
                };
                let log = v1::LogChunk { stream: stream.into(), data, offset };
                let log = v1::ContainerLog { lease: Some(lease_message(&self.task.lease)), log: Some(log) };
                answers.push(self.agent.outbox.put(self.task.token(), Message::Log(log)));
            }
            for answer in answers {
                tokio::select! {
                    _ = answer => {}
                    () = self.task.until(Stop::Revoke) => return,
                }
            }
            self.task.record().logged = from;
        }
    }

    fn report(&self, state: v1::ContainerState) {
        let report = v1::ContainerReport { state: state.into(), ..self.blank() };
        // Nobody waits for it: it is taken before whatever follows.
        drop(self.agent.outbox.put(self.task.token(), Message::Report(report)));
    }

    fn final_report(&self, outcome: &Outcome) -> Message {
        let blank = self.blank();
        Message::Report(match outcome.clone() {
            Outcome::Exited { code, reason } => v1::ContainerReport {
                state: v1::ContainerState::Exited.into(),
                exit_code: code,
                reason,
                ..blank
            },
            Outcome::Failed { code, reason } => v1::ContainerReport {
                state: v1::ContainerState::Failed.into(),
                reason_code: code,
                reason,
                ..blank
            },
        })
    }

    fn blank(&self) -> v1::ContainerReport {
        let cost = self.task.record().cost.map(|cost| v1::StartCost {
            mount_micros: cost.mount_micros,
            start_micros: cost.start_micros,
            fetched_bytes: cost.fetched_bytes,
            image_bytes: cost.image_bytes,
        });
        v1::ContainerReport { lease: Some(lease_message(&self.task.lease)), cost, ..Default::default() }
    }

    /// Changes what is known and writes it down. A disk that does not take it: the change is known to this process only, and found out
    /// again by the next.
    async fn write_down(&self, change: impl FnOnce(&mut Record)) {
        let record = {
            let mut record = self.task.record();
            change(&mut record);
            record.clone()
        };
        let agent = self.agent.clone();
        match tokio::task::spawn_blocking(move || agent.store.write(&record)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(container = self.task.lease.container_id, %error, "a task is not written down")
            }
            Err(error) => tracing::error!(%error, "a task is not written down"),
        }
    }
}

/// Compressed bytes of all layers, as the index says.
async fn image_bytes(job: &Job) -> u64 {
    let path = job.index.clone();
    let sum = tokio::task::spawn_blocking(move || {
        let index = ClipIndex::open(&path).ok()?;
        Some((0..index.layer_count()).filter_map(|n| index.layer(n)).map(|layer| layer.size).sum())
    });
    sum.await.ok().flatten().unwrap_or_default()
}

/// Without a last piece that may have been cut at the limit: pieces begin where records do, so that what is sent again after a restart is
/// the same.
fn whole(mut pieces: Vec<super::engine::Piece>) -> Vec<super::engine::Piece> {
    let bytes: usize = pieces.iter().map(|(_, _, data)| data.len()).sum();
    if bytes >= OUTPUT && pieces.len() > 1 {
        pieces.pop();
    }
    pieces
}

/// A program that ended is EXITED, however; a container of which the machine lost track is FAILED.
fn outcome(end: End) -> Outcome {
    let reason = end.reason.unwrap_or_default();
    match end.code {
        0 | RESOURCE_EXHAUSTED => Outcome::Exited { code: end.exit_code, reason },
        code => Outcome::Failed { code, reason },
    }
}

/// A limit of the request ended the program.
const RESOURCE_EXHAUSTED: i32 = Code::ResourceExhausted as i32;

fn failed(error: RuntimeError) -> Outcome {
    Outcome::Failed { code: error.code(), reason: error.to_string() }
}

fn stopped() -> Outcome {
    Outcome::Failed { code: Code::Cancelled.into(), reason: "stopped before it ran".to_owned() }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
