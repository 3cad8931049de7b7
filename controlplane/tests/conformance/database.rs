//! A fresh database for each case, and what cases need in it.

use std::sync::Arc;

use controlplane::model::{
    ClipIndexInfo, ContainerId, DataKey, Image, ImageCredentialSource, ImageId, KeyId, ManualClock,
    PageRequest, Sealed, Secret, SecretId, Time, WorkerId, WorkspaceId,
};
use controlplane::store::{
    Change, DataKeys as _, Done, IdempotencyKey, Images as _, Indexes as _, NewSecret, SecretChange,
    Secrets as _, SqlStore, Workspaces as _, migrate, open,
};
use fixtures::postgres::Postgres;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

/// Makes a test of each case for each database: `conformance!(case, …)`, where a case is `async fn case(database: Database)`.
macro_rules! conformance {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case($crate::database::Database::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case($crate::database::Database::postgres().await).await;
            })+
        }
    };
}

/// A database with its tables, a store on it, and the store's clock.
pub(crate) struct Database {
    pub(crate) store: Arc<SqlStore>,
    pub(crate) url: String,
    pub(crate) clock: Arc<ManualClock>,
    _dir: Option<tempfile::TempDir>,
}

impl Database {
    pub(crate) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("control.db").display());
        Self::at(url, Some(dir)).await
    }

    pub(crate) async fn postgres() -> Self {
        let url = tokio::task::spawn_blocking(|| Postgres::shared().database()).await.unwrap();
        Self::at(url, None).await
    }

    pub(crate) async fn at(url: String, dir: Option<tempfile::TempDir>) -> Self {
        migrate(&url).await.unwrap();
        let clock = Arc::new(ManualClock::default());
        clock.advance(std::time::Duration::from_secs(1_000_000));
        let store = open(&url, clock.clone()).await.unwrap();
        Self { store, url, clock, _dir: dir }
    }

    /// Another replica.
    pub(crate) async fn replica(&self) -> Arc<SqlStore> {
        open(&self.url, self.clock.clone()).await.unwrap()
    }

    pub(crate) async fn connection(&self) -> sqlx::AnyConnection {
        sqlx::AnyConnection::connect(&self.url).await.unwrap()
    }

    /// Behind the store's back; tells how many rows.
    pub(crate) async fn execute(&self, sql: &str) -> u64 {
        let mut connection = self.connection().await;
        let done = sqlx::query(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
        connection.close().await.unwrap();
        done.rows_affected()
    }

    /// The first column of a query's rows.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = self.connection().await;
        let rows = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut connection)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
        connection.close().await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub(crate) async fn count(&self, from: &str) -> i64 {
        let mut connection = self.connection().await;
        let sql = format!("SELECT COUNT(*) FROM {from}");
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        row.get(0)
    }

    /// A workspace.
    pub(crate) async fn workspace(&self, name: &str) -> WorkspaceId {
        let change = change(None, "CreateWorkspace", name);
        self.store.create_workspace(&change, name).await.unwrap().into_inner().workspace_id
    }

    /// The workspace's current data key, made if it has none.
    pub(crate) async fn key(&self, workspace: &WorkspaceId) -> KeyId {
        if let Some(key) = self.store.current_data_key(workspace).await.unwrap() {
            return key.key_id;
        }
        let key = data_key(workspace, "kek-1");
        assert!(self.store.set_current_data_key(&key, None).await.unwrap());
        key.key_id
    }

    /// A secret to be kept.
    pub(crate) async fn new_secret(&self, workspace: &WorkspaceId, name: &str, registry: &str) -> NewSecret {
        let key_id = self.key(workspace).await;
        let secret = Secret {
            secret_id: SecretId::generate(),
            workspace_id: workspace.clone(),
            name: name.to_owned(),
            registry: registry.to_owned(),
            version: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        NewSecret { secret, sealed: Sealed { key_id, record: b"sealed 1".to_vec() } }
    }

    /// A secret.
    pub(crate) async fn secret(&self, workspace: &WorkspaceId, name: &str, registry: &str) -> Secret {
        let new = self.new_secret(workspace, name, registry).await;
        let change = change(Some(workspace), "CreateSecret", name);
        self.store.create_secret(&change, &new).await.unwrap().into_inner()
    }

    /// A complete clip index of one piece.
    pub(crate) async fn index(&self, digest: &str) {
        let info = ClipIndexInfo { index_digest: digest.to_owned(), index_bytes: 5, pieces: 1 };
        if self.store.begin_clip_index(&info).await.unwrap() {
            self.store.put_clip_index_piece(digest, 0, b"index").await.unwrap();
            self.store.complete_clip_index(digest).await.unwrap();
        }
    }

    /// An image.
    pub(crate) async fn image(
        &self,
        workspace: &WorkspaceId,
        id: &str,
        credentials: ImageCredentialSource,
    ) -> Image {
        self.index("index-1").await;
        let image = image(workspace, id, credentials);
        let change = change(Some(workspace), "CreateImage", id);
        self.store.put_image(&change, &image, &SecretChange::None).await.unwrap().into_inner()
    }

    /// A container in a state, on a worker of that name.
    pub(crate) async fn container(
        &self,
        workspace: &WorkspaceId,
        image: &str,
        id: &str,
        state: &str,
        worker: &str,
    ) -> ContainerId {
        self.execute(&format!(
            "INSERT INTO worker (worker_id, node, epoch, beat, live, draining, pool_selector, gpu, total_cpu, total_memory,
                 total_gpu, free_cpu, free_memory, free_gpu, containers, version, create_time, heartbeat_time)
             VALUES ('{worker}', '{worker}', 1, 0, 1, 0, '', '', 1, 1, 0, 1, 1, 0, 0, '', 0, 0) ON CONFLICT DO NOTHING"
        ))
        .await;
        let end = if matches!(state, "exited" | "failed") { "1" } else { "NULL" };
        let on = if state == "queued" { "NULL".to_owned() } else { format!("'{worker}'") };
        self.execute(&format!(
            "INSERT INTO container (workspace_id, container_id, image_id, request, digest, state, attempt, fencing_token,
                 worker_id, cpu, memory, gpu, gpu_count, pool_selector, queue_time, parked, waiting, stop_asked, exit_code,
                 reason, reason_code, cost, log_bytes, create_time, end_time)
             VALUES ('{workspace}', '{id}', '{image}', '{{}}', '', '{state}', 2, 7, {on}, 1, 1, '', 0, '', 0, 0, '', 0, 0,
                 '', 0, '', 0, 0, {end})"
        ))
        .await;
        id.into()
    }

    /// Outbox as `worker kind container attempt/token`.
    pub(crate) async fn outbox(&self) -> Vec<String> {
        self.texts(
            "SELECT worker_id || ' ' || kind || ' ' || container_id || ' ' || CAST(attempt AS TEXT) || '/'
                 || CAST(fencing_token AS TEXT) FROM outbox ORDER BY worker_id, container_id, delivery",
        )
        .await
    }
}

