//! What is written down about each dispatch: `<state-dir>/tasks/<fencing token>/task.json`, durable, never with credentials; and
//! `<run-dir>/<fencing token>/request.json`, the request with credentials, in memory only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use credplugin::ContainerRequest;
use nix::fcntl::{Flock, FlockArg};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::runtime::{ContainerRequestView, Job, remove_dir};
use super::{WorkerError, memory};

/// Name of a task's file.
const TASK: &str = "task.json";

/// Which dispatch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TaskLease {
    /// Whose.
    pub workspace_id: String,
    /// Unique within the workspace.
    pub container_id: String,
    /// Which try.
    pub attempt: u32,
    /// Unique.
    pub fencing_token: u64,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Its program ended.
    Exited {
        /// Its code; 128 + signal.
        code: i32,
        /// More, for people.
        reason: String,
    },
    /// It could not be run.
    Failed {
        /// gRPC's.
        code: i32,
        /// A sentence.
        reason: String,
    },
}

/// What the start has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// To a mount that serves.
    pub mount_micros: u64,
    /// From there to a running program.
    pub start_micros: u64,
    /// Compressed bytes that were fetched.
    pub fetched_bytes: u64,
    /// Compressed bytes of the image.
    pub image_bytes: u64,
}

/// What is known of a task, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which dispatch.
    pub lease: TaskLease,
    /// Of the workspace.
    pub image_id: String,
    /// Reference to mount.
    pub image: String,
    /// Of the manifest.
    pub digest: String,
    /// BLAKE3 of the clip index, hex.
    pub index_digest: String,
    /// Its end, from when it is known until the control plane has taken it.
    pub outcome: Option<Outcome>,
    /// As far as known.
    pub cost: Option<Cost>,
    /// The control plane has taken at least so many bytes of output.
    pub logged: u64,
}

impl Record {
    /// Name of its directories.
    #[must_use]
    pub fn key(&self) -> String {
        self.lease.fencing_token.to_string()
    }
}

/// The two directories.
#[derive(Debug)]
pub struct Tasks {
    state_dir: PathBuf,
    run_dir: PathBuf,
    /// As long as these are held, no other worker begins here.
    locks: Mutex<Locks>,
}

#[derive(Debug)]
struct Locks {
    _state_dir: Flock<File>,
    /// And what is mounted over it: whoever looks before that is mounted, and whoever looks after.
    run_dir: Vec<Flock<File>>,
}

impl Tasks {
    /// Makes the directories and takes hold of them.
    ///
    /// # Errors
    /// They cannot be made, another worker has them, or the run directory is on a disk, may not, and cannot be replaced (see `memory`).
    pub fn open(state_dir: &Path, run_dir: &Path, secrets_on_disk: bool) -> Result<Self, WorkerError> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(WorkerError::io("find", path));
        let (state_dir, run_dir) = (absolute(state_dir)?, absolute(run_dir)?);
        for dir in [&state_dir, &state_dir.join("tasks"), &run_dir] {
            make_private(dir).map_err(WorkerError::io("make", dir))?;
        }
        let path = state_dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(WorkerError::io("open", &path))?;
        let state = hold(file, &state_dir)?;
        let hold_run_dir = || {
            let file = File::open(&run_dir).map_err(WorkerError::io("open", &run_dir))?;
            hold(file, &run_dir)
        };
        let mut locks = Locks { _state_dir: state, run_dir: vec![hold_run_dir()?] };
        if !secrets_on_disk && memory::ensure(&run_dir)? {
            locks.run_dir.push(hold_run_dir()?);
        }
        Ok(Self { state_dir, run_dir, locks: Mutex::new(locks) })
    }

    /// Whether nothing is written down. Blocking.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        std::fs::read_dir(self.state_dir.join("tasks")).is_ok_and(|mut list| list.next().is_none())
    }

    /// Gives back the memory of the run directory, if it was mounted for it and nothing is there. Nothing may be written any more. Blocking.
    pub fn close(&self) {
        // What is open cannot be unmounted.
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).run_dir.clear();
        memory::release(&self.run_dir);
    }

    /// What is written down, oldest dispatch first. What cannot be read is left to whoever reaps.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn load(&self) -> Result<Vec<Record>, WorkerError> {
        let dir = self.state_dir.join("tasks");
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(WorkerError::io("read", &dir))? {
            let path = entry.map_err(WorkerError::io("read", &dir))?.path();
            match read_record(&path) {
                Ok(record) => records.push(record),
                Err(error) => tracing::warn!(path = %path.display(), %error, "not a task"),
            }
        }
        records.sort_by_key(|record| record.lease.fencing_token);
        Ok(records)
    }

    /// Writes a task down: it survives whatever comes after. Blocking.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let dir = self.dir(&record.key());
        let is_new = !dir.exists();
        make_private(&dir)?;
        let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
        replace(&dir, TASK, &bytes, true)?;
        if is_new {
            File::open(self.state_dir.join("tasks"))?.sync_all()?;
        }
        Ok(())
    }

    /// Writes the request with its credentials. Blocking. By rename: who reads it sees one or the other.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_request(&self, key: &str, request: &[u8]) -> io::Result<()> {
        let dir = self.run_dir.join(key);
        make_private(&dir)?;
        replace(&dir, "request.json", request, false)
    }

    /// What is run, of the written request; `None`: it is gone, or is none. Blocking.
    #[must_use]
    pub fn request(&self, key: &str) -> Option<ContainerRequestView> {
        let path = self.run_dir.join(key).join("request.json");
        let bytes = Zeroizing::new(std::fs::read(path).ok()?);
        ContainerRequest::parse(&bytes).ok().map(|request| view(&request))
    }

    /// For the runtime.
    #[must_use]
    pub fn job(&self, record: &Record, request: ContainerRequestView, index: PathBuf) -> Job {
        let key = record.key();
        Job {
            dir: self.dir(&key),
            run_dir: self.run_dir.join(&key),
            image: record.image.clone(),
            index,
            request,
            workspace_id: record.lease.workspace_id.clone(),
            digest: record.digest.clone(),
            key,
        }
    }

    /// Forgets a task. Blocking.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, key: &str) -> io::Result<()> {
        for dir in [self.run_dir.join(key), self.dir(key)] {
            remove_dir(&dir).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn dir(&self, key: &str) -> PathBuf {
        self.state_dir.join("tasks").join(key)
    }
}

