//! A control plane that does what the test says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::v1;
use api::v1::control_message::Message;
use api::v1::worker_message::Message as FromWorker;
use api::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Something hangs.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
pub(super) struct Script {
    epoch: AtomicU64,
    pub(super) away: AtomicBool,
    pub(super) refused: AtomicU64,
    /// What containers' credentials are now.
    pub(super) credentials: Mutex<String>,
    pub(super) asked: Mutex<Vec<u64>>,
}

struct Service {
    script: Arc<Script>,
    streams: mpsc::Sender<Line>,
}

/// One stream of a worker, after its Hello.
pub(super) struct Line {
    pub(super) hello: v1::Hello,
    inbound: Streaming<v1::WorkerMessage>,
    out: mpsc::Sender<Result<v1::ControlMessage, Status>>,
}

pub(super) struct Plane {
    pub(super) address: SocketAddr,
    pub(super) script: Arc<Script>,
    streams: mpsc::Receiver<Line>,
}

#[tonic::async_trait]
impl WorkerService for Service {
    type WorkStream = ReceiverStream<Result<v1::ControlMessage, Status>>;

    async fn register_worker(
        &self,
        _: Request<v1::RegisterWorkerRequest>,
    ) -> Result<Response<v1::RegisterWorkerResponse>, Status> {
        if self.script.away.load(Ordering::SeqCst) {
            self.script.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Status::unavailable("away"));
        }
        let epoch = self.script.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let worker_id = "w".to_owned();
        let answer = v1::RegisterWorkerResponse { worker_id, epoch, heartbeat_seconds: 1, lease_seconds: 10 };
        Ok(Response::new(answer))
    }

    async fn work(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|message| message.message);
        let Some(FromWorker::Hello(hello)) = first else { panic!("not a Hello: {first:?}") };
        assert_eq!(hello.epoch, self.script.epoch.load(Ordering::SeqCst));
        let (out, messages) = mpsc::channel(16);
        let sent = self.streams.send(Line { hello, inbound, out }).await;
        sent.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn fetch_credentials(
        &self,
        request: Request<v1::FetchCredentialsRequest>,
    ) -> Result<Response<v1::FetchCredentialsResponse>, Status> {
        let token = request.into_inner().lease.unwrap().fencing_token;
        self.script.asked.lock().unwrap().push(token);
        let image_credentials = self.script.credentials.lock().unwrap().clone();
        Ok(Response::new(v1::FetchCredentialsResponse { image_credentials }))
    }
}

impl Plane {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(8);
        let script = Arc::new(Script::default());
        let service = WorkerServiceServer::new(Service { script: script.clone(), streams: sender });
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, script, streams }
    }

    /// The worker's next stream.
    pub(super) async fn line(&mut self) -> Line {
        within(self.streams.recv()).await.unwrap()
    }
}

impl Line {
    pub(super) fn held(&self) -> Vec<u64> {
        self.hello.leases.iter().map(|lease| lease.fencing_token).collect()
    }

    pub(super) async fn send(&self, delivery: u64, message: Message) {
        self.out.send(Ok(v1::ControlMessage { delivery, message: Some(message) })).await.unwrap();
    }

    pub(super) async fn dispatch(&self, delivery: u64, token: u64, container: &str) {
        let request = v1::ContainerRequest {
            container_id: container.to_owned(),
            workspace_id: "ws".to_owned(),
            image_id: "i".to_owned(),
            entry_point: vec!["true".to_owned()],
            image_credentials: "pl4nted-first".to_owned(),
            ..Default::default()
        };
        let dispatch = v1::Dispatch {
            lease: Some(lease(token, container)),
            request: Some(request),
            image: "registry.test/app@sha256:0".to_owned(),
            digest: super::digest().to_string(),
            index_digest: "none".to_owned(),
        };
        self.send(delivery, Message::Dispatch(dispatch)).await;
    }

    /// The next message that is no heartbeat.
    pub(super) async fn next(&mut self) -> (u64, FromWorker) {
        loop {
            let message = within(self.inbound.message()).await.unwrap().expect("the stream lives");
            match message.message.unwrap() {
                FromWorker::Heartbeat(_) => {}
                other => return (message.number, other),
            }
        }
    }

    /// Answers everything up to an acknowledgement.
    pub(super) async fn until_ack(&mut self, delivery: u64) {
        loop {
            match self.next().await {
                (_, FromWorker::Ack(ack)) if ack.delivery == delivery => return,
                (0, _) => {}
                (number, _) => self.received(number).await,
            }
        }
    }

    /// Answers everything before a report of a state, and hands that out unanswered.
    pub(super) async fn until_report(
        &mut self,
        token: u64,
        state: v1::ContainerState,
    ) -> (u64, v1::ContainerReport) {
        loop {
            match self.next().await {
                (number, FromWorker::Report(report))
                    if report.state() == state && report.lease.as_ref().unwrap().fencing_token == token =>
                {
                    return (number, report);
                }
                (0, _) => {}
                (number, _) => self.received(number).await,
            }
        }
    }

    pub(super) async fn received(&self, number: u64) {
        self.send(0, Message::Received(v1::Received { number })).await;
    }
}

pub(super) fn lease(token: u64, container: &str) -> v1::Lease {
    v1::Lease {
        container_id: container.to_owned(),
        attempt: 1,
        fencing_token: token,
        workspace_id: "ws".to_owned(),
    }
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it ends in time")
}
