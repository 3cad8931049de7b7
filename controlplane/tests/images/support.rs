//! A control plane without its server: database, vault, imaging, and the service as its clients call it.

use std::path::Path;
use std::sync::Arc;

use api::v1;
use api::v1::create_image_progress::Event;
use api::v1::image_service_server::ImageService as _;
use controlplane::credentials::Credentials;
use controlplane::imaging::{Imaging, ImagingOptions, PrivateRegistries};
use controlplane::model::{SecretId, SystemClock, Time, TokenId, TokenKind, Workspace, WorkspaceId};
use controlplane::service::caller::{Caller, Pepper};
use controlplane::service::image::Images;
use controlplane::store::{self, Change, NewSecret, Secrets as _, SqlStore, Workspaces as _};
use controlplane::vault::Vault;
use controlplane::vault::keyring::Keyring;
use fixtures::registry::{Auth, Registry, RegistryConfig};
use fixtures::secret::Traces;
use secrecy::ExposeSecret as _;
use sqlx::{Row as _, SqlitePool};
use tempfile::TempDir;
use tokio_stream::StreamExt as _;
use tonic::{Request, Status};

/// Every table that images and secrets stand in, and those that tell of them.
const TABLES: [&str; 9] = [
    "image",
    "image_secret",
    "secret",
    "secret_version",
    "data_key",
    "clip_index",
    "clip_index_piece",
    "idempotency",
    "outbox",
];

pub(crate) struct World {
    pub(crate) store: Arc<SqlStore>,
    pub(crate) vault: Vault<SqlStore>,
    pub(crate) images: Images<SqlStore>,
    pub(crate) dir: TempDir,
    /// Nothing that is planted is ever logged.
    _traces: Traces,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// With options of the test's own. Private registries are allowed unless it refuses them: all are on this machine.
    pub(crate) async fn with(change: impl FnOnce(&mut ImagingOptions)) -> Self {
        let traces = Traces::install();
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/control.db", dir.path().display());
        store::migrate(&url).await.unwrap();
        let store = store::open(&url, Arc::new(SystemClock)).await.unwrap();
        let keyring = Keyring::open_or_generate(dir.path(), false).unwrap();
        let vault = Vault::new(Arc::clone(&store), keyring);
        let credentials = Credentials { store: Arc::clone(&store), vault: vault.clone() };
        let mut options = ImagingOptions::new(dir.path().join("builds"));
        options.private_registries = PrivateRegistries::Allow;
        change(&mut options);
        let imaging = Imaging::open(credentials, options).unwrap();
        let images = Images::new(Arc::clone(&store), imaging);
        Self { store, vault, images, dir, _traces: traces }
    }

    pub(crate) async fn tenant(&self, name: &str) -> Caller {
        let change = change(None);
        let Workspace { workspace_id, .. } =
            self.store.create_workspace(&change, name).await.unwrap().into_inner();
        Caller {
            token_id: TokenId::from(format!("token-of-{name}")),
            kind: TokenKind::Workspace,
            workspace: Some(workspace_id),
            node: None,
            pepper: Pepper::of(name),
        }
    }

    /// Makes an image: what was told, and the end.
    pub(crate) async fn create(
        &self,
        caller: &Caller,
        request: v1::CreateImageRequest,
    ) -> (Vec<Event>, Result<v1::Image, Status>) {
        let mut stream = self.images.create_image(asked(caller, request)).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(word) = stream.next().await {
            match word.map(|word| word.event.unwrap()) {
                Ok(Event::Image(image)) => {
                    assert!(stream.next().await.is_none(), "the image is the last word");
                    return (events, Ok(image));
                }
                Ok(event) => events.push(event),
                Err(status) => return (events, Err(status)),
            }
        }
        panic!("a stream without an end: {events:?}");
    }

    pub(crate) async fn made(&self, caller: &Caller, request: v1::CreateImageRequest) -> v1::Image {
        self.create(caller, request).await.1.unwrap()
    }

    pub(crate) async fn refused(&self, caller: &Caller, request: v1::CreateImageRequest) -> Status {
        let status = self.create(caller, request).await.1.unwrap_err();
        assert!(!status.message().contains(fixtures::secret::MARK), "{status:?}");
        status
    }

    /// A plain secret of the workspace.
    pub(crate) async fn set_secret(&self, caller: &Caller, name: &str, value: &str) {
        let secret = controlplane::model::Secret {
            secret_id: SecretId::generate(),
            workspace_id: caller.workspace.clone().unwrap(),
            name: name.into(),
            registry: String::new(),
            version: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        let sealed = self.vault.seal(&secret, value.as_bytes()).await.unwrap();
        let change = change(caller.workspace.as_ref());
        self.store.create_secret(&change, &NewSecret { secret, sealed }).await.unwrap();
    }

    /// What a secret holds, and its version.
    pub(crate) async fn value(&self, caller: &Caller, id: &str) -> (String, u64) {
        let row = self.store.secret(caller.workspace.as_ref().unwrap(), &id.into()).await.unwrap().unwrap();
        let value = self.vault.open(&row).await.unwrap();
        (String::from_utf8(value.expose_secret().to_vec()).unwrap(), row.secret.version)
    }

    /// The database as anybody sees it who has the file.
    pub(crate) async fn sql(&self) -> SqlitePool {
        SqlitePool::connect(&format!("sqlite://{}/control.db", self.dir.path().display())).await.unwrap()
    }

    /// Rows of every table that making an image writes to, but the audit.
    pub(crate) async fn rows(&self) -> Vec<(&'static str, i64)> {
        let pool = self.sql().await;
        let mut rows = Vec::new();
        for table in TABLES {
            let query = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
            rows.push((table, sqlx::query(query).fetch_one(&pool).await.unwrap().get(0)));
        }
        pool.close().await;
        rows
    }

    /// The newest line of the audit: actor, action, target, result.
    pub(crate) async fn audited(&self) -> [String; 4] {
        use controlplane::store::Audit as _;
        let (_, actor, action, target, result) = self.store.audited(None, 1).await.unwrap().remove(0);
        [actor, action, target, result]
    }

    pub(crate) fn builds(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("builds")).unwrap().count()
    }

    /// Ends the world, and looks at what it leaves: no planted secret in any file.
    pub(crate) async fn end(self) {
        assert_eq!(self.builds(), 0, "builds leave nothing");
        self.store.close().await;
        fixtures::secret::sweep_dir(self.dir.path(), &[]).assert_clean();
        assert!(Path::new(&self.dir.path().join("control.db")).exists());
    }
}

pub(crate) fn change(workspace: Option<&WorkspaceId>) -> Change<'_> {
    Change { actor: "test", workspace, action: "Test", target: "test", key: None }
}

/// A request of a caller, as the server hands it to the service.
pub(crate) fn asked<T>(caller: &Caller, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(caller.clone());
    request
}

pub(crate) fn image(base_image: &str, creds: &[(&str, &str)]) -> v1::CreateImageRequest {
    v1::CreateImageRequest {
        base_image: base_image.into(),
        base_image_creds: creds.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        ..Default::default()
    }
}

pub(crate) fn login(password: &str) -> [(&str, &str); 2] {
    [("USERNAME", "u"), ("PASSWORD", password)]
}

pub(crate) fn registry(auth: Auth) -> Registry {
    let registry = Registry::start(RegistryConfig { auth, ..RegistryConfig::default() });
    registry.push(&fixtures::images::small(), "team/app", "1");
    registry
}

pub(crate) fn messages(events: &[Event]) -> String {
    let lines = events.iter().filter_map(|event| match event {
        Event::Message(line) => Some(line.as_str()),
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}
