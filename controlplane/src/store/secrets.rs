//! [`Secrets`] in SQL.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::any::AnyRow;

use super::page::{cut, limit};
use super::row::{Columns as _, bound};
use super::sql::{SqlStore, Tx, change};
use super::topic::Topic;
use super::{Change, Done, NewSecret, Result, Secrets, StoreError};
use crate::model::{ImageId, Page, PageRequest, Sealed, Secret, SecretId, SecretRow, WorkspaceId};

macro_rules! secret_columns {
    () => {
        "secret_id, workspace_id, name, registry, version, create_time, update_time"
    };
}

/// What [`secret_row`] reads, and where from.
macro_rules! secret_row_columns {
    () => {
        "s.secret_id, s.workspace_id, s.name, s.registry, s.version, s.create_time, s.update_time, s.key_id, s.record,
         COALESCE(v.version, 0) AS newest FROM secret s LEFT JOIN secret_version v ON v.secret_id = s.secret_id"
    };
}

pub(super) use secret_row_columns;

/// Dispatched containers whose image uses a secret: `$1` workspace, `$2` identity, `$3` name.
macro_rules! users {
    () => {
        "workspace_id = $1 AND state IN ('scheduled', 'mounting', 'running') AND image_id IN (
             SELECT image_id FROM image WHERE workspace_id = $1 AND credential_secret_id = $2
             UNION SELECT image_id FROM image_secret WHERE workspace_id = $1 AND name = $3)"
    };
}

/// Word of credentials that newer word takes the place of, whether it is on its way or not: one for each container, so that nobody who
/// changes a secret without end fills the outbox of others' workers. Lacks a condition and the end of its subquery.
macro_rules! older_word {
    () => {
        "kind = 'credentials' AND workspace_id = $1 AND container_id IN (SELECT container_id FROM container WHERE "
    };
}

/// How often, and with which pause, it is looked whether somebody still changes credentials: transactions are shorter.
const HELD_TRIES: u32 = 20;
const HELD_PAUSE: Duration = Duration::from_millis(5);

#[async_trait]
impl Secrets for SqlStore {
    async fn create_secret(&self, change: &Change<'_>, new: &NewSecret) -> Result<Done<Secret>> {
        change!(self, change, |tx| {
            tx.hold_credentials(&new.secret.workspace_id).await?;
            let secret = tx.insert_secret(new).await?.ok_or(StoreError::Exists("secret"))?;
            if secret.registry.is_empty() {
                // Images may name it, of a secret of that name that was deleted.
                tx.tell_users_of(&secret).await?;
            }
            Ok(secret)
        })
    }

    async fn update_secret(
        &self,
        change: &Change<'_>,
        read: &Secret,
        sealed: &Sealed,
    ) -> Result<Done<Secret>> {
        change!(self, change, |tx| {
            tx.hold_credentials(&read.workspace_id).await?;
            let secret = tx.replace_value(read, sealed).await?;
            tx.tell_users_of(&secret).await?;
            Ok(secret)
        })
    }

    async fn delete_secret(&self, change: &Change<'_>, secret: &SecretId) -> Result<Done<()>> {
        change!(self, change, |tx| {
            let workspace = change.workspace.ok_or(StoreError::NotFound("secret"))?;
            let gone = sqlx::query("DELETE FROM secret WHERE secret_id = $1 AND workspace_id = $2")
                .bind(secret.as_str())
                .bind(workspace.as_str())
                .execute(&mut **tx)
                .await?;
            if gone.rows_affected() == 0 {
                return Err(StoreError::NotFound("secret"));
            }
            // No version of it is the newest any more: a row that somebody puts back does not open.
            sqlx::query("UPDATE secret_version SET version = version + 1 WHERE secret_id = $1")
                .bind(secret.as_str())
                .execute(&mut **tx)
                .await?;
            Ok(())
        })
    }

    async fn secret(&self, workspace: &WorkspaceId, id: &SecretId) -> Result<Option<SecretRow>> {
        let row = sqlx::query(concat!(
            "SELECT ",
            secret_row_columns!(),
            " WHERE s.workspace_id = $1 AND s.secret_id = $2"
        ))
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(self.readers())
        .await?;
        row.as_ref().map(secret_row).transpose()
    }

