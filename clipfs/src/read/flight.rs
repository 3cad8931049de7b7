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
    waiting: Mutex<HashMap<MemoryKey, watch::Receiver<Option<Outcome>>>>,
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
    outcome: watch::Sender<Option<Outcome>>,
}

/// A place in the queue for a chunk.
#[derive(Debug)]
pub(super) struct Waiter(watch::Receiver<Option<Outcome>>);

impl Flights {
    /// Leads or waits. A new leader must look into the store once more before it fetches: the last one may have landed
    /// between the caller's look and this call.
    pub(super) fn join(self: &Arc<Self>, key: MemoryKey) -> Join {
        let mut waiting = self.lock();
        if let Some(receiver) = waiting.get(&key) {
            return Join::Wait(Waiter(receiver.clone()));
        }
        let (sender, receiver) = watch::channel(None);
        waiting.insert(key, receiver);
        Join::Lead(Leader { flights: Arc::clone(self), key, outcome: sender })
    }

    /// As [`Flights::join`], for read-ahead: `None` if somebody is on it already.
    pub(super) fn try_lead(self: &Arc<Self>, key: MemoryKey) -> Option<Leader> {
        match self.join(key) {
            Join::Lead(leader) => Some(leader),
            Join::Wait(_) => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<MemoryKey, watch::Receiver<Option<Outcome>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader {
    /// Hands the outcome to all waiters. Bytes must be in the store's memory before.
    pub(super) fn land(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
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
        self.flights.lock().remove(&self.key);
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
}
