//! What operators ask for: metrics, prefetch, mount flags.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use fixtures::images;
use fixtures::layer::Compress;
use fixtures::registry::Registry;

use crate::support::{Sandbox, describe, is_mounted, wait_until, walk};

/// All samples of the endpoint that status names, by name and labels.
fn scrape(status: &serde_json::Value) -> BTreeMap<String, String> {
    let mut stream = std::net::TcpStream::connect(status["metrics"].as_str().unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[test]
fn metrics_tell_what_a_read_costs() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::one_big_file(4 << 20, Compress::Gzip { level: 6 }), "team/app", "1");
    let reference = registry.reference("team/app", "1");
    let mountpoint = sandbox.mount(&reference, &["--metrics", "127.0.0.1:0"]);
    let before = scrape(&sandbox.status(&mountpoint));
    fs::read(mountpoint.join("big")).unwrap();
    let status = sandbox.status(&mountpoint);
    let after = scrape(&status);
    let number = |name: &str| after.get(name).unwrap_or_else(|| panic!("{name} is not in {after:?}"));
    assert_eq!(before["clipfs_fetched_bytes_total{reason=\"demand\"}"], "0");
    assert_ne!(number("clipfs_fetched_bytes_total{reason=\"demand\"}"), "0");
    assert_eq!(number("clipfs_fetched_bytes_total{reason=\"prefetch\"}"), "0");
    assert_eq!(number("clipfs_chunk_verify_failures_total"), "0");
    assert_eq!(number("clipfs_mounts"), "1");
    assert_eq!(number("clipfs_server_restarts_total"), "0");
    assert_ne!(number("clipfs_read_seconds_count"), "0");
    assert_eq!(number("clipfs_read_seconds_count"), number("clipfs_read_seconds_bucket{le=\"+Inf\"}"));
    let host = registry.reference("x", "y").split('/').next().unwrap().to_owned();
    assert!(
        after.keys().any(|k| k.starts_with(&format!("clipfs_registry_requests_total{{host=\"{host}\""))),
        "{after:?}"
    );
    for name in ["clipfs_token_requests_total", "clipfs_cache_bytes", "clipfs_cache_evictions_total"] {
        number(name);
    }

    // The endpoint comes back with the server.
    let server = i32::try_from(status["server_pid"].as_u64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("the server to be replaced", || {
        let status = sandbox.status(&mountpoint);
        status["metrics"].is_string() && scrape(&status)["clipfs_server_restarts_total"] == "1"
    });
}

#[test]
fn a_taken_metrics_address_refuses_the_mount() {
    let sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::small(), "team/app", "1");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mountpoint = sandbox.path("m");
    fs::create_dir(&mountpoint).unwrap();
    let reference = registry.reference("team/app", "1");
    let output = sandbox.run(["mount", "--metrics", &address, &reference, mountpoint.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(73), "{}", describe(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&address), "{}", describe(&output));
    assert!(!is_mounted(&mountpoint));
}

#[test]
fn prefetch_brings_everything_and_then_the_registry_may_go() {
    for how in [Compress::Gzip { level: 6 }, Compress::Zstd { level: 3 }] {
        let mut sandbox = Sandbox::new();
        let registry = Registry::plain();
        registry.push(&images::layers(4), "team/app", "1");
        registry.push(&images::one_big_file(24 << 20, how), "team/big", "1");
        let references = [registry.reference("team/app", "1"), registry.reference("team/big", "1")];
        let built = sandbox.json(["index", "--json", &references[1]]);
        let layer = &built["layers"][0];
        let digest = layer["digest"].as_str().unwrap();
        registry.reset_log();
        let mounts: Vec<_> = references
            .iter()
            .map(|reference| sandbox.mount(reference, &["--prefetch", "all", "--metrics", "127.0.0.1:0"]))
            .collect();
        for mountpoint in &mounts {
            wait_until("the prefetch to be complete", || {
                sandbox.status(mountpoint)["prefetch"] == "complete"
            });
            let samples = scrape(&sandbox.status(mountpoint));
            assert_ne!(samples["clipfs_fetched_bytes_total{reason=\"prefetch\"}"], "0");
            assert_eq!(samples["clipfs_fetched_bytes_total{reason=\"demand\"}"], "0");
        }
        // Neighbouring chunks may share a byte; otherwise no byte crosses the network twice.
        let (size, sent) = (layer["size"].as_u64().unwrap(), registry.bytes_sent_for(digest));
        assert!(sent <= size + size / 100, "{how:?}: sent {sent} of {size}");
        registry.down();
        Sandbox::drop_caches();
        for mountpoint in &mounts {
            // Walking reads every file.
            assert!(walk(mountpoint).len() > 3);
        }
        registry.up();

        // Mounted anew there is nothing to fetch.
        sandbox.umount(&mounts[1]);
        let again = sandbox.mount(&references[1], &["--prefetch", "all", "--metrics", "127.0.0.1:0"]);
        wait_until("the prefetch to be complete", || sandbox.status(&again)["prefetch"] == "complete");
        assert_eq!(scrape(&sandbox.status(&again))["clipfs_fetched_bytes_total{reason=\"prefetch\"}"], "0");
    }
}

#[test]
fn prefetch_waits_for_a_registry_that_is_away() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::small(), "team/app", "1");
    let reference = registry.reference("team/app", "1");
    let index = sandbox.path("small.clip");
    sandbox.ok(["index", &reference, "-o", index.to_str().unwrap()]);
    registry.down();
    let index = index.to_str().unwrap();
    let mountpoint =
        sandbox.mount(&reference, &["--index", index, "--prefetch", "all", "--metrics", "127.0.0.1:0"]);
    wait_until("the prefetch to meet the silence", || {
        let samples = scrape(&sandbox.status(&mountpoint));
        samples.iter().any(|(k, n)| k.contains("code=\"none\"") && n != "0" && n != "1")
    });
    assert_eq!(sandbox.status(&mountpoint)["prefetch"], "running");
    registry.up();
    wait_until("the prefetch to be complete", || sandbox.status(&mountpoint)["prefetch"] == "complete");
    registry.down();
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
    registry.up();
}

