//! [`controlplane::store::Queue`].

use std::collections::HashSet;
use std::time::Duration;

use controlplane::model::{Capacity, ContainerState, Demand};
use controlplane::store::{Queue as _, Topic, Workers as _};

use crate::yard::{Yard, both, digest};

both!(
    oldest_first_and_each_worker_told_once,
    fits_best,
    gpus_and_pools,
    near_goes_before_best,
    says_why_it_waits,
    what_comes_free_wakes_what_fits,
    finds_what_slipped,
    a_clock_that_was_set_back_stops_nobody,
    many_of_a_shape_in_batches,
    announces,
);

fn demand(cpu: i64, memory: i64) -> Demand {
    Demand { cpu, memory, ..Demand::default() }
}

async fn oldest_first_and_each_worker_told_once(yard: Yard) {
    for id in ["first", "second", "third"] {
        yard.submit(id, 400, 10).await;
        yard.clock.advance(Duration::from_millis(1));
    }
    let worker = yard.register("one", 1000, 1000).await;
    let placed = yard.store.place(1).await.unwrap();
    assert_eq!((placed.placed, placed.more), (1, true));
    let rest = yard.store.place(10).await.unwrap();
    assert_eq!((rest.placed, rest.parked, rest.more, rest.workers), (1, 1, false, vec![worker]));
    let tokens = [yard.lease("first").await.fencing_token, yard.lease("second").await.fencing_token];
    assert!(0 < tokens[0] && tokens[0] < tokens[1]);
    assert_eq!(yard.container("third").await.state, ContainerState::Queued);
    assert_eq!(yard.store.place(10).await.unwrap(), Default::default(), "nothing is left to do");
}

async fn fits_best(yard: Yard) {
    yard.register("large", 8000, 8000).await;
    yard.register("small", 2000, 1000).await;
    yard.register("tiny", 100, 100_000).await;
    for (id, cpu, memory, node) in [
        ("a", 1000, 500, "small"),
        ("b", 1000, 600, "large"),
        ("c", 50, 9000, "tiny"),
        ("d", 1000, 500, "small"),
    ] {
        yard.submit(id, cpu, memory).await;
        yard.place().await;
        assert_eq!(yard.node_of(id).await, node, "{id}");
    }
}

async fn gpus_and_pools(yard: Yard) {
    let gpu = |cpu, kind: &str, count| Capacity { cpu, memory: 1000, gpu: kind.to_owned(), gpu_count: count };
    yard.register_in("a100", "", gpu(4000, "A100", 8)).await;
    yard.register_in("t4", "", gpu(9000, "T4", 2)).await;
    yard.register_in("plain", "", gpu(1000, "", 0)).await;
    yard.register_in("pool", "special", gpu(1000, "T4", 1)).await;
    let cases = [
        ("plain", 900, "", 0, "", "plain"),
        ("a kind without a number", 100, "H100", 0, "", "plain"),
        ("spills over to a node with GPUs", 900, "", 0, "", "t4"),
        ("any", 1, "", 2, "", "t4"),
        ("any more", 1, "", 1, "", "a100"),
        ("kind", 1, "A100", 7, "", "a100"),
        ("too many", 1, "A100", 1, "", ""),
        ("unknown kind", 1, "H100", 1, "", ""),
        ("pool", 1, "T4", 1, "special", "pool"),
        ("no such pool", 1, "", 0, "nowhere", ""),
    ];
    for (id, cpu, kind, count, pool, node) in cases {
        let demand = Demand {
            cpu,
            memory: 10,
            gpu: kind.to_owned(),
            gpu_count: count,
            pool_selector: pool.to_owned(),
        };
        yard.try_submit(id, "a", demand).await.unwrap();
        yard.place().await;
        assert_eq!(yard.node_of(id).await, node, "{id}");
    }
}

async fn near_goes_before_best(yard: Yard) {
    let near =
        yard.register_in("near", "", Capacity { cpu: 9000, memory: 9000, ..Capacity::default() }).await;
    let nearer =
        yard.register_in("nearer", "", Capacity { cpu: 5000, memory: 9000, ..Capacity::default() }).await;
    for n in 0..20 {
        yard.register(&format!("far-{n}"), 1000, 1000).await;
    }
    for worker in [&near, &nearer] {
        yard.store.set_cached_images(&worker.worker_id, worker.epoch, &[digest("b")]).await.unwrap();
    }
    for n in 0..16 {
        yard.try_submit(&format!("b{n:02}"), "b", demand(1000, 10)).await.unwrap();
        yard.clock.advance(Duration::from_millis(1));
    }
    yard.try_submit("c", "c", demand(1000, 10)).await.unwrap();
    assert_eq!(yard.place().await, (17, 0));
    for n in 0..16 {
        let node = yard.node_of(&format!("b{n:02}")).await;
        let expected = match n {
            0..5 => "nearer",
            5..14 => "near",
            _ => "far",
        };
        assert!(node == expected || (expected == "far" && node.starts_with("far-")), "{n}: {node}");
    }
    assert!(yard.node_of("c").await.starts_with("far-"));
}