pub(crate) fn change<'a>(
    workspace: Option<&'a WorkspaceId>,
    action: &'static str,
    target: &'a str,
) -> Change<'a> {
    Change { actor: "token-1", workspace, action, target, key: None }
}

/// The same change under a key.
pub(crate) fn keyed<'a>(change: Change<'a>, key: &'a str, request: u8) -> Change<'a> {
    Change { key: Some(IdempotencyKey { key, request: [request; 32] }), ..change }
}

pub(crate) fn now<T>(done: Done<T>) -> T {
    match done {
        Done::Now(outcome) => outcome,
        Done::Replayed(_) => panic!("it was replayed"),
    }
}

pub(crate) fn replayed<T>(done: Done<T>) -> T {
    match done {
        Done::Now(_) => panic!("it was done again"),
        Done::Replayed(outcome) => outcome,
    }
}

pub(crate) fn data_key(workspace: &WorkspaceId, kek: &str) -> DataKey {
    DataKey {
        key_id: KeyId::generate(),
        workspace_id: workspace.clone(),
        kek_id: kek.to_owned(),
        wrapped: b"wrapped".to_vec(),
        current: true,
    }
}

pub(crate) fn image(workspace: &WorkspaceId, id: &str, credentials: ImageCredentialSource) -> Image {
    Image {
        image_id: ImageId::from(id),
        workspace_id: workspace.clone(),
        base_image: "registry.test/a:1".to_owned(),
        registry: "registry.test".to_owned(),
        digest: "sha256:1".to_owned(),
        platform: "linux/amd64".to_owned(),
        credentials,
        index_digest: "index-1".to_owned(),
        image_bytes: 1000,
        index_bytes: 5,
        files: 3,
        create_time: Time(0),
        update_time: Time(0),
    }
}

pub(crate) fn named(secret: &Secret) -> ImageCredentialSource {
    ImageCredentialSource::Secret { name: secret.name.clone(), id: secret.secret_id.clone() }
}

pub(crate) fn page(size: u32, after: Option<String>) -> PageRequest {
    PageRequest { size, after }
}

pub(crate) fn worker(id: &str) -> WorkerId {
    id.into()
}
