//! [`controlplane::store::Containers`].

use std::time::Duration;

use controlplane::model::{ContainerId, ContainerState, Demand, PageRequest, StartCost, WorkspaceId};
use controlplane::store::{
    Change, Containers as _, DeliveryKind, Done, Images as _, Outbox as _, StoreError, Workers as _,
    Workspaces as _,
};

use crate::yard::{Yard, both, change, kinds, lease_of, report};

both!(
    submits_once,
    runs_forwards_only,
    a_final_report_counts_once,
    a_failure_has_a_code,
    stops,
    takes_back_what_a_worker_does_not_have,
    gives_back_without_counting,
    dispatched_only_while_it_stands,
    workspaces_are_apart,
    pages_newest_first,
);

fn demand(cpu: i64) -> Demand {
    Demand { cpu, memory: 10, ..Demand::default() }
}

async fn submits_once(yard: Yard) {
    let first = yard.try_submit("c", "a", demand(1)).await.unwrap();
    let Done::Now(container) = first else { panic!("{first:?}") };
    assert_eq!((container.state, container.attempt, container.fencing_token), (ContainerState::Queued, 0, 0));
    assert_eq!(yard.try_submit("c", "a", demand(1)).await.unwrap(), Done::Replayed(container));
    for other in [yard.try_submit("c", "b", demand(1)).await, yard.try_submit("c", "a", demand(2)).await] {
        assert!(matches!(other, Err(StoreError::Exists("container"))), "{other:?}");
    }
    let nothing = yard.try_submit("d", "nowhere", demand(1)).await;
    assert!(matches!(nothing, Err(StoreError::NotFound("image"))), "{nothing:?}");
    let events = yard.store.events(&yard.workspace, &"c".into(), 0, 10).await.unwrap();
    assert_eq!(events.len(), 1);
    // An image of which a container waits stays.
    let kept = yard.store.delete_image(&change(&yard.workspace, "a"), &"a".into()).await;
    assert!(matches!(kept, Err(StoreError::Conflict(_))), "{kept:?}");
}

async fn runs_forwards_only(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    yard.submit("c", 100, 10).await;
    yard.place().await;
    let lease = yard.lease("c").await;
    let running = yard.report(&one, &lease, ContainerState::Running).await.unwrap();
    assert_eq!(running.state, ContainerState::Running);
    assert!(running.start_time.is_some());
    for state in
        [ContainerState::Queued, ContainerState::Scheduled, ContainerState::Mounting, ContainerState::Running]
    {
        assert_eq!(yard.report(&one, &lease, state).await.unwrap(), running, "{state:?}");
    }
    yard.clock.advance(Duration::from_secs(3));
    let cost = StartCost { mount_micros: 5, start_micros: 6, fetched_bytes: 7, image_bytes: 8 };
    let mut exit = report(&lease, ContainerState::Exited);
    exit.cost = Some(cost);
    let exited = yard.store.report(&one, &exit).await.unwrap();
    assert_eq!((exited.exit_code, exited.cost, exited.start_time), (7, Some(cost), running.start_time));
    assert!(exited.end_time > exited.start_time);
    assert_eq!(yard.container("c").await, exited);
    let states: Vec<ContainerState> = yard
        .store
        .events(&yard.workspace, &"c".into(), 0, 100)
        .await
        .unwrap()
        .into_iter()
        .map(|(_, _, container)| container.state)
        .collect();
    use ContainerState::{Exited, Queued, Running, Scheduled};
    assert_eq!(states, [Queued, Scheduled, Running, Exited]);
}

async fn a_final_report_counts_once(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    let two = yard.register("two", 10, 10).await;
    yard.submit("c", 100, 10).await;
    yard.place().await;
    let lease = yard.lease("c").await;
    let exited = yard.report(&one, &lease, ContainerState::Exited).await.unwrap();
    assert_eq!(yard.worker(&one).await.free.cpu, 1000);
    // Again, otherwise, and by another.
    assert_eq!(yard.report(&one, &lease, ContainerState::Exited).await.unwrap(), exited);
    assert_eq!(yard.report(&one, &lease, ContainerState::Failed).await.unwrap(), exited);
    assert_eq!(yard.report(&one, &lease, ContainerState::Running).await.unwrap(), exited);
    let stranger = yard.report(&two, &lease, ContainerState::Exited).await;
    assert!(matches!(stranger, Err(StoreError::Stale(_))), "{stranger:?}");
    for (attempt, fencing_token) in [(2, lease.fencing_token), (1, lease.fencing_token + 1), (1, u64::MAX)] {
        let other = controlplane::model::Lease { attempt, fencing_token, ..lease.clone() };
        let stale = yard.report(&one, &other, ContainerState::Exited).await;
        assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    }
    assert_eq!(yard.worker(&one).await.free.cpu, 1000);
    assert_eq!(yard.store.events(&yard.workspace, &"c".into(), 0, 100).await.unwrap().len(), 3);
}

