//! [`Logs`] in SQL.

use async_trait::async_trait;

use super::containers::report::stands;
use super::containers::row::{COLUMNS, Row};
use super::row::{Columns as _, bound, corrupt};
use super::sql::{SqlStore, Tx, transaction};
use super::{Logs, Result, StoreError, Topic};
use crate::model::{ContainerId, Lease, LogLine, LogPosition, LogStream, WorkerId, WorkspaceId};

/// Longest piece, in bytes.
const MAX_LINE: usize = 64 << 10;
/// Most pieces that are read at once.
const MAX_LINES: u32 = 1000;

#[async_trait]
impl Logs for SqlStore {
    async fn append_logs(
        &self,
        worker: &WorkerId,
        lease: &Lease,
        pieces: &[LogLine],
        cap: u64,
    ) -> Result<()> {
        if let Some(piece) = pieces.iter().find(|piece| piece.data.len() > MAX_LINE) {
            return Err(StoreError::Conflict(format!(
                "a piece of output has {} bytes, more than {MAX_LINE}",
                piece.data.len()
            )));
        }
        transaction!(self, |tx| append(tx, worker, lease, pieces, cap).await)
    }

    async fn logs(
        &self,
        workspace: &WorkspaceId,
        container: &ContainerId,
        from: LogPosition,
        limit: u32,
    ) -> Result<Vec<LogLine>> {
        let rows = sqlx::query(
            "SELECT attempt, position, stream, time, data FROM log WHERE workspace_id = $1 AND container_id = $2
             AND (attempt, position) >= ($3, $4) ORDER BY attempt, position LIMIT $5",
        )
        .bind(workspace.as_str())
        .bind(container.as_str())
        .bind(i64::from(from.attempt))
        .bind(bound(from.offset))
        .bind(i64::from(limit.clamp(1, MAX_LINES)))
        .fetch_all(self.readers())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(LogLine {
                    position: LogPosition { attempt: row.small("attempt")?, offset: row.count("position")? },
                    stream: match row.int("stream")? {
                        1 => LogStream::Stdout,
                        2 => LogStream::Stderr,
                        other => return Err(corrupt("stream", other)),
                    },
                    time: row.time("time")?,
                    data: row.bytes("data")?,
                })
            })
            .collect()
    }
}

async fn append(tx: &mut Tx, worker: &WorkerId, lease: &Lease, pieces: &[LogLine], cap: u64) -> Result<()> {
    let sql = format!(
        "SELECT {COLUMNS}, container.log_bytes FROM container WHERE workspace_id = $1 AND container_id = $2{}",
        tx.dialect.for_update()
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(lease.workspace_id.as_str())
        .bind(lease.container_id.as_str())
        .fetch_optional(&mut **tx)
        .await?
        .ok_or_else(|| StoreError::Stale(lease.container_id.to_string()))?;
    // Output may arrive behind the report of the end, under the same lease.
    if !stands(&Row::read(&row)?, worker, lease) {
        return Err(StoreError::Stale(lease.container_id.to_string()));
    }
    let before = row.count("log_bytes")?;
    let mut kept = before;
    for piece in pieces {
        let room = usize::try_from(cap.saturating_sub(kept)).unwrap_or(usize::MAX);
        let data = piece.data.get(..room).unwrap_or(&piece.data);
        if data.is_empty() {
            continue;
        }
        let made = sqlx::query(
            "INSERT INTO log (workspace_id, container_id, attempt, position, stream, time, data)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(lease.workspace_id.as_str())
        .bind(lease.container_id.as_str())
        .bind(i64::from(lease.attempt))
        .bind(bound(piece.position.offset))
        .bind(match piece.stream {
            LogStream::Stdout => 1_i64,
            LogStream::Stderr => 2,
        })
        .bind(tx.now.0)
        .bind(data)
        .execute(&mut **tx)
        .await?;
        if made.rows_affected() == 1 {
            kept += u64::try_from(data.len()).unwrap_or(u64::MAX);
        }
    }
    if kept == before {
        return Ok(());
    }
    sqlx::query("UPDATE container SET log_bytes = $3 WHERE workspace_id = $1 AND container_id = $2")
        .bind(lease.workspace_id.as_str())
        .bind(lease.container_id.as_str())
        .bind(bound(kept))
        .execute(&mut **tx)
        .await?;
    tx.announce(Topic::Container(lease.workspace_id.clone(), lease.container_id.clone()));
    Ok(())
}
