//! Runs containers: the image's mount, a writable layer over it, a bundle, an OCI runtime, a monitor for each container.
//!
//! Containers outlive the worker. Everything that is known about one is on disk, in its [`Job`]'s two directories and in the kernel: a worker
//! that was killed opens the runtime again, and waits for what still runs. Nothing is kept in memory but where the last reader of an
//! output stopped.
//!
//! Where things are, below the two directories of [`RuntimeOptions`]: `<state-dir>/tasks/<key>/` has `output`, `started.json`, `exit.json` and
//! `scratch` (the writable layer); `<run-dir>/<key>/` has `request.json`, `bundle`, `alive` (a FIFO that the monitor holds open) and
//! logs; `<run-dir>/.mounts` the images' mounts, `<run-dir>/.keepers` their keepers, `<run-dir>/.oci` the OCI runtime's own state.
//! Control groups are `/clipfs-<hash of run-dir>/<key>`.
//!
//! Knows nothing of the control plane. A service manager that stops the worker must leave its other processes alone (`KillMode=process`):
//! monitors, keepers and containers go on.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;

mod bundle;
mod cgroup;
mod error;
mod image;
mod job;
mod life;
mod monitor;
mod output;
mod overlay;
mod program;
mod remove;
mod seccomp;
mod shared;
mod user;

pub use error::RuntimeError;
pub use job::{ContainerRequestView, Job};
pub use monitor::monitor_main;
pub use output::{LogStream, Piece};

use cgroup::Cgroups;
use output::Place;
use program::Oci;
use shared::Shared;

/// What runs containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// `crun`, found in PATH.
    Crun,
    /// `runc`, found in PATH.
    Runc,
    /// A program with their command line.
    Path(PathBuf),
    /// Nothing: images are mounted, and that is all.
    None,
}

impl std::str::FromStr for Program {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "crun" => Self::Crun,
            "runc" => Self::Runc,
            "none" => Self::None,
            path => Self::Path(path.into()),
        })
    }
}

/// The network of containers that do not ask for less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// A namespace of its own, with nothing but the loopback interface.
    #[default]
    Isolated,
    /// The machine's.
    Host,
}

/// Where containers write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scratch {
    /// The state directory; memory if its file system cannot be a writable layer.
    #[default]
    Disk,
    /// Memory.
    Tmpfs {
        /// Most bytes; `None` = the kernel's default, half of the machine's memory.
        size: Option<u64>,
    },
}

/// Settings of [`Runtime`].
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// What runs containers.
    pub program: Program,
    /// Their network.
    pub network: Network,
    /// Where they write.
    pub scratch: Scratch,
    /// What survives a reboot.
    pub state_dir: PathBuf,
    /// What does not: on a tmpfs.
    pub run_dir: PathBuf,
    /// The store, shared by all mounts.
    pub cache_dir: PathBuf,
    /// Its quota; `None` = `clipfs mount`'s default.
    pub cache_size: Option<u64>,
    /// As `clipfs mount` takes it; `None` = clipfs itself answers from the request.
    pub credential_plugin: Option<OsString>,
    /// More options of `clipfs mount`, as they are.
    pub mount_options: Vec<OsString>,
    /// Names of variables that `clipfs mount` gets besides PATH, HOME and those about settings file and log.
    pub environment: Vec<String>,
    /// How long a mount may take.
    pub mount_timeout: Duration,
    /// Most bytes of output that are kept of a container.
    pub max_log: u64,
    /// The clipfs binary: this program, unless it is another one.
    pub clipfs: PathBuf,
}

impl RuntimeOptions {
    /// The defaults, with these directories.
    #[must_use]
    pub fn new(state_dir: PathBuf, run_dir: PathBuf, cache_dir: PathBuf) -> Self {
        Self {
            program: Program::Crun,
            network: Network::default(),
            scratch: Scratch::default(),
            state_dir,
            run_dir,
            cache_dir,
            cache_size: None,
            credential_plugin: None,
            mount_options: Vec::new(),
            environment: Vec::new(),
            mount_timeout: Duration::from_secs(30),
            max_log: 16 << 20,
            clipfs: "/proc/self/exe".into(),
        }
    }
}

