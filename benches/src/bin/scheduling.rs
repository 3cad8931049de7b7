//! `make bench`: what a decision of the scheduler costs, and how that grows; how long it takes from a submission to its dispatch.
//!
//! Each row has a database of its own, durable as in production: SQLite in a file, PostgreSQL a server of its own on this machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use benches::report::{Row, json, table};
use clap::Parser;
use controlplane::model::{
    Capacity, ClipIndexInfo, ContainerId, ContainerState, Demand, Image, ImageCredentialSource, Lease,
    NewContainer, Registration, Report, SystemClock, Time, WorkerId, WorkspaceId,
};
use controlplane::scheduler::{Scheduler, SchedulerOptions};
use controlplane::store::{
    Announcements as _, Change, Containers as _, Images as _, Indexes as _, Outbox as _, Queue as _,
    SecretChange, SqlStore, Topic, Workers as _, Workspaces as _, migrate, open,
};
use fixtures::postgres::{Durability, Postgres};

/// Decisions a second that are wanted.
const GOAL: f64 = 1000.0;
/// Milliseconds from a submission to its dispatch that are wanted, at the median.
const GOAL_LATENCY: f64 = 10.0;
/// Containers of one transaction: the scheduler's default.
const BATCH: u32 = 256;
/// Submissions that are timed one after the other.
const SUBMISSIONS: usize = 300;
/// Submissions at once while the queue is filled.
const FILLERS: usize = 16;

/// Measures the scheduler.
#[derive(Debug, Parser)]
struct Args {
    /// Where databases go.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Queues of 2,000 instead of 10,000.
    #[arg(long)]
    quick: bool,
    /// Also write the rows as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    use std::io::Write as _;
    let args = Args::parse();
    let postgres = tokio::task::spawn_blocking(|| Postgres::start(Durability::Machine)).await?;
    let long = if args.quick { 2000 } else { 10_000 };
    let mut rows = Vec::new();
    let mut out = std::io::stdout();
    for database in ["SQLite", "PostgreSQL"] {
        for workers in [10, 1000] {
            for queued in [100, long] {
                for schedulers in [1, 3] {
                    let dir = tempfile::tempdir_in(&args.dir)?;
                    let url = match database {
                        "SQLite" => format!("sqlite://{}/control.db", dir.path().display()),
                        _ => postgres.database(),
                    };
                    let rate = decisions(&url, workers, queued, schedulers).await?;
                    let row = Row {
                        what: format!(
                            "{database}, {workers} workers, {queued} queued, {schedulers} schedulers"
                        ),
                        ours: rate,
                        unit: "decisions/s",
                        peer: None,
                        goal: "1000/s",
                        reached: rate >= GOAL,
                    };
                    out.write_all(table(std::slice::from_ref(&row)).as_bytes())?;
                    out.flush()?;
                    rows.push(row);
                }
            }
        }
    }
    let dir = tempfile::tempdir_in(&args.dir)?;
    let latency = latency(&format!("sqlite://{}/control.db", dir.path().display())).await?;
    out.write_all(table(&latency).as_bytes())?;
    rows.extend(latency);
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&json(&rows))?)?;
    }
    Ok(())
}

/// A store with a workspace and an image.
struct Ground {
    store: Arc<SqlStore>,
    workspace: WorkspaceId,
}

