//! [`Workspaces`] in SQL.

use async_trait::async_trait;
use sqlx::any::AnyRow;

use super::page::{after, limit, page};
use super::row::Columns as _;
use super::sql::{SqlStore, change};
use super::{Change, Done, Result, StoreError, Workspaces};
use crate::model::{Page, PageRequest, Workspace, WorkspaceId};

#[async_trait]
impl Workspaces for SqlStore {
    async fn create_workspace(&self, change: &Change<'_>, name: &str) -> Result<Done<Workspace>> {
        change!(self, change, |tx| {
            let workspace = Workspace {
                workspace_id: WorkspaceId::generate(),
                name: name.to_owned(),
                create_time: tx.now,
            };
            let made = sqlx::query(
                "INSERT INTO workspace (workspace_id, name, create_time) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            )
            .bind(workspace.workspace_id.as_str())
            .bind(name)
            .bind(workspace.create_time.0)
            .execute(&mut **tx)
            .await?;
            if made.rows_affected() == 0 {
                return Err(StoreError::Exists("workspace"));
            }
            Ok(workspace)
        })
    }

    async fn workspace(&self, id_or_name: &str) -> Result<Option<Workspace>> {
        // A name that looks like another's identity must not hide it.
        let row = sqlx::query(
            "SELECT workspace_id, name, create_time FROM workspace WHERE workspace_id = $1 OR name = $1
             ORDER BY CASE WHEN workspace_id = $1 THEN 0 ELSE 1 END LIMIT 1",
        )
        .bind(id_or_name)
        .fetch_optional(self.readers())
        .await?;
        row.as_ref().map(workspace).transpose()
    }

    async fn workspaces(&self, request: &PageRequest) -> Result<Page<Workspace>> {
        let rows =
            sqlx::query("SELECT workspace_id, name, create_time FROM workspace WHERE workspace_id > $1 ORDER BY workspace_id LIMIT $2")
                .bind(after(request))
                .bind(limit(request))
                .fetch_all(self.readers())
                .await?;
        page(request, &rows, workspace, |workspace| workspace.workspace_id.to_string())
    }
}

fn workspace(row: &AnyRow) -> Result<Workspace> {
    Ok(Workspace {
        workspace_id: row.text("workspace_id")?.into(),
        name: row.text("name")?,
        create_time: row.time("create_time")?,
    })
}