async fn says_why_it_waits(yard: Yard) {
    for n in 0..12 {
        yard.register(&format!("n{n}"), 1000, 8000).await;
    }
    let gpus = Demand { gpu_count: 4, pool_selector: "gpu-a100".to_owned(), ..demand(1, 1) };
    yard.try_submit("gpus", "a", gpus).await.unwrap();
    yard.submit("huge", 2000, 10).await;
    for n in 0..13 {
        yard.submit(&format!("c{n}"), 800, 4096).await;
        yard.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(yard.place().await, (12, 3));
    for (id, why) in [
        ("gpus", "pool gpu-a100 has no worker"),
        ("huge", "no worker of the default pool is large enough: needs 2000 millicores, 10 MiB"),
        ("c12", "all 12 fitting workers of the default pool are full: needs 800 millicores, 4096 MiB"),
    ] {
        assert_eq!(yard.container(id).await.waiting, why);
    }
    assert_eq!(yard.container("c0").await.waiting, "");
}

async fn what_comes_free_wakes_what_fits(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    for (id, cpu) in [("running", 1000), ("huge", 5000), ("old", 600), ("young", 300), ("last", 300)] {
        yard.submit(id, cpu, 10).await;
        yard.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(yard.place().await, (1, 4));
    let lease = yard.lease("running").await;
    yard.report(&one, &lease, ContainerState::Exited).await.unwrap();
    assert_eq!(yard.store.queue_length().await.unwrap(), (2, 2));
    assert_eq!(yard.place().await, (2, 0));
    assert_eq!(
        (yard.node_of("old").await, yard.node_of("young").await),
        ("one".to_owned(), "one".to_owned())
    );
    // The same reason again is no news.
    let events =
        controlplane::store::Containers::events(&*yard.store, &yard.workspace, &"huge".into(), 0, 10).await;
    assert_eq!(events.unwrap().len(), 2);
}

async fn finds_what_slipped(yard: Yard) {
    for (id, cpu) in [("huge", 5000), ("one", 600), ("two", 600)] {
        yard.submit(id, cpu, 10).await;
        yard.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(yard.place().await, (0, 3));
    assert_eq!(yard.store.unpark(10).await.unwrap(), 0);
    // Room for one: it wakes the older one, who is stopped before he is placed. Nothing comes free by that.
    yard.register("node", 700, 1000).await;
    yard.stop("one").await;
    assert_eq!(yard.place().await, (0, 0));
    assert_eq!(yard.store.unpark(10).await.unwrap(), 1);
    assert_eq!(yard.place().await, (1, 0));
    assert_eq!(yard.node_of("two").await, "node");
    assert_eq!(yard.store.unpark(10).await.unwrap(), 0);
}

async fn a_clock_that_was_set_back_stops_nobody(yard: Yard) {
    let hour = Duration::from_secs(3600);
    yard.clock.advance(hour);
    yard.submit("c", 10, 10).await;
    // No clock of the store's can go back: another replica's has not gone so far.
    let behind = std::sync::Arc::new(controlplane::model::ManualClock::default());
    let store = controlplane::store::open(&yard.url, behind).await.unwrap();
    yard.register("one", 1000, 1000).await;
    assert_eq!(store.place(10).await.unwrap().placed, 1);
}

async fn many_of_a_shape_in_batches(yard: Yard) {
    for n in 0..30 {
        yard.register(&format!("n{n}"), 1000, 1000).await;
    }
    for n in 0..150 {
        yard.submit(&format!("c{n:03}"), 300, 1).await;
    }
    let (mut placed, mut parked) = (0, 0);
    loop {
        let pass = yard.store.place(64).await.unwrap();
        placed += pass.placed;
        parked += pass.parked;
        let told: HashSet<_> = pass.workers.iter().collect();
        assert_eq!(told.len(), pass.workers.len());
        if !pass.more {
            break;
        }
    }
    assert_eq!((placed, parked), (90, 60));
    assert!(yard.workers().await.iter().all(|worker| worker.free.cpu == 100 && worker.containers == 3));
}

async fn announces(yard: Yard) {
    use controlplane::store::Announcements as _;
    let other = yard.replica().await;
    let worker = yard.register("one", 1000, 1000).await;
    for store in [&yard.store, &other] {
        // Both hear it: who does it, and in PostgreSQL the other one too.
        if !std::sync::Arc::ptr_eq(store, &yard.store) && yard.url.starts_with("sqlite") {
            continue;
        }
        let mut topics = store.topics();
        let id = if std::sync::Arc::ptr_eq(store, &yard.store) { "c" } else { "d" };
        yard.submit(id, 10, 10).await;
        let wanted = [Topic::Queue, Topic::Worker(worker.clone())];
        let heard = async {
            let mut left: HashSet<Topic> = wanted.iter().cloned().collect();
            while !left.is_empty() {
                let topic = topics.next().await;
                if topic == Topic::Everything {
                    continue;
                }
                if topic == Topic::Queue {
                    yard.place().await;
                }
                left.remove(&topic);
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap();
    }
}
