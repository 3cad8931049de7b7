//! [`DataKeys`] in SQL.

use async_trait::async_trait;
use sqlx::any::AnyRow;

use super::row::{Columns as _, bound};
use super::secrets::{secret_row, secret_row_columns};
use super::sql::{SqlStore, transaction};
use super::{DataKeys, Result, StoreError};
use crate::model::{DataKey, KeyId, Sealed, SecretRow, WorkspaceId};

macro_rules! columns {
    () => {
        "key_id, workspace_id, kek_id, wrapped, current"
    };
}

#[async_trait]
impl DataKeys for SqlStore {
    async fn current_data_key(&self, workspace: &WorkspaceId) -> Result<Option<DataKey>> {
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM data_key WHERE workspace_id = $1 AND current = 1"
        ))
        .bind(workspace.as_str())
        .fetch_optional(self.readers())
        .await?;
        row.as_ref().map(data_key).transpose()
    }

    async fn data_key(&self, key: &KeyId) -> Result<Option<DataKey>> {
        let row = sqlx::query(concat!("SELECT ", columns!(), " FROM data_key WHERE key_id = $1"))
            .bind(key.as_str())
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map(data_key).transpose()
    }

    async fn set_current_data_key(&self, key: &DataKey, instead_of: Option<&KeyId>) -> Result<bool> {
        let set = transaction!(self, |tx| {
            if let Some(old) = instead_of {
                let retired = sqlx::query(
                    "UPDATE data_key SET current = 0 WHERE workspace_id = $1 AND key_id = $2 AND current = 1",
                )
                .bind(key.workspace_id.as_str())
                .bind(old.as_str())
                .execute(&mut **tx)
                .await?;
                if retired.rows_affected() == 0 {
                    return Err(StoreError::Exists("data key"));
                }
            }
            let made = sqlx::query(
                "INSERT INTO data_key (key_id, workspace_id, kek_id, wrapped, current, create_time)
                 VALUES ($1, $2, $3, $4, 1, $5) ON CONFLICT DO NOTHING",
            )
            .bind(key.key_id.as_str())
            .bind(key.workspace_id.as_str())
            .bind(&key.kek_id)
            .bind(key.wrapped.as_slice())
            .bind(tx.now.0)
            .execute(&mut **tx)
            .await?;
            // An error takes the retirement back.
            if made.rows_affected() == 0 { Err(StoreError::Exists("data key")) } else { Ok(()) }
        });
        match set {
            Ok(()) => Ok(true),
            Err(StoreError::Exists(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn data_keys_not_wrapped_by(&self, kek_id: &str, limit: u32) -> Result<Vec<DataKey>> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM data_key WHERE kek_id <> $1 ORDER BY key_id LIMIT $2"
        ))
        .bind(kek_id)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(data_key).collect()
    }

    async fn rewrap_data_key(
        &self,
        key: &KeyId,
        from_kek: &str,
        to_kek: &str,
        wrapped: &[u8],
    ) -> Result<bool> {
        transaction!(self, |tx| {
            let rewrapped = sqlx::query(
                "UPDATE data_key SET kek_id = $3, wrapped = $4 WHERE key_id = $1 AND kek_id = $2",
            )
            .bind(key.as_str())
            .bind(from_kek)
            .bind(to_kek)
            .bind(wrapped)
            .execute(&mut **tx)
            .await?;
            Ok(rewrapped.rows_affected() == 1)
        })
    }

    async fn delete_unused_data_keys(&self) -> Result<u64> {
        transaction!(self, |tx| {
            let gone = sqlx::query(
                "DELETE FROM data_key WHERE current = 0
                 AND NOT EXISTS (SELECT 1 FROM secret WHERE secret.key_id = data_key.key_id)",
            )
            .execute(&mut **tx)
            .await?;
            Ok(gone.rows_affected())
        })
    }

    async fn secrets_under_old_keys(&self, limit: u32) -> Result<Vec<SecretRow>> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            secret_row_columns!(),
            " JOIN data_key k ON k.key_id = s.key_id WHERE k.current = 0 ORDER BY s.secret_id LIMIT $1"
        ))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(secret_row).collect()
    }

    async fn reseal_secret(&self, row: &SecretRow, sealed: &Sealed) -> Result<bool> {
        transaction!(self, |tx| {
            let resealed = sqlx::query(
                "UPDATE secret SET key_id = $5, record = $6
                 WHERE secret_id = $1 AND version = $2 AND key_id = $3 AND record = $4",
            )
            .bind(row.secret.secret_id.as_str())
            .bind(bound(row.secret.version))
            .bind(row.sealed.key_id.as_str())
            .bind(row.sealed.record.as_slice())
            .bind(sealed.key_id.as_str())
            .bind(sealed.record.as_slice())
            .execute(&mut **tx)
            .await?;
            Ok(resealed.rows_affected() == 1)
        })
    }

    async fn has_data_keys(&self) -> Result<bool> {
        let row = sqlx::query("SELECT key_id FROM data_key LIMIT 1").fetch_optional(self.readers()).await?;
        Ok(row.is_some())
    }
}

fn data_key(row: &AnyRow) -> Result<DataKey> {
    Ok(DataKey {
        key_id: row.text("key_id")?.into(),
        workspace_id: row.text("workspace_id")?.into(),
        kek_id: row.text("kek_id")?,
        wrapped: row.bytes("wrapped")?,
        current: row.flag("current")?,
    })
}
