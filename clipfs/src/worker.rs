//! The node agent: takes containers from the control plane, mounts their images, runs them, tells what becomes of them.
//!
//! | module | |
//! | --- | --- |
//! | `memory` | the run directory's own tmpfs |
//! | [`options`], [`capacity`] | what the operator says, what the machine has |
//! | [`link`] | the connection: registers, streams, comes again for ever |
//! | [`agent`] | what is here: takes what the control plane says, knows every task |
//! | `task`, [`tasks`] | one container from dispatch to end, and what is written down about it |
//! | `refresh` | newer credentials for mounts that are there |
//! | [`outbox`] | what the control plane must be told, until it has taken it |
//! | [`indexes`] | clip indexes: from the cache, else from the control plane |
//! | [`runtime`] | mounts, containers, cgroups of this machine |
//!
//! **Who may be away.** The control plane: containers run on, reports and output wait. This process: containers run on, the next one adopts them
//! ([`Agent::adopt`]). What is dispatched is written down durably before it is acknowledged.
//!
//! **Where secrets are.** In the request of each task, on a tmpfs, mode 0600; never in the state directory, arguments, environments, logs.
//!
//! Used by `clipfs worker`.

use std::path::PathBuf;
use std::sync::Arc;

pub mod agent;
pub mod capacity;
mod control;
mod engine;
pub mod indexes;
pub mod link;
mod memory;
pub mod options;
pub mod outbox;
mod refresh;
pub mod runtime;
mod task;
pub mod tasks;

pub use agent::Agent;
pub use capacity::NodeCapacity;
pub use options::Options;

use control::Control;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use runtime::{Runtime, RuntimeError};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Options that make no sense, or not together.
    #[error("{0}")]
    Options(String),
    /// A file or directory.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The attempt.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Credentials would be written to a disk.
    #[error("run directory {path} is not on a tmpfs, and {reason}: credentials would be written to a disk")]
    NotMemory {
        /// The directory.
        path: PathBuf,
        /// Why it cannot be helped.
        reason: String,
    },
    /// Another worker has the state directory, or the run directory.
    #[error("another worker uses directory {0}")]
    Taken(PathBuf),
    /// Containers cannot be run here.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl WorkerError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

/// Runs until SIGTERM or SIGINT; containers run on. SIGUSR1: takes no new containers from now on; again: takes them again.
///
/// # Errors
/// The worker cannot begin. That the control plane is away is none.
pub async fn run(options: Options) -> Result<(), WorkerError> {
    let listen = |kind| signal(kind).map_err(WorkerError::io("listen for", "signals"));
    let (terminate, interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let drain = listen(SignalKind::user_defined1())?;
    raise_open_files();
    if std::process::id() == 1 {
        tracing::warn!("running as process 1, which must reap what others leave: run this under an init");
    }
    let control = Control::new(&options)?;
    let tasks = tasks::Tasks::open(&options.state_dir, &options.run_dir, options.secrets_on_disk)?;
    let indexes = indexes::Indexes::open(&options.runtime.cache_dir)?;
    let runtime = Runtime::open(options.runtime.clone()).await?;
    let agent = Arc::new(Agent::new(runtime, tasks, indexes, control));
    agent.adopt().await?;
    let link = tokio::spawn(link::Link::new(agent.clone(), &options).run());
    tokio::select! {
        () = until(terminate, interrupt) => {}
        () = toggle(drain, &agent) => {}
    }
    tracing::info!("stopping: containers run on");
    let settled = agent.settle().await;
    agent.last_words().await;
    link.abort();
    // It may be in the middle of taking a message.
    let _ = link.await;
    if settled.is_some() && agent.is_idle() {
        agent.store.close();
    }
    drop(settled);
    Ok(())
}

/// Each container takes some descriptors: as many as this process may have. Containers get their own limits.
fn raise_open_files() {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    if let Err(errno) = limits.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard)) {
        tracing::warn!(%errno, "the limit of open files stays as it is");
    }
}

async fn until(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn toggle(mut drain: Signal, agent: &Agent<Runtime>) {
    while drain.recv().await.is_some() {
        let draining = agent.toggle_draining();
        tracing::info!(draining, "asked by a signal");
    }
    // No more signals is no reason to end.
    std::future::pending().await
}
