//! `clipfs status`: the document of the contract, asked of the server through its control socket.

use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::State;
use super::rundir::{self, KeeperState, RunDir};
use super::{MountError, mountinfo};
use crate::read::PrefetchState;

/// A server that lives answers at once: it reads counters.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// No status document is longer.
const MAX_ANSWER: u64 = 1 << 20;

/// What the server counts.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ServerCounters {
    /// Compressed bytes read from the image's source: received from registries, or read from a layout or archive.
    pub fetched_bytes: u64,
    /// Bytes answered to readers by the server (passthrough reads are the kernel's own).
    pub served_bytes: u64,
    /// Of them from memory.
    pub served_memory_bytes: u64,
    /// Of them from disk.
    pub served_disk_bytes: u64,
    /// Share of the served bytes that needed no network, 0.0–1.0; `None` before the first read.
    pub hit_ratio: Option<f64>,
    /// Bytes of the store on disk.
    pub cache_bytes: u64,
    /// Bytes of decoded chunks in memory.
    pub memory_bytes: u64,
    /// Handles open.
    pub open_files: u64,
    /// Opens handed to the kernel.
    pub opens_passthrough: u64,
    /// Opens served by the server.
    pub opens_cached: u64,
    /// Whether complete files are handed to the kernel.
    pub passthrough: bool,
    /// Reads answered with data.
    pub reads: u64,
    /// Reads answered with EIO.
    pub read_errors: u64,
    /// Median time of a read in microseconds (upper bound of its bucket).
    pub read_p50_micros: Option<u64>,
    /// 99th percentile.
    pub read_p99_micros: Option<u64>,
    /// Chunks that failed verification.
    pub verify_failures: u64,
    /// Requests sent to registries.
    pub registry_requests: u64,
    /// Questions for credentials.
    #[serde(default)]
    pub credential_requests: u64,
    /// How far the prefetch of the whole image has come.
    #[serde(default)]
    pub prefetch: PrefetchState,
    /// Where metrics are served; `None` = nowhere.
    pub metrics: Option<SocketAddr>,
    /// Why the image's source cannot be opened, or else the last read error.
    pub last_error: Option<String>,
}

/// One mount, as `clipfs status --json` prints it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MountStatus {
    /// Where.
    pub mountpoint: PathBuf,
    /// Reference with digest.
    pub image: String,
    /// Digest of the manifest.
    pub digest: String,
    /// How it is.
    pub state: State,
    /// The keeper; `None` = it is dead.
    pub keeper_pid: Option<u32>,
    /// The server; `None` = it does not answer.
    pub server_pid: Option<u32>,
    /// Times the server was started again.
    pub server_restarts: u64,
    /// The store's directory.
    pub cache_dir: PathBuf,
    /// Seconds since the epoch at which it was mounted.
    pub started: u64,
    /// Counters of the server that serves now.
    #[serde(flatten)]
    pub counters: ServerCounters,
}

/// The server's answer on its control socket.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Answer {
    pub(crate) pid: u32,
    pub(crate) state: State,
    pub(crate) counters: ServerCounters,
}

fn ask(socket: &Path) -> std::io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).map_err(std::io::Error::other)
}

fn of(dir: &RunDir, kept: &KeeperState, keeper_lives: bool) -> MountStatus {
    let answer = ask(&dir.control());
    let (state, server_pid, counters) = match answer {
        Ok(answer) => (answer.state, Some(answer.pid), answer.counters),
        Err(error) => {
            let last_error = Some(format!("the server does not answer: {error}"));
            (State::Degraded, None, ServerCounters { last_error, ..ServerCounters::default() })
        }
    };
    MountStatus {
        mountpoint: kept.mountpoint.clone(),
        image: kept.image.clone(),
        digest: kept.digest.clone(),
        state,
        keeper_pid: keeper_lives.then_some(kept.keeper_pid),
        server_pid,
        server_restarts: kept.server_restarts,
        cache_dir: kept.cache_dir.clone(),
        started: kept.started,
        counters,
    }
}

