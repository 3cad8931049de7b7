//! Capacity that comes free, and those who wait for it. In one transaction, so that nobody waits beside a free worker.
//!
//! Lock order, for all that wait for locks: a worker's row (several by identity), then containers. Placing takes them the other way round, but
//! waits for nobody.

use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::containers::row::{COLUMNS, Row};
use super::queue::write;
use super::row::{Columns as _, bound};
use super::sql::Tx;
use super::{Result, Topic};
use crate::model::{Capacity, Demand, WorkerId};

/// Parked containers that are looked at together.
const PIECE: i64 = 64;
/// Most that one change wakes; the rest is found by [`super::Queue::unpark`].
const MOST: usize = 1024;

/// What is read of a worker: see [`super::workers`].
pub(super) const WORKER: &str = "worker_id, node, epoch, beat, live, draining, pool_selector, gpu, total_cpu, total_memory, \
     total_gpu, free_cpu, free_memory, free_gpu, containers, version, heartbeat_time";

/// Locks a worker's row, waiting for whoever holds it. `None`: there is no such worker.
pub(super) async fn lock(tx: &mut Tx, worker: &WorkerId) -> Result<Option<AnyRow>> {
    let sql = format!("SELECT {WORKER} FROM worker WHERE worker_id = $1{}", tx.dialect.for_update());
    Ok(sqlx::query(AssertSqlSafe(sql)).bind(worker.as_str()).fetch_optional(&mut **tx).await?)
}

/// Gives back what containers had reserved on a worker whose row is locked, and wakes who waits for such.
pub(super) async fn release(tx: &mut Tx, worker: &WorkerId, demands: &[&Demand]) -> Result<()> {
    if demands.is_empty() {
        return Ok(());
    }
    let sum =
        |part: fn(&Demand) -> i64| demands.iter().map(|demand| part(demand)).fold(0, i64::saturating_add);
    sqlx::query(
        "UPDATE worker SET free_cpu = free_cpu + $2, free_memory = free_memory + $3, free_gpu = free_gpu + $4,
         containers = containers - $5 WHERE worker_id = $1",
    )
    .bind(worker.as_str())
    .bind(sum(|demand| demand.cpu))
    .bind(sum(|demand| demand.memory))
    .bind(sum(|demand| demand.gpu_count))
    .bind(i64::try_from(demands.len()).unwrap_or(i64::MAX))
    .execute(&mut **tx)
    .await?;
    wake(tx, worker).await
}

/// Wakes parked containers that fit what is free of a worker, oldest first, and no more than fit together.
pub(super) async fn wake(tx: &mut Tx, worker: &WorkerId) -> Result<()> {
    let row = sqlx::query(
        "SELECT pool_selector, free_cpu, free_memory, gpu, free_gpu FROM worker
         WHERE worker_id = $1 AND live = 1 AND draining = 0",
    )
    .bind(worker.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(()) };
    let pool = row.text("pool_selector")?;
    let mut free = Capacity {
        cpu: row.int("free_cpu")?,
        memory: row.int("free_memory")?,
        gpu: row.text("gpu")?,
        gpu_count: row.int("free_gpu")?,
    };
    let mut woken = 0;
    while woken < MOST {
        let waiting = parked(tx, &pool, &free).await?;
        let fits: Vec<Row> = waiting.into_iter().filter(|row| take(&mut free, &row.demand)).collect();
        if fits.is_empty() {
            break;
        }
        woken += fits.len();
        write::wake(tx, &fits).await?;
    }
    if woken > 0 {
        tx.announce(Topic::Queue);
    }
    Ok(())
}

/// The oldest of a pool's parked containers that fit each by itself.
async fn parked(tx: &mut Tx, pool: &str, free: &Capacity) -> Result<Vec<Row>> {
    let sql = parked_sql(tx.dialect.skip_locked());
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(pool)
        .bind(free.cpu)
        .bind(free.memory)
        .bind(free.gpu_count)
        .bind(free.gpu.as_str())
        .bind(PIECE)
        .fetch_all(&mut **tx)
        .await?;
    rows.iter().map(Row::read).collect()
}

pub(super) fn parked_sql(lock: &str) -> String {
    format!(
        "SELECT {COLUMNS} FROM container WHERE state = 'queued' AND parked = 1 AND pool_selector = $1 AND cpu <= $2 \
         AND memory <= $3 AND (gpu_count = 0 OR (gpu_count <= $4 AND (gpu = '' OR gpu = $5))) \
         ORDER BY queue_time LIMIT $6{lock}"
    )
}

/// Takes a demand out of what is free, if it fits.
pub(super) fn take(free: &mut Capacity, demand: &Demand) -> bool {
    let gpu = demand.gpu_count == 0
        || (demand.gpu_count <= free.gpu_count && (demand.gpu.is_empty() || demand.gpu == free.gpu));
    let fits = gpu && demand.cpu <= free.cpu && demand.memory <= free.memory;
    if fits {
        free.cpu -= demand.cpu;
        free.memory -= demand.memory;
        free.gpu_count -= demand.gpu_count;
    }
    fits
}

/// Counts anew what the containers of a worker have reserved, and so what is free.
pub(super) async fn recount(tx: &mut Tx, worker: &WorkerId) -> Result<()> {
    let row = sqlx::query(
        "SELECT CAST(COALESCE(SUM(cpu), 0) AS BIGINT) AS cpu, CAST(COALESCE(SUM(memory), 0) AS BIGINT) AS memory,
         CAST(COALESCE(SUM(gpu_count), 0) AS BIGINT) AS gpu_count, COUNT(*) AS number FROM container
         WHERE worker_id = $1 AND state IN ('scheduled', 'mounting', 'running')",
    )
    .bind(worker.as_str())
    .fetch_one(&mut **tx)
    .await?;
    sqlx::query(
        "UPDATE worker SET free_cpu = total_cpu - $2, free_memory = total_memory - $3, free_gpu = total_gpu - $4,
         containers = $5 WHERE worker_id = $1",
    )
    .bind(worker.as_str())
    .bind(row.int("cpu")?)
    .bind(row.int("memory")?)
    .bind(row.int("gpu_count")?)
    .bind(bound(row.count("number")?))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