/// A root file system that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where: the writable layer over the image.
    pub mountpoint: PathBuf,
    /// How long it took.
    pub micros: u64,
    /// Compressed bytes that were fetched for the image's mount so far.
    pub fetched_bytes: u64,
}

/// A container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its first process; 0 = there is none ([`Program::None`]), or it is being started.
    pub pid: i32,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its program's; 128 + signal where one ended it.
    pub exit_code: i32,
    /// Where there is more to say than the code: a sentence.
    pub reason: Option<String>,
    /// Code of gRPC's error model that says the same as the reason; 0 = the program ran and ended.
    pub code: i32,
}

impl End {
    /// Whether it ended with its machine, which has been started again since: nobody's fault, and to be run again.
    #[must_use]
    pub const fn is_machines(&self) -> bool {
        self.code == error::UNAVAILABLE
    }
}

/// How far a job has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// Nothing is there that could be run.
    NotStarted,
    /// Its root file system is mounted.
    Mounted,
    /// It runs.
    Running,
    /// It ran, and ended.
    Ended(End),
}

/// Runs containers. Clones are the same.
#[derive(Debug, Clone)]
pub struct Runtime {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: RuntimeOptions,
    /// `None` = [`Program::None`].
    machine: Option<Machine>,
    /// Where readers of outputs stopped.
    places: Mutex<HashMap<String, Place>>,
}

/// What containers need of the machine.
#[derive(Debug)]
struct Machine {
    oci: Oci,
    cgroups: Cgroups,
}

impl Runtime {
    /// Checks the machine: directories, OCI runtime, cgroups. Adopts and removes nothing.
    ///
    /// # Errors
    /// What cannot be used.
    pub async fn open(options: RuntimeOptions) -> Result<Self, RuntimeError> {
        let inner = blocking("", move || Inner::open(options)).await?;
        Ok(Self { shared: Arc::new(inner) })
    }

    /// Mounts the image, or shares the workspace's mount of it, and puts a writable layer over it. The request file
    /// ([`Job::request_file`]) must be there. May be called again.
    ///
    /// # Errors
    /// Why there is no mount; nothing of it is left.
    pub async fn mount(&self, job: &Job) -> Result<Mounted, RuntimeError> {
        job.check_key()?;
        let since = Instant::now();
        let result = self.open_mount(job).await;
        if let Err(error) = result {
            let (inner, job_) = (Arc::clone(&self.shared), job.clone());
            if let Err(left) = blocking(&job.key, move || inner.close_mount(&job_)).await {
                tracing::warn!(key = job.key, error = %left, "a failed mount has left something");
            }
            return Err(error);
        }
        let (shared, job_) = (Shared::of(&self.shared.options.run_dir, job), job.clone());
        let fetched_bytes = blocking(&job.key, move || Ok(shared.fetched_bytes())).await?;
        Ok(Mounted { mountpoint: job_.rootfs(), micros: shared::micros(since), fetched_bytes })
    }

    async fn open_mount(&self, job: &Job) -> Result<(), RuntimeError> {
        let run_dir = self.shared.options.run_dir.clone();
        let job_ = job.clone();
        let (shared, lock, serves) = blocking(&job.key, move || {
            overlay::private_dir(&job_.run_dir)?;
            overlay::private_dir(&job_.dir)?;
            if shared::has_credentials(&job_) {
                tracing::info!(key = job_.key, image = job_.image, "using credential provider from request");
            }
            let shared = Shared::of(&run_dir, &job_);
            let lock = shared.lock()?;
            shared.enter(&lock, &job_)?;
            let serves = shared.serves()?;
            if !serves {
                // What a dead keeper has left.
                shared.unmount()?;
            }
            Ok((shared, lock, serves))
        })
        .await?;
        if !serves {
            shared.mount(&self.shared.options, job).await?;
        }
        drop(lock);
        let (job_, scratch) = (job.clone(), self.shared.options.scratch);
        blocking(&job.key, move || overlay::open(&job_, &shared.root(), scratch)).await
    }

