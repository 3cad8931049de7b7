//! Single flight: the first to want a chunk leads, everyone else waits for what it brings.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::ReadError;
use crate::store::MemoryKey;

type Outcome = Result<Bytes, ReadError>;

/// Chunks being fetched right now. Outcomes are not kept: a fault is never cached, and bytes live in the store.
#[derive(Debug, Default)]
pub(super) struct Flights {
    waiting: Mutex<HashMap<MemoryKey, Arc<watch::Sender<Option<Outcome>>>>>,
}

/// What [`Flights::join`] answers.
pub(super) enum Join {
    /// Nobody fetches it: you do.
    Lead(Leader),
    /// Somebody does: wait.
    Wait(Waiter),
}

/// The duty to bring a chunk. Dropping it without [`Leader::land`] (a panic, a cancelled task) wakes its waiters with an error.
#[derive(Debug)]
pub(super) struct Leader {
    flights: Arc<Flights>,
    key: MemoryKey,
    outcome: Arc<watch::Sender<Option<Outcome>>>,
    removed: bool,
}

/// A place in the queue for a chunk.
#[derive(Debug)]
pub(super) struct Waiter(watch::Receiver<Option<Outcome>>);

impl Flights {
    /// Leads or waits. A new leader must look into the store once more before it fetches: the last one may have landed
    /// between the caller's look and this call.
    pub(super) fn join(self: &Arc<Self>, key: MemoryKey) -> Join {
        let mut waiting = self.lock();
        if let Some(outcome) = waiting.get(&key) {
            return Join::Wait(Waiter(outcome.subscribe()));
        }
        let outcome = Arc::new(watch::Sender::new(None));
        waiting.insert(key, Arc::clone(&outcome));
        Join::Lead(Leader { flights: Arc::clone(self), key, outcome, removed: false })
    }

    /// As [`Flights::join`], for read-ahead: `None` if somebody is on it already.
    pub(super) fn try_lead(self: &Arc<Self>, key: MemoryKey) -> Option<Leader> {
        match self.join(key) {
            Join::Lead(leader) => Some(leader),
            Join::Wait(_) => None,
        }
    }

    /// Hands bytes to those who wait for them, though their leader has not come to it yet.
    pub(super) fn pass(&self, key: &MemoryKey, bytes: &Bytes) {
        let outcome = self.lock().get(key).map(Arc::clone);
        if let Some(outcome) = outcome {
            outcome.send_replace(Some(Ok(bytes.clone())));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<MemoryKey, Arc<watch::Sender<Option<Outcome>>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader {
    /// Hands the outcome to all waiters, unless they have the bytes. Bytes must be in the store's memory before.
    pub(super) fn land(mut self, outcome: Outcome) {
        if outcome.is_err() {
            // Before anyone hears of it: who comes after that leads afresh.
            self.remove();
        }
        self.outcome.send_if_modified(|landed| {
            let first = !matches!(landed, Some(Ok(_)));
            if first {
                *landed = Some(outcome);
            }
            first
        });
    }

    /// Whether the bytes came by [`Flights::pass`].
    pub(super) fn has_landed(&self) -> bool {
        matches!(*self.outcome.borrow(), Some(Ok(_)))
    }

    /// Ends the flight if nobody waits for it any more: whoever comes now leads afresh. `false`: somebody waits.
    pub(super) fn give_up(&mut self) -> bool {
        let mut waiting = self.flights.lock();
        if self.removed || self.outcome.receiver_count() > 0 {
            return self.removed;
        }
        waiting.remove(&self.key);
        self.removed = true;
        true
    }

    fn remove(&mut self) {
        if !self.removed {
            let removed = self.flights.lock().remove(&self.key);
            drop(removed);
            self.removed = true;
        }
    }

    /// A place to wait for this very flight.
    pub(super) fn waiter(&self) -> Waiter {
        Waiter(self.outcome.subscribe())
    }

    /// The chunk this is about.
    pub(super) fn key(&self) -> MemoryKey {
        self.key
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // Removed first, so that whoever comes now leads afresh; then the sender goes, which wakes the waiters.
        self.remove();
    }
}

impl Waiter {
    /// The leader's outcome. Cancel safe.
    pub(super) async fn wait(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(ReadError::Abandoned)),
            Err(_closed) => Err(ReadError::Abandoned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(part: u64) -> MemoryKey {
        MemoryKey { digest: [7; 32], part }
    }

    fn lead(flights: &Arc<Flights>, part: u64) -> Leader {
        flights.try_lead(key(part)).expect("nobody else leads")
    }

    #[tokio::test]
    async fn waiters_get_what_the_leader_lands() {
        let flights = Arc::new(Flights::default());
        let leader = lead(&flights, 1);
        let waits: Vec<_> = (0..3)
            .map(|_| match flights.join(key(1)) {
                Join::Wait(waiter) => waiter,
                Join::Lead(_) => panic!("two leaders"),
            })
            .collect();
        assert!(matches!(flights.join(key(2)), Join::Lead(_)));
        leader.land(Ok(Bytes::from_static(b"x")));
        for waiter in waits {
            assert_eq!(waiter.wait().await.unwrap(), "x");
        }
        assert!(matches!(flights.join(key(1)), Join::Lead(_)), "outcomes are not kept");
    }

    #[tokio::test]
    async fn a_dead_leader_wakes_its_waiters() {
        let flights = Arc::new(Flights::default());
        let leader = lead(&flights, 1);
        let waiter = leader.waiter();
        drop(leader);
        assert!(matches!(waiter.wait().await, Err(ReadError::Abandoned)));
        lead(&flights, 1).land(Err(ReadError::NoContent));
        assert!(flights.try_lead(key(1)).is_some(), "faults are not kept");
    }

    #[tokio::test]
    async fn a_flight_that_nobody_waits_for_is_given_up() {
        let flights = Arc::new(Flights::default());
        let mut stale = lead(&flights, 1);
        let waiter = stale.waiter();
        assert!(!stale.give_up());
        assert!(matches!(flights.join(key(1)), Join::Wait(_)));
        drop(waiter);
        assert!(stale.give_up() && stale.give_up());
        let fresh = lead(&flights, 1);
        drop(stale);
        let Join::Wait(waiter) = flights.join(key(1)) else {
            panic!("the fresh flight was removed with the stale one")
        };
        fresh.land(Ok(Bytes::from_static(b"x")));
        assert_eq!(waiter.wait().await.unwrap(), "x");
    }

    #[tokio::test]
    async fn bytes_that_pass_by_are_not_lost_to_a_later_fault() {
        let flights = Arc::new(Flights::default());
        let leader = lead(&flights, 1);
        let waiter = leader.waiter();
        assert!(!leader.has_landed());
        flights.pass(&key(1), &Bytes::from_static(b"x"));
        flights.pass(&key(2), &Bytes::from_static(b"nobody wants it"));
        assert!(leader.has_landed());
        leader.land(Err(ReadError::NoContent));
        assert_eq!(waiter.wait().await.unwrap(), "x");
    }
}
