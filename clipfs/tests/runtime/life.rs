//! Lives of containers: stopped, killed, left alone by their worker, shared mounts, leftovers.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clipfs::worker::runtime::{ContainerRequestView, JobState, Program, Runtime};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Bench, is_running, output, until_says, with_program, within};

const HOUR: Duration = Duration::from_secs(3600);

fn our_mounts(bench: &Bench) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = bench.path("run/.mounts").canonicalize().unwrap();
    table
        .lines()
        .map(|l| PathBuf::from(l.split(' ').nth(4).unwrap()))
        .filter(|p| p.starts_with(&dir))
        .collect()
}

fn monitor_of(job: &clipfs::worker::runtime::Job) -> Pid {
    let begun: serde_json::Value =
        serde_json::from_slice(&fs::read(job.dir.join("started.json")).unwrap()).unwrap();
    Pid::from_raw(begun["monitor"].as_i64().unwrap().try_into().unwrap())
}

#[tokio::test]
async fn a_program_that_listens_ends_by_itself() {
    let bench = Bench::with(serde_json::json!({ "StopSignal": "SIGUSR1" }), Vec::new());
    let runtime = bench.runtime().await;
    let job = bench.script("trap 'echo stopped; exit 4' USR1; echo ready; while true; do sleep 0.05; done");
    runtime.mount(&job).await.unwrap();
    assert_eq!(runtime.state(&job).await.unwrap(), JobState::Mounted);
    runtime.start(&job).await.unwrap();
    assert!(is_running(&runtime.state(&job).await.unwrap()));
    until_says(&runtime, &job, "ready").await;
    within(runtime.stop(&job, HOUR)).await.unwrap();
    let JobState::Ended(end) = runtime.state(&job).await.unwrap() else { panic!("it ended") };
    assert_eq!((end.exit_code, end.code), (4, 0));
    // Again is fine.
    runtime.stop(&job, HOUR).await.unwrap();
    runtime.clean(&job).await.unwrap();
    assert_eq!(runtime.state(&job).await.unwrap(), JobState::NotStarted);
}

#[tokio::test]
async fn a_program_that_does_not_listen_is_killed() {
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let job =
        bench.script("trap '' TERM; (trap '' TERM; sleep 3600) & echo ready; while true; do sleep 1; done");
    runtime.mount(&job).await.unwrap();
    runtime.start(&job).await.unwrap();
    until_says(&runtime, &job, "ready").await;
    within(runtime.stop(&job, Duration::from_millis(200))).await.unwrap();
    let end = runtime.wait(&job).await.unwrap();
    assert_eq!((end.exit_code, end.code), (137, 0));
    runtime.clean(&job).await.unwrap();
}

#[tokio::test]
async fn containers_outlive_their_worker() {
    let bench = Bench::new();
    let job = bench.script("echo one; while [ ! -e /go ]; do sleep 0.05; done; echo two; exit 9");
    let first = bench.runtime().await;
    first.mount(&job).await.unwrap();
    let started = first.start(&job).await.unwrap();
    assert!(started.pid > 1);
    until_says(&first, &job, "one").await;
    // A wait that is given up does nothing.
    let waited = tokio::time::timeout(Duration::from_millis(50), first.wait(&job)).await;
    assert!(waited.is_err());
    drop(first);
    let second = bench.runtime().await;
    second.reap(std::slice::from_ref(&job)).await.unwrap();
    assert!(is_running(&second.state(&job).await.unwrap()));
    assert_eq!(second.start(&job).await.unwrap(), started, "it is not started twice");
    let waiting = tokio::spawn({
        let (second, job) = (second.clone(), job.clone());
        async move { second.wait(&job).await }
    });
    fs::write(job.run_dir.join("bundle/rootfs/go"), "").unwrap();
    let end = within(waiting).await.unwrap().unwrap();
    assert_eq!((end.exit_code, end.code), (9, 0));
    let text: Vec<u8> = output(&second, &job).await.into_iter().flat_map(|(_, _, data)| data).collect();
    assert_eq!(String::from_utf8(text).unwrap(), "one\ntwo\n");
    second.clean(&job).await.unwrap();
}