/// All mounts of a run directory, by mountpoint. What dead keepers have left of mounts that are gone is removed.
///
/// # Errors
/// The run directory or the mount table cannot be read.
pub fn list(run_dir: &Path) -> Result<Vec<MountStatus>, MountError> {
    let refuse = |source| MountError::RunDir { path: run_dir.to_owned(), source };
    let mut found = Vec::new();
    for dir in rundir::entries(run_dir).map_err(refuse)? {
        let keeper_lives = dir.is_kept();
        // Without a state the keeper has just begun, or died before it had anything to say.
        let Ok(kept) = dir.state() else { continue };
        let mounted = mountinfo::at(&kept.mountpoint).map_err(refuse)?.is_some_and(|entry| entry.is_ours());
        if keeper_lives || mounted {
            found.push(of(&dir, &kept, keeper_lives));
        } else {
            dir.reap();
        }
    }
    found.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(found)
}

/// One mount.
///
/// # Errors
/// [`MountError::NotMounted`].
pub fn status(run_dir: &Path, mountpoint: &Path) -> Result<MountStatus, MountError> {
    let not_mounted = || MountError::NotMounted(mountpoint.to_owned());
    let path = mountinfo::canonical(mountpoint).map_err(|_| not_mounted())?;
    let dir = RunDir::of(run_dir, &path);
    let keeper_lives = dir.is_kept();
    let kept = dir.state().map_err(|_| not_mounted())?;
    Ok(of(&dir, &kept, keeper_lives))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn kept(mountpoint: &str) -> KeeperState {
        KeeperState {
            mountpoint: mountpoint.into(),
            image: "registry.test/app".into(),
            digest: "sha256:00".into(),
            keeper_pid: 11,
            server_pid: 12,
            server_restarts: 2,
            cache_dir: "/c".into(),
            started: 4,
            device: "0:5".into(),
        }
    }

    #[test]
    fn lists_living_mounts_and_removes_what_dead_ones_left() {
        let top = tempfile::tempdir().unwrap();
        let living = RunDir::of(top.path(), Path::new("/mnt/a"));
        let _lock = living.take(Path::new("/mnt/a")).unwrap();
        living.write_state(&kept("/mnt/a")).unwrap();
        let dead = RunDir::of(top.path(), Path::new("/mnt/b"));
        drop(dead.take(Path::new("/mnt/b")).unwrap());
        dead.write_state(&kept("/mnt/b")).unwrap();

        let all = list(top.path()).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].mountpoint, Path::new("/mnt/a"));
        assert_eq!((all[0].state, all[0].keeper_pid, all[0].server_pid), (State::Degraded, Some(11), None));
        assert!(!dead.path().exists());
    }

    #[test]
    fn the_servers_answer_becomes_the_contracts_document() {
        let top = tempfile::tempdir().unwrap();
        let mountpoint = top.path().join("m");
        std::fs::create_dir(&mountpoint).unwrap();
        let mountpoint = mountpoint.canonicalize().unwrap();
        let dir = RunDir::of(top.path(), &mountpoint);
        let _lock = dir.take(&mountpoint).unwrap();
        dir.write_state(&kept(mountpoint.to_str().unwrap())).unwrap();
        let listener = UnixListener::bind(dir.control()).unwrap();
        let server = std::thread::spawn(move || {
            let counters = ServerCounters { fetched_bytes: 5, ..ServerCounters::default() };
            let answer = Answer { pid: 77, state: State::AuthDenied, counters };
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&serde_json::to_vec(&answer).unwrap()).unwrap();
        });
        let status = status(top.path(), &mountpoint).unwrap();
        server.join().unwrap();
        let json = serde_json::to_value(&status).unwrap();
        for field in [
            "mountpoint",
            "image",
            "digest",
            "state",
            "keeper_pid",
            "server_pid",
            "server_restarts",
            "fetched_bytes",
            "served_bytes",
            "cache_dir",
            "cache_bytes",
            "open_files",
            "last_error",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(json["state"], "auth_denied");
        assert_eq!((json["server_pid"].as_u64(), json["fetched_bytes"].as_u64()), (Some(77), Some(5)));
    }
}
