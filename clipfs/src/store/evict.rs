//! Keeping the quota: room is made before anything is written.
//!
//! There is no list of objects in memory; an eviction scans the directory (about a second for half a million objects)
//! and removes the least recently used until the store is at 95 % of its quota, so scans are rare. When a writer comes
//! within 2 % of the quota this begins in the background, so that writers seldom wait. One process at a time evicts.
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

/// How long a writer waits for a count or for another process that evicts, before it goes on uncached.
const PATIENCE: Duration = Duration::from_secs(3);

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
    /// Sets `need` bytes aside, evicting if it must. `None`: they do not fit (too large, or all else is in use).
    pub(super) fn reserve(self: &Arc<Self>, need: u64) -> Option<Reservation<'_>> {
        if need > self.quota {
            return None;
        }
        let dirs = self.dirs_for_writing()?;
        for attempt in 0..3 {
            match self.usage.try_reserve(&dirs, need) {
                Verdict::Granted { tight } => {
                    if tight {
                        self.in_background(Job::Evict);
                    } else if self.usage.is_stale() {
                        self.in_background(Job::Count);
                    }
                    return Some(Reservation { inner: self, bytes: need });
                }
                Verdict::Unknown => {
                    self.in_background(Job::Count);
                    if !self.usage.wait_known(PATIENCE) {
                        return None;
                    }
                }
                Verdict::Full if attempt == 2 || !self.make_room(&dirs, need) => return None,
                Verdict::Full => {}
            }
        }
        None
    }

    /// What the store is brought down to when it is full.
    fn low_water(&self) -> u64 {
        self.quota - self.quota / 20
    }

    /// Evicts so that `need` bytes fit. `false`: they do not.
    fn make_room(&self, dirs: &Dirs, need: u64) -> bool {
        let _turn = lock(&self.scanning);
        if self.usage.target_for(dirs, need).is_none() {
            return true;
        }
        if self.is_stuck() {
            return false;
        }
        let _lock = dirs.scan_lock(PATIENCE);
        let Some(target) = self.usage.target_for(dirs, need) else { return true };
        let _ = self.evict_locked(dirs, target.min(self.low_water()));
        self.usage.target_for(dirs, need).is_none()
    }

    /// After a write failed for want of space (which others may have used up): evicts some. `false`: nothing could be.
    /// `seen`: the number of evictions before the failed write; if there have been more since, it is worth another try.
    pub(super) fn make_space(&self, dirs: &Dirs, need: u64, seen: u64) -> bool {
        let _turn = lock(&self.scanning);
        if self.counters.evictions.load(Ordering::Relaxed) != seen {
            return true;
        }
        if self.is_stuck() {
            return false;
        }
        let _lock = dirs.scan_lock(PATIENCE);
        let held = self.usage.tally(Some(dirs)).bytes;
        let some = need.saturating_mul(2).max(held / 20);
        self.evict_locked(dirs, held.saturating_sub(some)).is_ok_and(|freed| freed > 0)
    }

    /// Whether an eviction has lately found nothing more to remove.
    fn is_stuck(&self) -> bool {
        lock(&self.stuck_until).is_some_and(|until| Instant::now() < until)
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
                if round >= excess {
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
            if all || round == 0 {
                // What is left is in use. Do not scan for it at every write.
                *lock(&self.stuck_until) =
                    Some(Instant::now() + Duration::from_secs(1).max(10 * start.elapsed()));
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

    /// Runs a job on a thread of its own, unless one is running.
    pub(super) fn in_background(self: &Arc<Self>, job: Job) {
        if self.is_stuck() && job == Job::Evict
            || self.stop.load(Ordering::Relaxed)
            || self.background.swap(true, Ordering::Acquire)
        {
            return;
        }
        let inner = Arc::clone(self);
        let run = move || {
            if let Err(error) = inner.run_job(job) {
                tracing::warn!(dir = %inner.disk.path().display(), %error, "cannot scan the cache");
            }
            inner.background.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().name("clipfs-store".into()).spawn(run).is_err() {
            self.background.store(false, Ordering::Release);
        }
    }

    fn run_job(&self, job: Job) -> io::Result<()> {
        let Some(dirs) = self.disk.dirs() else { return Ok(()) };
        let _turn = lock(&self.scanning);
        let _lock = dirs.scan_lock(PATIENCE);
        match job {
            // Another process may have counted while we waited for the lock.
            Job::Count => {
                self.usage.tally(Some(&dirs));
                if self.usage.is_stale() {
                    self.count_locked(&dirs, &|| !self.stop.load(Ordering::Relaxed))?;
                }
            }
            Job::Evict => {
                if self.usage.tally(Some(&dirs)).bytes > self.low_water() {
                    self.evict_locked(&dirs, self.low_water())?;
                }
            }
        }
        Ok(())
    }
}

/// Background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// The full count, if it is due.
    Count,
    /// Down to 95 % of the quota.
    Evict,
}

/// The change that removing something makes.
pub(super) fn removed(tree: Tree, bytes: u64) -> Change {
    let (objects, partials) = if tree == Tree::Objects { (-1, 0) } else { (0, -1) };
    Change { bytes: -signed(bytes), objects, partials }
}
