//! [`controlplane::store::Workers`].

use std::time::Duration;

use controlplane::model::{Beat, Capacity, ContainerState, PageRequest};
use controlplane::store::{Containers as _, DeliveryKind, Outbox as _, StoreError, Workers as _};

use crate::yard::{Yard, both, digest, kinds};

both!(
    registers_again,
    beats,
    capacity_moves_by_the_difference,
    is_lost_unless_it_has_beaten,
    losses_are_bounded,
    a_stop_ends_what_is_lost,
    registration_wakes_what_waits,
    cached_images_are_replaced,
    pages,
);

fn cpus(cpu: i64) -> Capacity {
    Capacity { cpu, memory: 1000, ..Capacity::default() }
}

async fn registers_again(yard: Yard) {
    let first = yard.register_in("one", "", cpus(1000)).await;
    assert_eq!((first.epoch, first.live, first.containers), (1, true, 0));
    yard.submit("c", 300, 10).await;
    yard.place().await;
    let again = yard.register_in("one", "", cpus(2000)).await;
    assert_eq!(again.worker_id, first.worker_id);
    assert!(again.epoch > first.epoch);
    assert_eq!((again.free.cpu, again.total.cpu, again.containers), (1700, 2000, 1));
    // Messages of the registration before are refused.
    assert!(!yard.beat(&first).await);
    assert!(yard.beat(&again).await);
    let stale = yard.store.set_capacity(&first.worker_id, first.epoch, &cpus(1)).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    let stale = yard.store.set_cached_images(&first.worker_id, first.epoch, &[]).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    // And what it was to be told it is told again.
    assert_eq!(kinds(&yard.deliveries(&first.worker_id).await), [DeliveryKind::Dispatch]);
}

async fn beats(yard: Yard) {
    let (one, two) = (yard.register_in("one", "", cpus(1)).await, yard.register_in("two", "", cpus(1)).await);
    let before = yard.store.live_workers().await.unwrap();
    assert_eq!(before.len(), 2);
    yard.clock.advance(Duration::from_secs(5));
    let beat = |worker: &controlplane::model::Worker, epoch, draining| Beat {
        worker_id: worker.worker_id.clone(),
        epoch,
        draining,
    };
    let refused = yard.store.beat(&[beat(&two, 9, false), beat(&one, one.epoch, true)]).await.unwrap();
    assert_eq!(refused, [two.worker_id.clone()]);
    let heard = yard.worker(&one.worker_id).await;
    assert_eq!((heard.beat, heard.draining), (one.beat + 1, true));
    assert!(heard.heartbeat_time > one.heartbeat_time);
    assert_eq!(yard.worker(&two.worker_id).await.beat, two.beat);
    let unknown = Beat { worker_id: "nobody".into(), epoch: 1, draining: false };
    assert_eq!(yard.store.beat(&[unknown]).await.unwrap(), ["nobody".into()]);
    // One that drains gets nothing, and wakes what waited when it stops to.
    assert!(yard.store.lose_worker(&two.worker_id, two.beat, 3).await.unwrap().is_some());
    yard.submit("c", 1, 1).await;
    assert_eq!(yard.place().await, (0, 1));
    yard.store.beat(&[beat(&one, one.epoch, false)]).await.unwrap();
    assert_eq!(yard.place().await, (1, 0));
}

async fn capacity_moves_by_the_difference(yard: Yard) {
    let worker = yard.register_in("one", "", cpus(1000)).await;
    yard.submit("c", 300, 10).await;
    yard.submit("large", 900, 10).await;
    assert_eq!(yard.place().await, (1, 1));
    yard.store.set_capacity(&worker.worker_id, worker.epoch, &cpus(1500)).await.unwrap();
    assert_eq!(yard.worker(&worker.worker_id).await.free.cpu, 1200);
    // What waited is woken.
    assert_eq!(yard.place().await, (1, 0));
    yard.store.set_capacity(&worker.worker_id, worker.epoch, &cpus(1500)).await.unwrap();
    assert_eq!(yard.worker(&worker.worker_id).await.free.cpu, 300);
}

