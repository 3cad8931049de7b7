//! Keeping the quota: room is made before anything is written.
//!
//! There is no list of objects in memory; an eviction scans the directory (about a second for half a million objects)
//! and removes the least recently used until the store is at 95 % of its quota, so scans are rare. It runs on a thread of
//! its own and begins when a writer comes within 2 % of the quota, so that writers seldom wait for it; those who must
//! wait do so until there is room, not until it ends, and not long: then they go on uncached. One process at a time
//! evicts or counts; the others see the tally change.
//!
//! Last use is the later of what this process remembers and what the file's times say: see `object` for how uses by
//! earlier and other processes reach those.

use std::collections::{BinaryHeap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::disk::{Dirs, Tree};
use super::scan::{Found, count, remove, walk};
use super::usage::{Change, Tally, Verdict, signed};
use super::{Inner, lock};
use crate::decode::Blake3;

/// How long a writer waits for room or for the first count, before it goes on uncached.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long nothing is tried again after an eviction that found too little, at least.
const STUCK: Duration = Duration::from_secs(1);

/// Candidates ordered by last use, the most recent first: the top of a heap is the one to spare.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    used: u64,
    name: Blake3,
    is_partial: bool,
    bytes: u64,
}

/// Bytes set aside for one write; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    inner: &'a Inner,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.inner.usage.release(self.bytes);
    }
}

