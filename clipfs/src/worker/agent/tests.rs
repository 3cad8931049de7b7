//! An agent between a scripted control plane and containers that are none.

use std::sync::atomic::Ordering;
use std::time::Duration;

use api::v1::ContainerState::{Exited, Failed, Mounting, Running};
use api::v1::control_message::Message;
use api::v1::worker_message::Message as FromWorker;

use super::*;
use crate::image::Merger;
use crate::index::ImageMeta;
use crate::oci::Digest;
use crate::worker::link::Link;
use crate::worker::runtime::{End, RuntimeOptions};
use crate::worker::tasks::Cost;
use crate::worker::{NodeCapacity, Options};

mod engine;
mod plane;

use engine::{Container, Fake};
use plane::{Line, Plane, lease as plane_lease};

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

pub(super) fn digest() -> Digest {
    Digest::of(MANIFEST)
}

/// A control plane, containers, directories; and a worker, if it was started.
struct Bench {
    plane: Plane,
    engine: Fake,
    options: Options,
    dir: tempfile::TempDir,
    worker: Option<tokio::runtime::Runtime>,
}

impl Bench {
    /// Without a worker.
    async fn new() -> Self {
        let plane = Plane::start().await;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("token"), "pl4nted-token").unwrap();
        let runtime = RuntimeOptions::new(path("state"), path("run"), path("cache"));
        let options = Options {
            control_plane: format!("http://{}", plane.address),
            node: "n".to_owned(),
            token_file: path("token"),
            ca: None,
            identity: None,
            state_dir: path("state"),
            run_dir: path("run"),
            secrets_on_disk: true,
            capacity: NodeCapacity::default(),
            pool: String::new(),
            runtime,
        };
        let indexes = Indexes::open(&path("cache")).unwrap();
        let mut file = std::fs::File::create_new(indexes.path(&digest())).unwrap();
        let meta = ImageMeta {
            manifest_digest: digest(),
            manifest: MANIFEST.to_vec(),
            config: b"{}".to_vec(),
            chunk: 1500,
        };
        crate::index::write(&mut file, &meta, &Merger::default().finish().unwrap(), &mut []).unwrap();
        Self { plane, engine: Fake::default(), options, dir, worker: None }
    }

    /// With one.
    async fn started() -> (Self, Line) {
        let mut bench = Self::new().await;
        let line = bench.start().await;
        (bench, line)
    }

    /// Starts a worker and waits for its stream.
    async fn start(&mut self) -> Line {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (options, engine) = (self.options.clone(), self.engine.clone());
        runtime.spawn(async move {
            let store = self::tasks(&options);
            let indexes = Indexes::open(&options.runtime.cache_dir).unwrap();
            let control = Control::new(&options).unwrap();
            let agent = Arc::new(Agent::new(engine, store, indexes, control));
            agent.adopt().await.unwrap();
            Link::new(agent, &options).run().await;
        });
        self.worker = Some(runtime);
        self.plane.line().await
    }

    /// As SIGKILL: nothing is said, nothing is finished.
    fn kill(&mut self) {
        let runtime = self.worker.take().unwrap();
        std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(10))).join().unwrap();
    }

    /// Waits until no task is written down.
    async fn until_forgotten(&self) {
        let tasks = self.dir.path().join("state/tasks");
        let empty = || std::fs::read_dir(&tasks).unwrap().next().is_none();
        self.engine.until("everything is forgotten", |_| empty()).await;
    }

    fn record(&self, token: u64, container: &str) -> Record {
        let record = Record {
            lease: lease(Some(plane_lease(token, container))).unwrap(),
            image_id: "i".to_owned(),
            image: "registry.test/app@sha256:0".to_owned(),
            digest: digest().to_string(),
            index_digest: "none".to_owned(),
            outcome: None,
            cost: Some(Cost::default()),
            logged: 0,
        };
        let store = tasks(&self.options);
        store.write(&record).unwrap();
        record
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.worker.is_some() {
            self.kill();
        }
    }
}

