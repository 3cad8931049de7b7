//! One worker's stream, from its Hello to its end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::v1;
use api::v1::control_message::Message;
use api::v1::worker_message::Message as FromWorker;
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::Shared;
use super::hub::{Hub, Seat};
use super::message::{self, lease_message};
use crate::model::{Beat, Capacity, Lease, LogLine, Worker, WorkerId};
use crate::store::StoreError;

/// Messages that are taken together, if so many are there.
const BATCH: usize = 64;

/// How soon what could not be read is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the outbox is looked into without word of a change: word may be lost.
const LOOK: Duration = Duration::from_secs(20);

/// What a worker says it runs is compared with what it should with Hello, and then with each so many heartbeats.
const RECONCILE: u32 = 12;

/// Attempts of a write that the database refuses for the moment, and the pause before the second, which doubles.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(100);

/// Digests of cached images that are looked at.
const MAX_CACHED: usize = 4096;

/// Longest digest.
const MAX_DIGEST: usize = 160;

/// A stream.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: WorkerId,
    pub(super) seat: Seat,
    /// Deliveries that are on their way.
    pub(super) sent: BTreeSet<u64>,
    epoch: u64,
    node: String,
    out: mpsc::Sender<Result<v1::ControlMessage, Status>>,
    capacity: Capacity,
    /// What the worker's cache holds, until it is written.
    cached: Option<Vec<String>>,
    heartbeats: u32,
}

impl Session {
    pub(super) fn open(
        shared: Arc<Shared>,
        worker: Worker,
        out: mpsc::Sender<Result<v1::ControlMessage, Status>>,
    ) -> Self {
        let seat = Hub::enter(shared.clone(), worker.worker_id.clone(), worker.epoch);
        Self {
            shared,
            seat,
            sent: BTreeSet::new(),
            epoch: worker.epoch,
            node: worker.node,
            worker: worker.worker_id,
            out,
            capacity: worker.total,
            cached: None,
            heartbeats: 0,
        }
    }

    /// Serves the stream until either side ends it.
    pub(super) async fn run(mut self, held: Vec<v1::Lease>, inbound: Streaming<v1::WorkerMessage>) {
        tracing::debug!(node = self.node, epoch = self.epoch, "stream opened");
        let ended = Box::pin(self.serve(held, inbound)).await;
        match &ended {
            Ok(()) => tracing::debug!(node = self.node, "stream closed by the worker"),
            Err(status) => {
                tracing::info!(node = self.node, code = ?status.code(), reason = status.message(), "stream closed");
            }
        }
        if let Err(status) = ended {
            // Whoever does not read does not learn why.
            let _ = self.out.send_timeout(Err(status), AGAIN).await;
        }
    }

    async fn serve(
        &mut self,
        held: Vec<v1::Lease>,
        mut inbound: Streaming<v1::WorkerMessage>,
    ) -> Result<(), Status> {
        self.reconcile(held).await?;
        // A tenth apart, so that streams which began together do not end together.
        let age = self.shared.settings.stream_age;
        let old = Instant::now() + age.mul_f64(0.9 + 0.1 * fastrand::f64());
        let mut look = Instant::now();
        loop {
            // In no order: a worker that talks without pause must still hear of cancellations.
            tokio::select! {
                status = &mut self.seat.end => {
                    return Err(status.unwrap_or_else(|_| Status::unavailable("the control plane ends")));
                }
                () = self.out.closed() => return Ok(()),
                () = tokio::time::sleep_until(old) => {
                    return Err(Status::unavailable("this stream is old: open a new one"));
                }
                batch = batch(&mut inbound) => match batch? {
                    None => return Ok(()),
                    Some(batch) => {
                        if self.take(batch).await? {
                            look = Instant::now();
                        }
                    }
                },
                () = self.seat.wake.notified() => look = Instant::now(),
                () = tokio::time::sleep_until(look) => {
                    let complete = self.deliver().await?;
                    look = Instant::now() + if complete { LOOK } else { AGAIN };
                }
            }
        }
    }

    /// Sends a message, unless the stream must end or the worker does not read for as long as a lease.
    pub(super) async fn send(&mut self, message: v1::ControlMessage) -> Result<(), Status> {
        tokio::select! {
            biased;
            status = &mut self.seat.end => {
                Err(status.unwrap_or_else(|_| Status::unavailable("the control plane ends")))
            }
            sent = self.out.send_timeout(Ok(message), self.shared.settings.lease) => {
                sent.map_err(|_| Status::unavailable("the worker does not read"))
            }
        }
    }

    async fn say(&mut self, message: Message) -> Result<(), Status> {
        self.send(v1::ControlMessage { delivery: 0, message: Some(message) }).await
    }

    async fn received(&mut self, number: u64) -> Result<(), Status> {
        if number == 0 {
            return Ok(());
        }
        self.say(Message::Received(v1::Received { number })).await
    }

    async fn revoke(&mut self, lease: &Lease) -> Result<(), Status> {
        tracing::info!(node = self.node, container = %lease.container_id, attempt = lease.attempt, "lease revoked");
        let reason = "the container was given to another worker, has ended, or does not exist".to_owned();
        self.say(Message::Revoke(v1::Revoke { lease: Some(lease_message(lease)), reason })).await
    }

