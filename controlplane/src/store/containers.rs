//! [`Containers`] in SQL.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use super::page::{cut, limit};
use super::row::{Columns as _, bound};
use super::sql::{SqlStore, Tx, change, transaction};
use super::{Change, Containers, DeliveryKind, Done, Images as _, Result, StoreError, Topic, events, outbox};
use crate::model::{
    Container, ContainerId, ContainerState, Image, Lease, NewContainer, Page, PageRequest, Report, Time,
    WorkerId, WorkspaceId,
};

pub(super) mod report;
pub(super) mod row;
pub(super) mod takeback;

use row::{COLUMNS, Row};

#[async_trait]
impl Containers for SqlStore {
    async fn submit(&self, change: &Change<'_>, new: &NewContainer) -> Result<Done<Container>> {
        transaction!(self, |tx| {
            if let Some(container) = tx.claim(change).await? {
                return Ok(Done::Replayed(container));
            }
            let done = submit(tx, new).await?;
            let (Done::Now(container) | Done::Replayed(container)) = &done;
            tx.finish(change, container).await?;
            Ok(done)
        })
    }

    async fn container(&self, workspace: &WorkspaceId, container: &ContainerId) -> Result<Option<Container>> {
        let sql = format!("SELECT {COLUMNS} FROM container WHERE workspace_id = $1 AND container_id = $2");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(workspace.as_str())
            .bind(container.as_str())
            .fetch_optional(self.readers())
            .await?;
        row.map(|row| Ok(Row::read(&row)?.container)).transpose()
    }

    async fn containers(
        &self,
        workspace: &WorkspaceId,
        active: bool,
        request: &PageRequest,
    ) -> Result<Page<Container>> {
        let (time, id) = key_of(request)?;
        let only = if active { " AND end_time IS NULL" } else { "" };
        let sql = format!(
            "SELECT {COLUMNS} FROM container WHERE workspace_id = $1 AND (create_time, container_id) < ($2, $3){only} \
             ORDER BY create_time DESC, container_id DESC LIMIT $4"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(workspace.as_str())
            .bind(time)
            .bind(id)
            .bind(limit(request))
            .fetch_all(self.readers())
            .await?;
        let items = rows.iter().map(|row| Ok(Row::read(row)?.container)).collect::<Result<Vec<_>>>()?;
        Ok(cut(request, items, |container| format!("{}/{}", container.create_time.0, container.container_id)))
    }

    async fn stop(&self, change: &Change<'_>, container: &ContainerId) -> Result<Done<Container>> {
        let workspace = change.workspace.ok_or(StoreError::NotFound("container"))?;
        change!(self, change, |tx| stop(tx, workspace, container).await)
    }

    async fn events(
        &self,
        workspace: &WorkspaceId,
        container: &ContainerId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, Time, Container)>> {
        events::events(self, workspace, container, after, limit).await
    }

    async fn dispatched(&self, worker: &WorkerId, lease: &Lease) -> Result<Option<(String, Image)>> {
        let row = sqlx::query(
            "SELECT request, image_id FROM container WHERE workspace_id = $1 AND container_id = $2 AND worker_id = $3
             AND attempt = $4 AND fencing_token = $5 AND state IN ('scheduled', 'mounting', 'running')",
        )
        .bind(lease.workspace_id.as_str())
        .bind(lease.container_id.as_str())
        .bind(worker.as_str())
        .bind(i64::from(lease.attempt))
        .bind(bound(lease.fencing_token))
        .fetch_optional(self.readers())
        .await?;
        let Some(row) = row else { return Ok(None) };
        // Whoever changes credentials and has not seen this dispatch is waited for: what is read from now on is what he writes.
        self.await_credentials(&lease.workspace_id).await?;
        // An image stays as long as a container of it has not ended.
        let image = self.image(&lease.workspace_id, &row.text("image_id")?.into()).await?;
        Ok(image.map(|image| row.text("request").map(|request| (request, image))).transpose()?)
    }

    async fn report(&self, worker: &WorkerId, report: &Report) -> Result<Container> {
        transaction!(self, |tx| report::report(tx, worker, report).await)
    }

    async fn reconcile(&self, worker: &WorkerId, held: &[Lease], max_attempts: u32) -> Result<Vec<Lease>> {
        transaction!(self, |tx| report::reconcile(tx, worker, held, max_attempts).await)
    }

    async fn give_back(&self, worker: &WorkerId, lease: &Lease, delay: Duration) -> Result<()> {
        transaction!(self, |tx| report::give_back(tx, worker, lease, delay).await)
    }
}

/// A container, locked.
async fn locked(tx: &mut Tx, workspace: &WorkspaceId, container: &ContainerId) -> Result<Option<Row>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM container WHERE workspace_id = $1 AND container_id = $2{}",
        tx.dialect.for_update()
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(workspace.as_str())
        .bind(container.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    row.as_ref().map(Row::read).transpose()
}

async fn submit(tx: &mut Tx, new: &NewContainer) -> Result<Done<Container>> {
    // It must not be deleted before this is committed.
    let sql = format!(
        "SELECT digest FROM image WHERE workspace_id = $1 AND image_id = $2{}",
        tx.dialect.for_share()
    );
    let digest = sqlx::query(AssertSqlSafe(sql))
        .bind(new.workspace_id.as_str())
        .bind(new.image_id.as_str())
        .fetch_optional(&mut **tx)
        .await?
        .ok_or(StoreError::NotFound("image"))?
        .text("digest")?;
    let demand = &new.demand;
    let made = sqlx::query(
        "INSERT INTO container (workspace_id, container_id, image_id, request, digest, state, attempt, fencing_token,
         worker_id, cpu, memory, gpu, gpu_count, pool_selector, queue_time, parked, waiting, stop_asked, exit_code,
         reason, reason_code, cost, log_bytes, create_time, start_time, end_time)
         VALUES ($1, $2, $3, $4, $5, 'queued', 0, 0, NULL, $6, $7, $8, $9, $10, $11, 0, '', 0, 0, '', 0, '', 0, $11, NULL, NULL)
         ON CONFLICT (workspace_id, container_id) DO NOTHING",
    )
    .bind(new.workspace_id.as_str())
    .bind(new.container_id.as_str())
    .bind(new.image_id.as_str())
    .bind(new.request.as_str())
    .bind(digest)
    .bind(demand.cpu)
    .bind(demand.memory)
    .bind(demand.gpu.as_str())
    .bind(demand.gpu_count)
    .bind(demand.pool_selector.as_str())
    .bind(tx.now.0)
    .execute(&mut **tx)
    .await?;
    let row = locked(tx, &new.workspace_id, &new.container_id)
        .await?
        .ok_or(StoreError::Busy(sqlx::Error::RowNotFound))?;
    if made.rows_affected() == 1 {
        events::record(tx, &[&row.container]).await?;
        tx.announce(Topic::Queue);
        return Ok(Done::Now(row.container));
    }
    let request = sqlx::query("SELECT request FROM container WHERE workspace_id = $1 AND container_id = $2")
        .bind(new.workspace_id.as_str())
        .bind(new.container_id.as_str())
        .fetch_one(&mut **tx)
        .await?
        .text("request")?;
    if request != new.request || row.container.image_id != new.image_id || row.demand != new.demand {
        return Err(StoreError::Exists("container"));
    }
    Ok(Done::Replayed(row.container))
}