fn hold(file: File, dir: &Path) -> Result<Flock<File>, WorkerError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| WorkerError::Taken(dir.to_owned()))
}

/// What a runtime needs to know of a request.
pub(super) fn view(request: &ContainerRequest) -> ContainerRequestView {
    ContainerRequestView {
        entry_point: request.entry_point.clone(),
        env: request.env.iter().map(|variable| variable.expose_secret().to_owned()).collect(),
        cpu: request.cpu,
        memory: request.memory,
        hostname: request.hostname.clone(),
        block_network: request.block_network,
    }
}

fn read_record(dir: &Path) -> io::Result<Record> {
    let record: Record = serde_json::from_slice(&std::fs::read(dir.join(TASK))?)?;
    let named = dir.file_name().is_some_and(|name| name == record.key().as_str());
    if named { Ok(record) } else { Err(io::Error::other("it is another task's")) }
}

/// A directory that only we enter.
fn make_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = std::fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other("it is not a directory of ours"));
    }
    Ok(())
}

/// Puts a file in the place of what is there.
fn replace(dir: &Path, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    std::fs::rename(&temporary, dir.join(name))?;
    if durable {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::mountinfo;

    fn record(token: u64) -> Record {
        Record {
            lease: TaskLease {
                workspace_id: "w".into(),
                container_id: "c".into(),
                attempt: 1,
                fencing_token: token,
            },
            image_id: "i".into(),
            image: "r.example/a@sha256:0".into(),
            digest: "sha256:0".into(),
            index_digest: "00".into(),
            outcome: None,
            cost: None,
            logged: 0,
        }
    }

    #[test]
    fn what_is_written_down_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (state, run) = (dir.path().join("state"), dir.path().join("run"));
        let tasks = Tasks::open(&state, &run, true).unwrap();
        assert!(matches!(Tasks::open(&state, &run, true), Err(WorkerError::Taken(_))));
        tasks.write(&record(10)).unwrap();
        tasks.write(&record(9)).unwrap();
        let ended = Record { outcome: Some(Outcome::Exited { code: 3, reason: String::new() }), ..record(9) };
        tasks.write(&ended).unwrap();
        tasks
            .write_request("9", br#"{"entry_point":["x"],"env":["A=1"],"image_credentials":"u:pl4nted-1"}"#)
            .unwrap();
        // Neither half written nor foreign files are tasks.
        std::fs::create_dir(state.join("tasks/11")).unwrap();
        std::fs::write(state.join("tasks/11/task.json"), "{").unwrap();
        drop(tasks);
        let tasks = Tasks::open(&state, &run, true).unwrap();
        assert_eq!(tasks.load().unwrap(), [ended, record(10)]);
        assert_eq!(tasks.request("9").unwrap().entry_point, ["x"]);
        assert!(tasks.request("10").is_none());
        tasks.remove("9").unwrap();
        tasks.remove("9").unwrap();
        assert_eq!(tasks.load().unwrap(), [record(10)]);
        assert!(!run.join("9").exists());
    }

    #[test]
    fn requests_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::open(&dir.path().join("state"), &dir.path().join("run"), true).unwrap();
        tasks.write_request("1", b"{}").unwrap();
        let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().mode() & 0o777;
        assert_eq!((mode("run"), mode("run/1"), mode("run/1/request.json")), (0o700, 0o700, 0o600));
    }

    /// Unmounts at the end.
    struct Place(tempfile::TempDir);

    impl Place {
        /// On something that is surely no tmpfs: where the sources are.
        fn on_disk() -> Self {
            assert!(nix::unistd::geteuid().is_root(), "these tests mount: run them as root");
            Self(tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap())
        }

        fn open(&self, state: &str) -> Result<Tasks, WorkerError> {
            Tasks::open(&self.0.path().join(state), &self.run(), false)
        }

        fn run(&self) -> PathBuf {
            self.0.path().join("run")
        }

        fn mounts(&self) -> usize {
            let run = self.run().canonicalize().unwrap();
            mountinfo::mountpoints().unwrap().iter().filter(|at| **at == run).count()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            while nix::mount::umount2(&self.run(), nix::mount::MntFlags::MNT_DETACH).is_ok() {}
        }
    }

    #[test]
    fn credentials_are_not_written_to_a_disk_unasked() {
        let place = Place::on_disk();
        std::fs::create_dir_all(place.run().join("7")).unwrap();
        std::fs::write(place.run().join("7/request.json"), "pl4nted-on-disk").unwrap();
        let tasks = place.open("state").unwrap();
        tasks.write_request("9", b"{}").unwrap();
        assert_eq!(place.mounts(), 1);
        assert_eq!(std::fs::metadata(place.run()).unwrap().mode() & 0o777, 0o700);
        let found = nix::sys::statvfs::statvfs(&place.run()).unwrap();
        let flags = nix::sys::statvfs::FsFlags::ST_NOSUID
            | nix::sys::statvfs::FsFlags::ST_NODEV
            | nix::sys::statvfs::FsFlags::ST_NOEXEC;
        assert!(found.flags().contains(flags));
        assert_eq!(found.blocks() * found.fragment_size(), 512 << 20);
        assert!(matches!(place.open("state"), Err(WorkerError::Taken(_))), "a second worker");
        assert!(
            matches!(place.open("other"), Err(WorkerError::Taken(_))),
            "one with another state directory"
        );
        drop(tasks);
        // After a restart it is found again, with what is in it.
        let tasks = place.open("state").unwrap();
        assert_eq!(place.mounts(), 1);
        assert!(tasks.request("9").is_some() && tasks.is_empty());
        // In use: it stays.
        let open = File::open(place.run().join("9/request.json")).unwrap();
        tasks.close();
        assert_eq!(place.mounts(), 1);
        drop((open, tasks));
        let tasks = place.open("state").unwrap();
        tasks.close();
        assert_eq!(place.mounts(), 0);
        assert!(std::fs::read_dir(place.run()).unwrap().next().is_none(), "nor was anything left beneath");
    }

    #[test]
    fn an_operators_own_memory_is_used_and_left_alone() {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let disk = Place::on_disk();
        let tasks = Tasks::open(&disk.0.path().join("s"), memory.path(), false).unwrap();
        tasks.close();
        assert!(memory.path().exists());
        std::fs::create_dir(disk.run()).unwrap();
        let none: Option<&str> = None;
        nix::mount::mount(none, &disk.run(), Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
        disk.open("state").unwrap().close();
        assert_eq!(disk.mounts(), 1, "not ours");
    }

    #[test]
    fn containers_that_run_on_a_disk_are_not_hidden() {
        let place = Place::on_disk();
        let busy = place.run().join("7/rootfs");
        std::fs::create_dir_all(&busy).unwrap();
        let none: Option<&str> = None;
        nix::mount::mount(none, &busy, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
        let refused = place.open("state");
        nix::mount::umount2(&busy, nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert!(matches!(refused, Err(WorkerError::NotMemory { .. })), "{refused:?}");
        // Where it may, it stays on the disk.
        Tasks::open(&place.0.path().join("state"), &place.run(), true).unwrap();
        assert_eq!(place.mounts(), 0);
    }
}