async fn a_failure_has_a_code(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    for (id, code, expected) in [("c", 0, 2), ("d", 9, 9)] {
        yard.submit(id, 100, 10).await;
        yard.place().await;
        let mut failure = report(&yard.lease(id).await, ContainerState::Failed);
        failure.reason_code = code;
        failure.reason = format!("no\0 {}", "é".repeat(5000));
        let failed = yard.store.report(&one, &failure).await.unwrap();
        assert_eq!(failed.reason_code, expected);
        assert!(failed.reason.len() <= 4096 && failed.reason.starts_with("no"), "{}", failed.reason.len());
        assert_eq!(failed.start_time, None);
    }
}

async fn stops(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    yard.submit("queued", 100, 10).await;
    let stopped = yard.stop("queued").await;
    assert_eq!((stopped.state, stopped.reason_code, stopped.stop_asked), (ContainerState::Failed, 1, true));
    assert_eq!(yard.stop("queued").await, stopped);
    yard.submit("large", 100_000, 10).await;
    assert_eq!(yard.place().await, (0, 1));
    assert_eq!(yard.stop("large").await.state, ContainerState::Failed);
    assert_eq!(controlplane::store::Queue::queue_length(&*yard.store).await.unwrap(), (0, 0));
    yard.submit("c", 100, 10).await;
    yard.place().await;
    let asked = yard.stop("c").await;
    assert_eq!((asked.state, asked.stop_asked), (ContainerState::Scheduled, true));
    assert_eq!(kinds(&yard.deliveries(&one).await), [DeliveryKind::Dispatch, DeliveryKind::Cancel]);
    yard.stop("c").await;
    assert_eq!(
        kinds(&yard.deliveries(&one).await),
        [DeliveryKind::Dispatch, DeliveryKind::Cancel],
        "told once"
    );
    let told: Vec<u64> = yard.deliveries(&one).await.iter().map(|delivery| delivery.delivery).collect();
    controlplane::store::Outbox::acknowledge(&*yard.store, &one, &told).await.unwrap();
    yard.stop("c").await;
    assert_eq!(kinds(&yard.deliveries(&one).await), [DeliveryKind::Cancel], "asked again, told again");
    let told = yard.deliveries(&one).await[0].delivery;
    controlplane::store::Outbox::acknowledge(&*yard.store, &one, &[told]).await.unwrap();
    yard.register("one", 1000, 1000).await;
    assert_eq!(
        kinds(&yard.deliveries(&one).await),
        [DeliveryKind::Cancel],
        "a worker that came back is told again"
    );
    let ended = yard.report(&one, &lease_of(&asked), ContainerState::Exited).await.unwrap();
    assert_eq!(yard.stop("c").await, ended, "what has ended stays as it is");
    let unknown = yard.store.stop(&change(&yard.workspace, "x"), &ContainerId::from("x")).await;
    assert!(matches!(unknown, Err(StoreError::NotFound("container"))), "{unknown:?}");
}

async fn takes_back_what_a_worker_does_not_have(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    for id in ["told", "untold", "held"] {
        yard.submit(id, 100, 10).await;
    }
    yard.place().await;
    let untold = yard.lease("untold").await;
    for delivery in yard.deliveries(&one).await {
        if delivery.lease != untold {
            yard.store.acknowledge(&one, &[delivery.delivery]).await.unwrap();
        }
    }
    let held = yard.lease("held").await;
    let stranger = controlplane::model::Lease { fencing_token: held.fencing_token + 100, ..held.clone() };
    let strangers = yard.store.reconcile(&one, &[stranger.clone(), held.clone()], 3).await.unwrap();
    assert_eq!(strangers, [stranger]);
    assert_eq!(yard.container("held").await.state, ContainerState::Scheduled);
    assert_eq!(yard.container("untold").await.state, ContainerState::Scheduled, "it has not been told yet");
    let back = yard.container("told").await;
    assert_eq!((back.state, back.attempt), (ContainerState::Queued, 1));
    assert_eq!(yard.worker(&one).await.free.cpu, 800);
    assert!(yard.store.reconcile(&one, &[held], 3).await.unwrap().is_empty());
}