    async fn secrets_named(&self, workspace: &WorkspaceId, name: &str) -> Result<Vec<SecretRow>> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            secret_row_columns!(),
            " WHERE s.workspace_id = $1 AND s.name = $2 ORDER BY s.registry"
        ))
        .bind(workspace.as_str())
        .bind(name)
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(secret_row).collect()
    }

    async fn secret_for_registry(
        &self,
        workspace: &WorkspaceId,
        registry: &str,
    ) -> Result<Option<SecretRow>> {
        let row = sqlx::query(concat!(
            "SELECT ",
            secret_row_columns!(),
            " WHERE s.workspace_id = $1 AND s.registry = $2 AND s.registry <> ''"
        ))
        .bind(workspace.as_str())
        .bind(registry)
        .fetch_optional(self.readers())
        .await?;
        row.as_ref().map(secret_row).transpose()
    }

    async fn secrets(&self, workspace: &WorkspaceId, request: &PageRequest) -> Result<Page<Secret>> {
        let (name, registry): (String, String) = match &request.after {
            None => Default::default(),
            Some(key) => serde_json::from_str(key)
                .map_err(|_| StoreError::Conflict("this is no place in the list of secrets".to_owned()))?,
        };
        let rows = sqlx::query(concat!(
            "SELECT ",
            secret_columns!(),
            " FROM secret WHERE workspace_id = $1 AND (name, registry) > ($2, $3)
             ORDER BY name, registry LIMIT $4"
        ))
        .bind(workspace.as_str())
        .bind(name)
        .bind(registry)
        .bind(limit(request))
        .fetch_all(self.readers())
        .await?;
        let items = rows.iter().map(secret).collect::<Result<Vec<_>>>()?;
        Ok(cut(request, items, |secret| serde_json::json!([secret.name, secret.registry]).to_string()))
    }
}

impl SqlStore {
    /// Waits for whoever holds credentials of a workspace ([`Tx::hold_credentials`]); not for long, for somebody's stream stands still
    /// meanwhile. [`StoreError::Busy`].
    pub(super) async fn await_credentials(&self, workspace: &WorkspaceId) -> Result<()> {
        let Some(free) = self.dialect.credentials_are_free() else { return Ok(()) };
        for _ in 0..HELD_TRIES {
            let row = sqlx::query(free).bind(workspace.as_str()).fetch_one(self.readers()).await?;
            if row.flag("free")? {
                return Ok(());
            }
            tokio::time::sleep(HELD_PAUSE).await;
        }
        Err(StoreError::Busy(sqlx::Error::PoolTimedOut))
    }
}

impl Tx {
    /// Before anything changes that images of a workspace are pulled with. A dispatch waits for whoever holds this before it reads
    /// credentials: either it reads what is written here, or it was committed before this began, and is told ([`Tx::tell_users_of`]).
    pub(super) async fn hold_credentials(&mut self, workspace: &WorkspaceId) -> Result<()> {
        if let Some(hold) = self.dialect.hold_credentials() {
            sqlx::query(hold).bind(workspace.as_str()).fetch_one(&mut **self).await?;
        }
        Ok(())
    }

    /// Keeps a new secret. `None`: its name or its registry has one.
    pub(super) async fn insert_secret(&mut self, new: &NewSecret) -> Result<Option<Secret>> {
        let secret =
            Secret { version: 1, create_time: self.now, update_time: self.now, ..new.secret.clone() };
        let made = sqlx::query(
            "INSERT INTO secret (secret_id, workspace_id, name, registry, version, key_id, record, create_time, update_time)
             VALUES ($1, $2, $3, $4, 1, $5, $6, $7, $7) ON CONFLICT DO NOTHING",
        )
        .bind(secret.secret_id.as_str())
        .bind(secret.workspace_id.as_str())
        .bind(&secret.name)
        .bind(&secret.registry)
        .bind(new.sealed.key_id.as_str())
        .bind(new.sealed.record.as_slice())
        .bind(self.now.0)
        .execute(&mut **self)
        .await?;
        if made.rows_affected() == 0 {
            return Ok(None);
        }
        let counted = sqlx::query(
            "INSERT INTO secret_version (secret_id, version) VALUES ($1, 1) ON CONFLICT DO NOTHING",
        )
        .bind(secret.secret_id.as_str())
        .execute(&mut **self)
        .await?;
        if counted.rows_affected() == 0 {
            // An identity of a secret that was deleted.
            return Err(StoreError::Exists("secret"));
        }
        Ok(Some(secret))
    }