impl Inner {
    /// Sets `need` bytes aside, waiting for an eviction if it must. `None`: they do not fit (too large, or all else is in use).
    pub(super) fn reserve(self: &Arc<Self>, need: u64) -> Option<Reservation<'_>> {
        if need > self.quota {
            return None;
        }
        let dirs = self.dirs_for_writing()?;
        let mut patience = Patience::new();
        loop {
            let job = match self.usage.try_reserve(&dirs, need) {
                Verdict::Granted { tight } => {
                    if tight {
                        self.in_background(Job::Evict { target: self.low_water() });
                    } else if self.usage.is_stale() {
                        self.in_background(Job::Count);
                    }
                    return Some(Reservation { inner: self, bytes: need });
                }
                Verdict::Unknown => Job::Count,
                Verdict::Full { target } => Job::Evict { target: target.min(self.low_water()) },
            };
            if !self.in_background(job) || !patience.wait() {
                return None;
            }
        }
    }

    /// What the store is brought down to when it is full.
    fn low_water(&self) -> u64 {
        self.quota - self.quota / 20
    }

    /// After a write of `need` bytes failed for want of space (which others may have used up): evicts some, and returns as
    /// soon as that much is free. `false`: nothing to be had.
    pub(super) fn make_space(self: &Arc<Self>, dirs: &Dirs, need: u64) -> bool {
        let mut patience = Patience::new();
        while !self.usage.is_known(dirs) {
            if !self.in_background(Job::Count) || !patience.wait() {
                return false;
            }
        }
        let held = self.usage.tally(Some(dirs)).bytes;
        let some = need.saturating_mul(2).max(held / 20);
        let target = held.saturating_sub(some);
        // Not by the tally, which a new count may correct without anything being freed.
        let freed = || self.counters.freed.load(Ordering::Relaxed);
        let before = freed();
        while freed() - before < need {
            if held == 0 || !self.in_background(Job::Evict { target }) || !patience.wait() {
                return false;
            }
        }
        true
    }

    /// Whether an eviction has lately found nothing more to remove.
    fn is_stuck(&self) -> bool {
        lock(&self.stuck_until).is_some_and(|until| Instant::now() < until)
    }

    /// Evicts nothing for a while: ten times what it took to find out that there is nothing.
    fn set_stuck(&self, took: Duration) {
        *lock(&self.stuck_until) = Some(Instant::now() + STUCK.max(10 * took));
    }

    /// Removes the least recently used until at most `target` bytes are left. The caller holds `scanning` and, if it got it,
    /// the directory's lock. Returns the bytes freed.
    pub(super) fn evict_locked(&self, dirs: &Dirs, target: u64) -> io::Result<u64> {
        let start = Instant::now();
        let mut refused = HashSet::new();
        let mut freed = 0;
        loop {
            let (tally, candidates, all) = self.candidates(dirs, target, &refused)?;
            let excess = tally.bytes.saturating_sub(target);
            let mut round = 0;
            for candidate in candidates {
                if round >= excess || self.stop.load(Ordering::Relaxed) {
                    break;
                }
                match self.remove_unpinned(dirs, &candidate) {
                    true => round += candidate.bytes,
                    false => _ = refused.insert(candidate.name),
                }
            }
            freed += round;
            if round >= excess {
                break;
            }
            if all || round == 0 || self.stop.load(Ordering::Relaxed) {
                // What is left is in use. Do not scan for it at every write.
                self.set_stuck(start.elapsed());
                break;
            }
        }
        if freed > 0 {
            tracing::info!(freed, took = ?start.elapsed(), "evicted from the cache");
        }
        Ok(freed)
    }

    /// Counts everything, and finds enough of the least recently used to get to `target`, oldest first. The last value:
    /// whether these are all that could be evicted.
    fn candidates(
        &self,
        dirs: &Dirs,
        target: u64,
        refused: &HashSet<Blake3>,
    ) -> io::Result<(Tally, Vec<Candidate>, bool)> {
        let began = self.usage.begin_count(dirs);
        // The heap holds as many as may be needed, no more: memory does not grow with the cache. If the estimate was too low
        // (it rests on the tally, not on this count), there is another round.
        let wanted = began.bytes.saturating_sub(target).max(self.quota / 16);
        let mut heap = BinaryHeap::new();
        let (mut tally, mut sum, mut all) = (Tally::default(), 0_u64, true);
        walk(dirs, &mut |found: Found| {
            count(&mut tally, &found);
            let Found { tree, name, bytes, recency, .. } = found;
            if self.pins.is_pinned(&name) || refused.contains(&name) {
                return ControlFlow::Continue(());
            }
            let used = recency.max(self.memo.last_used(&name));
            heap.push(Candidate { used, name, is_partial: tree == Tree::Partial, bytes });
            sum = sum.saturating_add(bytes);
            while let Some(spare) = heap.peek()
                && sum - spare.bytes >= wanted
            {
                sum -= spare.bytes;
                heap.pop();
                all = false;
            }
            ControlFlow::Continue(())
        })?;
        self.usage.set_counted(dirs, began, tally);
        Ok((tally, heap.into_sorted_vec(), all))
    }

    fn remove_unpinned(&self, dirs: &Dirs, candidate: &Candidate) -> bool {
        let tree = if candidate.is_partial { Tree::Partial } else { Tree::Objects };
        if self.pins.is_pinned(&candidate.name) || !remove(dirs, tree, &candidate.name, false) {
            return false;
        }
        self.memo.forget(&candidate.name);
        self.counters.evictions.fetch_add(1, Ordering::Relaxed);
        self.counters.freed.fetch_add(candidate.bytes, Ordering::Relaxed);
        self.usage.add(dirs, removed(tree, candidate.bytes));
        true
    }

    /// Counts everything. The caller holds `scanning`. `keep_on` is asked between files.
    pub(super) fn count_locked(&self, dirs: &Dirs, keep_on: &dyn Fn() -> bool) -> io::Result<()> {
        let began = self.usage.begin_count(dirs);
        let mut tally = Tally::default();
        let mut whole = true;
        walk(dirs, &mut |found| {
            count(&mut tally, &found);
            whole = keep_on();
            if whole { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if whole {
            self.usage.set_counted(dirs, began, tally);
        }
        Ok(())
    }

    /// Runs a job on a thread of its own, unless one is running already. `false`: no use waiting for it.
    pub(super) fn in_background(self: &Arc<Self>, job: Job) -> bool {
        if self.is_stuck() || self.stop.load(Ordering::Relaxed) {
            return false;
        }
        if self.background.swap(true, Ordering::Acquire) {
            return true;
        }
        let running = Running(Arc::clone(self));
        let run = move || {
            let start = Instant::now();
            let inner = &running.0;
            if let Err(error) = inner.run_job(job) {
                tracing::warn!(dir = %inner.disk.path().display(), %error, "cannot scan the cache");
                inner.set_stuck(start.elapsed());
            }
        };
        std::thread::Builder::new().name("clipfs-store".into()).spawn(run).is_ok()
    }

    fn run_job(&self, job: Job) -> io::Result<()> {
        let Some(dirs) = self.disk.dirs() else { return Ok(()) };
        let _turn = lock(&self.scanning);
        // Another process is at it: its work is ours as well.
        let Some(_lock) = dirs.scan_lock(Duration::ZERO) else { return Ok(()) };
        if self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        match job {
            Job::Count => {
                // Perhaps another has just finished.
                if !self.usage.is_known(&dirs) || self.usage.is_stale() {
                    self.count_locked(&dirs, &|| !self.stop.load(Ordering::Relaxed))?;
                }
            }
            Job::Evict { target } => {
                if self.usage.tally(Some(&dirs)).bytes > target {
                    self.evict_locked(&dirs, target)?;
                }
            }
        }
        Ok(())
    }
}

/// The background thread is there; dropped when it ends, or could not be started.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.background.store(false, Ordering::Release);
    }
}

/// Waiting in growing steps, [`PATIENCE`] in all.
struct Patience {
    start: Instant,
    step: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { start: Instant::now(), step: Duration::from_micros(200) }
    }

    /// Waits a step. `false`: enough.
    fn wait(&mut self) -> bool {
        std::thread::sleep(self.step);
        self.step = (self.step * 2).min(Duration::from_millis(20));
        self.start.elapsed() < PATIENCE
    }
}

/// Background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// The full count, if it is due.
    Count,
    /// Down to so many bytes.
    Evict {
        /// Bytes.
        target: u64,
    },
}

/// The change that removing something makes.
pub(super) fn removed(tree: Tree, bytes: u64) -> Change {
    let (objects, partials) = if tree == Tree::Objects { (-1, 0) } else { (0, -1) };
    Change { bytes: -signed(bytes), objects, partials }
}
