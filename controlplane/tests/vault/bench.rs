//! A database, a key file, and a vault over both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use controlplane::credentials::Credentials;
use controlplane::model::{Secret, SecretId, SecretRow, SystemClock, Time, WorkspaceId};
use controlplane::store::{Change, NewSecret, Secrets as _, SqlStore, Workspaces as _, migrate, open};
use controlplane::vault::keyring::{GENERATED, Keyring};
use controlplane::vault::{Vault, VaultError};
use fixtures::postgres::Postgres;
use secrecy::ExposeSecret as _;
use sqlx::Connection as _;
use tempfile::TempDir;

/// Makes a test of each case for each database.
macro_rules! cases {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case($crate::bench::Bench::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case($crate::bench::Bench::postgres().await).await;
            })+
        }
    };
}

pub(crate) struct Bench {
    pub(crate) store: Arc<SqlStore>,
    pub(crate) vault: Vault<SqlStore>,
    pub(crate) url: String,
    pub(crate) directory: TempDir,
}

impl Bench {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("control.db").display());
        Self::at(url, directory).await
    }

    pub(crate) async fn postgres() -> Self {
        let url = tokio::task::spawn_blocking(|| Postgres::shared().database()).await.unwrap();
        Self::at(url, tempfile::tempdir().unwrap()).await
    }

    async fn at(url: String, directory: TempDir) -> Self {
        migrate(&url).await.unwrap();
        let store = open(&url, Arc::new(SystemClock)).await.unwrap();
        let keyring = Keyring::open_or_generate(directory.path(), false).unwrap();
        Self { vault: Vault::new(Arc::clone(&store), keyring), store, url, directory }
    }

    /// As a process that starts now.
    pub(crate) fn started(&self) -> Vault<SqlStore> {
        Vault::new(Arc::clone(&self.store), Keyring::open(&self.key_file()).unwrap())
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.directory.path().join(GENERATED)
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn credentials(&self) -> Credentials<SqlStore> {
        Credentials { store: Arc::clone(&self.store), vault: self.started() }
    }

    pub(crate) async fn workspace(&self, name: &str) -> WorkspaceId {
        let change = Change { actor: "test", workspace: None, action: "Test", target: name, key: None };
        self.store.create_workspace(&change, name).await.unwrap().into_inner().workspace_id
    }

    /// A secret whose value is [`value`] of its name and version.
    pub(crate) async fn plant(&self, workspace: &WorkspaceId, name: &str, registry: &str) -> SecretRow {
        self.put(workspace, name, registry, value(name, 1).as_bytes()).await
    }

    pub(crate) async fn put(
        &self,
        workspace: &WorkspaceId,
        name: &str,
        registry: &str,
        value: &[u8],
    ) -> SecretRow {
        let secret = Secret {
            secret_id: SecretId::generate(),
            workspace_id: workspace.clone(),
            name: name.to_owned(),
            registry: registry.to_owned(),
            version: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        let sealed = self.vault.seal(&secret, value).await.unwrap();
        let new = NewSecret { secret: secret.clone(), sealed };
        self.store.create_secret(&change(workspace), &new).await.unwrap();
        self.row(&secret).await
    }

    /// The next value.
    pub(crate) async fn update(&self, row: &SecretRow) -> Result<SecretRow, VaultError> {
        let next = Secret { version: row.secret.version + 1, ..row.secret.clone() };
        let sealed = self.vault.seal(&next, value(&next.name, next.version).as_bytes()).await?;
        self.store.update_secret(&change(&next.workspace_id), &row.secret, &sealed).await?;
        Ok(self.row(&next).await)
    }

    pub(crate) async fn row(&self, secret: &Secret) -> SecretRow {
        self.store.secret(&secret.workspace_id, &secret.secret_id).await.unwrap().unwrap()
    }

    /// The secret opens, for whoever starts now and whoever runs, and is what it should be.
    pub(crate) async fn opens(&self, secret: &Secret, why: &str) {
        for vault in [&self.vault, &self.started()] {
            let mut row = self.row(secret).await;
            let opened = loop {
                match vault.open(&row).await {
                    Ok(opened) => break opened,
                    Err(error) => {
                        let now = self.row(secret).await;
                        assert!(now != row, "{why}: {error}");
                        row = now;
                    }
                }
            };
            let expected = value(&row.secret.name, row.secret.version);
            assert_eq!(opened.expose_secret(), expected.as_bytes(), "{why}");
        }
    }

    /// Whether it is found to have been tampered with, by whoever starts now and whoever runs.
    pub(crate) async fn is_tampered(&self, secret: &Secret) -> bool {
        let row = self.row(secret).await;
        let mut found = Vec::new();
        for vault in [&self.vault, &self.started()] {
            found.push(matches!(vault.open(&row).await, Err(VaultError::Tampered(_))));
        }
        assert_eq!(found[0], found[1]);
        found[0]
    }

    /// Somebody with access to the database, who makes a table.
    pub(crate) async fn ddl(&self, sql: &'static str) {
        let mut connection = sqlx::AnyConnection::connect(&self.url).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Somebody with access to the database, who changes rows.
    pub(crate) async fn sql(&self, sql: &'static str, values: &[&str]) {
        let mut connection = sqlx::AnyConnection::connect(&self.url).await.unwrap();
        let mut query = sqlx::query(sql);
        for value in values {
            query = query.bind((*value).to_owned());
        }
        assert!(query.execute(&mut connection).await.unwrap().rows_affected() > 0, "{sql}");
        connection.close().await.unwrap();
    }
}

pub(crate) fn change(workspace: &WorkspaceId) -> Change<'_> {
    Change { actor: "test", workspace: Some(workspace), action: "Test", target: "it", key: None }
}

pub(crate) fn value(name: &str, version: u64) -> String {
    fixtures::secret::secret(&format!("{name}-{version}"))
}