#[tokio::test]
async fn signals_to_the_workers_group_leave_containers_alone() {
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let job = bench.script("trap 'exit 6' TERM; echo ready; while true; do sleep 0.05; done");
    runtime.mount(&job).await.unwrap();
    runtime.start(&job).await.unwrap();
    until_says(&runtime, &job, "ready").await;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(monitor_of(&job), signal).unwrap();
    }
    assert!(is_running(&runtime.state(&job).await.unwrap()));
    // What the monitor blocks, its container does not.
    within(runtime.stop(&job, HOUR)).await.unwrap();
    assert_eq!(runtime.wait(&job).await.unwrap().exit_code, 6);
    runtime.clean(&job).await.unwrap();
}

#[tokio::test]
async fn a_killed_monitor_takes_its_container_with_it() {
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let job = bench.script("echo ready; exec sleep 3600");
    runtime.mount(&job).await.unwrap();
    let started = runtime.start(&job).await.unwrap();
    until_says(&runtime, &job, "ready").await;
    let waiting = tokio::spawn({
        let (runtime, job) = (runtime.clone(), job.clone());
        async move { runtime.wait(&job).await }
    });
    kill(monitor_of(&job), Signal::SIGKILL).unwrap();
    let end = within(waiting).await.unwrap().unwrap();
    assert_eq!((end.exit_code, end.code, end.reason.as_deref()), (137, 13, Some("its monitor was killed")));
    let gone = fs::read_to_string(format!("/proc/{}/stat", started.pid));
    assert!(gone.is_err() || gone.is_ok_and(|stat| stat.contains(") Z ")), "the container is dead");
    runtime.clean(&job).await.unwrap();
}