async fn stop(tx: &mut Tx, workspace: &WorkspaceId, container: &ContainerId) -> Result<Container> {
    let row = locked(tx, workspace, container).await?.ok_or(StoreError::NotFound("container"))?;
    let lease = row.lease();
    let mut container = row.container;
    if container.state.is_final() {
        return Ok(container);
    }
    if container.stop_asked {
        if let Some(worker) = &container.worker_id {
            outbox::cancel_again(tx, worker).await?;
        }
        return Ok(container);
    }
    container.stop_asked = true;
    if let (false, Some(worker)) = (container.state == ContainerState::Queued, container.worker_id.clone()) {
        sqlx::query("UPDATE container SET stop_asked = 1 WHERE workspace_id = $1 AND container_id = $2")
            .bind(workspace.as_str())
            .bind(container.container_id.as_str())
            .execute(&mut **tx)
            .await?;
        outbox::put(tx, DeliveryKind::Cancel, &[(worker, lease)]).await?;
    } else {
        takeback::end(&mut container, tx, takeback::CANCELLED, "stopped before it ran".to_owned());
        takeback::write_end(tx, &container).await?;
    }
    events::record(tx, &[&container]).await?;
    Ok(container)
}

/// The key of the page before: everything is older than the end of time.
fn key_of(request: &PageRequest) -> Result<(i64, &str)> {
    let Some(after) = request.after.as_deref() else { return Ok((i64::MAX, "")) };
    let key = after.split_once('/').and_then(|(time, id)| Some((time.parse().ok()?, id)));
    key.ok_or_else(|| StoreError::Conflict("the page token is not one of this list".to_owned()))
}
