//! One pass over the queue, in one transaction.
//!
//! It never waits for another replica: containers and workers that are locked elsewhere are skipped, and what it locks it holds until
//! it commits. What is free of its workers is counted in memory ([`Fleet`]) and written once, before the database is asked for more
//! workers and at the end. So the cost of a decision falls with the size of the batch, and questions about workers are asked once for
//! each demand (and image) that the batch holds, not for each container.

use std::collections::{HashMap, HashSet};

use sqlx::AssertSqlSafe;

use super::fleet::{Fleet, Slot};
use super::waiting::{Kind, waiting};
use super::{find, write};
use crate::model::{Demand, Time, WorkerId};
use crate::store::containers::row::{COLUMNS, Row};
use crate::store::row::Columns as _;
use crate::store::sql::Tx;
use crate::store::{Placed, Result};

/// No container waits longer than this after a loss. A time in the queue that lies farther ahead was written by a clock that has been
/// set back since, and counts as now.
pub(crate) const MAX_DELAY: std::time::Duration = std::time::Duration::from_secs(60);

/// Workers that are asked for first; twice as many each time that they do not suffice. Few, so that replicas share a small fleet.
const FIRST_ASK: i64 = 4;
/// Most workers that are asked for at once.
const MOST_ASK: i64 = 64;
/// Holders of an image that are looked at. An image that is everywhere needs no search.
const HOLDERS: i64 = 256;

/// What the workers of one demand (near one image, or anywhere) have turned out to be.
#[derive(Debug, Clone, Copy)]
struct Search {
    ask: i64,
    exhausted: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self { ask: FIRST_ASK, exhausted: false }
    }
}

/// Why a demand finds nothing in this pass.
#[derive(Debug, Clone)]
enum Nowhere {
    /// Another replica holds the workers that would do.
    Held,
    /// Nothing is free.
    Full(String),
}

/// A container and the worker that it got.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) row: Row,
    pub(crate) worker: WorkerId,
}

/// A pass.
#[derive(Debug, Default)]
struct Pass {
    fleet: Fleet,
    holders: HashMap<String, HashSet<WorkerId>>,
    near: HashMap<(String, Demand), Search>,
    anywhere: HashMap<Demand, Search>,
    nowhere: HashMap<Demand, Nowhere>,
    pools: HashMap<String, Vec<Kind>>,
}

/// Runs a pass.
pub(crate) async fn place(tx: &mut Tx, batch: u32) -> Result<Placed> {
    let ready = ready(tx, batch).await?;
    let full_batch = ready.len() >= usize::try_from(batch).unwrap_or(usize::MAX);
    let mut pass = Pass::default();
    let (mut chosen, mut parked, mut held) = (Vec::new(), Vec::new(), false);
    for row in ready {
        if let Some(worker) = pass.choose(tx, &row).await? {
            chosen.push(Choice { row, worker });
            continue;
        }
        match pass.why(tx, &row.demand).await? {
            Nowhere::Held => held = true,
            Nowhere::Full(reason) => parked.push((row, reason)),
        }
    }
    pass.flush(tx).await?;
    let mut placed = Placed {
        placed: u64::try_from(chosen.len()).unwrap_or(u64::MAX),
        parked: u64::try_from(parked.len()).unwrap_or(u64::MAX),
        more: full_batch || held,
        workers: Vec::new(),
    };
    placed.workers = write::schedule(tx, chosen).await?;
    write::park(tx, parked).await?;
    Ok(placed)
}

/// The longest waiting ones that no other replica holds.
async fn ready(tx: &mut Tx, batch: u32) -> Result<Vec<Row>> {
    let now = tx.now;
    let (from, to) = (i64::MIN, now.0);
    let mut rows = ready_between(tx, from, to, i64::from(batch)).await?;
    let rest = i64::from(batch) - i64::try_from(rows.len()).unwrap_or(i64::MAX);
    if rest > 0 {
        let Time(horizon) = now.after(MAX_DELAY);
        rows.extend(ready_between(tx, horizon, i64::MAX, rest).await?);
    }
    Ok(rows)
}

async fn ready_between(tx: &mut Tx, after: i64, until: i64, limit: i64) -> Result<Vec<Row>> {
    let sql = ready_sql(tx.dialect.skip_locked());
    let query = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(until).bind(limit);
    let rows = query.fetch_all(&mut **tx).await?;
    rows.iter().map(Row::read).collect()
}

pub(super) fn ready_sql(lock: &str) -> String {
    format!(
        "SELECT {COLUMNS} FROM container WHERE state = 'queued' AND parked = 0 AND queue_time > $1 AND queue_time <= $2 \
         ORDER BY queue_time LIMIT $3{lock}"
    )
}