    /// Starts the container in what [`Runtime::mount`] has made. One that was started already is not started again.
    ///
    /// # Errors
    /// The image or the request cannot be run, or the OCI runtime fails.
    pub async fn start(&self, job: &Job) -> Result<Started, RuntimeError> {
        job.check_key()?;
        let (inner, job_) = (Arc::clone(&self.shared), job.clone());
        match blocking(&job.key, move || inner.prepare(&job_)).await? {
            life::Prepared::Begun(pid) => Ok(Started { pid }),
            life::Prepared::Planned => life::launch(&self.shared.options, job).await,
        }
    }

    /// Waits for the end, also of a container that an earlier worker has started. Cancel safe.
    ///
    /// # Errors
    /// [`RuntimeError::NotStarted`], or what is known of it cannot be read.
    pub async fn wait(&self, job: &Job) -> Result<End, RuntimeError> {
        job.check_key()?;
        loop {
            let (inner, job_) = (Arc::clone(&self.shared), job.clone());
            match blocking(&job.key, move || inner.look(&job_)).await? {
                JobState::Ended(end) => return Ok(end),
                JobState::Running => self.until_monitor_ends(job).await?,
                JobState::NotStarted | JobState::Mounted => {
                    return Err(RuntimeError::NotStarted(job.key.clone()));
                }
            }
        }
    }

    /// Ends the container: the image's stop signal, and after the grace SIGKILL to all its processes. Returns when it has ended, which
    /// it may have done before.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub async fn stop(&self, job: &Job, grace: Duration) -> Result<(), RuntimeError> {
        job.check_key()?;
        let (inner, job_) = (Arc::clone(&self.shared), job.clone());
        if !blocking(&job.key, move || inner.terminate(&job_)).await? {
            return Ok(());
        }
        if let Ok(ended) = tokio::time::timeout(grace, self.wait(job)).await {
            return ended.map(drop);
        }
        let (inner, job_) = (Arc::clone(&self.shared), job.clone());
        blocking(&job.key, move || inner.kill(&job_)).await?;
        self.wait(job).await.map(drop)
    }

    /// Puts new credentials of the image into the job's request file and, if it is mounted, into its mount's, which the credential plugin
    /// reads at its next question.
    ///
    /// # Errors
    /// A file cannot be written.
    pub async fn refresh(&self, job: &Job, image_credentials: &SecretString) -> Result<(), RuntimeError> {
        job.check_key()?;
        let (run_dir, job_) = (self.shared.options.run_dir.clone(), job.clone());
        let credentials = image_credentials.clone();
        blocking(&job.key, move || {
            shared::write_request(&job_, &credentials)?;
            Shared::of(&run_dir, &job_).renew(&job_)
        })
        .await
    }

    /// How far a job has come, whoever has worked at it.
    ///
    /// # Errors
    /// What is known of it cannot be read.
    pub async fn state(&self, job: &Job) -> Result<JobState, RuntimeError> {
        job.check_key()?;
        let (inner, job_) = (Arc::clone(&self.shared), job.clone());
        blocking(&job.key, move || inner.look(&job_)).await
    }

    /// Compressed bytes that were fetched so far for the mount that the job uses; 0 if there is none.
    ///
    /// # Errors
    /// A task of ours was lost.
    pub async fn fetched_bytes(&self, job: &Job) -> Result<u64, RuntimeError> {
        let shared = Shared::of(&self.shared.options.run_dir, job);
        blocking(&job.key, move || Ok(shared.fetched_bytes())).await
    }

    /// What the container has written from an offset on, oldest first: stream, offset, bytes. Offsets count the bytes of both streams together;
    /// the next one to ask for is that of the last piece and its length. At most `limit` bytes, in pieces of at most 64 KiB (one byte
    /// at least, if there is one); nothing, if there is nothing yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn read_output(&self, job: &Job, from: u64, limit: usize) -> Result<Vec<Piece>, RuntimeError> {
        job.check_key()?;
        let (inner, job_) = (Arc::clone(&self.shared), job.clone());
        blocking(&job.key, move || inner.read_output(&job_, from, limit)).await
    }

    /// Removes everything of a job: processes, mounts, cgroups, files; the image's mount, if nobody else uses it. Kills what runs. What is
    /// gone already is no error. Files in [`Job::dir`] that are the caller's stay, and so does the directory then.
    ///
    /// # Errors
    /// What is left, the first of it; everything else was removed.
    pub async fn clean(&self, job: &Job) -> Result<(), RuntimeError> {
        job.check_key()?;
        let (inner, job_) = (Arc::clone(&self.shared), job.clone());
        blocking(&job.key, move || inner.clean(&job_)).await
    }

    /// Removes everything of jobs that are not among these: after a crash, a reboot, a lost lease.
    ///
    /// # Errors
    /// What is left, the first of it; everything else was removed.
    pub async fn reap(&self, known: &[Job]) -> Result<(), RuntimeError> {
        let (inner, keys) =
            (Arc::clone(&self.shared), known.iter().map(|job| job.key.clone()).collect::<Vec<_>>());
        blocking("", move || inner.reap(&keys)).await
    }

    /// Waits until nobody holds the job's FIFO.
    async fn until_monitor_ends(&self, job: &Job) -> Result<(), RuntimeError> {
        /// Without a monitor ([`Program::None`]) the end is looked for.
        const LOOK: Duration = Duration::from_millis(200);
        let path = job.alive();
        let open = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let fifo = match open {
            Ok(fifo) => fifo,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                tokio::time::sleep(LOOK).await;
                return Ok(());
            }
            Err(e) => return Err(RuntimeError::io("open", &path)(e)),
        };
        // The end of a FIFO is an event only for who had it open while somebody held it: who comes too late must look.
        match (&fifo).read(&mut [0]) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            ended => return ended.map(drop).map_err(RuntimeError::io("watch", &path)),
        }
        let fifo = tokio::net::unix::pipe::Receiver::from_file(fifo);
        let mut fifo = fifo.map_err(RuntimeError::io("watch", &path))?;
        // Nobody writes into it.
        let mut nothing = [0];
        let ended = tokio::io::AsyncReadExt::read(&mut fifo, &mut nothing).await;
        ended.map(drop).map_err(RuntimeError::io("watch", &path))
    }
}

