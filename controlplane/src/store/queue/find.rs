//! Which workers have room: always through an index, and never more of them than asked for.
//!
//! Workers with GPUs have an index of their own. A container that needs none goes to one of those only if no other has room.

use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::fleet::Slot;
use super::waiting::Kind;
use crate::model::{Capacity, Demand};
use crate::store::Result;
use crate::store::row::Columns as _;
use crate::store::sql::Tx;

const COLUMNS: &str = "worker_id, pool_selector, gpu, total_gpu, free_cpu, free_memory, free_gpu, containers";

/// Room on workers without GPUs: `$1` pool, `$2` millicores, `$3` MiB; `$4` and `$5` are a demand for none.
const PLAIN: &str = "live = 1 AND draining = 0 AND total_gpu = 0 AND pool_selector = $1 AND free_cpu >= $2 \
     AND free_memory >= $3 AND $4 = 0 AND $5 = $5";

/// Room on workers with GPUs: also `$4` GPUs of kind `$5`, or of any.
const GPU: &str = "live = 1 AND draining = 0 AND total_gpu > 0 AND pool_selector = $1 AND free_cpu >= $2 \
     AND free_memory >= $3 AND free_gpu >= $4 AND ($4 = 0 OR $5 = '' OR gpu = $5)";

/// The order of each index: the least that is left comes first.
const PLAIN_ORDER: &str = "free_cpu, free_memory";
const GPU_ORDER: &str = "free_gpu, free_cpu, free_memory";

fn slot(row: &AnyRow) -> Result<Slot> {
    Ok(Slot {
        worker: row.text("worker_id")?.into(),
        pool: row.text("pool_selector")?,
        gpu: row.text("gpu")?,
        total_gpu: row.int("total_gpu")?,
        free_cpu: row.int("free_cpu")?,
        free_memory: row.int("free_memory")?,
        free_gpu: row.int("free_gpu")?,
        containers: row.int("containers")?,
        dirty: false,
    })
}

/// The kinds of workers that a demand may go to, best first.
pub(super) fn kinds_for(demand: &Demand) -> &'static [(&'static str, &'static str)] {
    const ALL: [(&str, &str); 2] = [(PLAIN, PLAIN_ORDER), (GPU, GPU_ORDER)];
    if demand.gpu_count == 0 { &ALL } else { &ALL[1..] }
}

/// Runs a query with the demand as its first five parameters.
async fn run(
    tx: &mut Tx,
    sql: String,
    demand: &Demand,
    limit: i64,
    digest: Option<(&str, i64)>,
) -> Result<Vec<AnyRow>> {
    let mut query = sqlx::query(AssertSqlSafe(sql))
        .bind(demand.pool_selector.as_str())
        .bind(demand.cpu)
        .bind(demand.memory)
        .bind(demand.gpu_count)
        .bind(demand.gpu.as_str())
        .bind(limit);
    if let Some((digest, holders)) = digest {
        query = query.bind(digest).bind(holders);
    }
    Ok(query.fetch_all(&mut **tx).await?)
}

/// Locks up to `limit` workers that a demand fills best.
pub(crate) async fn anywhere(tx: &mut Tx, demand: &Demand, limit: i64) -> Result<Vec<Slot>> {
    for (room, order) in kinds_for(demand) {
        let rows = run(tx, anywhere_sql(room, order, tx.dialect.skip_locked()), demand, limit, None).await?;
        if !rows.is_empty() {
            return rows.iter().map(slot).collect();
        }
    }
    Ok(Vec::new())
}

pub(super) fn anywhere_sql(room: &str, order: &str, lock: &str) -> String {
    format!("SELECT {COLUMNS} FROM worker WHERE {room} ORDER BY {order} LIMIT $6{lock}")
}

/// Locks up to `limit` of the (at most `holders`) workers that hold objects of an image.
pub(crate) async fn near(
    tx: &mut Tx,
    digest: &str,
    holders: i64,
    demand: &Demand,
    limit: i64,
) -> Result<Vec<Slot>> {
    for (room, order) in kinds_for(demand) {
        let sql = near_sql(room, order, tx.dialect.skip_locked());
        let rows = run(tx, sql, demand, limit, Some((digest, holders))).await?;
        if !rows.is_empty() {
            return rows.iter().map(slot).collect();
        }
    }
    Ok(Vec::new())
}

pub(super) fn near_sql(room: &str, order: &str, lock: &str) -> String {
    format!(
        "SELECT {COLUMNS} FROM worker WHERE worker_id IN \
         (SELECT worker_id FROM worker_image WHERE digest = $7 ORDER BY worker_id LIMIT $8) AND {room} ORDER BY {order} LIMIT $6{lock}"
    )
}

/// Whether any worker has room, locked or not.
pub(crate) async fn exists(tx: &mut Tx, demand: &Demand) -> Result<bool> {
    for (room, _) in kinds_for(demand) {
        if !run(tx, exists_sql(room), demand, 1, None).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn exists_sql(room: &str) -> String {
    format!("SELECT worker_id FROM worker WHERE {room} LIMIT $6")
}

/// What the workers of a pool have in all. Asked once in a pass, for people.
pub(crate) async fn kinds(tx: &mut Tx, pool: &str) -> Result<Vec<Kind>> {
    let rows = sqlx::query(
        "SELECT gpu, total_cpu, total_memory, total_gpu, COUNT(*) AS number FROM worker
         WHERE live = 1 AND draining = 0 AND pool_selector = $1 GROUP BY gpu, total_cpu, total_memory, total_gpu",
    )
    .bind(pool)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Kind {
                total: Capacity {
                    cpu: row.int("total_cpu")?,
                    memory: row.int("total_memory")?,
                    gpu: row.text("gpu")?,
                    gpu_count: row.int("total_gpu")?,
                },
                workers: row.count("number")?,
            })
        })
        .collect()
}
