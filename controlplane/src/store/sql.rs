//! The one implementation: pools, transactions, and what every change has in common.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{Any, AnyConnection, AnyPool, Transaction};
use tokio::task::JoinHandle;

use super::address::Address;
use super::announce::Announcer;
use super::dialect::Dialect;
use super::row::{Columns as _, corrupt};
use super::topic::{Topic, Topics};
use super::{Announcements, Change, Result, StoreError};
use crate::model::{Clock, Time};

/// Repositories over SQLite or PostgreSQL.
pub struct SqlStore {
    pub(super) dialect: Dialect,
    pub(super) clock: Arc<dyn Clock>,
    readers: AnyPool,
    writers: AnyPool,
    announcer: Announcer,
    listener: Option<JoinHandle<()>>,
}

impl fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

impl Drop for SqlStore {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

/// Opens a database: `sqlite:///absolute/path` (made if it is missing), `sqlite:relative/path`, `postgres://user@host/database`. Its tables
/// are made by [`super::migrate`].
///
/// # Errors
/// The URL cannot be used, or the database is away.
pub async fn open(url: &str, clock: Arc<dyn Clock>) -> Result<Arc<SqlStore>> {
    let address = Address::parse(url)?;
    address.prepare()?;
    let (readers, writers) = address.pools().await?;
    let announcer = Announcer::new();
    let listener = address.postgres().map(|url| announcer.listen(url.to_owned()));
    Ok(Arc::new(SqlStore { dialect: address.dialect, clock, readers, writers, announcer, listener }))
}

impl SqlStore {
    /// Where single statements that only read are run.
    pub(super) const fn readers(&self) -> &AnyPool {
        &self.readers
    }

    /// Several statements that only read and see the same moment.
    pub(super) async fn snapshot(&self) -> Result<Transaction<'static, Any>> {
        Ok(self.readers.begin_with(self.dialect.begin_snapshot()).await?)
    }

    /// Begins to write. See [`transaction`].
    pub(super) async fn begin(&self) -> Result<Tx> {
        let inner = self.writers.begin_with(self.dialect.begin()).await.map_err(|error| match error {
            // SQLite's one writer is taken: that is not being away.
            sqlx::Error::PoolTimedOut if self.dialect == Dialect::Sqlite => StoreError::Busy(error),
            error => error.into(),
        })?;
        let (dialect, announcer) = (self.dialect, self.announcer.clone());
        Ok(Tx { inner, dialect, now: self.clock.now(), announcer, topics: Vec::new() })
    }

    /// Closes all connections, after what is under way. For orderly ends; without it nothing is lost either.
    pub async fn close(&self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
        self.readers.close().await;
        self.writers.close().await;
    }
}

impl Announcements for SqlStore {
    fn topics(&self) -> Topics {
        self.announcer.topics()
    }
}

/// A transaction that writes. Statements run on `&mut **tx`. Dropped without a commit it is rolled back.
pub(super) struct Tx {
    inner: Transaction<'static, Any>,
    /// Of its database.
    pub(super) dialect: Dialect,
    /// When it began: the time of all that it writes.
    pub(super) now: Time,
    announcer: Announcer,
    topics: Vec<Topic>,
}

impl Deref for Tx {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.inner
    }
}

impl Tx {
    /// Tells of a change, if and when this is committed.
    pub(super) fn announce(&mut self, topic: Topic) {
        if !self.topics.contains(&topic) {
            self.topics.push(topic);
        }
    }

    /// Commits, and tells.
    pub(super) async fn commit(mut self) -> Result<()> {
        if self.dialect == Dialect::Postgres && !self.topics.is_empty() {
            for payload in self.announcer.payloads(&self.topics) {
                sqlx::query("SELECT pg_notify('clipfs', $1)").bind(payload).execute(&mut *self.inner).await?;
            }
        }
        self.inner.commit().await?;
        self.announcer.tell(self.topics);
        Ok(())
    }

    /// Takes all back. That the database is gone is no error: then it was taken back.
    pub(super) async fn rollback(self) {
        let _ = self.inner.rollback().await;
    }

    /// New fencing tokens, rising, higher than any before.
    pub(super) async fn fencing_tokens(&mut self, number: u32) -> Result<Vec<u64>> {
        let rows = sqlx::query(self.dialect.fencing_tokens())
            .bind(i64::from(number))
            .fetch_all(&mut *self.inner)
            .await?;
        match (self.dialect, rows.as_slice()) {
            (Dialect::Sqlite, [row]) => {
                let last = row.count("token")?;
                Ok((last.saturating_sub(u64::from(number)) + 1..=last).collect())
            }
            _ => rows.iter().map(|row| row.count("token")).collect(),
        }
    }