/// Off the threads that drive connections.
async fn blocking<T: Send + 'static>(
    key: &str,
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| RuntimeError::Lost(key.to_owned()))?
}

impl Inner {
    fn open(mut options: RuntimeOptions) -> Result<Self, RuntimeError> {
        for dir in [&mut options.state_dir, &mut options.run_dir] {
            overlay::private_dir(dir)?;
            *dir = fs::canonicalize(&*dir).map_err(RuntimeError::io("find", dir))?;
        }
        let name = match &options.program {
            Program::Crun => Some(Path::new("crun")),
            Program::Runc => Some(Path::new("runc")),
            Program::Path(path) => Some(path.as_path()),
            Program::None => None,
        };
        let machine = name
            .map(|name| {
                let oci = Oci { program: program::find(name)?, root: options.run_dir.join(".oci") };
                overlay::private_dir(&oci.root)?;
                Ok(Machine { oci, cgroups: Cgroups::open(group(&options.run_dir))? })
            })
            .transpose()?;
        Ok(Self { options, machine, places: Mutex::default() })
    }

    fn read_output(&self, job: &Job, from: u64, limit: usize) -> Result<Vec<Piece>, RuntimeError> {
        let near = {
            let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.get(&job.key).copied().unwrap_or_default()
        };
        let path = job.output();
        let (found, place) =
            output::read(&path, near, from, limit).map_err(RuntimeError::io("read", &path))?;
        self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(job.key.clone(), place);
        Ok(found)
    }
}

/// Removes a directory of ours and what a container has put into it, unless something is mounted there. Blocking.
pub(super) fn remove_dir(path: &Path) -> Result<(), RuntimeError> {
    overlay::remove(path)
}

/// Name of the worker's cgroup: several workers share a machine.
fn group(run_dir: &Path) -> String {
    let hash = blake3::hash(run_dir.as_os_str().as_encoded_bytes());
    format!("clipfs-{}", hex::encode(&hash.as_bytes()[..4]))
}

/// Whether somebody holds a FIFO open for writing.
fn is_held(fifo: &Path) -> io::Result<bool> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = match fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(fifo)
    {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    match nix::unistd::read(file.as_fd(), &mut [0]) {
        Ok(_) => Ok(false),
        Err(nix::errno::Errno::EAGAIN) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
