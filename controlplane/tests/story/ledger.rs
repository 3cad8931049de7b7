//! What the database says of every run, whatever died.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;

/// The tables, read once.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// State, attempts, exit code, reason by container.
    pub(crate) containers: BTreeMap<String, (String, i64, i64, String)>,
    /// Events with a final state by container.
    pub(crate) finals: BTreeMap<String, usize>,
    /// How often an attempt's program said that it begins.
    pub(crate) begun: BTreeMap<(String, i64), usize>,
    /// Messages that nobody has acknowledged.
    pub(crate) outbox: i64,
    /// Workers whose free capacity is not what they have in all.
    pub(crate) reserved: i64,
}

impl Ledger {
    pub(crate) fn read(url: &str) -> Self {
        sqlx::any::install_default_drivers();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let pool = sqlx::any::AnyPoolOptions::new().max_connections(1).connect(url).await.unwrap();
            let mut ledger = Self::default();
            let rows = sqlx::query("SELECT container_id, state, attempt, exit_code, reason FROM container");
            for row in rows.fetch_all(&pool).await.unwrap() {
                ledger.containers.insert(row.get(0), (row.get(1), row.get(2), row.get(3), row.get(4)));
            }
            for row in
                sqlx::query("SELECT container_id, container FROM event").fetch_all(&pool).await.unwrap()
            {
                let event: serde_json::Value = serde_json::from_str(row.get(1)).unwrap();
                if ["exited", "failed"].contains(&event["state"].as_str().unwrap()) {
                    *ledger.finals.entry(row.get(0)).or_default() += 1;
                }
            }
            for row in
                sqlx::query("SELECT container_id, attempt, data FROM log").fetch_all(&pool).await.unwrap()
            {
                let said: Vec<u8> = row.get(2);
                let count = String::from_utf8_lossy(&said).matches("begin").count();
                *ledger.begun.entry((row.get(0), row.get(1))).or_default() += count;
            }
            ledger.outbox = sqlx::query("SELECT COUNT(*) FROM outbox").fetch_one(&pool).await.unwrap().get(0);
            let query =
                "SELECT COUNT(*) FROM worker WHERE live = 1 AND (free_cpu <> total_cpu OR containers <> 0)";
            ledger.reserved = sqlx::query(query).fetch_one(&pool).await.unwrap().get(0);
            ledger
        })
    }

    /// Runs that have not ended.
    pub(crate) fn open(&self) -> Vec<&str> {
        let open =
            self.containers.iter().filter(|(_, (state, ..))| !["exited", "failed"].contains(&state.as_str()));
        open.map(|(id, _)| id.as_str()).collect()
    }

    /// Every accepted run ended once; no attempt began twice; nothing is reserved or to be said any more.
    pub(crate) fn assert_settled(&self, accepted: &BTreeSet<String>) {
        let known: BTreeSet<String> = self.containers.keys().cloned().collect();
        assert_eq!(&known, accepted, "accepted runs and kept ones");
        assert!(self.open().is_empty(), "have not ended: {:?}", self.open());
        for id in accepted {
            assert_eq!(self.finals.get(id), Some(&1), "{id} ended not once: {:?}", self.containers[id]);
        }
        for ((id, attempt), times) in &self.begun {
            assert!(*times <= 1, "attempt {attempt} of {id} began {times} times");
        }
        assert_eq!((self.outbox, self.reserved), (0, 0), "messages that wait, and workers with reservations");
    }
}
