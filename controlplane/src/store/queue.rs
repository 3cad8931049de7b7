//! [`Queue`] in SQL.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use super::containers::row::{COLUMNS, Row};
use super::row::Columns as _;
use super::sql::{SqlStore, Tx, transaction};
use super::{Placed, Queue, Result, Topic};
use crate::model::{Capacity, Demand};

mod find;
mod fleet;
mod place;
#[cfg(test)]
mod plans;
mod waiting;
pub(super) mod write;

pub(super) use place::MAX_DELAY;

/// Most different demands that one [`Queue::unpark`] looks at.
const SHAPES: i64 = 4096;

#[async_trait]
impl Queue for SqlStore {
    async fn place(&self, batch: u32) -> Result<Placed> {
        transaction!(self, |tx| place::place(tx, batch.max(1)).await)
    }

    async fn unpark(&self, limit: u32) -> Result<u64> {
        let shapes = shapes(self).await?;
        if shapes.is_empty() {
            return Ok(0);
        }
        let fits = matching(shapes, room(self).await?, u64::from(limit));
        if fits.is_empty() {
            return Ok(0);
        }
        transaction!(self, |tx| {
            let mut woken = 0;
            for (demand, number) in &fits {
                woken += wake_shape(tx, demand, *number).await?;
            }
            if woken > 0 {
                tx.announce(Topic::Queue);
            }
            Ok(woken)
        })
    }

    async fn next_ready(&self) -> Result<Option<Duration>> {
        let now = self.clock.now();
        let row = sqlx::query(
            "SELECT queue_time FROM container WHERE state = 'queued' AND parked = 0 AND queue_time > $1
             AND queue_time <= $2 ORDER BY queue_time LIMIT 1",
        )
        .bind(now.0)
        .bind(now.after(MAX_DELAY).0)
        .fetch_optional(self.readers())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let micros = row.time("queue_time")?.0.saturating_sub(now.0);
        Ok(Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0))))
    }

    async fn queue_length(&self) -> Result<(u64, u64)> {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM container WHERE state = 'queued' AND parked = 0) AS ready,
             (SELECT COUNT(*) FROM container WHERE state = 'queued' AND parked = 1) AS parked",
        )
        .fetch_one(self.readers())
        .await?;
        Ok((row.count("ready")?, row.count("parked")?))
    }
}

/// The demands of parked containers, and how many have each; those first of which one has waited longest.
async fn shapes(store: &SqlStore) -> Result<Vec<(Demand, u64)>> {
    let rows = sqlx::query(
        "SELECT pool_selector, cpu, memory, gpu_count, gpu, COUNT(*) AS number FROM container
         WHERE state = 'queued' AND parked = 1 GROUP BY pool_selector, cpu, memory, gpu_count, gpu
         ORDER BY MIN(queue_time) LIMIT $1",
    )
    .bind(SHAPES)
    .fetch_all(store.readers())
    .await?;
    rows.iter()
        .map(|row| {
            let demand = Demand {
                cpu: row.int("cpu")?,
                memory: row.int("memory")?,
                gpu: row.text("gpu")?,
                gpu_count: row.int("gpu_count")?,
                pool_selector: row.text("pool_selector")?,
            };
            Ok((demand, row.count("number")?))
        })
        .collect()
}

/// What is free of all workers, with their pools.
async fn room(store: &SqlStore) -> Result<Vec<(String, Capacity)>> {
    let rows = sqlx::query(
        "SELECT pool_selector, free_cpu, free_memory, free_gpu, gpu FROM worker WHERE live = 1 AND draining = 0",
    )
    .fetch_all(store.readers())
    .await?;
    rows.iter()
        .map(|row| {
            let free = Capacity {
                cpu: row.int("free_cpu")?,
                memory: row.int("free_memory")?,
                gpu: row.text("gpu")?,
                gpu_count: row.int("free_gpu")?,
            };
            Ok((row.text("pool_selector")?, free))
        })
        .collect()
}

/// How many of each demand have room together, `limit` in all.
fn matching(shapes: Vec<(Demand, u64)>, mut room: Vec<(String, Capacity)>, limit: u64) -> Vec<(Demand, u64)> {
    let mut left = limit;
    let mut fits = Vec::new();
    for (demand, waiting) in shapes {
        let wanted = waiting.min(left);
        let mut number = 0;
        for (pool, free) in &mut room {
            while number < wanted && *pool == demand.pool_selector && super::capacity::take(free, &demand) {
                number += 1;
            }
        }
        left -= number;
        if number > 0 {
            fits.push((demand, number));
        }
    }
    fits
}

/// Wakes the oldest of a demand.
async fn wake_shape(tx: &mut Tx, demand: &Demand, number: u64) -> Result<u64> {
    let sql = format!(
        "SELECT {COLUMNS} FROM container WHERE state = 'queued' AND parked = 1 AND pool_selector = $1 AND cpu = $2 \
         AND memory = $3 AND gpu_count = $4 AND gpu = $5 ORDER BY queue_time LIMIT $6{}",
        tx.dialect.skip_locked()
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(demand.pool_selector.as_str())
        .bind(demand.cpu)
        .bind(demand.memory)
        .bind(demand.gpu_count)
        .bind(demand.gpu.as_str())
        .bind(super::row::bound(number))
        .fetch_all(&mut **tx)
        .await?;
    let rows: Vec<Row> = rows.iter().map(Row::read).collect::<Result<_>>()?;
    write::wake(tx, &rows).await?;
    Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_fit_together_are_woken() {
        let demand = |cpu| Demand { cpu, ..Demand::default() };
        let free = |cpu| (String::new(), Capacity { cpu, ..Capacity::default() });
        let woken =
            matching(vec![(demand(4), 9), (demand(1), 9), (demand(50), 9)], vec![free(5), free(9)], 100);
        // 4 | 4 4, of which 1 | 1 is left.
        assert_eq!(woken, [(demand(4), 3), (demand(1), 2)]);
        assert_eq!(matching(vec![(demand(1), 9)], vec![free(5)], 2), [(demand(1), 2)]);
        let elsewhere = Demand { pool_selector: "gpu".to_owned(), ..demand(1) };
        assert!(matching(vec![(elsewhere, 1)], vec![free(5)], 9).is_empty());
    }
}