    /// Takes the caller's key: what follows is done under it. `Some`: it had been done before; that was the outcome. Who comes with the same key
    /// at the same time waits here for the first.
    pub(super) async fn claim<T: DeserializeOwned>(&mut self, change: &Change<'_>) -> Result<Option<T>> {
        let Some(key) = change.key else { return Ok(None) };
        let claimed = sqlx::query(
            "INSERT INTO idempotency (scope, key, method, request_hash, outcome, create_time)
             VALUES ($1, $2, $3, $4, '', $5) ON CONFLICT (scope, key) DO NOTHING",
        )
        .bind(scope(change))
        .bind(key.key)
        .bind(change.action)
        .bind(key.request.as_slice())
        .bind(self.now.0)
        .execute(&mut *self.inner)
        .await?;
        if claimed.rows_affected() == 1 {
            return Ok(None);
        }
        let row = sqlx::query(
            "SELECT method, request_hash, outcome FROM idempotency WHERE scope = $1 AND key = $2",
        )
        .bind(scope(change))
        .bind(key.key)
        .fetch_optional(&mut *self.inner)
        .await?
        // It was too old and was tidied away just now.
        .ok_or(StoreError::Busy(sqlx::Error::RowNotFound))?;
        if row.text("method")? != change.action || row.bytes("request_hash")? != key.request {
            return Err(StoreError::KeyReused);
        }
        row.json("outcome").map(Some)
    }

    /// Notes the change in the audit, and its outcome under the caller's key.
    pub(super) async fn finish<T: Serialize>(&mut self, change: &Change<'_>, outcome: &T) -> Result<()> {
        self.audit(change, "ok").await?;
        let Some(key) = change.key else { return Ok(()) };
        let outcome = serde_json::to_string(outcome).map_err(|error| corrupt("outcome", error))?;
        sqlx::query("UPDATE idempotency SET outcome = $3 WHERE scope = $1 AND key = $2")
            .bind(scope(change))
            .bind(key.key)
            .bind(outcome)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Notes who did what.
    pub(super) async fn audit(&mut self, change: &Change<'_>, result: &str) -> Result<()> {
        sqlx::query(
            "INSERT INTO audit (time, actor, workspace_id, action, target, result) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(self.now.0)
        .bind(change.actor)
        .bind(change.workspace.map(crate::model::WorkspaceId::as_str))
        .bind(change.action)
        .bind(change.target)
        .bind(result)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}

fn scope<'a>(change: &Change<'a>) -> &'a str {
    change.workspace.map_or(change.actor, crate::model::WorkspaceId::as_str)
}

/// One transaction, tried again where the database asks for it: `transaction!(self, |tx| { …; Ok(outcome) })`, where `tx` is a `&mut Tx`,
/// statements run on `&mut **tx`, and `?` and `return` leave the body only. Its value is `Result<T>`.
macro_rules! transaction {
    ($store:expr, |$tx:ident| $body:expr) => {{
        let mut retry = $crate::store::retry::Retry::new();
        loop {
            let outcome: $crate::store::Result<_> = async {
                let mut transaction = $store.begin().await?;
                let outcome: $crate::store::Result<_> = async {
                    let $tx = &mut transaction;
                    $body
                }
                .await;
                match outcome {
                    Ok(outcome) => transaction.commit().await.map(|()| outcome),
                    Err(error) => {
                        transaction.rollback().await;
                        Err(error)
                    }
                }
            }
            .await;
            match outcome {
                Err(error) if retry.again(&error).await => {}
                outcome => break outcome,
            }
        }
    }};
}

/// A [`transaction`] that is a change: done once under the caller's key, and noted in the audit. Its value is `Result<Done<T>>`, the body's
/// `Result<T>`.
macro_rules! change {
    ($store:expr, $change:expr, |$tx:ident| $body:expr) => {
        $crate::store::sql::transaction!($store, |$tx| {
            if let Some(outcome) = $tx.claim($change).await? {
                Ok($crate::store::Done::Replayed(outcome))
            } else {
                let outcome: $crate::store::Result<_> = async { $body }.await;
                let outcome = outcome?;
                $tx.finish($change, &outcome).await?;
                Ok($crate::store::Done::Now(outcome))
            }
        })
    };
}

pub(super) use {change, transaction};
