//! The connection to the control plane: registers, streams, and comes again for ever. Knows no containers.

use std::sync::Arc;
use std::time::Duration;

use api::v1;
use api::v1::control_message::Message;
use api::v1::worker_message::Message as FromWorker;
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::Options;
use super::agent::{Agent, NotTaken};
use super::engine::Engine;

/// Messages that wait to be sent.
const OUTBOUND: usize = 32;

/// Pauses before coming again: the first, which doubles, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// A stream that lived so long was a good one: the next pause is the first again.
const GOOD: Duration = Duration::from_secs(10);

/// How long an answer to a call may take.
const ANSWER: Duration = Duration::from_secs(30);

/// How often what is cached is told, if it has changed: each so many heartbeats.
const CACHED: u32 = 6;

/// Heartbeats come at least so often, whatever the control plane says.
const HEARTBEAT: (u32, u32) = (1, 60);

/// What the link needs to know.
#[derive(Debug)]
pub struct Link<E> {
    agent: Arc<Agent<E>>,
    registration: v1::RegisterWorkerRequest,
}

impl<E: Engine> Link<E> {
    /// For an agent.
    #[must_use]
    pub fn new(agent: Arc<Agent<E>>, options: &Options) -> Self {
        let capacity = v1::Capacity {
            cpu: options.capacity.cpu,
            memory: options.capacity.memory,
            gpu: options.capacity.gpu.kind.clone(),
            gpu_count: options.capacity.gpu.count,
        };
        let registration = v1::RegisterWorkerRequest {
            node: options.node.clone(),
            capacity: Some(capacity),
            pool_selector: options.pool.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Self { agent, registration }
    }

    /// Never returns.
    pub async fn run(self) {
        let mut pause = PAUSE.0;
        loop {
            let since = Instant::now();
            let Err(status) = Box::pin(self.session()).await;
            if since.elapsed() >= GOOD {
                pause = PAUSE.0;
            }
            let (code, reason) = (status.code(), status.message());
            match code {
                Code::Unauthenticated | Code::PermissionDenied => {
                    tracing::error!(?code, reason, "the control plane refuses this worker");
                }
                _ => tracing::warn!(?code, reason, "no connection to the control plane"),
            }
            // Between half and all of it: workers that lost one control plane do not come back together.
            tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn session(&self) -> Result<std::convert::Infallible, Status> {
        let agent = &self.agent;
        let control = &agent.control;
        control.renew_token();
        let mut client = control.workers();
        let registered = answer(client.register_worker(control.request(self.registration.clone()))).await?;
        let registered = registered.into_inner();
        let (out, messages) = mpsc::channel(OUTBOUND);
        let patience = Duration::from_secs(u64::from(registered.lease_seconds.max(1)));
        let mut line = Line { agent, out, patience, after: 0, cached: None };
        line.say(FromWorker::Hello(v1::Hello {
            worker_id: registered.worker_id,
            epoch: registered.epoch,
            leases: agent.leases(),
        }))
        .await?;
        let stream = answer(client.work(control.request(ReceiverStream::new(messages)))).await?;
        let mut inbound = stream.into_inner();
        tracing::info!(epoch = registered.epoch, "connected to the control plane");
        let every = registered.heartbeat_seconds.clamp(HEARTBEAT.0, HEARTBEAT.1);
        let mut heartbeat = tokio::time::interval(Duration::from_secs(u64::from(every)));
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beats: u32 = 0;
        line.flush().await?;
        loop {
            tokio::select! {
                message = inbound.message() => match message? {
                    Some(message) => line.take(message).await?,
                    None => return Err(Status::unavailable("the control plane has closed the stream")),
                },
                _ = heartbeat.tick() => {
                    line.heartbeat(self.registration.capacity.clone(), beats.is_multiple_of(CACHED)).await?;
                    beats = beats.wrapping_add(1);
                }
                () = agent.outbox.changed() => line.flush().await?,
            }
        }
    }
}

async fn answer<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let silent = |_| Status::deadline_exceeded("the control plane does not answer");
    tokio::time::timeout(ANSWER, call).await.map_err(silent)?
}

/// Acknowledges a delivery when it is done, if the stream still is.
fn acknowledge_when(
    done: impl Future<Output = ()> + Send + 'static,
    delivery: u64,
    out: mpsc::WeakSender<v1::WorkerMessage>,
) {
    tokio::spawn(async move {
        done.await;
        if let Some(out) = out.upgrade().filter(|_| delivery > 0) {
            let ack = FromWorker::Ack(v1::Ack { delivery });
            // The next stream brings it again.
            let _ = out.send(v1::WorkerMessage { number: 0, message: Some(ack) }).await;
        }
    });
}

/// One stream.
struct Line<'a, E> {
    agent: &'a Arc<Agent<E>>,
    out: mpsc::Sender<v1::WorkerMessage>,
    /// How long the control plane may not read.
    patience: Duration,
    /// Number of the last message of the outbox that this stream has sent.
    after: u64,
    /// Cached images, as they were told.
    cached: Option<Vec<String>>,
}

impl<E: Engine> Line<'_, E> {
    async fn send(&self, message: v1::WorkerMessage) -> Result<(), Status> {
        let sent = self.out.send_timeout(message, self.patience).await;
        sent.map_err(|_| Status::unavailable("the control plane does not read"))
    }

