//! A control plane of which only the worker's service listens, and a worker that does what it is told by a test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::v1;
use api::v1::control_message::Message;
use api::v1::worker_message::Message as FromWorker;
use api::v1::worker_service_client::WorkerServiceClient;
use api::v1::worker_service_server::WorkerServiceServer;
use controlplane::credentials::Credentials;
use controlplane::model::{
    ClipIndexInfo, Container, Demand, Image, ImageCredentialSource, NewContainer, Secret, SystemClock, Time,
    Token, TokenId, TokenKind, WorkspaceId,
};
use controlplane::service::Caller;
use controlplane::service::worker::{WorkerRpc, WorkerSettings};
use controlplane::store::{
    Change, Containers as _, Images as _, Indexes as _, NewSecret, Queue as _, SecretChange, Secrets as _,
    SqlStore, Store, Tokens as _, Workspaces as _, migrate, open,
};
use controlplane::vault::Vault;
use controlplane::vault::keyring::Keyring;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status, Streaming};

/// Of the image's secret.
pub(crate) const PASSWORD: &str = "pl4nted-registry-1";

/// No answer is waited for longer.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
    pub(crate) store: Arc<SqlStore>,
    pub(crate) vault: Vault,
    pub(crate) workspace: WorkspaceId,
    pub(crate) secret: Secret,
    pub(crate) address: SocketAddr,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn change<'a>(workspace: &'a WorkspaceId, target: &'a str) -> Change<'a> {
    Change { actor: "test", workspace: Some(workspace), action: "Test", target, key: None }
}

impl Bench {
    /// With an image `private` that its secret pulls, and an image `public`.
    pub(crate) async fn new() -> Self {
        Self::with(WorkerSettings { heartbeat: Duration::from_secs(1), ..WorkerSettings::default() }).await
    }

