//! Whose heart does not beat: counted on this process's monotonic clock, from when it saw the last beat itself.
//!
//! No two clocks are compared. A replica that starts gives everybody a full lease, and so does one that could not look for a while: what
//! it did not see may have happened.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::WorkerId;

/// Looks in the length of a lease.
const LOOKS: u32 = 6;

/// A worker as it was seen last.
#[derive(Debug, Clone, Copy)]
struct Seen {
    epoch: u64,
    beat: u64,
    since: Instant,
}

/// What has been seen.
#[derive(Debug)]
pub(super) struct Watch {
    lease: Duration,
    seen: HashMap<WorkerId, Seen>,
    looked: Option<Instant>,
}

impl Watch {
    /// One that has seen nothing.
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, seen: HashMap::new(), looked: None }
    }

    /// How often to look.
    pub(super) fn interval(&self) -> Duration {
        (self.lease / LOOKS).max(Duration::from_millis(1))
    }

    /// Everybody gets a full lease from the next look on.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
        self.looked = None;
    }

    /// Takes a look at (identity, epoch, beat) of all that are live; tells who has not beaten for a lease, and the beat he stands at.
    pub(super) fn lost(&mut self, live: Vec<(WorkerId, u64, u64)>, now: Instant) -> Vec<(WorkerId, u64)> {
        // This process, or its machine, was stopped: so may the workers' streams to it have been.
        let stopped = self.looked.is_some_and(|looked| now.duration_since(looked) > self.lease / 2);
        if stopped {
            self.forget();
        }
        self.looked = Some(now);
        let mut lost = Vec::new();
        let mut seen = HashMap::with_capacity(live.len());
        for (worker, epoch, beat) in live {
            let since = match self.seen.get(&worker) {
                Some(known) if known.epoch == epoch && known.beat == beat => known.since,
                _ => now,
            };
            if now.duration_since(since) >= self.lease {
                lost.push((worker.clone(), beat));
            }
            seen.insert(worker, Seen { epoch, beat, since });
        }
        self.seen = seen;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn beats(one: u64, two: u64) -> Vec<(WorkerId, u64, u64)> {
        vec![("one".into(), 1, one), ("two".into(), 1, two)]
    }

    #[test]
    fn only_who_stands_still_for_a_whole_lease_is_lost() {
        let mut watch = Watch::new(LEASE);
        let start = Instant::now();
        let mut lost = Vec::new();
        for look in 0..=6 {
            lost = watch.lost(beats(u64::from(look), 5), start + watch.interval() * look);
            assert!(look == 6 || lost.is_empty(), "look {look}");
        }
        assert_eq!(lost, [("two".into(), 5)]);
    }

    #[test]
    fn a_new_registration_starts_anew() {
        let mut watch = Watch::new(LEASE);
        let start = Instant::now();
        for look in 0..6 {
            watch.lost(vec![("one".into(), 1, 5)], start + watch.interval() * look);
        }
        assert!(watch.lost(vec![("one".into(), 2, 5)], start + LEASE).is_empty());
    }

    #[test]
    fn who_could_not_look_or_was_stopped_gives_a_full_lease() {
        let mut watch = Watch::new(LEASE);
        let start = Instant::now();
        watch.lost(beats(1, 1), start);
        // Suspended for a day.
        let day = start + Duration::from_secs(86_400);
        assert!(watch.lost(beats(1, 1), day).is_empty());
        watch.forget();
        assert!(watch.lost(beats(1, 1), day + Duration::from_secs(14)).is_empty());
        assert!(watch.lost(beats(1, 1), day + Duration::from_secs(28)).is_empty());
        assert!(watch.lost(beats(1, 1), day + Duration::from_secs(42)).is_empty());
        assert_eq!(watch.lost(beats(1, 1), day + Duration::from_secs(44)).len(), 2);
    }
}
