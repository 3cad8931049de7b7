//! Registration, streams, deliveries, reports.

use std::time::Duration;

use api::v1;
use api::v1::control_message::Message;
use api::v1::worker_message::Message as FromWorker;
use controlplane::model::{ContainerState, LogPosition};
use controlplane::service::worker::WorkerSettings;
use controlplane::store::{Containers as _, Logs as _, Outbox as _, Workers as _};
use tonic::Code;

use super::bench::{Bench, change};

#[tokio::test]
async fn from_dispatch_to_end() {
    let bench = Bench::new().await;
    let mut worker = bench.connect("n1").await;
    bench.run("c", "public").await;
    let (delivery, dispatch) = worker.dispatch().await;
    let request = dispatch.request.unwrap();
    assert_eq!(
        (request.entry_point.as_slice(), request.container_id.as_str()),
        (["true".to_owned()].as_slice(), "c")
    );
    assert!(request.image_credentials.is_empty(), "anonymous, explicitly");
    assert!(dispatch.image.starts_with("registry.invalid/public@sha256:"), "{}", dispatch.image);
    let lease = dispatch.lease.unwrap();
    worker.ack(delivery).await;
    assert!(worker.report(&lease, v1::ContainerState::Mounting).await.is_none());
    assert!(worker.report(&lease, v1::ContainerState::Running).await.is_none());
    assert_eq!(bench.store.outbox_length().await.unwrap(), 0, "it was acknowledged before the reports");
    let log = v1::LogChunk { stream: 1, data: b"hello".to_vec(), offset: 0 };
    worker.say(FromWorker::Log(v1::ContainerLog { lease: Some(lease.clone()), log: Some(log) })).await;
    assert!(worker.report(&lease, v1::ContainerState::Exited).await.is_none());
    assert_eq!(bench.container("c").await.state, ContainerState::Exited);
    let logs = bench.store.logs(&bench.workspace, &"c".into(), LogPosition::default(), 10).await.unwrap();
    assert_eq!(logs.len(), 1);
    assert_eq!(logs[0].data, b"hello");
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again() {
    let bench = Bench::new().await;
    let registered = bench.register("n1").await;
    let mut worker = bench.open("n1", &registered, Vec::new()).await.unwrap();
    bench.run("c", "public").await;
    let (delivery, _) = worker.dispatch().await;
    drop(worker);
    let mut worker = bench.open("n1", &registered, Vec::new()).await.unwrap();
    let (again, dispatch) = worker.dispatch().await;
    assert_eq!(again, delivery);
    worker.ack(delivery).await;
    worker.report(&dispatch.lease.clone().unwrap(), v1::ContainerState::Running).await;
    // Acknowledged, and held: it does not come again.
    let mut worker = bench.open("n1", &registered, dispatch.lease.into_iter().collect()).await.unwrap();
    bench.run("d", "public").await;
    assert_eq!(worker.dispatch().await.1.lease.unwrap().container_id, "d");
    assert_eq!(bench.container("c").await.attempt, 1);
}

#[tokio::test]
async fn a_newer_stream_ends_the_older() {
    let bench = Bench::new().await;
    let registered = bench.register("n1").await;
    let mut older = bench.open("n1", &registered, Vec::new()).await.unwrap();
    let mut newer = bench.open("n1", &registered, Vec::new()).await.unwrap();
    assert_eq!(older.next().await.unwrap_err().code(), Code::Aborted);
    newer.say(FromWorker::Hello(v1::Hello::default())).await;
    assert_eq!(newer.next().await.unwrap_err().code(), Code::InvalidArgument, "Hello comes once");
}

#[tokio::test]
async fn an_older_registration_is_refused() {
    let bench = Bench::new().await;
    let old = bench.register("n1").await;
    let mut stream = bench.open("n1", &old, Vec::new()).await.unwrap();
    let new = bench.register("n1").await;
    assert_eq!(new.worker_id, old.worker_id);
    assert!(new.epoch > old.epoch);
    let refused = bench.open("n1", &old, Vec::new()).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    // The stream that was open learns it from its heartbeat.
    stream.say(FromWorker::Heartbeat(v1::Heartbeat::default())).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::FailedPrecondition);
    // Another node's worker does not exist.
    bench.register("n2").await;
    let foreign = bench.open("n2", &new, Vec::new()).await.err().unwrap();
    let absent = v1::RegisterWorkerResponse { worker_id: "nobody".to_owned(), ..new };
    let absent = bench.open("n2", &absent, Vec::new()).await.err().unwrap();
    assert_eq!((foreign.code(), foreign.message()), (absent.code(), absent.message()));
    assert_eq!(foreign.code(), Code::NotFound);
}