impl Ground {
    async fn new(url: &str) -> Result<Self> {
        migrate(url).await?;
        let store = open(url, Arc::new(SystemClock)).await?;
        let mut change = Change { actor: "bench", workspace: None, action: "Bench", target: "", key: None };
        let workspace = store.create_workspace(&change, "bench").await?.into_inner().workspace_id;
        change.workspace = Some(&workspace);
        let index = ClipIndexInfo { index_digest: "index".to_owned(), index_bytes: 1, pieces: 1 };
        store.begin_clip_index(&index).await?;
        store.put_clip_index_piece("index", 0, b"x").await?;
        store.complete_clip_index("index").await?;
        let image = Image {
            image_id: "image".into(),
            workspace_id: workspace.clone(),
            base_image: "registry.invalid/image:1".to_owned(),
            registry: "registry.invalid".to_owned(),
            digest: "sha256:0".to_owned(),
            platform: "linux/amd64".to_owned(),
            credentials: ImageCredentialSource::Anonymous,
            index_digest: "index".to_owned(),
            image_bytes: 1,
            index_bytes: 1,
            files: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        store.put_image(&change, &image, &SecretChange::None).await?;
        Ok(Self { store, workspace })
    }

    async fn workers(&self, number: usize, cpu: i64) -> Result<Vec<WorkerId>> {
        let mut workers = Vec::with_capacity(number);
        for node in 0..number {
            let registration = Registration {
                node: format!("node-{node}"),
                capacity: Capacity { cpu, memory: 1 << 20, ..Capacity::default() },
                pool_selector: String::new(),
                version: String::new(),
            };
            workers.push(self.store.register_worker(&registration).await?.worker_id);
        }
        // A tenth of them holds the image.
        for worker in workers.iter().step_by(10) {
            self.store.set_cached_images(worker, 1, &["sha256:0".to_owned()]).await?;
        }
        Ok(workers)
    }

    async fn submit(&self, id: &str, cpu: i64) -> Result<()> {
        let new = NewContainer {
            container_id: ContainerId::from(id),
            workspace_id: self.workspace.clone(),
            image_id: "image".into(),
            request: "{}".to_owned(),
            demand: Demand { cpu, memory: 1, ..Demand::default() },
        };
        let change = Change {
            actor: "bench",
            workspace: Some(&self.workspace),
            action: "Bench",
            target: id,
            key: None,
        };
        self.store.submit(&change, &new).await?;
        Ok(())
    }
}

/// Decisions a second while a queue is emptied into workers that have room for all of it, just.
async fn decisions(url: &str, workers: usize, queued: usize, schedulers: usize) -> Result<f64> {
    const CPUS: [i64; 4] = [100, 200, 300, 400];
    let ground = Arc::new(Ground::new(url).await?);
    let each = i64::try_from(queued.div_ceil(workers))? * 400 + 400;
    ground.workers(workers, each).await?;
    let fillers: Vec<_> = (0..FILLERS)
        .map(|filler| {
            let ground = Arc::clone(&ground);
            tokio::spawn(async move {
                for n in (filler..queued).step_by(FILLERS) {
                    ground.submit(&format!("c{n}"), CPUS[n % CPUS.len()]).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for filler in fillers {
        filler.await??;
    }
    let mut stores = vec![Arc::clone(&ground.store)];
    while stores.len() < schedulers {
        // Replicas where there can be some.
        stores.push(if url.starts_with("sqlite") {
            Arc::clone(&ground.store)
        } else {
            open(url, Arc::new(SystemClock)).await?
        });
    }
    let start = Instant::now();
    let tasks: Vec<_> = stores
        .into_iter()
        .map(|store| {
            tokio::spawn(async move {
                let mut placed = 0;
                loop {
                    let pass = store.place(BATCH).await?;
                    placed += pass.placed;
                    if !pass.more && pass.placed == 0 {
                        return anyhow::Ok(placed);
                    }
                    if pass.placed == 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            })
        })
        .collect();
    let mut placed = 0;
    for task in tasks {
        placed += task.await??;
    }
    let took = start.elapsed();
    anyhow::ensure!(placed == u64::try_from(queued)?, "{placed} of {queued} placed");
    Ok(f64::from(u32::try_from(placed)?) / took.as_secs_f64())
}

/// From `submit` to a message in the outbox that its worker's stream has seen, one at a time.
async fn latency(url: &str) -> Result<Vec<Row>> {
    let ground = Ground::new(url).await?;
    let worker = ground.workers(1, 1000).await?.pop().context("a worker")?;
    let stop = Arc::new(tokio::sync::Notify::new());
    let scheduler = Scheduler::new(
        Arc::clone(&ground.store) as _,
        SchedulerOptions { lease: Duration::from_secs(3600), ..SchedulerOptions::default() },
    );
    let stopped = Arc::clone(&stop);
    let running = tokio::spawn(scheduler.run(async move { stopped.notified().await }));
    let mut topics = ground.store.topics();
    let mut times = Vec::with_capacity(SUBMISSIONS);
    for n in 0..SUBMISSIONS {
        let start = Instant::now();
        ground.submit(&format!("c{n}"), 1000).await?;
        let delivery = loop {
            if !matches!(topics.next().await, Topic::Worker(_) | Topic::Everything) {
                continue;
            }
            if let Some(delivery) = ground.store.deliveries(&worker, 0, 1).await?.pop() {
                break delivery;
            }
        };
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        ground.store.acknowledge(&worker, &[delivery.delivery]).await?;
        ground.store.report(&worker, &ended(delivery.lease)).await?;
    }
    stop.notify_one();
    running.await?;
    times.sort_by(f64::total_cmp);
    let row = |what: &str, percent: usize, goal| Row {
        what: format!("SQLite, idle: submission to dispatch, {what}"),
        ours: times[(times.len() - 1) * percent / 100],
        unit: "ms",
        peer: None,
        goal,
        reached: times[(times.len() - 1) * percent / 100] <= GOAL_LATENCY,
    };
    Ok(vec![row("median", 50, "10 ms"), row("99 of 100", 99, "10 ms (of the median)")])
}

fn ended(lease: Lease) -> Report {
    let state = ContainerState::Exited;
    Report { lease, state, exit_code: 0, reason: String::new(), reason_code: 0, cost: None }
}