    /// Takes messages. `true`: there may be room for deliveries.
    ///
    /// A message that makes no sense is answered and forgotten: sent again, it would make none either. A database that is away ends the
    /// stream: the worker comes again, with all that was not answered.
    async fn take(&mut self, batch: Vec<v1::WorkerMessage>) -> Result<bool, Status> {
        let mut acknowledged = Vec::new();
        let mut logs: HashMap<Lease, (Vec<LogLine>, Vec<u64>)> = HashMap::new();
        for v1::WorkerMessage { number, message } in batch {
            let taken = match message {
                Some(FromWorker::Ack(ack)) => {
                    acknowledged.push(ack.delivery);
                    Ok(())
                }
                Some(FromWorker::Heartbeat(heartbeat)) => self.heartbeat(heartbeat).await,
                Some(FromWorker::Log(log)) => {
                    message::log(log, self.shared.clock.now()).map(|(lease, line)| {
                        let (lines, numbers) = logs.entry(lease).or_default();
                        lines.push(line);
                        numbers.push(number);
                    })
                }
                Some(FromWorker::Report(report)) => {
                    // Output before the end of what wrote it.
                    self.logs(&mut logs).await?;
                    self.report(report, number).await
                }
                Some(FromWorker::Hello(_)) => return Err(Status::invalid_argument("Hello comes once")),
                None => Err(Status::invalid_argument("an empty message")),
            };
            match taken {
                Err(status) if status.code() == tonic::Code::InvalidArgument => {
                    tracing::warn!(node = self.node, reason = status.message(), "a message makes no sense");
                    self.received(number).await?;
                }
                taken => taken?,
            }
        }
        self.logs(&mut logs).await?;
        if acknowledged.is_empty() {
            return Ok(false);
        }
        let (shared, worker) = (&self.shared, &self.worker);
        again(|| shared.store.acknowledge(worker, &acknowledged)).await?;
        for delivery in &acknowledged {
            self.sent.remove(delivery);
        }
        Ok(true)
    }

    async fn heartbeat(&mut self, heartbeat: v1::Heartbeat) -> Result<(), Status> {
        let beat = Beat { worker_id: self.worker.clone(), epoch: self.epoch, draining: heartbeat.draining };
        self.shared.hub.beat(beat);
        let (shared, worker, epoch) = (self.shared.clone(), self.worker.clone(), self.epoch);
        if let Some(capacity) = &heartbeat.capacity {
            let capacity = message::capacity(capacity)?;
            if capacity != self.capacity {
                match shared.store.set_capacity(&worker, epoch, &capacity).await {
                    Ok(()) => self.capacity = capacity,
                    Err(error) => tracing::warn!(node = self.node, %error, "capacity is not written"),
                }
            }
        }
        if let Some(cached) = heartbeat.cached_images {
            let fine = |digest: &String| {
                (1..=MAX_DIGEST).contains(&digest.len()) && digest.bytes().all(|b| b.is_ascii_graphic())
            };
            self.cached = Some(cached.digests.into_iter().filter(fine).take(MAX_CACHED).collect());
        }
        if let Some(cached) = self.cached.take()
            && let Err(error) = shared.store.set_cached_images(&worker, epoch, &cached).await
        {
            tracing::warn!(node = self.node, %error, "what the worker has cached is not written");
            self.cached = Some(cached);
        }
        self.heartbeats += 1;
        if self.heartbeats.is_multiple_of(RECONCILE) {
            self.reconcile(heartbeat.leases).await?;
        }
        Ok(())
    }

    /// Compares what the worker says it holds with what it should.
    async fn reconcile(&mut self, held: Vec<v1::Lease>) -> Result<(), Status> {
        let held: Vec<Lease> =
            held.into_iter().map(|lease| message::lease(Some(lease))).collect::<Result<_, _>>()?;
        let (shared, worker) = (self.shared.clone(), self.worker.clone());
        let attempts = shared.settings.max_attempts;
        for lease in again(|| shared.store.reconcile(&worker, &held, attempts)).await? {
            self.revoke(&lease).await?;
        }
        Ok(())
    }

    async fn report(&mut self, report: v1::ContainerReport, number: u64) -> Result<(), Status> {
        let report = message::report(report)?;
        let (shared, worker) = (self.shared.clone(), self.worker.clone());
        match again(|| shared.store.report(&worker, &report)).await {
            Ok(_) => {}
            Err(StoreError::Stale(_) | StoreError::NotFound(_)) => self.revoke(&report.lease).await?,
            Err(error) => return Err(error.into()),
        }
        self.received(number).await
    }

    async fn logs(&mut self, logs: &mut HashMap<Lease, (Vec<LogLine>, Vec<u64>)>) -> Result<(), Status> {
        let (shared, worker) = (self.shared.clone(), self.worker.clone());
        let cap = shared.settings.log_cap;
        for (lease, (lines, numbers)) in logs.drain() {
            match again(|| shared.store.append_logs(&worker, &lease, &lines, cap)).await {
                Ok(()) => {}
                Err(StoreError::Stale(_) | StoreError::NotFound(_)) => self.revoke(&lease).await?,
                Err(error) => return Err(error.into()),
            }
            for number in numbers {
                self.received(number).await?;
            }
        }
        Ok(())
    }
}

/// Messages that are there, at least one; `None`: there will be none any more. Cancel safe: nothing is taken and then waited.
async fn batch(inbound: &mut Streaming<v1::WorkerMessage>) -> Result<Option<Vec<v1::WorkerMessage>>, Status> {
    let Some(first) = inbound.message().await? else { return Ok(None) };
    let mut batch = vec![first];
    while batch.len() < BATCH {
        // An end or an error comes again with the next call.
        match inbound.message().now_or_never() {
            Some(Ok(Some(message))) => batch.push(message),
            _ => break,
        }
    }
    Ok(Some(batch))
}

/// Does something again while the database is busy or away for a moment.
async fn again<T, F: Future<Output = Result<T, StoreError>>>(act: impl Fn() -> F) -> Result<T, StoreError> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        match act().await {
            Err(StoreError::Busy(_) | StoreError::Unavailable(_)) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            done => return done,
        }
    }
    act().await
}