async fn gives_back_without_counting(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    yard.submit("c", 100, 10).await;
    yard.place().await;
    let lease = yard.lease("c").await;
    yard.store.give_back(&one, &lease, Duration::from_secs(2)).await.unwrap();
    let queued = yard.container("c").await;
    assert_eq!((queued.state, queued.attempt), (ContainerState::Queued, 0));
    assert!(yard.deliveries(&one).await.is_empty());
    assert_eq!(yard.worker(&one).await.free.cpu, 1000);
    assert_eq!(yard.place().await, (0, 0));
    let wait = controlplane::store::Queue::next_ready(&*yard.store).await.unwrap();
    assert_eq!(wait, Some(Duration::from_secs(2)));
    yard.clock.advance(Duration::from_secs(2));
    assert_eq!(yard.place().await, (1, 0));
    let again = yard.lease("c").await;
    assert!(again.attempt == 1 && again.fencing_token > lease.fencing_token);
    let stale = yard.store.give_back(&one, &lease, Duration::ZERO).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    yard.report(&one, &again, ContainerState::Mounting).await.unwrap();
    let started = yard.store.give_back(&one, &again, Duration::ZERO).await;
    assert!(matches!(started, Err(StoreError::Conflict(_))), "{started:?}");
}

async fn dispatched_only_while_it_stands(yard: Yard) {
    let one = yard
        .register_in("one", "", controlplane::model::Capacity { cpu: 9, memory: 99, ..Default::default() })
        .await;
    yard.submit("c", 1, 10).await;
    yard.place().await;
    let lease = yard.lease("c").await;
    let (request, image) = yard.store.dispatched(&one.worker_id, &lease).await.unwrap().unwrap();
    assert_eq!((request.as_str(), image.image_id.as_str()), ("{\"image_id\":\"a\"}", "a"));
    assert!(yard.store.dispatched(&"two".into(), &lease).await.unwrap().is_none());
    let (workspace, image) = (&yard.workspace, &"a".into());
    assert!(yard.store.is_dispatched_to(workspace, image, &one.worker_id).await.unwrap());
    yard.store.lose_worker(&one.worker_id, one.beat, 3).await.unwrap();
    assert!(yard.store.dispatched(&one.worker_id, &lease).await.unwrap().is_none());
    assert!(!yard.store.is_dispatched_to(workspace, image, &one.worker_id).await.unwrap());
}

async fn workspaces_are_apart(yard: Yard) {
    let made = yard
        .store
        .create_workspace(&Change { workspace: None, ..change(&yard.workspace, "o") }, "other")
        .await;
    let other = made.unwrap().into_inner().workspace_id;
    yard.submit("c", 1, 10).await;
    assert!(yard.store.container(&other, &"c".into()).await.unwrap().is_none());
    assert!(yard.store.events(&other, &"c".into(), 0, 10).await.unwrap().is_empty());
    let stopped = yard.store.stop(&change(&other, "c"), &"c".into()).await;
    assert!(matches!(stopped, Err(StoreError::NotFound("container"))), "{stopped:?}");
    let mut new = yard.new_container("c", "a", demand(1));
    new.workspace_id = WorkspaceId::clone(&other);
    let image = yard.store.submit(&change(&other, "c"), &new).await;
    assert!(matches!(image, Err(StoreError::NotFound("image"))), "another workspace's image: {image:?}");
}

async fn pages_newest_first(yard: Yard) {
    for id in 0..6 {
        yard.submit(&format!("c{id}"), 1, 10).await;
        // Two of each time.
        yard.clock.advance(Duration::from_millis(id % 2));
    }
    yard.stop("c3").await;
    for (active, expected) in [(false, "c5 c4 c3 c2 c1 c0"), (true, "c5 c4 c2 c1 c0")] {
        let mut request = PageRequest { size: 2, after: None };
        let mut seen = Vec::new();
        loop {
            let page = yard.store.containers(&yard.workspace, active, &request).await.unwrap();
            seen.extend(page.items.into_iter().map(|container| container.container_id.to_string()));
            request.after = page.next;
            if request.after.is_none() {
                break;
            }
        }
        assert_eq!(seen.join(" "), expected);
    }
    let nonsense = PageRequest { size: 2, after: Some("x".to_owned()) };
    assert!(yard.store.containers(&yard.workspace, false, &nonsense).await.is_err());
}
