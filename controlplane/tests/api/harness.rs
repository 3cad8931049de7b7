//! A server and its callers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::v1::admin_service_client::AdminServiceClient;
use api::v1::container_service_client::ContainerServiceClient;
use api::v1::secret_service_client::SecretServiceClient;
use controlplane::credentials::Credentials;
use controlplane::imaging::{Imaging, ImagingOptions};
use controlplane::model::{
    ClipIndexInfo, Clock, Image, ImageCredentialSource, SystemClock, Time, Token, TokenId, TokenKind,
    WorkspaceId,
};
use controlplane::server::{Parts, Server, ServerOptions};
use controlplane::service::WorkerSettings;
use controlplane::service::caller::new_token;
use controlplane::store::{self, Change, SecretChange, SharedStore};
use controlplane::vault::Vault;
use controlplane::vault::keyring::Keyring;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Adds a token.
pub(crate) type Bearer = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>;
/// A channel with a token.
pub(crate) type Way = InterceptedService<Channel, Bearer>;

/// A server that runs.
pub(crate) struct Plane {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: SharedStore,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) channel: Channel,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) served: JoinHandle<Result<(), controlplane::server::ServerError>>,
}

/// Options on any port of loopback.
pub(crate) fn options() -> ServerOptions {
    ServerOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        grace: Duration::from_secs(2),
        ..ServerOptions::default()
    }
}

/// A server on a new database, not yet listening.
pub(crate) async fn parts(dir: &Path) -> (Parts, SharedStore) {
    let url = format!("sqlite://{}", dir.join("control.db").display());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    store::migrate(&url).await.expect("tables");
    let store: SharedStore = store::open(&url, Arc::clone(&clock)).await.expect("a database");
    let keyring = Keyring::open_or_generate(dir, false).expect("a key");
    let vault = Vault::new(SharedStore::clone(&store), keyring);
    let credentials = Credentials { store: SharedStore::clone(&store), vault: vault.clone() };
    let imaging =
        Imaging::open(credentials.clone(), ImagingOptions::new(dir.join("build"))).expect("a workshop");
    let parts = Parts {
        store: SharedStore::clone(&store),
        vault,
        credentials,
        imaging,
        workers: WorkerSettings::default(),
        clock,
        counters: Arc::default(),
    };
    (parts, store)
}

impl Plane {
    /// With the options of most tests.
    pub(crate) async fn start() -> Self {
        Self::with(options()).await
    }

    pub(crate) async fn with(options: ServerOptions) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (parts, store) = parts(dir.path()).await;
        let server = Server::bind(options, parts).await.expect("an address");
        let (address, metrics) = (server.address(), server.metrics_address());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(server.serve(async move { drop(stopped.await) }));
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("a URL").connect_lazy();
        Self { dir, store, address, metrics, channel, stop: Some(stop), served }
    }

    /// Asks it to stop.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) async fn workspace(&self, name: &str) -> WorkspaceId {
        let change = change("CreateWorkspace", None);
        self.store.create_workspace(&change, name).await.expect("made").into_inner().workspace_id
    }

    /// A token, and its identity.
    pub(crate) async fn token(
        &self,
        kind: TokenKind,
        workspace: Option<&WorkspaceId>,
    ) -> (SecretString, TokenId) {
        let (secret, hash) = new_token(kind).expect("random bytes");
        let token = Token {
            token_id: TokenId::generate(),
            kind,
            workspace_id: workspace.cloned(),
            node: None,
            create_time: Time(0),
            expire_time: None,
        };
        self.store.create_token(&change("CreateToken", workspace), &token, &hash).await.expect("made");
        (secret, token.token_id)
    }

    /// A channel with a token of a workspace of this name, which is made.
    pub(crate) async fn tenant(&self, name: &str) -> (Way, WorkspaceId) {
        let workspace = self.workspace(name).await;
        let (token, _) = self.token(TokenKind::Workspace, Some(&workspace)).await;
        (self.way(Some(token.expose_secret())), workspace)
    }

    /// A channel with an admin's token.
    pub(crate) async fn admin(&self) -> AdminServiceClient<Way> {
        let (token, _) = self.token(TokenKind::Admin, None).await;
        AdminServiceClient::new(self.way(Some(token.expose_secret())))
    }

    /// A channel with a token, or without.
    pub(crate) fn way(&self, token: Option<&str>) -> Way {
        let header = token.map(|token| MetadataValue::try_from(format!("Bearer {token}")).expect("a header"));
        let bearer = move |mut request: Request<()>| {
            if let Some(header) = &header {
                request.metadata_mut().insert("authorization", header.clone());
            }
            Ok(request)
        };
        InterceptedService::new(self.channel.clone(), Box::new(bearer))
    }

    /// An image that needs no credentials, or some secret that is not there.
    pub(crate) async fn image(&self, workspace: &WorkspaceId, id: &str, credentials: ImageCredentialSource) {
        let index = ClipIndexInfo { index_digest: "ab".repeat(32), index_bytes: 3, pieces: 1 };
        if self.store.begin_clip_index(&index).await.expect("begun") {
            self.store.put_clip_index_piece(&index.index_digest, 0, b"abc").await.expect("kept");
            self.store.complete_clip_index(&index.index_digest).await.expect("whole");
        }
        let image = Image {
            image_id: id.into(),
            workspace_id: workspace.clone(),
            base_image: "r.example/team/app:1".to_owned(),
            registry: "r.example".to_owned(),
            digest: format!("sha256:{}", "0".repeat(64)),
            platform: "linux/amd64".to_owned(),
            credentials,
            index_digest: index.index_digest,
            image_bytes: 10,
            index_bytes: 3,
            files: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        let change = change("CreateImage", Some(workspace));
        self.store.put_image(&change, &image, &SecretChange::None).await.expect("kept");
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// The operator's.
pub(crate) fn change<'a>(action: &'static str, workspace: Option<&'a WorkspaceId>) -> Change<'a> {
    Change { actor: "operator", workspace, action, target: "test", key: None }
}

pub(crate) fn secrets(way: Way) -> SecretServiceClient<Way> {
    SecretServiceClient::new(way)
}

pub(crate) fn containers(way: Way) -> ContainerServiceClient<Way> {
    ContainerServiceClient::new(way).max_encoding_message_size(8 << 20)
}
