//! Containers: from the queue to their end.

use serde::{Deserialize, Serialize};

use super::{ContainerId, ImageId, Time, WorkerId, WorkspaceId};

/// Where a container stands. Only ever forwards, but for a lost worker: then back to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Waits for a worker.
    Queued,
    /// A worker is chosen; it may know or not.
    Scheduled,
    /// The worker mounts.
    Mounting,
    /// The program runs.
    Running,
    /// Final: the program ended.
    Exited,
    /// Final: it could not be run, was stopped before it ran, or was lost too often.
    Failed,
}

impl ContainerState {
    /// As it is written in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Scheduled => "scheduled",
            Self::Mounting => "mounting",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Exited | Self::Failed)
    }
}

/// What a container needs of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Demand {
    /// Millicores.
    pub cpu: i64,
    /// MiB.
    pub memory: i64,
    /// Kind of GPU; empty with a count: any.
    pub gpu: String,
    /// GPUs.
    pub gpu_count: i64,
    /// The pool; empty: the default one.
    pub pool_selector: String,
}

/// What a start has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartCost {
    /// From the request's arrival at the worker to a mount that serves.
    pub mount_micros: u64,
    /// From there to a running program.
    pub start_micros: u64,
    /// Compressed bytes that were fetched.
    pub fetched_bytes: u64,
    /// Compressed bytes of the image.
    pub image_bytes: u64,
}

/// A container to be queued.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// Unique within the workspace.
    pub container_id: ContainerId,
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// Of the same workspace.
    pub image_id: ImageId,
    /// ContainerRequest as JSON, without credentials.
    pub request: String,
    /// What it needs.
    pub demand: Demand,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Unique within the workspace.
    pub container_id: ContainerId,
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// What it runs.
    pub image_id: ImageId,
    /// Where it stands.
    pub state: ContainerState,
    /// Counts dispatches.
    pub attempt: u32,
    /// Of its newest dispatch; 0: none yet.
    pub fencing_token: u64,
    /// Where it was sent.
    pub worker_id: Option<WorkerId>,
    /// Why it waits.
    pub waiting: String,
    /// Somebody asked to stop it.
    pub stop_asked: bool,
    /// Of an exit; 128 + signal where one ended it.
    pub exit_code: i32,
    /// Of a failure: a sentence.
    pub reason: String,
    /// Of a failure: gRPC's code.
    pub reason_code: i32,
    /// What its start has cost, as far as known.
    pub cost: Option<StartCost>,
    /// When it was queued first.
    pub create_time: Time,
    /// When its program started.
    pub start_time: Option<Time>,
    /// When it ended.
    pub end_time: Option<Time>,
}

/// One dispatch: what a report must carry to be believed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// What.
    pub container_id: ContainerId,
    /// Which try.
    pub attempt: u32,
    /// Unique.
    pub fencing_token: u64,
}

/// What a worker says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which dispatch.
    pub lease: Lease,
    /// Mounting, running, exited or failed.
    pub state: ContainerState,
    /// Of an exit.
    pub exit_code: i32,
    /// Of a failure.
    pub reason: String,
    /// Of a failure: gRPC's code; 0 = 2 (UNKNOWN).
    pub reason_code: i32,
    /// As far as known.
    pub cost: Option<StartCost>,
}

/// Which of a program's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A place in a container's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Which try.
    pub attempt: u32,
    /// Offset of a piece; pieces at or after it are still to be read.
    pub offset: u64,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it stands.
    pub position: LogPosition,
    /// Which output.
    pub stream: LogStream,
    /// When it was received.
    pub time: Time,
    /// At most 64 KiB.
    pub data: Vec<u8>,
}
