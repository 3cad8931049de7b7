//! Where a replica's streams meet: at most one a worker. Word of changes and signs of life pass here, so that a thousand streams
//! cost one listener and one transaction a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tonic::Status;

use super::{Shared, register_again};
use crate::model::{Beat, WorkerId};
use crate::store::Topic;

/// How often signs of life are written.
const BEATS: Duration = Duration::from_secs(1);

/// The streams.
#[derive(Debug, Default)]
pub(super) struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    streams: HashMap<WorkerId, Stream>,
    /// Signs of life that are not written, the newest of each worker.
    beats: HashMap<WorkerId, Beat>,
    /// Of the last stream.
    serial: u64,
}

#[derive(Debug)]
struct Stream {
    serial: u64,
    epoch: u64,
    wake: Arc<Notify>,
    end: oneshot::Sender<Status>,
}

/// A stream's place in the hub, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    shared: Arc<Shared>,
    worker: WorkerId,
    serial: u64,
    /// There may be something to deliver.
    pub(super) wake: Arc<Notify>,
    /// The stream must end, with this.
    pub(super) end: oneshot::Receiver<Status>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.shared.hub.lock();
        if inner.streams.get(&self.worker).is_some_and(|stream| stream.serial == self.serial) {
            inner.streams.remove(&self.worker);
        }
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic is done while it is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a worker's place; an older stream of the same worker ends.
    pub(super) fn enter(shared: Arc<Shared>, worker: WorkerId, epoch: u64) -> Seat {
        let (sender, end) = oneshot::channel();
        let wake = Arc::new(Notify::new());
        let (serial, older) = {
            let mut inner = shared.hub.lock();
            inner.serial += 1;
            let serial = inner.serial;
            let stream = Stream { serial, epoch, wake: wake.clone(), end: sender };
            (serial, inner.streams.insert(worker.clone(), stream))
        };
        if let Some(older) = older {
            // It may be at its end already.
            let _ = older.end.send(Status::aborted("the worker has opened a newer stream"));
        }
        Seat { shared, worker, serial, wake, end }
    }

    /// Remembers a sign of life until it is written.
    pub(super) fn beat(&self, beat: Beat) {
        self.lock().beats.insert(beat.worker_id.clone(), beat);
    }

    fn wake(&self, topic: &Topic) {
        let inner = self.lock();
        match topic {
            Topic::Worker(worker) => {
                if let Some(stream) = inner.streams.get(worker) {
                    stream.wake.notify_one();
                }
            }
            Topic::Everything => inner.streams.values().for_each(|stream| stream.wake.notify_one()),
            Topic::Queue | Topic::Container(..) => {}
        }
    }

    /// Ends a worker's stream, if it is of that registration.
    fn end(&self, worker: &WorkerId, epoch: u64) {
        let mut inner = self.lock();
        if inner.streams.get(worker).is_some_and(|stream| stream.epoch == epoch)
            && let Some(stream) = inner.streams.remove(worker)
        {
            let _ = stream.end.send(register_again());
        }
    }
}

/// What runs beside the streams.
#[derive(Debug)]
pub(super) struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        Self(vec![tokio::spawn(listen(shared.clone())), tokio::spawn(write_beats(shared.clone()))])
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn listen(shared: Arc<Shared>) {
    let mut topics = shared.store.topics();
    loop {
        let topic = topics.next().await;
        shared.hub.wake(&topic);
    }
}

async fn write_beats(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(BEATS);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut away = false;
    loop {
        every.tick().await;
        let beats: Vec<Beat> = std::mem::take(&mut shared.hub.lock().beats).into_values().collect();
        if beats.is_empty() {
            continue;
        }
        match shared.store.beat(&beats).await {
            Ok(stale) => {
                away = false;
                for worker in stale {
                    if let Some(beat) = beats.iter().find(|beat| beat.worker_id == worker) {
                        tracing::info!(%worker, epoch = beat.epoch, "the worker's registration has ended");
                        shared.hub.end(&worker, beat.epoch);
                    }
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(%error, "signs of life cannot be written");
                }
                let mut inner = shared.hub.lock();
                for beat in beats {
                    inner.beats.entry(beat.worker_id.clone()).or_insert(beat);
                }
            }
        }
    }
}
