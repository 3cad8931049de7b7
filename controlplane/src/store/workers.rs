//! [`Workers`] in SQL.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::capacity::WORKER;
use super::containers::report::active;
use super::containers::takeback::take_back;
use super::page::{after, limit, page};
use super::row::Columns as _;
use super::sql::{SqlStore, Tx, transaction};
use super::{Result, StoreError, Topic, Workers, bulk, capacity, outbox};
use crate::model::{Beat, Capacity, Page, PageRequest, Registration, Worker, WorkerId};

#[async_trait]
impl Workers for SqlStore {
    async fn register_worker(&self, registration: &Registration) -> Result<Worker> {
        transaction!(self, |tx| register(tx, registration).await)
    }

    async fn beat(&self, beats: &[Beat]) -> Result<Vec<WorkerId>> {
        if beats.is_empty() {
            return Ok(Vec::new());
        }
        // In one order, so that two replicas do not wait for each other.
        let mut beats = beats.to_vec();
        beats.sort_unstable_by(|one, other| one.worker_id.cmp(&other.worker_id));
        beats.dedup_by(|later, first| later.worker_id == first.worker_id && later.epoch == first.epoch);
        transaction!(self, |tx| {
            let mut refused = Vec::new();
            for beat in &beats {
                if !take_beat(tx, beat).await? {
                    refused.push(beat.worker_id.clone());
                }
            }
            Ok(refused)
        })
    }

    async fn set_capacity(&self, worker: &WorkerId, epoch: u64, capacity: &Capacity) -> Result<()> {
        let known = self.worker(worker).await?;
        if known.is_some_and(|known| known.live && known.epoch == epoch && known.total == *capacity) {
            return Ok(());
        }
        transaction!(self, |tx| {
            current(tx, worker, epoch).await?;
            sqlx::query(
                "UPDATE worker SET total_cpu = $2, total_memory = $3, gpu = $4, total_gpu = $5 WHERE worker_id = $1",
            )
            .bind(worker.as_str())
            .bind(capacity.cpu)
            .bind(capacity.memory)
            .bind(capacity.gpu.as_str())
            .bind(capacity.gpu_count)
            .execute(&mut **tx)
            .await?;
            capacity::recount(tx, worker).await?;
            capacity::wake(tx, worker).await
        })
    }

    async fn set_cached_images(&self, worker: &WorkerId, epoch: u64, digests: &[String]) -> Result<()> {
        let wanted: HashSet<&str> = digests.iter().map(String::as_str).collect();
        transaction!(self, |tx| {
            current(tx, worker, epoch).await?;
            let rows = sqlx::query("SELECT digest FROM worker_image WHERE worker_id = $1")
                .bind(worker.as_str())
                .fetch_all(&mut **tx)
                .await?;
            let known: HashSet<String> = rows.iter().map(|row| row.text("digest")).collect::<Result<_>>()?;
            for gone in known.iter().filter(|digest| !wanted.contains(digest.as_str())) {
                sqlx::query("DELETE FROM worker_image WHERE digest = $1 AND worker_id = $2")
                    .bind(gone.as_str())
                    .bind(worker.as_str())
                    .execute(&mut **tx)
                    .await?;
            }
            let fresh: Vec<&str> = wanted.iter().copied().filter(|digest| !known.contains(*digest)).collect();
            for piece in bulk::pieces(&fresh) {
                let sql = format!(
                    "INSERT INTO worker_image (worker_id, digest) VALUES {} ON CONFLICT DO NOTHING",
                    bulk::rows(piece.len(), 2, 1)
                );
                let mut query = sqlx::query(AssertSqlSafe(sql));
                for digest in piece {
                    query = query.bind(worker.as_str()).bind(*digest);
                }
                query.execute(&mut **tx).await?;
            }
            Ok(())
        })
    }

    async fn live_workers(&self) -> Result<Vec<(WorkerId, u64, u64)>> {
        let rows = sqlx::query("SELECT worker_id, epoch, beat FROM worker WHERE live = 1")
            .fetch_all(self.readers())
            .await?;
        rows.iter()
            .map(|row| Ok((row.text("worker_id")?.into(), row.count("epoch")?, row.count("beat")?)))
            .collect()
    }

    async fn lose_worker(&self, worker: &WorkerId, beat: u64, max_attempts: u32) -> Result<Option<u64>> {
        transaction!(self, |tx| lose(tx, worker, beat, max_attempts).await)
    }

    async fn worker(&self, worker: &WorkerId) -> Result<Option<Worker>> {
        let sql = format!("SELECT {WORKER} FROM worker WHERE worker_id = $1");
        let row =
            sqlx::query(AssertSqlSafe(sql)).bind(worker.as_str()).fetch_optional(self.readers()).await?;
        row.as_ref().map(read).transpose()
    }

    async fn workers(&self, request: &PageRequest) -> Result<Page<Worker>> {
        let sql = format!("SELECT {WORKER} FROM worker WHERE worker_id > $1 ORDER BY worker_id LIMIT $2");
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(after(request))
            .bind(limit(request))
            .fetch_all(self.readers())
            .await?;
        page(request, &rows, read, |worker| worker.worker_id.to_string())
    }
}

