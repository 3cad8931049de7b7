//! `WorkerService`: nodes that come, are told what to run, and say what becomes of it.
//!
//! One task a stream (`session`): what a worker is slow to read holds up nobody else. Streams of a replica meet in the `hub`: word of
//! changes is heard once and handed to the stream that it is for, heartbeats of all are written in one transaction a second. What a
//! worker must be told stands in the outbox until it has acknowledged it; every new stream begins with all of that (`deliver`).
//!
//! A secret's value is read when a message is about to be sent, and lives in that message only.

use std::sync::Arc;
use std::time::Duration;

use api::v1;
use api::v1::worker_service_server::WorkerService;
use secrecy::ExposeSecret as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

mod deliver;
mod hub;
mod message;
mod session;

use hub::{Hub, Tasks};
use session::Session;

use super::{Caller, caller, validate};
use crate::credentials::Credentials;
use crate::model::{Clock, Registration, Worker, WorkerId};
use crate::store::SharedStore;

/// Messages that wait for a worker to read them.
const OUTBOUND: usize = 64;

/// How long a stream may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);

/// What the service needs to know.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// How often workers give a sign of life.
    pub heartbeat: Duration,
    /// How long without one until a worker is lost.
    pub lease: Duration,
    /// Dispatches of a container until it is given up.
    pub max_attempts: u32,
    /// Most bytes that are kept of a container's output.
    pub log_cap: u64,
    /// A stream's longest life: workers open a new one at once, and so prove their token again.
    pub stream_age: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            lease: Duration::from_secs(20),
            max_attempts: 3,
            log_cap: 16 << 20,
            stream_age: Duration::from_secs(15 * 60),
        }
    }
}

/// What all streams share.
#[derive(Debug)]
struct Shared {
    store: SharedStore,
    credentials: Credentials,
    clock: Arc<dyn Clock>,
    settings: WorkerSettings,
    hub: Hub,
}

/// The service. Its tasks end with it; streams end when their connections do.
#[derive(Debug)]
pub struct WorkerRpc {
    shared: Arc<Shared>,
    _tasks: Tasks,
}

impl WorkerRpc {
    /// Starts the tasks that streams share. Within a runtime.
    #[must_use]
    pub fn new(
        store: SharedStore,
        credentials: Credentials,
        clock: Arc<dyn Clock>,
        settings: WorkerSettings,
    ) -> Self {
        let shared = Arc::new(Shared { store, credentials, clock, settings, hub: Hub::default() });
        Self { _tasks: Tasks::start(&shared), shared }
    }

    /// A worker, if it is the caller's own.
    async fn own(&self, caller: &Caller, worker: &WorkerId) -> Result<Worker, Status> {
        let found = self.shared.store.worker(worker).await?;
        let own = |worker: &Worker| caller.node.as_deref() == Some(worker.node.as_str());
        found.filter(own).ok_or_else(|| Status::not_found("worker not found"))
    }
}

/// A worker must come anew: its registration is not the newest, or it was declared lost.
fn register_again() -> Status {
    Status::failed_precondition("this registration has ended: register again")
}

/// The answer to leases that do not exist, have ended, or are another worker's.
fn no_lease() -> Status {
    Status::not_found("container not found")
}

#[tonic::async_trait]
impl WorkerService for WorkerRpc {
    async fn register_worker(
        &self,
        request: Request<v1::RegisterWorkerRequest>,
    ) -> Result<Response<v1::RegisterWorkerResponse>, Status> {
        let caller = caller(&request)?.clone();
        caller.worker()?;
        let request = request.into_inner();
        validate::name("node", &request.node)?;
        validate::optional_name("pool_selector", &request.pool_selector)?;
        validate::optional_name("version", &request.version)?;
        let store = &self.shared.store;
        let bound = match &caller.node {
            Some(node) => *node == request.node,
            None => store.bind_token(&caller.token_id, &request.node).await?,
        };
        if !bound {
            return Err(Status::permission_denied("this token is another node's"));
        }
        let registration = Registration {
            capacity: message::capacity(&request.capacity.unwrap_or_default())?,
            node: request.node,
            pool_selector: request.pool_selector,
            version: request.version,
        };
        let worker = store.register_worker(&registration).await?;
        tracing::info!(node = worker.node, worker = %worker.worker_id, epoch = worker.epoch, "worker registered");
        let settings = &self.shared.settings;
        let seconds = |span: Duration| u32::try_from(span.as_secs().max(1)).unwrap_or(u32::MAX);
        Ok(Response::new(v1::RegisterWorkerResponse {
            worker_id: worker.worker_id.to_string(),
            epoch: worker.epoch,
            heartbeat_seconds: seconds(settings.heartbeat),
            lease_seconds: seconds(settings.lease),
        }))
    }

    type WorkStream = ReceiverStream<Result<v1::ControlMessage, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let caller = caller(&request)?.clone();
        caller.worker()?;
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(HELLO, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the stream does not begin with Hello"))??;
        let hello = match first.and_then(|first| first.message) {
            Some(v1::worker_message::Message::Hello(hello)) => hello,
            _ => return Err(Status::invalid_argument("the stream does not begin with Hello")),
        };
        let worker = self.own(&caller, &WorkerId::from(hello.worker_id.as_str())).await?;
        if worker.epoch != hello.epoch || !worker.live {
            return Err(register_again());
        }
        let (out, messages) = tokio::sync::mpsc::channel(OUTBOUND);
        let session = Session::open(self.shared.clone(), worker, out);
        tokio::spawn(session.run(hello.leases, inbound));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn fetch_credentials(
        &self,
        request: Request<v1::FetchCredentialsRequest>,
    ) -> Result<Response<v1::FetchCredentialsResponse>, Status> {
        let caller = caller(&request)?.clone();
        caller.worker()?;
        let lease = message::lease(request.into_inner().lease)?;
        let store = &self.shared.store;
        let container = store.container(&lease.workspace_id, &lease.container_id).await?;
        let holder = container.and_then(|container| container.worker_id).ok_or_else(no_lease)?;
        let worker = self.own(&caller, &holder).await.map_err(|status| match status.code() {
            tonic::Code::NotFound => no_lease(),
            _ => status,
        })?;
        let (_, image) = store.dispatched(&worker.worker_id, &lease).await?.ok_or_else(no_lease)?;
        let credentials = self.shared.credentials.of_image(&image).await?;
        let image_credentials = credentials.expose_secret().to_owned();
        Ok(Response::new(v1::FetchCredentialsResponse { image_credentials }))
    }
}
