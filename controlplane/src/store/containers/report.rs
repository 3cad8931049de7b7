//! What workers say of containers: believed only with the newest lease.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::locked;
use super::row::{COLUMNS, Row, cost_text};
use super::takeback::{end, requeue, take_back, write_end};
use crate::model::{Container, ContainerState, Lease, Report, WorkerId};
use crate::store::row::Columns as _;
use crate::store::sql::Tx;
use crate::store::{Result, StoreError, capacity, events, outbox};

/// gRPC's code of a failure that nobody has named.
const UNKNOWN: i32 = 2;
/// Longest reason that is kept, in bytes.
const MAX_REASON: usize = 4096;

/// A state's place on the way.
const fn rank(state: ContainerState) -> u8 {
    match state {
        ContainerState::Queued => 0,
        ContainerState::Scheduled => 1,
        ContainerState::Mounting => 2,
        ContainerState::Running => 3,
        ContainerState::Exited | ContainerState::Failed => 4,
    }
}

/// The lease's container, locked, if the lease is that worker's and the newest.
async fn held(tx: &mut Tx, worker: &WorkerId, lease: &Lease) -> Result<Row> {
    let row = locked(tx, &lease.workspace_id, &lease.container_id).await?;
    row.filter(|row| stands(row, worker, lease))
        .ok_or_else(|| StoreError::Stale(lease.container_id.to_string()))
}

/// Whether a lease is a worker's and the newest of its container.
pub(crate) fn stands(row: &Row, worker: &WorkerId, lease: &Lease) -> bool {
    row.container.worker_id.as_ref() == Some(worker) && row.lease() == *lease
}

/// See [`crate::store::Containers::report`].
pub(crate) async fn report(tx: &mut Tx, worker: &WorkerId, report: &Report) -> Result<Container> {
    if report.state.is_final() {
        // The worker's row first: see `capacity`.
        capacity::lock(tx, worker).await?;
    }
    let row = held(tx, worker, &report.lease).await?;
    let mut container = row.container.clone();
    if rank(report.state) <= rank(container.state) {
        return Ok(container);
    }
    container.state = report.state;
    container.cost = report.cost.or(container.cost);
    if matches!(report.state, ContainerState::Running | ContainerState::Exited) {
        container.start_time = container.start_time.or(Some(tx.now));
    }
    match report.state {
        ContainerState::Exited => {
            container.exit_code = report.exit_code;
            container.end_time = Some(tx.now);
        }
        ContainerState::Failed => {
            let code = if report.reason_code == 0 { UNKNOWN } else { report.reason_code };
            end(&mut container, tx, code, shortened(&report.reason));
        }
        _ => {}
    }
    if report.state.is_final() {
        write_end(tx, &container).await?;
        outbox::drop_of(tx, &report.lease).await?;
        capacity::release(tx, worker, &[&row.demand]).await?;
    } else {
        sqlx::query(
            "UPDATE container SET state = $3, start_time = $4, cost = $5 WHERE workspace_id = $1 AND container_id = $2",
        )
        .bind(container.workspace_id.as_str())
        .bind(container.container_id.as_str())
        .bind(container.state.as_str())
        .bind(container.start_time.map(|time| time.0))
        .bind(cost_text(container.cost.as_ref())?)
        .execute(&mut **tx)
        .await?;
    }
    events::record(tx, &[&container]).await?;
    Ok(container)
}

/// A reason without NULs (PostgreSQL takes none), and not longer than is kept.
fn shortened(reason: &str) -> String {
    let mut text = reason.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(MAX_REASON));
    text
}

/// See [`crate::store::Containers::reconcile`].
pub(crate) async fn reconcile(
    tx: &mut Tx,
    worker: &WorkerId,
    held: &[Lease],
    max_attempts: u32,
) -> Result<Vec<Lease>> {
    let Some(node) = capacity::lock(tx, worker).await? else {
        return Ok(held.to_vec());
    };
    let rows = active(tx, worker).await?;
    let known: HashMap<Lease, &Row> = rows.iter().map(|row| (row.lease(), row)).collect();
    let strangers = held.iter().filter(|lease| !known.contains_key(*lease)).cloned().collect();
    let held: HashSet<&Lease> = held.iter().collect();
    let mut missing: Vec<Row> =
        known.iter().filter(|(lease, _)| !held.contains(lease)).map(|(_, row)| (*row).clone()).collect();
    if !missing.is_empty() {
        let unsent = unsent(tx, worker).await?;
        missing.retain(|row| !unsent.contains(&row.container.fencing_token));
        missing.sort_by_key(|row| row.container.fencing_token);
        let why = format!("worker {} does not have it any more", node.text("node")?);
        take_back(tx, &missing, max_attempts, &why).await?;
        let demands: Vec<_> = missing.iter().map(|row| &row.demand).collect();
        capacity::release(tx, worker, &demands).await?;
    }
    Ok(strangers)
}

/// Containers that are dispatched to a worker and have not ended, locked.
pub(crate) async fn active(tx: &mut Tx, worker: &WorkerId) -> Result<Vec<Row>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM container WHERE worker_id = $1 AND state IN ('scheduled', 'mounting', 'running') \
         ORDER BY fencing_token{}",
        tx.dialect.for_update()
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(worker.as_str()).fetch_all(&mut **tx).await?;
    rows.iter().map(Row::read).collect()
}

/// Tokens of dispatches that a worker has not acknowledged.
async fn unsent(tx: &mut Tx, worker: &WorkerId) -> Result<HashSet<u64>> {
    let rows = sqlx::query("SELECT fencing_token FROM outbox WHERE worker_id = $1 AND kind = 'dispatch'")
        .bind(worker.as_str())
        .fetch_all(&mut **tx)
        .await?;
    rows.iter().map(|row| row.count("fencing_token")).collect()
}

/// See [`crate::store::Containers::give_back`].
pub(crate) async fn give_back(tx: &mut Tx, worker: &WorkerId, lease: &Lease, delay: Duration) -> Result<()> {
    capacity::lock(tx, worker).await?;
    let row = held(tx, worker, lease).await?;
    let mut container = row.container.clone();
    if container.state.is_final() {
        return Err(StoreError::Stale(lease.container_id.to_string()));
    }
    if container.state != ContainerState::Scheduled {
        return Err(StoreError::Conflict(format!("container {} was started", lease.container_id)));
    }
    outbox::drop_of(tx, lease).await?;
    container.worker_id = None;
    if container.stop_asked {
        end(&mut container, tx, super::takeback::CANCELLED, "stopped before it ran".to_owned());
        write_end(tx, &container).await?;
    } else {
        container.state = ContainerState::Queued;
        container.attempt = container.attempt.saturating_sub(1);
        container.waiting = "it was given back before it was started".to_owned();
        requeue(tx, &container, delay).await?;
        tx.announce(crate::store::Topic::Queue);
    }
    capacity::release(tx, worker, &[&row.demand]).await?;
    events::record(tx, &[&container]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_made_fit() {
        assert_eq!(shortened("a\0b"), "a\u{fffd}b");
        assert_eq!(shortened(&"é".repeat(4000)).len(), MAX_REASON);
        assert_eq!(shortened(&format!("x{}", "é".repeat(4000))).len(), MAX_REASON - 1);
    }
}
