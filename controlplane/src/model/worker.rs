//! Nodes.

use serde::{Deserialize, Serialize};

use super::{Time, WorkerId};

/// What a node has, or has free.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Millicores.
    pub cpu: i64,
    /// MiB.
    pub memory: i64,
    /// Kind of its GPUs; empty: none.
    pub gpu: String,
    /// GPUs.
    pub gpu_count: i64,
}

/// What a node announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its name: the same name is the same worker.
    pub node: String,
    /// In all.
    pub capacity: Capacity,
    /// The pool that it serves; empty: the default one.
    pub pool_selector: String,
    /// Of its software.
    pub version: String,
}

/// A node as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Identity.
    pub worker_id: WorkerId,
    /// Its name.
    pub node: String,
    /// Counts registrations and losses: messages of an older one are refused.
    pub epoch: u64,
    /// Counts heartbeats.
    pub beat: u64,
    /// Whether it is believed to live.
    pub live: bool,
    /// Takes no new containers.
    pub draining: bool,
    /// Its pool.
    pub pool_selector: String,
    /// In all.
    pub total: Capacity,
    /// Not reserved.
    pub free: Capacity,
    /// Containers that are dispatched to it and have not ended.
    pub containers: u64,
    /// Of its software.
    pub version: String,
    /// When it was last heard.
    pub heartbeat_time: Time,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub worker_id: WorkerId,
    /// Its registration.
    pub epoch: u64,
    /// Takes no new containers.
    pub draining: bool,
}