    /// Gives a secret its next value.
    pub(super) async fn replace_value(&mut self, read: &Secret, sealed: &Sealed) -> Result<Secret> {
        let version = read.version.saturating_add(1);
        let row = sqlx::query(concat!(
            "UPDATE secret SET version = $4, key_id = $5, record = $6, update_time = $7
             WHERE secret_id = $1 AND workspace_id = $2 AND version = $3 RETURNING ",
            secret_columns!()
        ))
        .bind(read.secret_id.as_str())
        .bind(read.workspace_id.as_str())
        .bind(bound(read.version))
        .bind(bound(version))
        .bind(sealed.key_id.as_str())
        .bind(sealed.record.as_slice())
        .bind(self.now.0)
        .fetch_optional(&mut **self)
        .await?;
        let Some(row) = row else {
            let there = sqlx::query("SELECT version FROM secret WHERE secret_id = $1 AND workspace_id = $2")
                .bind(read.secret_id.as_str())
                .bind(read.workspace_id.as_str())
                .fetch_optional(&mut **self)
                .await?;
            return Err(match there {
                None => StoreError::NotFound("secret"),
                Some(_) => {
                    StoreError::Conflict(format!("secret {} has got another value meanwhile", read.name))
                }
            });
        };
        let counted =
            sqlx::query("UPDATE secret_version SET version = $3 WHERE secret_id = $1 AND version = $2")
                .bind(read.secret_id.as_str())
                .bind(bound(read.version))
                .bind(bound(version))
                .execute(&mut **self)
                .await?;
        if counted.rows_affected() == 0 {
            // One version more would not open either, and hide what has happened.
            let why = format!("secret {} is not at the newest version that it had", read.secret_id);
            return Err(StoreError::Corrupt { what: "secret", why });
        }
        secret(&row)
    }

    /// Queues word of newer credentials for dispatched containers whose image uses the secret, by identity or by name.
    pub(super) async fn tell_users_of(&mut self, secret: &Secret) -> Result<()> {
        sqlx::query(concat!("DELETE FROM outbox WHERE ", older_word!(), users!(), ")"))
            .bind(secret.workspace_id.as_str())
            .bind(secret.secret_id.as_str())
            .bind(&secret.name)
            .execute(&mut **self)
            .await?;
        let rows = sqlx::query(concat!(
            "INSERT INTO outbox (worker_id, kind, workspace_id, container_id, attempt, fencing_token, create_time)
             SELECT worker_id, 'credentials', workspace_id, container_id, attempt, fencing_token, $4 FROM container
             WHERE worker_id IS NOT NULL AND ",
            users!(),
            " RETURNING worker_id"
        ))
        .bind(secret.workspace_id.as_str())
        .bind(secret.secret_id.as_str())
        .bind(&secret.name)
        .bind(self.now.0)
        .fetch_all(&mut **self)
        .await?;
        self.announce_workers(&rows)
    }

    /// Queues word of newer credentials for dispatched containers of an image.
    pub(super) async fn tell_containers_of(
        &mut self,
        workspace: &WorkspaceId,
        image: &ImageId,
    ) -> Result<()> {
        sqlx::query(concat!(
            "DELETE FROM outbox WHERE ",
            older_word!(),
            "workspace_id = $1 AND image_id = $2 AND state IN ('scheduled', 'mounting', 'running'))"
        ))
        .bind(workspace.as_str())
        .bind(image.as_str())
        .execute(&mut **self)
        .await?;
        let rows = sqlx::query(
            "INSERT INTO outbox (worker_id, kind, workspace_id, container_id, attempt, fencing_token, create_time)
             SELECT worker_id, 'credentials', workspace_id, container_id, attempt, fencing_token, $3 FROM container
             WHERE workspace_id = $1 AND image_id = $2 AND state IN ('scheduled', 'mounting', 'running')
             AND worker_id IS NOT NULL RETURNING worker_id",
        )
        .bind(workspace.as_str())
        .bind(image.as_str())
        .bind(self.now.0)
        .fetch_all(&mut **self)
        .await?;
        self.announce_workers(&rows)
    }

    fn announce_workers(&mut self, rows: &[AnyRow]) -> Result<()> {
        let workers = rows.iter().map(|row| row.text("worker_id")).collect::<Result<BTreeSet<String>>>()?;
        for worker in workers {
            self.announce(Topic::Worker(worker.into()));
        }
        Ok(())
    }
}

pub(super) fn secret(row: &AnyRow) -> Result<Secret> {
    Ok(Secret {
        secret_id: row.text("secret_id")?.into(),
        workspace_id: row.text("workspace_id")?.into(),
        name: row.text("name")?,
        registry: row.text("registry")?,
        version: row.count("version")?,
        create_time: row.time("create_time")?,
        update_time: row.time("update_time")?,
    })
}

/// With the column `newest`.
pub(super) fn secret_row(row: &AnyRow) -> Result<SecretRow> {
    Ok(SecretRow {
        secret: secret(row)?,
        sealed: Sealed { key_id: row.text("key_id")?.into(), record: row.bytes("record")? },
        newest: row.count("newest")?,
    })
}