    async fn say(&self, message: FromWorker) -> Result<(), Status> {
        self.send(v1::WorkerMessage { number: 0, message: Some(message) }).await
    }

    /// Sends what waits and was not sent on this stream.
    async fn flush(&mut self) -> Result<(), Status> {
        while let Some(message) = self.agent.outbox.next(self.after) {
            self.after = message.number;
            self.send(message).await?;
        }
        Ok(())
    }

    async fn heartbeat(&mut self, capacity: Option<v1::Capacity>, with_cached: bool) -> Result<(), Status> {
        let mut cached_images = None;
        if with_cached {
            let agent = self.agent.clone();
            let cached = tokio::task::spawn_blocking(move || agent.indexes.cached()).await;
            let digests: Vec<String> = cached.unwrap_or_default().into_iter().collect();
            if self.cached.as_ref() != Some(&digests) {
                self.cached = Some(digests.clone());
                cached_images = Some(v1::CachedImages { digests });
            }
        }
        let draining = self.agent.is_draining();
        let leases = self.agent.leases();
        self.say(FromWorker::Heartbeat(v1::Heartbeat { capacity, cached_images, leases, draining })).await
    }

    async fn take(&mut self, mut message: v1::ControlMessage) -> Result<(), Status> {
        let taken = match message.message {
            Some(Message::Dispatch(dispatch)) => self.agent.dispatch(dispatch).await,
            Some(Message::Cancel(cancel)) => self.agent.cancel(cancel.lease),
            Some(Message::Revoke(revoke)) => self.agent.revoke(revoke.lease),
            Some(Message::Credentials(update)) => {
                let credentials = SecretString::from(update.image_credentials);
                // May take long, and is tried until it works: it acknowledges by itself.
                self.agent.refresh(update.lease, credentials).map(|done| {
                    acknowledge_when(done, message.delivery, self.out.downgrade());
                    message.delivery = 0;
                })
            }
            Some(Message::Received(received)) => {
                self.agent.outbox.received(received.number);
                Ok(())
            }
            // From a newer control plane: not acknowledged, it may be important.
            None => Err(NotTaken::Lacks("anything that this worker understands")),
        };
        match taken {
            Ok(()) if message.delivery > 0 => {
                self.say(FromWorker::Ack(v1::Ack { delivery: message.delivery })).await
            }
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(delivery = message.delivery, %error, "not taken");
                Ok(())
            }
        }
    }
}