#[tokio::test]
async fn containers_of_a_workspace_share_a_mount_and_the_last_one_unmounts() {
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let one = bench.script("echo ready; exec sleep 3600");
    let two = bench.script("cat /etc/lower");
    let mut other = bench.script("cat /etc/lower");
    other.workspace_id = "another".into();
    let (a, b) = tokio::join!(runtime.mount(&one), runtime.mount(&two));
    assert_ne!(a.unwrap().mountpoint, b.unwrap().mountpoint);
    assert_eq!(our_mounts(&bench).len(), 1, "one for both");
    runtime.mount(&other).await.unwrap();
    assert_eq!(our_mounts(&bench).len(), 2, "another workspace has its own");
    runtime.start(&one).await.unwrap();
    until_says(&runtime, &one, "ready").await;
    runtime.start(&two).await.unwrap();
    assert_eq!(within(runtime.wait(&two)).await.unwrap().exit_code, 0);
    runtime.clean(&other).await.unwrap();
    runtime.clean(&two).await.unwrap();
    assert_eq!(our_mounts(&bench).len(), 1);
    assert!(is_running(&runtime.state(&one).await.unwrap()), "the other goes on");
    runtime.clean(&one).await.unwrap();
    runtime.clean(&one).await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn what_unknown_jobs_have_left_is_removed_and_known_ones_stay() {
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let (kept, ended, lost) = (
        bench.script("echo ready; exec sleep 3600"),
        bench.script("exit 1"),
        bench.script("echo ready; exec sleep 3600"),
    );
    for job in [&kept, &ended, &lost] {
        runtime.mount(job).await.unwrap();
        runtime.start(job).await.unwrap();
    }
    for job in [&kept, &lost] {
        until_says(&runtime, job, "ready").await;
    }
    runtime.wait(&ended).await.unwrap();
    let runtime = bench.runtime().await;
    runtime.reap(std::slice::from_ref(&kept)).await.unwrap();
    assert!(is_running(&runtime.state(&kept).await.unwrap()));
    for job in [&ended, &lost] {
        assert_eq!(runtime.state(job).await.unwrap(), JobState::NotStarted);
        assert!(!job.dir.exists() && !job.run_dir.exists());
    }
    runtime.reap(&[]).await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn new_credentials_reach_the_mounts_request() {
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let job = bench.script("true");
    runtime.mount(&job).await.unwrap();
    runtime.refresh(&job, &"pl4nted-renewed".into()).await.unwrap();
    let dir = bench.path("run/.mounts");
    let request = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path().join("request.json");
    for file in [job.request_file(), request] {
        let document: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(document["image_credentials"], "pl4nted-renewed");
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
    runtime.clean(&job).await.unwrap();
}

#[tokio::test]
async fn a_mount_that_fails_says_why_and_leaves_nothing() {
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let mut job = bench.script("true");
    job.image = format!("oci:{}", bench.path("nothing").display());
    let error = runtime.mount(&job).await.unwrap_err();
    assert_eq!(error.code(), 5, "{error}");
    assert!(error.to_string().contains("nothing"), "{error}");
    assert_eq!(runtime.state(&job).await.unwrap(), JobState::NotStarted);
    assert!(runtime.wait(&job).await.is_err());
    let bad = Runtime::open(clipfs::worker::runtime::RuntimeOptions {
        program: Program::Path("/no/such/runtime".into()),
        ..bench.options.clone()
    });
    assert_eq!(bad.await.unwrap_err().code(), 9);
}

#[tokio::test]
async fn without_an_oci_runtime_images_are_mounted_and_that_is_all() {
    let mut bench = Bench::new();
    with_program(&mut bench, Program::None);
    let runtime = bench.runtime().await;
    let job = bench.job(ContainerRequestView::default());
    let mounted = runtime.mount(&job).await.unwrap();
    assert_eq!(fs::read_to_string(mounted.mountpoint.join("etc/lower")).unwrap(), "from the image\n");
    runtime.start(&job).await.unwrap();
    assert!(is_running(&runtime.state(&job).await.unwrap()));
    within(runtime.stop(&job, HOUR)).await.unwrap();
    assert_eq!(within(runtime.wait(&job)).await.unwrap().exit_code, 0);
    runtime.clean(&job).await.unwrap();
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn a_machine_without_a_second_life_of_a_container_says_so() {
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let job = bench.script("exec sleep 3600");
    runtime.mount(&job).await.unwrap();
    runtime.start(&job).await.unwrap();
    // As after a reboot: the container is gone, and so is everything below the run directory.
    kill(monitor_of(&job), Signal::SIGKILL).unwrap();
    let kept = fs::read(job.dir.join("started.json")).unwrap();
    within(runtime.wait(&job)).await.unwrap();
    runtime.clean(&job).await.unwrap();
    fs::create_dir_all(&job.dir).unwrap();
    fs::write(job.dir.join("started.json"), kept).unwrap();
    let runtime = bench.runtime().await;
    let end = within(runtime.wait(&job)).await.unwrap();
    assert_eq!((end.exit_code, end.code), (137, 14), "to be run again");
    assert_eq!(end.reason.as_deref(), Some("the machine was started again while it ran"));
    runtime.clean(&job).await.unwrap();
}

/// All at once: nothing waits for something that waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn many_containers_of_one_image_share_a_node() {
    const MANY: usize = 60;
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let jobs: Vec<_> = (0..MANY).map(|n| bench.script(&format!("echo {n}; cat /etc/lower"))).collect();
    let mut running = tokio::task::JoinSet::new();
    for (n, job) in jobs.iter().cloned().enumerate() {
        let runtime = runtime.clone();
        running.spawn(async move {
            runtime.mount(&job).await.unwrap();
            runtime.start(&job).await.unwrap();
            let end = within(runtime.wait(&job)).await.unwrap();
            let text: Vec<u8> =
                output(&runtime, &job).await.into_iter().flat_map(|(_, _, data)| data).collect();
            assert_eq!(String::from_utf8(text).unwrap(), format!("{n}\nfrom the image\n"));
            assert_eq!((end.exit_code, end.code), (0, 0), "{end:?}");
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    assert_eq!(our_mounts(&bench).len(), 1, "one mount for all");
    for job in &jobs {
        runtime.clean(job).await.unwrap();
    }
    bench.assert_clean();
}
