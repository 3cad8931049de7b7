//! Processes die: the server under its readers, the keeper, both; and mounts that others take away.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fixtures::images;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Sandbox, assert_same_trees, is_mounted, layout, wait_until, walk};

/// Kills what status names and waits until it is gone.
fn kill_process(sandbox: &Sandbox, mountpoint: &Path, which: &str) {
    let pid = sandbox.status(mountpoint)[which].as_u64().unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    // A zombie has no program any more.
    wait_until("the process to die", || fs::read_link(format!("/proc/{pid}/exe")).is_err());
}

fn serves(sandbox: &Sandbox, mountpoint: &Path) -> bool {
    sandbox.status(mountpoint)["server_pid"].is_u64()
}

fn readers_only_wait(passthrough: &str) {
    const KILLS: u64 = 15;
    let mut sandbox = Sandbox::new();
    let image = layout(&images::many_files(500), &sandbox.path("layout"));
    let mountpoint = sandbox.mount(&image, &["--passthrough", passthrough]);
    let expected = walk(&mountpoint);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_same_trees(&walk(&mountpoint), &expected);
                    Sandbox::drop_caches();
                }
            });
        }
        for _ in 0..KILLS {
            wait_until("the server to serve", || serves(&sandbox, &mountpoint));
            kill_process(&sandbox, &mountpoint, "server_pid");
        }
        wait_until("the last server", || serves(&sandbox, &mountpoint));
        done.store(true, Ordering::Relaxed);
    });
    let status = sandbox.status(&mountpoint);
    assert_eq!(status["server_restarts"], KILLS);
    assert_eq!(status["state"], "ok");
    sandbox.umount(&mountpoint);
}

#[test]
fn readers_only_wait_when_the_server_is_killed() {
    readers_only_wait("auto");
}

#[test]
fn readers_only_wait_without_passthrough_too() {
    readers_only_wait("off");
}

#[test]
fn open_files_outlive_the_server_and_open_again() {
    for passthrough in ["auto", "off"] {
        let mut sandbox = Sandbox::new();
        let image = layout(&images::small(), &sandbox.path("layout"));
        let mountpoint = sandbox.mount(&image, &["--passthrough", passthrough]);
        let path = mountpoint.join("etc/hostname");
        let mut held = fs::File::open(&path).unwrap();
        for _ in 0..3 {
            kill_process(&sandbox, &mountpoint, "server_pid");
            // The kernel refuses an open in another mode, or with another backing file, than the held one's.
            assert_eq!(fs::read(&path).unwrap(), b"small\n");
            let mut text = String::new();
            held.rewind().unwrap();
            held.read_to_string(&mut text).unwrap();
            assert_eq!(text, "small\n");
        }
        // Releases arrive after close(2) has returned.
        wait_until("the held file alone", || sandbox.status(&mountpoint)["open_files"] == 1);
        drop(held);
        wait_until("the release", || sandbox.status(&mountpoint)["open_files"] == 0);
        sandbox.umount(&mountpoint);
    }
}

#[test]
fn a_dead_mount_is_healed_by_mounting_again() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.mount(&image, &[]);
    let server = sandbox.status(&mountpoint);
    kill_process(&sandbox, &mountpoint, "keeper_pid");
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n", "the server alone serves");
    let pid = i32::try_from(server["server_pid"].as_u64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    // Names and attributes come from the kernel's caches for ever; an open needs a server.
    wait_until("the mount to be dead", || fs::File::open(mountpoint.join("etc/hostname")).is_err());
    sandbox.ok(["mount", &image, mountpoint.to_str().unwrap()]);
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
    sandbox.umount(&mountpoint);
    assert_eq!(fs::read_dir(sandbox.path("run")).unwrap().count(), 0);
}

#[test]
fn a_mount_taken_away_by_others_leaves_nothing_behind() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.mount(&image, &[]);
    nix::mount::umount2(&mountpoint, nix::mount::MntFlags::MNT_DETACH).unwrap();
    wait_until("the run directory to be empty", || fs::read_dir(sandbox.path("run")).unwrap().count() == 0);
    assert!(!is_mounted(&mountpoint));
    // Nothing to unmount at the end of the test either.
    sandbox.ok(["mount", &image, mountpoint.to_str().unwrap()]);
    sandbox.umount(&mountpoint);
}

#[test]
fn a_busy_mount_is_detached_and_its_last_files_aborted() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.mount(&image, &[]);
    let held = fs::File::open(&mountpoint).unwrap();
    let start = std::time::Instant::now();
    sandbox.umount(&mountpoint);
    assert!(start.elapsed() < Duration::from_secs(60), "umount must end");
    assert_eq!(fs::read_dir(sandbox.path("run")).unwrap().count(), 0);
    drop(held);
}