fn tasks(options: &Options) -> Tasks {
    Tasks::open(&options.state_dir, &options.run_dir, true).unwrap()
}

fn code(code: tonic::Code) -> i32 {
    code.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_dispatch_again_is_nothing_whenever_it_comes() {
    let (bench, mut line) = Bench::started().await;
    line.dispatch(1, 7, "c").await;
    line.until_ack(1).await;
    line.until_report(7, Running).await;
    line.dispatch(1, 7, "c").await;
    line.until_ack(1).await;
    bench.engine.end("7", 3);
    let (number, report) = line.until_report(7, Exited).await;
    assert_eq!(report.exit_code, 3);
    // Before its end is taken, and after.
    line.dispatch(1, 7, "c").await;
    line.until_ack(1).await;
    line.received(number).await;
    bench.until_forgotten().await;
    line.dispatch(1, 7, "c").await;
    line.until_ack(1).await;
    // Another one shows that nothing of it is under way.
    line.dispatch(2, 8, "other").await;
    line.until_report(8, Running).await;
    assert_eq!((bench.engine.count("mount 7"), bench.engine.count("start 7")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_dispatch_of_the_same_container_is_gone_before_the_newer_begins() {
    let (bench, mut line) = Bench::started().await;
    line.dispatch(1, 7, "c").await;
    line.until_report(7, Running).await;
    // The same attempt, given back and dispatched again.
    line.dispatch(2, 9, "c").await;
    line.until_report(9, Running).await;
    let place = |what: &str| bench.engine.place(what).unwrap_or_else(|| panic!("never: {what}"));
    assert!(place("stop 7") < place("clean 7") && place("clean 7") < place("mount 9"));
    // What is older than what is here is not taken.
    line.dispatch(3, 8, "c").await;
    line.until_ack(3).await;
    bench.engine.end("9", 0);
    line.until_report(9, Exited).await;
    assert_eq!(bench.engine.count("mount 8"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_before_an_acknowledgement_or_an_answer_changes_nothing() {
    let (mut bench, mut line) = Bench::started().await;
    line.dispatch(1, 7, "c").await;
    bench.engine.until("a start", |world| world.done.contains(&"start 7".to_owned())).await;
    drop(line);
    line = bench.plane.line().await;
    assert_eq!(line.held(), [7]);
    line.dispatch(1, 7, "c").await;
    line.until_ack(1).await;
    bench.engine.end("7", 4);
    let (first, _) = line.until_report(7, Exited).await;
    drop(line);
    line = bench.plane.line().await;
    assert_eq!(line.held(), [7], "its end was not taken");
    let (second, report) = line.until_report(7, Exited).await;
    assert_eq!((second, report.exit_code), (first, 4), "the same message again");
    line.received(second).await;
    bench.until_forgotten().await;
    drop(line);
    assert!(bench.plane.line().await.held().is_empty());
    assert_eq!((bench.engine.count("start 7"), bench.engine.count("clean 7")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_do_not_miss_a_control_plane_that_is_away() {
    let (mut bench, mut line) = Bench::started().await;
    line.dispatch(1, 7, "c").await;
    let (number, _) = line.until_report(7, Running).await;
    line.received(number).await;
    bench.plane.script.away.store(true, Ordering::SeqCst);
    drop(line);
    let refused = || bench.plane.script.refused.load(Ordering::SeqCst) >= 2;
    bench.engine.until("it comes again", |_| refused()).await;
    bench.engine.world().jobs.get_mut("7").unwrap().output = b"said meanwhile".to_vec();
    bench.engine.end("7", 5);
    bench.plane.script.away.store(false, Ordering::SeqCst);
    line = bench.plane.line().await;
    let (number, log) = loop {
        if let (number, FromWorker::Log(log)) = line.next().await {
            break (number, log.log.unwrap());
        }
    };
    assert_eq!((log.offset, log.data.as_slice()), (0, &b"said meanwhile"[..]));
    line.received(number).await;
    assert_eq!(line.until_report(7, Exited).await.1.exit_code, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_worker_goes_on_and_asks_for_credentials_that_were_lost() {
    let (mut bench, mut line) = Bench::started().await;
    line.dispatch(1, 7, "c").await;
    line.dispatch(2, 8, "d").await;
    line.until_report(8, Running).await;
    bench.engine.until("both run", |world| world.jobs.values().filter(|job| job.runs).count() == 2).await;
    bench.kill();
    drop(line);
    std::fs::remove_dir_all(bench.dir.path().join("run/8")).unwrap();
    "pl4nted-now".clone_into(&mut bench.plane.script.credentials.lock().unwrap());
    line = bench.start().await;
    assert_eq!(line.held(), [7, 8]);
    let newer = |world: &engine::World| world.jobs["8"].credentials == "pl4nted-now";
    bench.engine.until("credentials are there again", newer).await;
    assert_eq!(*bench.plane.script.asked.lock().unwrap(), [8]);
    let request = std::fs::read_to_string(bench.dir.path().join("run/8/request.json")).unwrap();
    assert!(request.contains("pl4nted-now"));
    bench.engine.end("7", 0);
    line.until_report(7, Exited).await;
    assert_eq!((bench.engine.count("start 7"), bench.engine.count("start 8")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_not_taken_is_told_by_the_next_worker() {
    let (mut bench, mut line) = Bench::started().await;
    line.dispatch(1, 7, "c").await;
    line.until_report(7, Running).await;
    bench.engine.end("7", 6);
    line.until_report(7, Exited).await;
    bench.engine.until("it is clean", |world| world.done.contains(&"clean 7".to_owned())).await;
    bench.kill();
    line = bench.start().await;
    let (number, report) = line.until_report(7, Exited).await;
    assert_eq!(report.exit_code, 6, "as it was written down: nothing else knows it");
    line.received(number).await;
    bench.until_forgotten().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_attempts_that_a_dead_worker_has_left_do_not_run_together() {
    let mut bench = Bench::new().await;
    for token in [7, 9] {
        let record = bench.record(token, "c");
        let store = tasks(&bench.options);
        store.write_request(&record.key(), br#"{"container_id":"c"}"#).unwrap();
    }
    let runs = Container { mounted: true, runs: true, ..Container::default() };
    bench.engine.world().jobs.insert("7".to_owned(), runs);
    let mut line = bench.start().await;
    line.until_report(9, Running).await;
    let place = |what: &str| bench.engine.place(what).unwrap_or_else(|| panic!("never: {what}"));
    assert!(place("stop 7") < place("mount 9") && place("clean 7") < place("mount 9"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_with_the_machine_is_given_back() {
    let mut bench = Bench::new().await;
    bench.record(7, "interrupted");
    bench.record(8, "never-ran");
    let end =
        End { exit_code: 137, reason: Some("the machine".to_owned()), code: code(tonic::Code::Unavailable) };
    let interrupted = Container { end: Some(end), ..Container::default() };
    bench.engine.world().jobs.insert("7".to_owned(), interrupted);
    let line = bench.start().await;
    assert!(line.held().is_empty());
    bench.until_forgotten().await;
    assert!(bench.engine.count("clean 7") == 1 && bench.engine.count("start 7") == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_ends_and_says_nothing() {
    let (bench, mut line) = Bench::started().await;
    line.dispatch(1, 7, "c").await;
    let (number, _) = line.until_report(7, Running).await;
    line.received(number).await;
    let revoke = |token, name| {
        let lease = Some(plane_lease(token, name));
        Message::Revoke(v1::Revoke { lease, reason: String::new() })
    };
    line.send(0, revoke(7, "c")).await;
    bench.until_forgotten().await;
    assert_eq!(bench.engine.count("stop 7"), 1);
    // Revoked before it came: it was on its way twice.
    line.send(0, revoke(8, "d")).await;
    line.dispatch(2, 8, "d").await;
    line.dispatch(3, 10, "e").await;
    loop {
        match line.next().await {
            (number, FromWorker::Report(report)) => {
                let token = report.lease.as_ref().unwrap().fencing_token;
                assert_eq!(token, 10, "{report:?}");
                line.received(number).await;
                if report.state() == Running {
                    break;
                }
            }
            (_, FromWorker::Ack(_)) => {}
            (_, other) => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.engine.count("mount 8"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_can_be_cancelled_at_any_time() {
    let (bench, mut line) = Bench::started().await;
    let cancel = |token, name| Message::Cancel(v1::Cancel { lease: Some(plane_lease(token, name)) });
    // While it is mounted.
    bench.engine.world().slow = true;
    line.dispatch(1, 7, "c").await;
    line.until_report(7, Mounting).await;
    bench.engine.until("a mount", |world| world.done.contains(&"mount 7".to_owned())).await;
    line.send(2, cancel(7, "c")).await;
    line.until_ack(2).await;
    bench.engine.world().slow = false;
    let (number, report) = line.until_report(7, Failed).await;
    assert_eq!(report.reason_code, code(tonic::Code::Cancelled));
    line.received(number).await;
    assert_eq!(bench.engine.count("start 7"), 0);
    // With its dispatch.
    line.dispatch(3, 8, "d").await;
    line.send(4, cancel(8, "d")).await;
    line.until_ack(4).await;
    bench.engine.until("it is clean", |world| world.done.contains(&"clean 8".to_owned())).await;
    // While it runs.
    line.dispatch(5, 9, "e").await;
    line.until_report(9, Running).await;
    line.send(6, cancel(9, "e")).await;
    let (number, report) = line.until_report(9, Exited).await;
    assert_eq!(report.exit_code, 137);
    line.received(number).await;
    // After its end, and what never was.
    bench.engine.until("it is clean", |world| world.done.contains(&"clean 9".to_owned())).await;
    for (delivery, token) in [(7, 9), (8, 99)] {
        line.send(delivery, cancel(token, "e")).await;
        line.until_ack(delivery).await;
    }
    assert_eq!(bench.engine.count("stop 9"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_put_in_place_until_it_works_and_the_newest_win() {
    let (bench, mut line) = Bench::started().await;
    line.dispatch(1, 7, "c").await;
    line.until_report(7, Running).await;
    let update = |credentials: &str| {
        let image_credentials = credentials.to_owned();
        Message::Credentials(v1::CredentialUpdate { lease: Some(plane_lease(7, "c")), image_credentials })
    };
    bench.engine.world().refresh_failures = 2;
    line.send(2, update("pl4nted-second")).await;
    line.until_ack(2).await;
    assert_eq!(bench.engine.count("refresh 7"), 3);
    assert_eq!(bench.engine.world().jobs["7"].credentials, "pl4nted-second");
    // The one that cannot be written is overtaken; both are acknowledged, in whatever order.
    bench.engine.world().refresh_failures = 1;
    line.send(3, update("pl4nted-third")).await;
    line.send(4, update("pl4nted-fourth")).await;
    let mut open = vec![3, 4];
    while !open.is_empty() {
        if let (_, FromWorker::Ack(ack)) = line.next().await {
            open.retain(|delivery| *delivery != ack.delivery);
        }
    }
    assert_eq!(bench.engine.world().jobs["7"].credentials, "pl4nted-fourth");
    // For what has ended there is nothing to write, and nothing to wait for.
    bench.engine.world().refresh_failures = u32::MAX;
    line.send(5, update("pl4nted-fifth")).await;
    bench.engine.end("7", 0);
    line.until_ack(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_removed_is_tried_again() {
    let (bench, mut line) = Bench::started().await;
    line.dispatch(1, 7, "c").await;
    line.until_report(7, Running).await;
    bench.engine.world().clean_failures = 2;
    bench.engine.end("7", 0);
    let (number, _) = line.until_report(7, Exited).await;
    line.received(number).await;
    bench.until_forgotten().await;
    assert_eq!(bench.engine.count("clean 7"), 3);
}
