//! Several schedulers at once: nothing is lost, nothing is done twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use controlplane::model::{ContainerState, WorkerId};
use controlplane::scheduler::{Scheduler, SchedulerOptions};
use controlplane::store::{Containers as _, DeliveryKind, Outbox as _, Queue as _, SqlStore, Workers as _};

use crate::yard::{Yard, both, report};

both!(three_schedulers_share_the_work, a_silent_worker_is_lost);

const WORKERS: usize = 8;
const CONTAINERS: usize = 240;

/// A node: does what it is told until nothing is left.
async fn work(store: Arc<SqlStore>, worker: WorkerId, done: Arc<tokio::sync::Notify>) -> HashSet<u64> {
    let mut started = HashSet::new();
    let ended = done.notified();
    tokio::pin!(ended);
    loop {
        for delivery in store.deliveries(&worker, 0, 50).await.unwrap() {
            assert_eq!(delivery.kind, DeliveryKind::Dispatch);
            store.acknowledge(&worker, &[delivery.delivery]).await.unwrap();
            assert!(
                started.insert(delivery.lease.fencing_token),
                "{delivery:?} came again after its acknowledgement"
            );
            for state in [ContainerState::Running, ContainerState::Exited] {
                store.report(&worker, &report(&delivery.lease, state)).await.unwrap();
            }
        }
        tokio::select! {
            () = &mut ended => return started,
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
}

async fn three_schedulers_share_the_work(yard: Yard) {
    let yard = Arc::new(yard);
    let options = SchedulerOptions {
        batch: 16,
        look: Duration::from_millis(200),
        unpark: Duration::from_millis(200),
        ..SchedulerOptions::default()
    };
    let stop = Arc::new(tokio::sync::Notify::new());
    let mut schedulers = Vec::new();
    let mut counters = Vec::new();
    for _ in 0..3 {
        // SQLite has one process, and in it one store.
        let store =
            if yard.url.starts_with("sqlite") { Arc::clone(&yard.store) } else { yard.replica().await };
        let scheduler = Scheduler::new(store, options.clone());
        counters.push(scheduler.counters());
        let stop = Arc::clone(&stop);
        schedulers.push(tokio::spawn(scheduler.run(async move { stop.notified().await })));
    }
    let done = Arc::new(tokio::sync::Notify::new());
    let mut nodes = Vec::new();
    for node in 0..WORKERS {
        let worker = yard.register(&format!("node-{node}"), 1000, 1000).await;
        nodes.push(tokio::spawn(work(Arc::clone(&yard.store), worker, Arc::clone(&done))));
    }
    let submitters: Vec<_> = (0..3)
        .map(|part| {
            let yard = Arc::clone(&yard);
            tokio::spawn(async move {
                for n in (part..CONTAINERS).step_by(3) {
                    yard.submit(&format!("c{n}"), 300, 10).await;
                }
            })
        })
        .collect();
    for submitter in submitters {
        submitter.await.unwrap();
    }
    let all_ended = async {
        loop {
            let page = controlplane::model::PageRequest { size: 1, after: None };
            let active = yard.store.containers(&yard.workspace, true, &page).await.unwrap();
            if active.items.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all_ended).await.expect("all end");
    done.notify_waiters();
    stop.notify_waiters();
    let mut started = 0;
    for node in nodes {
        started += node.await.unwrap().len();
    }
    for scheduler in schedulers {
        scheduler.await.unwrap();
    }
    assert_eq!(started, CONTAINERS, "each was started once");
    let decisions: u64 = counters.iter().map(|counters| counters.decisions()).sum();
    assert_eq!(decisions, u64::try_from(CONTAINERS).unwrap());
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

async fn a_silent_worker_is_lost(yard: Yard) {
    let silent = yard.register("silent", 1000, 1000).await;
    let loud = yard.register_in("loud", "other", controlplane::model::Capacity::default()).await;
    yard.submit("c", 10, 10).await;
    let options = SchedulerOptions { lease: Duration::from_millis(600), ..SchedulerOptions::default() };
    let scheduler = Scheduler::new(Arc::clone(&yard.store) as _, options);
    let counters = scheduler.counters();
    let lost = async {
        loop {
            assert!(yard.beat(&loud).await);
            if counters.lost_workers() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), scheduler.run(lost))
        .await
        .expect("the silent worker is lost");
    assert_eq!((counters.decisions(), counters.lost_workers(), counters.taken_back()), (1, 1, 1));
    assert_eq!(yard.container("c").await.state, ContainerState::Queued);
    let live = yard.store.live_workers().await.unwrap();
    assert_eq!(live.iter().map(|(worker, ..)| worker).collect::<Vec<_>>(), [&loud.worker_id]);
    assert!(!yard.worker(&silent).await.live);
}
