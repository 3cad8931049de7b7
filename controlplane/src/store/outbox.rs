//! [`Outbox`] in SQL.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::row::{Columns as _, bound};
use super::sql::{SqlStore, Tx, transaction};
use super::{Delivery, DeliveryKind, Outbox, Result, Topic, bulk};
use crate::model::{Lease, WorkerId};

/// Most messages that are read at once.
const MAX_DELIVERIES: u32 = 1000;

/// As it is written in the database.
const fn word(kind: DeliveryKind) -> &'static str {
    match kind {
        DeliveryKind::Dispatch => "dispatch",
        DeliveryKind::Cancel => "cancel",
        DeliveryKind::Credentials => "credentials",
    }
}

/// Puts messages of one kind into the outbox, in this order, and tells each worker once.
pub(super) async fn put(tx: &mut Tx, kind: DeliveryKind, messages: &[(WorkerId, Lease)]) -> Result<()> {
    for piece in bulk::pieces(messages) {
        let sql = format!(
            "INSERT INTO outbox (worker_id, kind, workspace_id, container_id, attempt, fencing_token, create_time) VALUES {}",
            bulk::rows(piece.len(), 7, 1)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (worker, lease) in piece {
            query = query
                .bind(worker.as_str())
                .bind(word(kind))
                .bind(lease.workspace_id.as_str())
                .bind(lease.container_id.as_str())
                .bind(i64::from(lease.attempt))
                .bind(bound(lease.fencing_token))
                .bind(tx.now.0);
        }
        query.execute(&mut **tx).await?;
    }
    for (worker, _) in messages {
        tx.announce(Topic::Worker(worker.clone()));
    }
    Ok(())
}

/// Tells a worker once more to stop what somebody asked to stop and what runs there still, unless that is to be told anyway.
pub(super) async fn cancel_again(tx: &mut Tx, worker: &WorkerId) -> Result<()> {
    let told = sqlx::query(
        "INSERT INTO outbox (worker_id, kind, workspace_id, container_id, attempt, fencing_token, create_time)
         SELECT worker_id, 'cancel', workspace_id, container_id, attempt, fencing_token, $2 FROM container c
         WHERE worker_id = $1 AND stop_asked = 1 AND state IN ('scheduled', 'mounting', 'running')
         AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.kind = 'cancel' AND o.workspace_id = c.workspace_id
         AND o.container_id = c.container_id AND o.fencing_token = c.fencing_token)",
    )
    .bind(worker.as_str())
    .bind(tx.now.0)
    .execute(&mut **tx)
    .await?;
    if told.rows_affected() > 0 {
        tx.announce(Topic::Worker(worker.clone()));
    }
    Ok(())
}

/// Drops what the outbox holds for a container: its dispatch is over.
pub(super) async fn drop_of(tx: &mut Tx, lease: &Lease) -> Result<()> {
    sqlx::query("DELETE FROM outbox WHERE workspace_id = $1 AND container_id = $2")
        .bind(lease.workspace_id.as_str())
        .bind(lease.container_id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn delivery(row: &AnyRow) -> Result<Delivery> {
    Ok(Delivery {
        delivery: row.count("delivery")?,
        kind: row.word::<Word>("kind")?.into(),
        lease: Lease {
            workspace_id: row.text("workspace_id")?.into(),
            container_id: row.text("container_id")?.into(),
            attempt: row.small("attempt")?,
            fencing_token: row.count("fencing_token")?,
        },
    })
}

/// [`DeliveryKind`] as it is read.
#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Dispatch,
    Cancel,
    Credentials,
}

impl From<Word> for DeliveryKind {
    fn from(word: Word) -> Self {
        match word {
            Word::Dispatch => Self::Dispatch,
            Word::Cancel => Self::Cancel,
            Word::Credentials => Self::Credentials,
        }
    }
}

#[async_trait]
impl Outbox for SqlStore {
    async fn deliveries(&self, worker: &WorkerId, after: u64, limit: u32) -> Result<Vec<Delivery>> {
        let rows = sqlx::query(
            "SELECT delivery, kind, workspace_id, container_id, attempt, fencing_token FROM outbox
             WHERE worker_id = $1 AND delivery > $2 ORDER BY delivery LIMIT $3",
        )
        .bind(worker.as_str())
        .bind(bound(after))
        .bind(i64::from(limit.clamp(1, MAX_DELIVERIES)))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(delivery).collect()
    }

    async fn acknowledge(&self, worker: &WorkerId, deliveries: &[u64]) -> Result<()> {
        if deliveries.is_empty() {
            return Ok(());
        }
        transaction!(self, |tx| {
            for piece in bulk::pieces(deliveries) {
                let numbers: Vec<String> =
                    (0..piece.len()).map(|number| format!("${}", number + 2)).collect();
                let sql = format!(
                    "DELETE FROM outbox WHERE worker_id = $1 AND delivery IN ({})",
                    numbers.join(", ")
                );
                let mut query = sqlx::query(AssertSqlSafe(sql)).bind(worker.as_str());
                for delivery in piece {
                    query = query.bind(bound(*delivery));
                }
                query.execute(&mut **tx).await?;
            }
            Ok(())
        })
    }

    async fn outbox_length(&self) -> Result<u64> {
        sqlx::query("SELECT COUNT(*) AS number FROM outbox").fetch_one(self.readers()).await?.count("number")
    }
}
