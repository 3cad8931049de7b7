//! [`Housekeeping`] in SQL. Each kind of row is tidied in a transaction of its own: none depends on another, and whoever writes
//! waits for the shorter ones less.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use super::row::Columns as _;
use super::sql::{SqlStore, transaction};
use super::{Housekeeping, Result, migrations};
use crate::model::Time;

/// Containers of one round: each has many events, and much output.
const CONTAINERS: i64 = 100;

/// Clip indexes of one round: each has many pieces.
const INDEXES: i64 = 10;

/// Small rows of one round.
const ROWS: i64 = 1000;

#[async_trait]
impl Housekeeping for SqlStore {
    async fn tidy(&self, age: Duration) -> Result<u64> {
        let before = self.clock.now().before(age);
        let mut rows = self.tidy_containers(before).await?;
        rows += self
            .tidy_rows(
                "DELETE FROM idempotency WHERE (scope, key) IN
                 (SELECT scope, key FROM idempotency WHERE create_time < $1 ORDER BY create_time LIMIT $2",
                before,
                ROWS,
            )
            .await?;
        rows += self
            .tidy_rows(
                "DELETE FROM token WHERE token_id IN
                 (SELECT token_id FROM token WHERE expire_time < $1 ORDER BY token_id LIMIT $2",
                before,
                ROWS,
            )
            .await?;
        // Incomplete ones too: they were given up.
        rows += self
            .tidy_rows(
                "DELETE FROM clip_index WHERE index_digest IN
                 (SELECT c.index_digest FROM clip_index c WHERE c.create_time < $1
                  AND NOT EXISTS (SELECT 1 FROM image i WHERE i.index_digest = c.index_digest)
                  ORDER BY c.index_digest LIMIT $2",
                before,
                INDEXES,
            )
            .await?;
        Ok(rows)
    }

    async fn ready(&self) -> Result<()> {
        let mut connection = self.readers().acquire().await?;
        migrations::check(&mut connection).await
    }
}

impl SqlStore {
    /// `sql` lacks the end of its subquery. What somebody else holds is left for another time.
    async fn tidy_rows(&self, sql: &'static str, before: Time, most: i64) -> Result<u64> {
        transaction!(self, |tx| {
            let sql = format!("{sql}{})", tx.dialect.skip_locked());
            let gone = sqlx::query(AssertSqlSafe(sql)).bind(before.0).bind(most).execute(&mut **tx).await?;
            Ok(gone.rows_affected())
        })
    }

    async fn tidy_containers(&self, before: Time) -> Result<u64> {
        transaction!(self, |tx| {
            let ended = format!(
                "SELECT workspace_id, container_id FROM container WHERE end_time IS NOT NULL AND end_time < $1
                 ORDER BY end_time LIMIT $2{}",
                tx.dialect.skip_locked()
            );
            let ended = sqlx::query(AssertSqlSafe(ended))
                .bind(before.0)
                .bind(CONTAINERS)
                .fetch_all(&mut **tx)
                .await?;
            let mut rows = 0;
            for row in &ended {
                let (workspace, container) = (row.text("workspace_id")?, row.text("container_id")?);
                for sql in [
                    "DELETE FROM event WHERE workspace_id = $1 AND container_id = $2",
                    "DELETE FROM log WHERE workspace_id = $1 AND container_id = $2",
                    "DELETE FROM outbox WHERE workspace_id = $1 AND container_id = $2",
                    "DELETE FROM container WHERE workspace_id = $1 AND container_id = $2",
                ] {
                    let gone = sqlx::query(sql).bind(&workspace).bind(&container).execute(&mut **tx).await?;
                    rows += gone.rows_affected();
                }
            }
            Ok(rows)
        })
    }
}