#[test]
fn a_keeper_started_with_signals_ignored_still_keeps() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.path("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let mount = sandbox.clipfs([] as [&str; 0]);
    // What is ignored stays so over exec(2): supervisors leave SIGCHLD so.
    let mut under = std::process::Command::new("env");
    under.arg("--ignore-signal=CHLD").arg("--block-signal=CHLD,TERM").arg(mount.get_program());
    under.args(["mount", &image]).arg(&mountpoint).env_clear();
    under.envs(mount.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert!(under.status().unwrap().success());
    sandbox.adopt(&mountpoint);
    for _ in 0..3 {
        kill_process(&sandbox, &mountpoint, "server_pid");
        wait_until("the next server", || serves(&sandbox, &mountpoint));
        assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
    }
    sandbox.umount(&mountpoint);
}

#[test]
fn a_server_takes_over_without_the_files_that_the_first_one_had() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let clip = sandbox.path("image.clip");
    sandbox.ok(["index", &image, "-o", clip.to_str().unwrap()]);
    let mountpoint = sandbox.mount(&image, &["--index", clip.to_str().unwrap()]);
    let hidden = sandbox.path("hidden");
    fs::rename(sandbox.path("layout"), &hidden).unwrap();
    fs::remove_file(&clip).unwrap();
    fs::remove_dir_all(sandbox.cache()).unwrap();
    fs::write(sandbox.cache(), "no directory").unwrap();
    kill_process(&sandbox, &mountpoint, "server_pid");
    wait_until("the next server", || serves(&sandbox, &mountpoint));
    assert_eq!(sandbox.status(&mountpoint)["state"], "degraded");
    Sandbox::drop_caches();
    assert!(fs::read(mountpoint.join("etc/hostname")).is_err(), "there is nowhere to read from");
    fs::rename(&hidden, sandbox.path("layout")).unwrap();
    wait_until("the source to be back", || sandbox.status(&mountpoint)["state"] == "ok");
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n", "through memory");
    fs::remove_file(sandbox.cache()).unwrap();
    sandbox.umount(&mountpoint);
}

#[test]
fn a_living_mount_is_not_detached_for_another_run_directory() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.mount(&image, &[]);
    let mut other = sandbox.clipfs(["mount", &image, mountpoint.to_str().unwrap()]);
    let output = other.env("CLIPFS_RUN_DIR", sandbox.path("other")).output().unwrap();
    assert_eq!(output.status.code(), Some(73), "{}", crate::support::describe(&output));
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
    sandbox.umount(&mountpoint);
}

#[test]
fn a_covered_mount_is_kept_until_it_is_uncovered() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.mount(&image, &[]);
    let no_flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("cover"), &mountpoint, Some("tmpfs"), no_flags, None::<&str>).unwrap();
    let pid = sandbox.status(&mountpoint)["keeper_pid"].as_u64().unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
    let output = sandbox.run(["umount", mountpoint.to_str().unwrap()]);
    // The keeper has the same grace, and ends it when it gets to it.
    let log = sandbox.path("mounts.log");
    wait_until("the keeper gives up", || fs::read_to_string(&log).unwrap().contains("the mount is kept"));
    nix::mount::umount2(&mountpoint, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", crate::support::describe(&output));
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
    sandbox.umount(&mountpoint);
}

#[test]
fn a_descriptor_of_the_caller_is_not_kept() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.path("mnt");
    fs::create_dir(&mountpoint).unwrap();
    // As shells do: 9 is inherited by whatever they start. The lock is its, until the last copy is closed.
    let lock = fs::File::create(sandbox.path("lock")).unwrap();
    let script = r#"exec 9<"$1"; shift; flock -n 9 || exit 99; "$@""#;
    let mount = sandbox.clipfs(["mount", &image, mountpoint.to_str().unwrap()]);
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", script, "sh"])
        .arg(sandbox.path("lock"))
        .arg(mount.get_program())
        .args(mount.get_args());
    shell.env_clear().envs(mount.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = sandbox.take_log(shell.stdin(std::process::Stdio::null()).output().unwrap());
    sandbox.adopt(&mountpoint);
    assert!(output.status.success(), "{}", crate::support::describe(&output));
    lock.try_lock().expect("nobody holds the lock any more, and the mount serves");
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
    sandbox.umount(&mountpoint);
}