async fn is_lost_unless_it_has_beaten(yard: Yard) {
    let worker = yard.register_in("one", "", cpus(1000)).await;
    yard.submit("c", 300, 10).await;
    yard.place().await;
    let lease = yard.lease("c").await;
    assert!(yard.beat(&worker).await);
    assert_eq!(yard.store.lose_worker(&worker.worker_id, worker.beat, 3).await.unwrap(), None);
    assert_eq!(yard.store.lose_worker(&worker.worker_id, worker.beat + 1, 3).await.unwrap(), Some(1));
    assert_eq!(yard.store.lose_worker(&worker.worker_id, worker.beat + 1, 3).await.unwrap(), None);
    let lost = yard.worker(&worker.worker_id).await;
    assert!(!lost.live && lost.epoch > worker.epoch && lost.free == lost.total && lost.containers == 0);
    assert!(yard.deliveries(&worker.worker_id).await.is_empty());
    assert!(!yard.beat(&worker).await);
    assert!(yard.store.live_workers().await.unwrap().is_empty());
    let queued = yard.container("c").await;
    assert_eq!((queued.state, queued.attempt, &queued.worker_id), (ContainerState::Queued, 1, &None));
    assert!(queued.waiting.contains("worker one was lost"), "{}", queued.waiting);
    // It is not placed before its time, and what the lost one says of it is not believed.
    yard.register("two", 1000, 1000).await;
    assert_eq!(yard.place().await, (0, 0));
    for state in [ContainerState::Running, ContainerState::Exited] {
        let stale = yard.report(&worker.worker_id, &lease, state).await;
        assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    }
    yard.clock.advance(Duration::from_secs(2));
    assert_eq!(yard.place().await, (1, 0));
    let again = yard.lease("c").await;
    assert_eq!(again.attempt, 2);
    assert!(again.fencing_token > lease.fencing_token);
    let stale = yard.report(&worker.worker_id, &lease, ContainerState::Running).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
}

async fn losses_are_bounded(yard: Yard) {
    yard.submit("c", 300, 10).await;
    for attempt in 1..=3 {
        let worker = yard.register_in("one", "", cpus(1000)).await;
        yard.clock.advance(Duration::from_secs(60));
        assert_eq!(yard.place().await, (1, 0), "attempt {attempt}");
        assert_eq!(yard.store.lose_worker(&worker.worker_id, worker.beat, 3).await.unwrap(), Some(1));
    }
    let failed = yard.container("c").await;
    assert_eq!((failed.state, failed.reason_code, failed.attempt), (ContainerState::Failed, 14, 3));
    assert_eq!(failed.reason, "worker one was lost; that was attempt 3 of 3");
    assert!(failed.end_time.is_some());
}

async fn a_stop_ends_what_is_lost(yard: Yard) {
    let worker = yard.register_in("one", "", cpus(1000)).await;
    yard.submit("c", 300, 10).await;
    yard.place().await;
    assert!(yard.stop("c").await.stop_asked);
    yard.store.lose_worker(&worker.worker_id, worker.beat, 3).await.unwrap();
    let ended = yard.container("c").await;
    assert_eq!((ended.state, ended.reason_code), (ContainerState::Failed, 1));
}

async fn registration_wakes_what_waits(yard: Yard) {
    for (id, cpu) in [("large", 5000), ("old", 600), ("young", 600)] {
        yard.submit(id, cpu, 10).await;
        yard.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(yard.place().await, (0, 3));
    assert_eq!(yard.container("old").await.waiting, "the default pool has no worker");
    yard.register("one", 1000, 1000).await;
    // Only what fits together, the oldest first.
    assert_eq!(controlplane::store::Queue::queue_length(&*yard.store).await.unwrap(), (1, 2));
    assert_eq!(yard.place().await, (1, 0));
    assert_eq!(yard.node_of("old").await, "one");
}

async fn cached_images_are_replaced(yard: Yard) {
    let near = yard.register_in("near", "", cpus(8000)).await;
    yard.register("far", 1000, 1000).await;
    yard.store.set_cached_images(&near.worker_id, near.epoch, &[]).await.unwrap();
    let many: Vec<String> =
        (0..100).map(|n| digest(&n.to_string())).chain([digest("a"), digest("a")]).collect();
    // Twice the same changes nothing.
    let images = many.clone();
    yard.store.set_cached_images(&near.worker_id, near.epoch, &images).await.unwrap();
    yard.store.set_cached_images(&near.worker_id, near.epoch, &images).await.unwrap();
    yard.submit("one", 100, 10).await;
    yard.place().await;
    assert_eq!(yard.node_of("one").await, "near", "who holds the image goes before who fits best");
    yard.store.set_cached_images(&near.worker_id, near.epoch, &many[..100]).await.unwrap();
    yard.submit("two", 100, 10).await;
    yard.place().await;
    assert_eq!(yard.node_of("two").await, "far");
}

async fn pages(yard: Yard) {
    for node in 0..5 {
        yard.register(&format!("node-{node}"), 1, 1).await;
    }
    let mut seen = Vec::new();
    let mut request = PageRequest { size: 2, after: None };
    loop {
        let page = yard.store.workers(&request).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.into_iter().map(|worker| worker.worker_id));
        request.after = page.next;
        if request.after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted());
    assert_eq!(yard.store.outbox_length().await.unwrap(), 0);
    let nobody = yard.store.reconcile(&"nobody".into(), &[], 3).await.unwrap();
    assert!(nobody.is_empty());
}
