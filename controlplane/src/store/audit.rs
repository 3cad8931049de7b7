//! [`Audit`] in SQL.

use async_trait::async_trait;

use super::row::Columns as _;
use super::sql::{SqlStore, transaction};
use super::{Audit, Change, Result};
use crate::model::{Time, WorkspaceId};

#[async_trait]
impl Audit for SqlStore {
    async fn note(&self, change: &Change<'_>, result: &str) -> Result<()> {
        transaction!(self, |tx| tx.audit(change, result).await)
    }

    async fn audited(
        &self,
        workspace: Option<&WorkspaceId>,
        limit: u32,
    ) -> Result<Vec<(Time, String, String, String, String)>> {
        let query = match workspace {
            Some(workspace) => sqlx::query(
                "SELECT time, actor, action, target, result FROM audit WHERE workspace_id = $2 ORDER BY seq DESC LIMIT $1",
            )
            .bind(i64::from(limit))
            .bind(workspace.as_str()),
            None => sqlx::query("SELECT time, actor, action, target, result FROM audit ORDER BY seq DESC LIMIT $1")
                .bind(i64::from(limit)),
        };
        let rows = query.fetch_all(self.readers()).await?;
        rows.iter()
            .map(|row| {
                Ok((
                    row.time("time")?,
                    row.text("actor")?,
                    row.text("action")?,
                    row.text("target")?,
                    row.text("result")?,
                ))
            })
            .collect()
    }
}