#[test]
fn prefetch_stops_where_the_image_does_not_fit() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::one_big_file(24 << 20, Compress::Gzip { level: 6 }), "team/big", "1");
    let reference = registry.reference("team/big", "1");
    let mountpoint = sandbox
        .mount(&reference, &["--prefetch", "all", "--cache-size", "16MiB", "--metrics", "127.0.0.1:0"]);
    wait_until("the prefetch to stop", || sandbox.status(&mountpoint)["prefetch"] == "stopped");
    let samples = scrape(&sandbox.status(&mountpoint));
    assert_eq!(samples["clipfs_cache_evictions_total"], "0", "nothing is fetched to be thrown away");
    assert_eq!(fs::read(mountpoint.join("big")).unwrap().len(), 24 << 20, "readers are served all the same");
}

#[test]
fn mount_flags_are_the_kernels() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::small(), "team/app", "1");
    let reference = registry.reference("team/app", "1");
    let plain = sandbox.mount(&reference, &[]);
    let strict = sandbox.mount(&reference, &["--nosuid", "--nodev", "--noexec"]);
    let options = |mountpoint: &Path| {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|l| l.split(' ').nth(4).map(Path::new) == Some(mountpoint)).unwrap();
        line.split(' ').nth(5).unwrap().split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(options(&plain).iter().all(|o| !["nosuid", "nodev", "noexec"].contains(&o.as_str())));
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options(&strict).iter().any(|o| o == option), "{:?}", options(&strict));
    }

    // The same through mount(8)'s helper.
    let mountpoint = sandbox.path("helped");
    fs::create_dir(&mountpoint).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_clipfs"))
        .arg0("mount.clipfs")
        .args([OsStr::new(&reference), mountpoint.as_os_str()])
        .args(["-o", "user,exec"])
        .env("CLIPFS_CACHE_DIR", sandbox.cache())
        .env("CLIPFS_RUN_DIR", sandbox.path("run"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    let helped = options(&mountpoint);
    sandbox.umount(&mountpoint);
    assert!(helped.iter().any(|o| o == "nosuid") && helped.iter().any(|o| o == "nodev"), "{helped:?}");
    assert!(helped.iter().all(|o| o != "noexec"), "{helped:?}");
}
