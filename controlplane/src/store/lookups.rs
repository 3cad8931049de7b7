//! [`ImageLookups`] in SQL.

use async_trait::async_trait;

use super::row::{Columns as _, corrupt};
use super::sql::SqlStore;
use super::{Change, ImageLookups, Result, StoreError};
use crate::model::{Image, ImageId, WorkspaceId};

#[async_trait]
impl ImageLookups for SqlStore {
    async fn made_image(&self, change: &Change<'_>) -> Result<Option<Image>> {
        let (Some(key), Some(workspace)) = (change.key, change.workspace) else { return Ok(None) };
        let row = sqlx::query(
            "SELECT method, request_hash, outcome FROM idempotency WHERE scope = $1 AND key = $2",
        )
        .bind(workspace.as_str())
        .bind(key.key)
        .fetch_optional(self.readers())
        .await?;
        let Some(row) = row else { return Ok(None) };
        if row.text("method")? != change.action || row.bytes("request_hash")? != key.request {
            return Err(StoreError::KeyReused);
        }
        let outcome = row.text("outcome")?;
        serde_json::from_str(&outcome).map(Some).map_err(|error| corrupt("outcome", error))
    }

    async fn images_of_digest(
        &self,
        digest: &str,
        workspace: &WorkspaceId,
        limit: u32,
    ) -> Result<Vec<(WorkspaceId, ImageId)>> {
        let rows = sqlx::query(
            "SELECT workspace_id, image_id FROM image WHERE digest = $1
             ORDER BY CASE WHEN workspace_id = $2 THEN 0 ELSE 1 END, update_time DESC LIMIT $3",
        )
        .bind(digest)
        .bind(workspace.as_str())
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(|row| Ok((row.text("workspace_id")?.into(), row.text("image_id")?.into()))).collect()
    }

    async fn is_dispatched_to_node(
        &self,
        workspace: &WorkspaceId,
        image: &ImageId,
        node: &str,
    ) -> Result<bool> {
        let row = sqlx::query(
            "SELECT c.container_id FROM container c JOIN worker w ON w.worker_id = c.worker_id
             WHERE c.workspace_id = $1 AND c.image_id = $2 AND w.node = $3
             AND c.state IN ('scheduled', 'mounting', 'running') LIMIT 1",
        )
        .bind(workspace.as_str())
        .bind(image.as_str())
        .bind(node)
        .fetch_optional(self.readers())
        .await?;
        Ok(row.is_some())
    }
}
