//! [`Indexes`] in SQL.

use async_trait::async_trait;

use super::row::{Columns as _, bound};
use super::sql::{SqlStore, transaction};
use super::{Indexes, MAX_PIECE, Result, StoreError};
use crate::model::ClipIndexInfo;

#[async_trait]
impl Indexes for SqlStore {
    async fn clip_index(&self, digest: &str) -> Result<Option<ClipIndexInfo>> {
        let row = sqlx::query(
            "SELECT index_bytes, pieces FROM clip_index WHERE index_digest = $1 AND complete = 1",
        )
        .bind(digest)
        .fetch_optional(self.readers())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (index_bytes, pieces) = (row.count("index_bytes")?, row.count("pieces")?);
        Ok(Some(ClipIndexInfo { index_digest: digest.to_owned(), index_bytes, pieces }))
    }

    async fn begin_clip_index(&self, info: &ClipIndexInfo) -> Result<bool> {
        transaction!(self, |tx| {
            let now = tx.now.0;
            // A new time: what is being stored is not tidied away.
            let row = sqlx::query(
                "INSERT INTO clip_index (index_digest, index_bytes, pieces, complete, create_time)
                 VALUES ($1, $2, $3, 0, $4)
                 ON CONFLICT (index_digest) DO UPDATE SET create_time = excluded.create_time
                 RETURNING index_bytes, pieces, complete",
            )
            .bind(&info.index_digest)
            .bind(bound(info.index_bytes))
            .bind(bound(info.pieces))
            .bind(now)
            .fetch_one(&mut **tx)
            .await?;
            if row.flag("complete")? {
                return Ok(false);
            }
            if row.count("pieces")? != info.pieces || row.count("index_bytes")? != info.index_bytes {
                // Somebody else began, cut it otherwise, and did not end.
                sqlx::query("DELETE FROM clip_index_piece WHERE index_digest = $1")
                    .bind(&info.index_digest)
                    .execute(&mut **tx)
                    .await?;
                sqlx::query("UPDATE clip_index SET index_bytes = $2, pieces = $3 WHERE index_digest = $1")
                    .bind(&info.index_digest)
                    .bind(bound(info.index_bytes))
                    .bind(bound(info.pieces))
                    .execute(&mut **tx)
                    .await?;
            }
            Ok(true)
        })
    }

    async fn put_clip_index_piece(&self, digest: &str, position: u64, data: &[u8]) -> Result<()> {
        if data.len() > MAX_PIECE {
            return Err(StoreError::Conflict(format!(
                "a piece of a clip index is longer than {MAX_PIECE} bytes"
            )));
        }
        transaction!(self, |tx| {
            let row = sqlx::query("SELECT pieces, complete FROM clip_index WHERE index_digest = $1")
                .bind(digest)
                .fetch_optional(&mut **tx)
                .await?
                .ok_or(StoreError::NotFound("clip index"))?;
            if row.flag("complete")? {
                return Ok(());
            }
            if position >= row.count("pieces")? {
                return Err(StoreError::Conflict(format!("clip index {digest} has no piece {position}")));
            }
            sqlx::query(
                "INSERT INTO clip_index_piece (index_digest, position, data) VALUES ($1, $2, $3)
                 ON CONFLICT (index_digest, position) DO UPDATE SET data = excluded.data",
            )
            .bind(digest)
            .bind(bound(position))
            .bind(data)
            .execute(&mut **tx)
            .await?;
            Ok(())
        })
    }

    async fn complete_clip_index(&self, digest: &str) -> Result<()> {
        transaction!(self, |tx| {
            let row = sqlx::query(
                "SELECT complete, pieces, index_bytes,
                     (SELECT COUNT(*) FROM clip_index_piece p WHERE p.index_digest = c.index_digest) AS stored,
                     (SELECT CAST(COALESCE(SUM(OCTET_LENGTH(data)), 0) AS BIGINT) FROM clip_index_piece p
                         WHERE p.index_digest = c.index_digest) AS stored_bytes
                 FROM clip_index c WHERE index_digest = $1",
            )
            .bind(digest)
            .fetch_optional(&mut **tx)
            .await?
            .ok_or(StoreError::NotFound("clip index"))?;
            if row.flag("complete")? {
                return Ok(());
            }
            let (stored, bytes) = (row.count("stored")?, row.count("stored_bytes")?);
            if stored != row.count("pieces")? || bytes != row.count("index_bytes")? {
                return Err(StoreError::Conflict(format!(
                    "clip index {digest} is not complete: {stored} pieces with {bytes} bytes are there"
                )));
            }
            sqlx::query("UPDATE clip_index SET complete = 1 WHERE index_digest = $1")
                .bind(digest)
                .execute(&mut **tx)
                .await?;
            Ok(())
        })
    }

    async fn clip_index_piece(&self, digest: &str, position: u64) -> Result<Option<Vec<u8>>> {
        let row = sqlx::query("SELECT data FROM clip_index_piece WHERE index_digest = $1 AND position = $2")
            .bind(digest)
            .bind(bound(position))
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map(|row| row.bytes("data")).transpose()
    }
}
