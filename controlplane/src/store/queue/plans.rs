//! What the databases do with the queries of a pass: each goes through an index, whatever the number of workers and containers.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::find;
use super::place::ready_sql;
use crate::model::{Demand, SystemClock};
use crate::store::dialect::Dialect;
use crate::store::{capacity, migrate, open};

/// A thousand workers, half of them with GPUs, and ten thousand containers, half of them parked.
const FILL: [&str; 4] = [
    "INSERT INTO workspace VALUES ('w', 'w', 0)",
    "INSERT INTO worker WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
     SELECT 'worker-' || n, 'node-' || n, 1, 1, 1, 0, '', 'T4', 1000, 1000, n % 2, n, n, n % 2, 0, '', 0, 0 FROM n",
    "INSERT INTO worker_image SELECT worker_id, 'digest-' || (free_cpu % 10) FROM worker",
    "INSERT INTO container WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000)
     SELECT 'w', 'c' || n, 'i', '', 'digest-1', 'queued', 0, 0, NULL, n % 900, 1, '', 0, '', n, n % 2, '', 0, 0, '', 0, '',
     0, n, NULL, NULL FROM n",
];

#[derive(Debug)]
enum Bind {
    Text(&'static str),
    Number(i64),
}

/// The query, its parameters, and the index that must be used.
fn cases(dialect: Dialect) -> Vec<(String, Vec<Bind>, &'static str)> {
    use Bind::{Number, Text};
    let lock = dialect.skip_locked();
    let demand = || vec![Text(""), Number(500), Number(1), Number(0), Text(""), Number(4)];
    let near = || demand().into_iter().chain([Text("digest-1"), Number(256)]).collect();
    let gpu = Demand { gpu_count: 1, ..Demand::default() };
    let mut cases = vec![
        (ready_sql(lock), vec![Number(i64::MIN), Number(5000), Number(256)], "container_ready"),
        (
            capacity::parked_sql(lock),
            vec![Text(""), Number(500), Number(500), Number(0), Text(""), Number(64)],
            "container_parked",
        ),
    ];
    for (kind, index) in find::kinds_for(&Demand::default()).iter().zip(["worker_fit", "worker_fit_gpu"]) {
        cases.push((find::anywhere_sql(kind.0, kind.1, lock), demand(), index));
        cases.push((find::exists_sql(kind.0), demand(), index));
        cases.push((find::near_sql(kind.0, kind.1, lock), near(), "worker_image"));
    }
    assert_eq!(find::kinds_for(&gpu).len(), 1);
    cases
}

async fn explain(url: &str, prefix: &str, dialect: Dialect) {
    migrate(url).await.unwrap();
    let _store = open(url, Arc::new(SystemClock)).await.unwrap();
    let mut connection = sqlx::AnyConnection::connect(url).await.unwrap();
    for sql in FILL {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    if dialect == Dialect::Postgres {
        sqlx::query("ANALYZE").execute(&mut connection).await.unwrap();
    }
    for (sql, binds, index) in cases(dialect) {
        let mut query = sqlx::query(AssertSqlSafe(format!("{prefix} {sql}")));
        for bind in binds {
            query = match bind {
                Bind::Text(text) => query.bind(text),
                Bind::Number(number) => query.bind(number),
            };
        }
        let rows = query.fetch_all(&mut connection).await.unwrap();
        let column = if dialect == Dialect::Postgres { 0 } else { 3 };
        let plan: Vec<String> = rows.iter().map(|row| row.get(column)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index), "{sql}\n{plan}");
        let scans = ["Seq Scan on worker ", "Seq Scan on container", "SCAN worker\n", "SCAN container\n"];
        assert!(!scans.iter().any(|scan| format!("{plan}\n").contains(scan)), "{sql}\n{plan}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_goes_through_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/control.db", dir.path().display());
    explain(&url, "EXPLAIN QUERY PLAN", Dialect::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_goes_through_indexes() {
    let database = || fixtures::postgres::Postgres::shared().database();
    let url = tokio::task::spawn_blocking(database).await.unwrap();
    explain(&url, "EXPLAIN", Dialect::Postgres).await;
}
