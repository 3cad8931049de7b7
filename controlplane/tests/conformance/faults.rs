//! The database dies, is held up, or disagrees.

use std::sync::Arc;
use std::time::Duration;

use controlplane::model::{
    ContainerState, Demand, ImageCredentialSource, PageRequest, Sealed, WorkerId, WorkspaceId,
};
use controlplane::scheduler::{Scheduler, SchedulerOptions};
use controlplane::store::{
    Containers as _, Done, Housekeeping as _, Images as _, Outbox as _, Queue as _, SecretChange, SqlStore,
    StoreError, Workspaces as _, open,
};
use fixtures::postgres::{Durability, Postgres};
use sqlx::{Connection as _, Executor as _};

use crate::database::{Database, change, image, keyed, named};
use crate::yard::{Yard, report};

conformance!(writers_that_are_held_up_wait, retries_after_a_kill);

async fn create(store: &SqlStore, name: &str) -> Result<Done<WorkspaceId>, StoreError> {
    let change = keyed(change(None, "CreateWorkspace", name), name, 1);
    Ok(match store.create_workspace(&change, name).await? {
        Done::Now(workspace) => Done::Now(workspace.workspace_id),
        Done::Replayed(workspace) => Done::Replayed(workspace.workspace_id),
    })
}

async fn writers_that_are_held_up_wait(database: Database) {
    let sqlite = database.url.starts_with("sqlite");
    let mut other = database.connection().await;
    other.execute(if sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" }).await.unwrap();
    other.execute("INSERT INTO workspace VALUES ('x', 'name', 0)").await.unwrap();
    let store = database.store.clone();
    let waits = tokio::spawn(async move { create(&store, "name").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waits.is_finished(), "the other one has not ended");
    // Readers see what was before, and do not wait.
    assert_eq!(database.store.workspace("name").await.unwrap(), None);
    other.execute("COMMIT").await.unwrap();
    let late = waits.await.unwrap();
    assert!(matches!(late, Err(StoreError::Exists("workspace"))), "{late:?}");
    other.close().await.unwrap();
}

/// Writers whose callers go away at any point (an aborted task drops its transaction) leave nothing, and a retry does it once.
async fn retries_after_a_kill(database: Database) {
    for n in 0..40_u64 {
        let (store, name) = (database.store.clone(), format!("w{n}"));
        let call = tokio::spawn(async move { create(&store, &name).await });
        tokio::time::sleep(Duration::from_micros(n * 100)).await;
        call.abort();
        let _ = call.await;
    }
    for n in 0..40 {
        create(&database.store, &format!("w{n}")).await.unwrap();
    }
    for table in ["workspace", "idempotency WHERE outcome <> ''", "audit"] {
        assert_eq!(database.count(table).await, 40, "{table}");
    }
}

/// Row 37: UNAVAILABLE while it is away, everything again when it is back, nothing half done, retries safe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_and_restarted() {
    let server =
        Arc::new(tokio::task::spawn_blocking(|| Postgres::start(Durability::Process)).await.unwrap());
    let database = Database::at(server.database(), None).await;
    let mut names = Vec::new();
    for round in 0..4_u64 {
        let calls: Vec<_> = (0..12)
            .map(|n| {
                let (store, name) = (database.store.clone(), format!("w{round}-{n}"));
                names.push(name.clone());
                tokio::spawn(async move { create(&store, &name).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        let killed = server.clone();
        tokio::task::spawn_blocking(move || killed.kill9()).await.unwrap();
        for call in calls {
            let outcome = call.await.unwrap();
            assert!(matches!(outcome, Ok(_) | Err(StoreError::Unavailable(_))), "{outcome:?}");
        }
        let away = database.store.ready().await;
        assert!(matches!(away, Err(StoreError::Unavailable(_))), "{away:?}");
        let started = server.clone();
        tokio::task::spawn_blocking(move || started.restart()).await.unwrap();
        database.store.ready().await.unwrap();
    }
    assert_eq!(database.count("workspace").await, database.count("audit").await);
    assert_eq!(database.count("workspace").await, database.count("idempotency WHERE outcome <> ''").await);
    for name in &names {
        let (first, again) =
            (create(&database.store, name).await.unwrap(), create(&database.store, name).await.unwrap());
        assert!(matches!(again, Done::Replayed(_)), "{again:?}");
        assert_eq!(first.into_inner(), again.into_inner());
    }
    assert_eq!(database.count("workspace").await, 48);
    assert_eq!(database.count("audit").await, 48);
}

/// A restart that is shorter than one waits for a connection is not noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_restarted_under_idle_connections() {
    let server =
        Arc::new(tokio::task::spawn_blocking(|| Postgres::start(Durability::Process)).await.unwrap());
    let database = Database::at(server.database(), None).await;
    create(&database.store, "before").await.unwrap();
    let restarted = server.clone();
    tokio::task::spawn_blocking(move || restarted.restart()).await.unwrap();
    create(&database.store, "after").await.unwrap();
    assert!(database.store.workspace("before").await.unwrap().is_some());
}

/// One of two transactions that wait for each other is taken back by PostgreSQL: the store's, which does it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_are_tried_again() {
    let database = Database::postgres().await;
    let workspace = database.workspace("a").await;
    let secret = database.secret(&workspace, "registry-test", "registry.test").await;
    database.image(&workspace, "i", named(&secret)).await;
    let mut other = database.connection().await;
    // Whoever looks for deadlocks first is their victim.
    other.execute("SET deadlock_timeout = '60s'").await.unwrap();
    other.execute("BEGIN").await.unwrap();
    other.execute("UPDATE image SET files = files").await.unwrap();
    let (store, key_id) = (database.store.clone(), database.key(&workspace).await);
    let put = tokio::spawn(async move {
        let asked = image(&workspace, "i", ImageCredentialSource::Anonymous);
        let update = SecretChange::Update { read: secret, sealed: Sealed { key_id, record: b"2".to_vec() } };
        let change = keyed(change(Some(&workspace), "CreateImage", "i"), "key", 1);
        store.put_image(&change, &asked, &update).await
    });
    // It has the secret when it waits for the image.
    let waits = "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while database.count(waits).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    other.execute("UPDATE secret SET name = name").await.unwrap();
    other.execute("COMMIT").await.unwrap();
    other.close().await.unwrap();
    assert!(matches!(put.await.unwrap().unwrap(), Done::Now(_)));
    let deadlocks = database
        .texts("SELECT CAST(deadlocks AS TEXT) FROM pg_stat_database WHERE datname = current_database()");
    assert_eq!(database.texts("SELECT CAST(version AS TEXT) FROM secret").await, ["2"]);
    assert_ne!(deadlocks.await, ["0"], "there was none");
}

/// Two servers on one file, as an operator's command beside the server: each waits for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_of_several_openers() {
    let database = Database::sqlite().await;
    let stores = [database.store.clone(), database.replica().await, database.replica().await];
    let calls = (0..90).map(|n| {
        let store = stores[n % 3].clone();
        tokio::spawn(async move { create(&store, &format!("w{n}")).await.map(drop) })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(database.count("workspace").await, 90);
}

/// A process that writes, for [`sqlite_writers_killed`].
#[test]
#[ignore = "run by sqlite_writers_killed, which kills it"]
fn sqlite_writer() {
    let Ok(url) = std::env::var("CONFORMANCE_URL") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = open(&url, Arc::new(controlplane::model::SystemClock)).await.unwrap();
        for n in 0.. {
            create(&store, &format!("w{n}")).await.unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_writers_killed() {
    let database = Database::sqlite().await;
    for round in 0..5_u64 {
        let before = database.count("workspace").await;
        let mut writer = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::sqlite_writer", "--ignored"])
            .env("CONFORMANCE_URL", &database.url)
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        while database.count("workspace").await < before + 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        writer.kill().await.unwrap();
        let written = database.count("workspace").await;
        assert_eq!(written, database.count("audit").await);
        assert_eq!(written, database.count("idempotency WHERE outcome <> ''").await);
        // Whoever comes next goes on.
        assert!(matches!(create(&database.store, "w0").await.unwrap(), Done::Replayed(_)));
    }
}

/// A node that does what it is told, whatever becomes of the database meanwhile.
async fn work(store: Arc<SqlStore>, worker: WorkerId) {
    loop {
        for delivery in store.deliveries(&worker, 0, 50).await.unwrap_or_default() {
            for state in [ContainerState::Running, ContainerState::Exited] {
                while let Err(error) = store.report(&worker, &report(&delivery.lease, state)).await {
                    assert!(matches!(error, StoreError::Unavailable(_) | StoreError::Busy(_)), "{error:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Rows 37 and 48 together: schedulers go on after the database was killed under them, each container is sent once, and what is reserved is
/// given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedulers_of_a_postgres_that_is_killed() {
    const CONTAINERS: u64 = 80;
    let server =
        Arc::new(tokio::task::spawn_blocking(|| Postgres::start(Durability::Process)).await.unwrap());
    let yard = Arc::new(Yard::on(Database::at(server.database(), None).await).await);
    let options =
        SchedulerOptions { look: Duration::from_millis(100), batch: 4, ..SchedulerOptions::default() };
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        tasks.spawn(Scheduler::new(yard.replica().await, options.clone()).run(std::future::pending()));
    }
    for node in 0..3 {
        // Room for two at a time each.
        let worker = yard.register(&format!("node-{node}"), 600, 1000).await;
        tasks.spawn(work(Arc::clone(&yard.store), worker));
    }
    let submitter = {
        let yard = Arc::clone(&yard);
        tokio::spawn(async move {
            for n in 0..CONTAINERS {
                let demand = Demand { cpu: 300, memory: 10, ..Demand::default() };
                while let Err(error) = yard.try_submit(&format!("c{n}"), "a", demand.clone()).await {
                    assert!(matches!(error, StoreError::Unavailable(_) | StoreError::Busy(_)), "{error:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
    };
    for round in 0..5_u64 {
        tokio::time::sleep(Duration::from_millis(120 + round * 17)).await;
        let server = server.clone();
        tokio::task::spawn_blocking(move || {
            server.kill9();
            std::thread::sleep(Duration::from_millis(round * 50));
            server.restart();
        })
        .await
        .unwrap();
    }
    submitter.await.unwrap();
    let all_ended = async {
        let page = PageRequest { size: 1, after: None };
        while !yard.store.containers(&yard.workspace, true, &page).await.unwrap().items.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all_ended).await.expect("all end");
    tasks.shutdown().await;
    for n in 0..CONTAINERS {
        let events =
            yard.store.events(&yard.workspace, &format!("c{n}").as_str().into(), 0, 100).await.unwrap();
        let count = |state| events.iter().filter(|(_, _, container)| container.state == state).count();
        assert_eq!((count(ContainerState::Scheduled), count(ContainerState::Exited)), (1, 1), "c{n}");
    }
    assert_eq!(yard.store.queue_length().await.unwrap(), (0, 0));
    assert_eq!(yard.store.outbox_length().await.unwrap(), 0);
    assert!(yard.workers().await.iter().all(|worker| worker.free == worker.total && worker.containers == 0));
}