fn read(row: &AnyRow) -> Result<Worker> {
    let gpu = row.text("gpu")?;
    Ok(Worker {
        worker_id: row.text("worker_id")?.into(),
        node: row.text("node")?,
        epoch: row.count("epoch")?,
        beat: row.count("beat")?,
        live: row.flag("live")?,
        draining: row.flag("draining")?,
        pool_selector: row.text("pool_selector")?,
        total: Capacity {
            cpu: row.int("total_cpu")?,
            memory: row.int("total_memory")?,
            gpu: gpu.clone(),
            gpu_count: row.int("total_gpu")?,
        },
        free: Capacity {
            cpu: row.int("free_cpu")?,
            memory: row.int("free_memory")?,
            gpu,
            gpu_count: row.int("free_gpu")?,
        },
        containers: row.count("containers")?,
        version: row.text("version")?,
        heartbeat_time: row.time("heartbeat_time")?,
    })
}

async fn register(tx: &mut Tx, registration: &Registration) -> Result<Worker> {
    let total = &registration.capacity;
    // Its beat moves too: whoever has watched the one before must not declare this one lost.
    let row = sqlx::query(
        "INSERT INTO worker (worker_id, node, epoch, beat, live, draining, pool_selector, gpu, total_cpu, total_memory,
         total_gpu, free_cpu, free_memory, free_gpu, containers, version, create_time, heartbeat_time)
         VALUES ($1, $2, 1, 1, 1, 0, $3, $4, $5, $6, $7, $5, $6, $7, 0, $8, $9, $9)
         ON CONFLICT (node) DO UPDATE SET epoch = worker.epoch + 1, beat = worker.beat + 1, live = 1, draining = 0,
         pool_selector = $3, gpu = $4, total_cpu = $5, total_memory = $6, total_gpu = $7, version = $8, heartbeat_time = $9
         RETURNING worker_id",
    )
    .bind(WorkerId::generate().to_string())
    .bind(registration.node.as_str())
    .bind(registration.pool_selector.as_str())
    .bind(total.gpu.as_str())
    .bind(total.cpu)
    .bind(total.memory)
    .bind(total.gpu_count)
    .bind(registration.version.as_str())
    .bind(tx.now.0)
    .fetch_one(&mut **tx)
    .await?;
    let worker: WorkerId = row.text("worker_id")?.into();
    capacity::recount(tx, &worker).await?;
    capacity::wake(tx, &worker).await?;
    // Whoever was told to stop something may have died before it had.
    outbox::cancel_again(tx, &worker).await?;
    let row = capacity::lock(tx, &worker).await?.ok_or(StoreError::NotFound("worker"))?;
    read(&row)
}

/// A worker's row, locked, if it lives under this epoch.
async fn current(tx: &mut Tx, worker: &WorkerId, epoch: u64) -> Result<AnyRow> {
    let stale = || StoreError::Stale(format!("worker {worker}"));
    let row = capacity::lock(tx, worker).await?.ok_or_else(stale)?;
    if row.flag("live")? && row.count("epoch")? == epoch { Ok(row) } else { Err(stale()) }
}

/// Takes one sign of life. `false`: it is nobody's who lives.
async fn take_beat(tx: &mut Tx, beat: &Beat) -> Result<bool> {
    let row = match current(tx, &beat.worker_id, beat.epoch).await {
        Ok(row) => row,
        Err(StoreError::Stale(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    let drained = row.flag("draining")?;
    sqlx::query("UPDATE worker SET beat = beat + 1, draining = $2, heartbeat_time = $3 WHERE worker_id = $1")
        .bind(beat.worker_id.as_str())
        .bind(i64::from(beat.draining))
        .bind(tx.now.0)
        .execute(&mut **tx)
        .await?;
    if drained && !beat.draining {
        capacity::wake(tx, &beat.worker_id).await?;
    }
    Ok(true)
}

async fn lose(tx: &mut Tx, worker: &WorkerId, beat: u64, max_attempts: u32) -> Result<Option<u64>> {
    let Some(row) = capacity::lock(tx, worker).await? else { return Ok(None) };
    if !row.flag("live")? || row.count("beat")? != beat {
        return Ok(None);
    }
    let containers = active(tx, worker).await?;
    take_back(tx, &containers, max_attempts, &format!("worker {} was lost", row.text("node")?)).await?;
    sqlx::query("DELETE FROM outbox WHERE worker_id = $1").bind(worker.as_str()).execute(&mut **tx).await?;
    sqlx::query(
        "UPDATE worker SET live = 0, epoch = epoch + 1, containers = 0, free_cpu = total_cpu, free_memory = total_memory,
         free_gpu = total_gpu WHERE worker_id = $1",
    )
    .bind(worker.as_str())
    .execute(&mut **tx)
    .await?;
    tx.announce(Topic::Worker(worker.clone()));
    Ok(Some(u64::try_from(containers.len()).unwrap_or(u64::MAX)))
}
