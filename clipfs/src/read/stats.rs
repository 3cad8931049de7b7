//! Counters of a reader.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a reader has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Bytes answered from decoded chunks in memory.
    pub served_memory: u64,
    /// Bytes answered from complete or partial objects on disk.
    pub served_disk: u64,
    /// Bytes answered from chunks that were fetched for it.
    pub served_registry: u64,
    /// Chunks whose bytes were not what the index says, or did not decode.
    pub verify_failures: u64,
    /// Compressed bytes asked of the registry for a waiting reader.
    pub fetched_demand: u64,
    /// Compressed bytes asked of the registry ahead of a sequential reader.
    pub fetched_ahead: u64,
    /// Compressed bytes asked of the registry because the whole image was asked for.
    pub fetched_prefetch: u64,
}

/// A counter that many tasks add to.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) served_memory: Counter,
    pub(super) served_disk: Counter,
    pub(super) served_registry: Counter,
    pub(super) verify_failures: Counter,
    pub(super) fetched_demand: Counter,
    pub(super) fetched_ahead: Counter,
    pub(super) fetched_prefetch: Counter,
}

impl Counters {
    pub(super) fn snapshot(&self) -> ReadStats {
        let get = |counter: &Counter| counter.0.load(Relaxed);
        ReadStats {
            served_memory: get(&self.served_memory),
            served_disk: get(&self.served_disk),
            served_registry: get(&self.served_registry),
            verify_failures: get(&self.verify_failures),
            fetched_demand: get(&self.fetched_demand),
            fetched_ahead: get(&self.fetched_ahead),
            fetched_prefetch: get(&self.fetched_prefetch),
        }
    }
}
