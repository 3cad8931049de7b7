//! Trouble with the disk: counted, logged when it begins, and a second's rest from writing.
//!
//! Readers never notice: what cannot be written is served from memory and fetched again later.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After a failed write nothing is written for so long: a full disk then costs nothing per read, and caching
/// resumes soon after there is room again.
const REST: Duration = Duration::from_secs(1);

/// Whether writing is worth a try.
#[derive(Debug)]
pub(super) struct Health {
    start: Instant,
    /// Milliseconds after `start` until which nothing is written.
    rest_until: AtomicU64,
    failures: AtomicU64,
    /// The last write failed.
    failing: AtomicBool,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            rest_until: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn may_write(&self) -> bool {
        self.now() >= self.rest_until.load(Ordering::Relaxed)
    }

    /// Counts a failed write and takes a rest.
    pub(super) fn failed(&self, dir: &Path, what: &str, error: &io::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let rest = u64::try_from(REST.as_millis()).unwrap_or(u64::MAX);
        self.rest_until.store(self.now().saturating_add(rest), Ordering::Relaxed);
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(dir = %dir.display(), what, %error, "cannot write to the cache, going on without");
        }
    }

    /// A write has succeeded.
    pub(super) fn worked(&self) {
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("writing to the cache again");
        }
    }

    /// Failed writes since opening.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}