#[tokio::test]
async fn a_token_belongs_to_the_node_that_used_it_first() {
    let bench = Bench::new().await;
    bench.token("unbound").await;
    bench.try_register("unbound", "n1").await.unwrap();
    bench.try_register("unbound", "n1").await.unwrap();
    assert_eq!(bench.try_register("unbound", "n2").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(bench.try_register("n3", "n4").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(bench.try_register("n3", "../n3").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn reports_of_a_lease_that_has_ended_are_fenced_off() {
    let bench = Bench::with(WorkerSettings { max_attempts: 9, ..WorkerSettings::default() }).await;
    let mut worker = bench.connect("n1").await;
    bench.run("c", "public").await;
    let (delivery, dispatch) = worker.dispatch().await;
    let stale = dispatch.lease.unwrap();
    worker.ack(delivery).await;
    worker.report(&stale, v1::ContainerState::Running).await;
    let known = bench.store.live_workers().await.unwrap();
    let (id, _, beat) = known.first().unwrap();
    assert_eq!(bench.store.lose_worker(id, *beat, 9).await.unwrap(), Some(1));
    let revoked = worker.report(&stale, v1::ContainerState::Exited).await.expect("it is told to stop");
    assert_eq!(revoked.lease.as_ref(), Some(&stale));
    assert_eq!(bench.container("c").await.state, ContainerState::Queued);
    // It comes again, says what it holds, and is told at once.
    let registered = bench.register("n1").await;
    let mut worker = bench.open("n1", &registered, vec![stale.clone()]).await.unwrap();
    match worker.next().await.unwrap().message.unwrap() {
        Message::Revoke(revoke) => assert_eq!(revoke.lease, Some(stale)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_acknowledged_and_not_held_is_given_to_somebody_again() {
    let bench = Bench::new().await;
    let registered = bench.register("n1").await;
    let mut worker = bench.open("n1", &registered, Vec::new()).await.unwrap();
    bench.run("c", "public").await;
    let (delivery, dispatch) = worker.dispatch().await;
    worker.ack(delivery).await;
    worker.report(&dispatch.lease.unwrap(), v1::ContainerState::Running).await;
    let _worker = bench.open("n1", &registered, Vec::new()).await.unwrap();
    bench.until("c", |container| container.state == ContainerState::Queued).await;
}

#[tokio::test]
async fn a_cancellation_is_delivered() {
    let bench = Bench::new().await;
    let mut worker = bench.connect("n1").await;
    bench.run("c", "public").await;
    let (delivery, dispatch) = worker.dispatch().await;
    worker.ack(delivery).await;
    bench.store.stop(&change(&bench.workspace, "c"), &"c".into()).await.unwrap();
    let message = worker.next().await.unwrap();
    match message.message.unwrap() {
        Message::Cancel(cancel) => assert_eq!(cancel.lease, dispatch.lease),
        other => panic!("{other:?}"),
    }
    assert!(message.delivery > delivery);
}

#[tokio::test]
async fn who_talks_without_pause_hears_a_cancellation() {
    let bench = Bench::new().await;
    let mut worker = bench.connect("n1").await;
    bench.run("c", "public").await;
    let (delivery, dispatch) = worker.dispatch().await;
    let lease = dispatch.lease.unwrap();
    worker.ack(delivery).await;
    worker.report(&lease, v1::ContainerState::Running).await;
    let talk = tokio::spawn(worker.talk(lease.clone()));
    // The first words are there, and others wait.
    while bench.store.logs(&bench.workspace, &"c".into(), LogPosition::default(), 1).await.unwrap().is_empty()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.store.stop(&change(&bench.workspace, "c"), &"c".into()).await.unwrap();
    let cancelled = async {
        loop {
            match worker.next().await.unwrap().message.unwrap() {
                Message::Cancel(cancel) => return cancel.lease,
                Message::Received(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let cancelled = tokio::time::timeout(Duration::from_secs(20), cancelled).await;
    assert_eq!(cancelled.expect("it hears nothing"), Some(lease));
    assert!(!talk.is_finished(), "it went on talking");
    talk.abort();
}

#[tokio::test]
async fn messages_without_sense_are_answered_and_forgotten() {
    let bench = Bench::new().await;
    let mut worker = bench.connect("n1").await;
    let lease =
        v1::Lease { workspace_id: "none".to_owned(), container_id: "none".to_owned(), ..Default::default() };
    assert!(worker.report(&lease, v1::ContainerState::Queued).await.is_none());
    assert!(worker.report(&lease, v1::ContainerState::Running).await.is_some(), "nothing that it may run");
    bench.run("c", "public").await;
    assert_eq!(worker.dispatch().await.1.lease.unwrap().container_id, "c");
}

#[tokio::test]
async fn streams_grow_old() {
    let age = Duration::from_millis(200);
    let bench = Bench::with(WorkerSettings { stream_age: age, ..WorkerSettings::default() }).await;
    let mut worker = bench.connect("n1").await;
    assert_eq!(worker.next().await.unwrap_err().code(), Code::Unavailable);
}