    pub(crate) async fn with(settings: WorkerSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/control.db", dir.path().display());
        migrate(&url).await.unwrap();
        let store = open(&url, Arc::new(SystemClock)).await.unwrap();
        let shared: Arc<dyn Store> = store.clone();
        let vault = Vault::new(shared.clone(), Keyring::open_or_generate(dir.path(), false).unwrap());
        let nowhere = WorkspaceId::from("");
        let made = store.create_workspace(&Change { workspace: None, ..change(&nowhere, "w") }, "w").await;
        let workspace = made.unwrap().into_inner().workspace_id;
        let secret = Secret {
            secret_id: "s".into(),
            workspace_id: workspace.clone(),
            name: "registry".to_owned(),
            registry: "registry.invalid".to_owned(),
            version: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        let sealed = vault.seal(&secret, value(PASSWORD).as_bytes()).await.unwrap();
        let secret = store
            .create_secret(&change(&workspace, "registry"), &NewSecret { secret, sealed })
            .await
            .unwrap()
            .into_inner();
        let index = ClipIndexInfo { index_digest: "00".to_owned(), index_bytes: 1, pieces: 1 };
        store.begin_clip_index(&index).await.unwrap();
        store.put_clip_index_piece("00", 0, b"x").await.unwrap();
        store.complete_clip_index("00").await.unwrap();
        let credentials = Credentials { store: shared.clone(), vault: vault.clone() };
        let rpc = WorkerRpc::new(shared, credentials, Arc::new(SystemClock), settings);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Who calls is said by the caller: tokens are tested elsewhere.
        let service = WorkerServiceServer::with_interceptor(rpc, |mut request: Request<()>| {
            let node = request.metadata().get("node").and_then(|node| node.to_str().ok()).map(str::to_owned);
            let token_id = TokenId::from(node.clone().unwrap_or_default());
            let node = node.filter(|node| node != "unbound");
            request.extensions_mut().insert(Caller {
                token_id,
                kind: TokenKind::Worker,
                workspace: None,
                node,
                pepper: Default::default(),
            });
            Ok(request)
        });
        tokio::spawn(
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let bench = Self { store, vault, workspace, secret, address, dir };
        let source = ImageCredentialSource::Secret { name: "registry".to_owned(), id: "s".into() };
        bench.image("private", source).await;
        bench.image("public", ImageCredentialSource::Anonymous).await;
        bench
    }

    async fn image(&self, name: &str, credentials: ImageCredentialSource) {
        let image = Image {
            image_id: name.into(),
            workspace_id: self.workspace.clone(),
            base_image: format!("registry.invalid/{name}:1"),
            registry: "registry.invalid".to_owned(),
            digest: format!("sha256:{}", "0".repeat(64)),
            platform: "linux/amd64".to_owned(),
            credentials,
            index_digest: "00".to_owned(),
            image_bytes: 1,
            index_bytes: 1,
            files: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        self.store.put_image(&change(&self.workspace, name), &image, &SecretChange::None).await.unwrap();
    }

    /// A worker's token, bound to nothing.
    pub(crate) async fn token(&self, id: &str) {
        let token = Token {
            token_id: id.into(),
            kind: TokenKind::Worker,
            workspace_id: None,
            node: None,
            create_time: Time(0),
            expire_time: None,
        };
        let change = Change { workspace: None, ..change(&self.workspace, id) };
        self.store.create_token(&change, &token, &[7; 32]).await.unwrap();
    }

    /// Queues a container and places it, if it can be.
    pub(crate) async fn run(&self, container: &str, image: &str) {
        let new = NewContainer {
            container_id: container.into(),
            workspace_id: self.workspace.clone(),
            image_id: image.into(),
            request: format!(r#"{{"image_id":"{image}","entry_point":["true"]}}"#),
            demand: Demand { cpu: 1, memory: 1, ..Demand::default() },
        };
        self.store.submit(&change(&self.workspace, container), &new).await.unwrap();
        self.store.place(10).await.unwrap();
    }

    pub(crate) async fn container(&self, container: &str) -> Container {
        self.store.container(&self.workspace, &container.into()).await.unwrap().unwrap()
    }

    /// Until a container is as it should be.
    pub(crate) async fn until(&self, container: &str, is: impl Fn(&Container) -> bool) -> Container {
        let look = async {
            loop {
                let found = self.container(container).await;
                if is(&found) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, look).await.expect("it does not become so")
    }

    pub(crate) async fn client(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    pub(crate) async fn register(&self, node: &str) -> v1::RegisterWorkerResponse {
        self.try_register(node, node).await.unwrap()
    }

    pub(crate) async fn try_register(
        &self,
        token: &str,
        node: &str,
    ) -> Result<v1::RegisterWorkerResponse, Status> {
        let capacity = v1::Capacity { cpu: 4000, memory: 1024, ..Default::default() };
        let request = v1::RegisterWorkerRequest {
            node: node.to_owned(),
            capacity: Some(capacity),
            ..Default::default()
        };
        let answer = self.client().await.register_worker(as_node(token, request)).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn connect(&self, node: &str) -> Worker {
        let registered = self.register(node).await;
        self.open(node, &registered, Vec::new()).await.unwrap()
    }

    pub(crate) async fn open(
        &self,
        node: &str,
        registered: &v1::RegisterWorkerResponse,
        leases: Vec<v1::Lease>,
    ) -> Result<Worker, Status> {
        let (out, messages) = mpsc::channel(64);
        let hello = v1::Hello { worker_id: registered.worker_id.clone(), epoch: registered.epoch, leases };
        let mut worker = Worker { out, inbound: None, number: 0 };
        worker.say(FromWorker::Hello(hello)).await;
        let answer = self.client().await.work(as_node(node, ReceiverStream::new(messages))).await?;
        worker.inbound = Some(answer.into_inner());
        Ok(worker)
    }
}

/// A secret's value for a registry.
pub(crate) fn value(password: &str) -> String {
    format!(r#"{{"USERNAME":"user","PASSWORD":"{password}"}}"#)
}

pub(crate) fn as_node<T>(node: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("node", node.parse().unwrap());
    request
}

/// A stream.
pub(crate) struct Worker {
    out: mpsc::Sender<v1::WorkerMessage>,
    inbound: Option<Streaming<v1::ControlMessage>>,
    number: u64,
}

impl Worker {
    pub(crate) async fn say(&mut self, message: FromWorker) {
        self.out.send(v1::WorkerMessage { number: 0, message: Some(message) }).await.unwrap();
    }

    /// Reports, and waits for the answer, passing over a Revoke.
    pub(crate) async fn report(
        &mut self,
        lease: &v1::Lease,
        state: v1::ContainerState,
    ) -> Option<v1::Revoke> {
        self.number += 1;
        let report =
            v1::ContainerReport { lease: Some(lease.clone()), state: state.into(), ..Default::default() };
        let message = v1::WorkerMessage { number: self.number, message: Some(FromWorker::Report(report)) };
        self.out.send(message).await.unwrap();
        let mut revoked = None;
        loop {
            match self.next().await.unwrap().message.unwrap() {
                Message::Received(received) if received.number == self.number => return revoked,
                Message::Revoke(revoke) => revoked = Some(revoke),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Result<v1::ControlMessage, Status> {
        let inbound = self.inbound.as_mut().unwrap();
        let message = tokio::time::timeout(LIMIT, inbound.message()).await.expect("nothing comes")?;
        message.ok_or_else(|| Status::new(Code::Ok, "the stream has ended"))
    }

    pub(crate) async fn dispatch(&mut self) -> (u64, v1::Dispatch) {
        let message = self.next().await.unwrap();
        match message.message {
            Some(Message::Dispatch(dispatch)) => (message.delivery, dispatch),
            other => panic!("{other:?}"),
        }
    }

    /// Writes output without end, as fast as it is read.
    pub(crate) fn talk(&self, lease: v1::Lease) -> impl Future<Output = ()> + Send + use<> {
        let out = self.out.clone();
        async move {
            for offset in 0.. {
                let log = v1::LogChunk { stream: 1, data: b"x".to_vec(), offset };
                let log = v1::ContainerLog { lease: Some(lease.clone()), log: Some(log) };
                let message = v1::WorkerMessage { number: offset + 1, message: Some(FromWorker::Log(log)) };
                if out.send(message).await.is_err() {
                    return;
                }
            }
        }
    }

    pub(crate) async fn ack(&mut self, delivery: u64) {
        self.say(FromWorker::Ack(v1::Ack { delivery })).await;
    }
}