impl Pass {
    /// The worker for a container, less its demand.
    async fn choose(&mut self, tx: &mut Tx, row: &Row) -> Result<Option<WorkerId>> {
        let demand = &row.demand;
        if self.nowhere.contains_key(demand) {
            return Ok(None);
        }
        self.know_holders(tx, &row.digest).await?;
        loop {
            let holders = self.holders.get(&row.digest);
            if let Some(slot) =
                self.fleet.best(demand, |worker| holders.is_some_and(|known| known.contains(worker)))
            {
                slot.take(demand);
                return Ok(Some(slot.worker.clone()));
            }
            if holders.is_none_or(HashSet::is_empty) || !self.ask_near(tx, row).await? {
                break;
            }
        }
        // Asked once at least, so that the best of a few is found and not merely the first that another demand has left here.
        if !self.anywhere.contains_key(demand) {
            self.ask_anywhere(tx, demand).await?;
        }
        loop {
            if let Some(slot) = self.fleet.best(demand, |_| true) {
                slot.take(demand);
                return Ok(Some(slot.worker.clone()));
            }
            if !self.ask_anywhere(tx, demand).await? {
                return Ok(None);
            }
        }
    }

    /// Finds out which workers hold objects of an image.
    async fn know_holders(&mut self, tx: &mut Tx, digest: &str) -> Result<()> {
        if self.holders.contains_key(digest) {
            return Ok(());
        }
        let sql = "SELECT worker_id FROM worker_image WHERE digest = $1 ORDER BY worker_id LIMIT $2";
        let rows = sqlx::query(sql).bind(digest).bind(HOLDERS).fetch_all(&mut **tx).await?;
        let found = rows.iter().map(|row| row.text("worker_id").map(Into::into)).collect::<Result<_>>()?;
        self.holders.insert(digest.to_owned(), found);
        Ok(())
    }

    /// Locks more workers that hold the image and have room. `false`: there are none.
    async fn ask_near(&mut self, tx: &mut Tx, row: &Row) -> Result<bool> {
        let key = (row.digest.clone(), row.demand.clone());
        let search = self.near.get(&key).copied().unwrap_or_default();
        if search.exhausted {
            return Ok(false);
        }
        self.flush(tx).await?;
        let found = find::near(tx, &row.digest, HOLDERS, &row.demand, search.ask).await?;
        let any = !found.is_empty();
        self.near.insert(key, search.next(any));
        // One that has come to hold it since the holders were read must not be asked for without end.
        self.holders
            .entry(row.digest.clone())
            .or_default()
            .extend(found.iter().map(|slot| slot.worker.clone()));
        self.fleet.add(found);
        Ok(any)
    }

    /// Locks more workers that have room. `false`: there are none.
    async fn ask_anywhere(&mut self, tx: &mut Tx, demand: &Demand) -> Result<bool> {
        let search = self.anywhere.get(demand).copied().unwrap_or_default();
        if search.exhausted {
            return Ok(false);
        }
        self.flush(tx).await?;
        let found = find::anywhere(tx, demand, search.ask).await?;
        let any = !found.is_empty();
        self.anywhere.insert(demand.clone(), search.next(any));
        self.fleet.add(found);
        Ok(any)
    }

    /// Why a demand found nothing; what is free only shrinks in a pass, so that the answer holds to its end.
    async fn why(&mut self, tx: &mut Tx, demand: &Demand) -> Result<Nowhere> {
        if let Some(known) = self.nowhere.get(demand) {
            return Ok(known.clone());
        }
        self.flush(tx).await?;
        let why = if find::exists(tx, demand).await? {
            Nowhere::Held
        } else {
            if !self.pools.contains_key(&demand.pool_selector) {
                let kinds = find::kinds(tx, &demand.pool_selector).await?;
                self.pools.insert(demand.pool_selector.clone(), kinds);
            }
            Nowhere::Full(waiting(demand, self.pools.get(&demand.pool_selector).map_or(&[], Vec::as_slice)))
        };
        self.nowhere.insert(demand.clone(), why.clone());
        Ok(why)
    }

    /// Writes what is free, so that the database answers by it.
    async fn flush(&mut self, tx: &mut Tx) -> Result<()> {
        let dirty: Vec<Slot> = self.fleet.take_dirty();
        write::free(tx, &dirty).await
    }
}

impl Search {
    /// After an answer that had any, or none.
    fn next(self, any: bool) -> Self {
        Self { ask: (self.ask * 2).min(MOST_ASK), exhausted: !any }
    }
}
