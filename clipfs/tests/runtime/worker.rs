//! The process itself, whose control plane is away.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct Place(tempfile::TempDir);

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn start(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clipfs"));
        command.arg("worker").args(["--control-plane", "http://127.0.0.1:1", "--node", "n"]);
        for (option, name) in [
            ("--token-file", "token"),
            ("--state-dir", "state"),
            ("--cache-dir", "cache"),
            ("--run-dir", "run"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn mounts(&self) -> usize {
        let run = self.path("run/worker");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| Path::new(line.split(' ').nth(4).unwrap()) == run).count()
    }

    /// Until it has made itself at home.
    fn until_open(&self) {
        let since = Instant::now();
        while !self.path("run/worker/.oci").exists() {
            assert!(since.elapsed() < Duration::from_secs(30), "it never began");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while nix::mount::umount2(&self.path("run/worker"), nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    }
}

fn end(mut worker: Child, signal: Signal) -> Option<i32> {
    kill(Pid::from_raw(worker.id().try_into().unwrap()), signal).unwrap();
    worker.wait().unwrap().code()
}

#[test]
fn a_run_directory_on_a_disk_becomes_memory_and_goes_with_the_last_worker() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts: run it as root");
    let place = Place(tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap());
    fs::write(place.path("token"), "pl4nted-worker-token\n").unwrap();
    let first = place.start();
    place.until_open();
    assert_eq!(place.mounts(), 1);
    assert_eq!(fs::metadata(place.path("run/worker")).unwrap().mode() & 0o777, 0o700);
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", first.id())).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains("pl4nted"), "{file}");
    }
    let second = place.start().wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(69), "{second:?}");
    assert_eq!(end(first, Signal::SIGKILL), None);
    assert_eq!(place.mounts(), 1, "for the next one");
    fs::remove_dir(place.path("run/worker/.oci")).unwrap();
    let third = place.start();
    place.until_open();
    assert_eq!(place.mounts(), 1, "which uses it");
    // It listens to signals before it makes directories.
    assert_eq!(end(third, Signal::SIGTERM), Some(0));
    assert_eq!(place.mounts(), 0);
    assert!(fs::read_dir(place.path("run/worker")).unwrap().next().is_none());
}
