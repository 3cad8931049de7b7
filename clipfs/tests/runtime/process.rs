//! What a container's program sees and says: arguments, environment, user, directory, exit code, output.

use clipfs::worker::runtime::{ContainerRequestView, LogStream, Program};
use fixtures::layer::Entry;
use serde_json::json;

use crate::support::{Bench, script_request, with_program};

const SHOW: &str = "echo uid=$(id -u); echo gid=$(id -g); echo groups=$(id -G); echo cwd=$(pwd); echo home=$HOME; \
    echo host=$(hostname); echo path=$PATH; echo a=$A; echo b=$B; echo c=$C";

#[tokio::test]
async fn exit_codes_and_signals() {
    let bench = Bench::new();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("exec sh -c 'ulimit -c 0; kill -s ABRT $$ ; exit 3'", 3),
    ] {
        let ran = bench.run(script_request(script)).await;
        // The first process of a PID namespace takes no signal that it does not handle.
        assert_eq!((ran.end.exit_code, ran.end.code, ran.end.reason), (code, 0, None), "{script}");
    }
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn the_images_settings_hold_where_the_request_says_nothing() {
    let settings = json!({
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": [SHOW], "Env": ["PATH=/bin", "A=image", "B=image"],
        "WorkingDir": "/made/for/it", "User": "app",
    });
    let bench = Bench::with(settings, Vec::new());
    let request = ContainerRequestView {
        env: vec!["B=request".into(), "C=with=equals and blanks".into()],
        hostname: "web-1".into(),
        ..ContainerRequestView::default()
    };
    let values = bench.run(request).await.ok().values();
    let expected = [
        ("uid", "1000"),
        ("gid", "1001"),
        ("groups", "1001 44"),
        ("cwd", "/made/for/it"),
        ("home", "/home/app"),
        ("host", "web-1"),
        ("path", "/bin"),
        ("a", "image"),
        ("b", "request"),
        ("c", "with=equals and blanks"),
    ];
    for (name, value) in expected {
        assert_eq!(values.get(name).map(String::as_str), Some(value), "{name}: {values:?}");
    }
}

#[tokio::test]
async fn defaults_hold_where_nobody_says_anything() {
    let bench = Bench::with(json!({ "Cmd": ["/bin/false"] }), Vec::new());
    let job = bench.script(SHOW);
    let runtime = bench.runtime().await;
    let values = bench.finish(&runtime, &job).await.ok().values();
    runtime.clean(&job).await.unwrap();
    assert_eq!(
        (values["uid"].as_str(), values["cwd"].as_str(), values["home"].as_str()),
        ("0", "/", "/root")
    );
    assert_eq!(values["host"], job.key);
    assert!(values["path"].contains("/usr/local/bin"));
}

#[tokio::test]
async fn numbers_need_not_be_known_and_names_must() {
    let bench = Bench::with(json!({ "User": "4242:4343", "Cmd": ["/bin/sh", "-c", SHOW] }), Vec::new());
    let values = bench.run(ContainerRequestView::default()).await.ok().values();
    assert_eq!(
        (values["uid"].as_str(), values["gid"].as_str(), values["home"].as_str()),
        ("4242", "4343", "/")
    );
    let bench = Bench::with(json!({ "User": "stranger", "Cmd": ["/bin/true"] }), Vec::new());
    let (runtime, job) = (bench.runtime().await, bench.job(ContainerRequestView::default()));
    runtime.mount(&job).await.unwrap();
    let error = runtime.start(&job).await.unwrap_err();
    assert_eq!(error.code(), 3);
    assert!(error.to_string().contains("stranger"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_run_is_said_so() {
    let bench = Bench::with(json!({}), Vec::new());
    let runtime = bench.runtime().await;
    let entry = |entry: &[&str]| ContainerRequestView {
        entry_point: entry.iter().map(|s| (*s).to_owned()).collect(),
        ..ContainerRequestView::default()
    };
    for (request, word) in [
        (entry(&[]), "ENTRYPOINT"),
        (entry(&["/no/such/program"]), "/no/such/program"),
        (entry(&["no-such-program"]), "no-such-program"),
        (ContainerRequestView { memory: -1, ..entry(&["/bin/true"]) }, "memory"),
        (ContainerRequestView { env: vec!["pl4nted".into()], ..entry(&["/bin/true"]) }, "env"),
    ] {
        let job = bench.job(request);
        runtime.mount(&job).await.unwrap();
        let error = runtime.start(&job).await.unwrap_err();
        assert_eq!(error.code(), 3, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        runtime.clean(&job).await.unwrap();
    }
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn output_keeps_its_order_and_its_streams() {
    let bench = Bench::new();
    let ran = bench.run(script_request("seq 1 20000; echo error >&2; seq 20001 20010")).await.ok();
    let expected: String = (1..=20_010).map(|n| format!("{n}\n")).collect();
    assert_eq!(ran.stdout(), expected);
    assert_eq!(ran.text(LogStream::Stderr), "error\n");
    let mut at = 0;
    for (_, offset, data) in &ran.output {
        assert_eq!(*offset, at, "offsets follow each other");
        assert!(data.len() <= 64 << 10);
        at += u64::try_from(data.len()).unwrap();
    }
}

#[tokio::test]
async fn output_has_a_limit_and_a_program_does_not_hang_at_it() {
    let mut bench = Bench::new();
    bench.options.max_log = 100_000;
    let ran = bench
        .run(script_request("dd if=/dev/zero bs=1000 count=2000 2>/dev/null | tr '\\0' x; echo end >&2"))
        .await
        .ok();
    assert_eq!(ran.stdout().len(), 100_000);
    let marker = ran.text(LogStream::Stderr);
    assert_eq!(marker.matches("dropped").count(), 1, "{marker}");
    assert!(!marker.contains("end"), "{marker}");
}

#[tokio::test]
async fn runc_runs_the_same() {
    let mut bench =
        Bench::with(json!({ "User": "app", "WorkingDir": "/made" }), vec![Entry::dir("made").mode(0o755)]);
    with_program(&mut bench, Program::Runc);
    let request = ContainerRequestView { cpu: 500, memory: 64, ..script_request(&format!("{SHOW}; exit 5")) };
    let ran = bench.run(request).await;
    assert_eq!((ran.end.exit_code, ran.values()["uid"].as_str()), (5, "1000"), "{ran:?}");
    let missing =
        ContainerRequestView { entry_point: vec!["/nope".into()], ..ContainerRequestView::default() };
    let (runtime, job) = (bench.runtime().await, bench.job(missing));
    runtime.mount(&job).await.unwrap();
    let error = runtime.start(&job).await.unwrap_err();
    assert_eq!(error.code(), 3, "{error}");
}
