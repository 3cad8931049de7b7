//! What has happened to containers: written with every change of one, read by who watches.

use sqlx::AssertSqlSafe;

use super::row::{Columns as _, bound, corrupt};
use super::sql::{SqlStore, Tx};
use super::{Result, Topic, bulk};
use crate::model::{Container, ContainerId, Time, WorkspaceId};

/// Most events that are read at once.
const MAX_EVENTS: u32 = 1000;

/// Writes down how containers are now, and tells who watches them.
pub(super) async fn record(tx: &mut Tx, containers: &[&Container]) -> Result<()> {
    for piece in bulk::pieces(containers) {
        let sql = format!(
            "INSERT INTO event (workspace_id, container_id, time, container) VALUES {}",
            bulk::rows(piece.len(), 4, 1)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for container in piece {
            let text = serde_json::to_string(container).map_err(|error| corrupt("container", error))?;
            query = query
                .bind(container.workspace_id.as_str())
                .bind(container.container_id.as_str())
                .bind(tx.now.0)
                .bind(text);
        }
        query.execute(&mut **tx).await?;
    }
    for container in containers {
        tx.announce(Topic::Container(container.workspace_id.clone(), container.container_id.clone()));
    }
    Ok(())
}

/// What has happened after `after`.
pub(super) async fn events(
    store: &SqlStore,
    workspace: &WorkspaceId,
    container: &ContainerId,
    after: u64,
    limit: u32,
) -> Result<Vec<(u64, Time, Container)>> {
    let rows = sqlx::query(
        "SELECT seq, time, container FROM event WHERE workspace_id = $1 AND container_id = $2 AND seq > $3
         ORDER BY seq LIMIT $4",
    )
    .bind(workspace.as_str())
    .bind(container.as_str())
    .bind(bound(after))
    .bind(i64::from(limit.clamp(1, MAX_EVENTS)))
    .fetch_all(store.readers())
    .await?;
    rows.iter().map(|row| Ok((row.count("seq")?, row.time("time")?, row.json("container")?))).collect()
}
