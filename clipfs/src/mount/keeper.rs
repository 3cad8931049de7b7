//! The keeper: opens `/dev/fuse`, mounts, holds the descriptor, starts the server and starts it again when it dies, unmounts at the
//! end. It does nothing else, so that it has no reason to die.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::SigSet;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::sentence;
use super::protocol::{MountFlags, MountRequest, Mounted, ServerDocument, ServerReport, State};
use super::rundir::{KeeperState, Lock, RunDir};
use super::unmount::{Attempt, RETRY, abort, attempt};
use super::{MountError, handover, mountinfo};
use crate::exit;
use crate::index::IndexError;

/// Name of the hidden subcommand that runs the server.
pub(crate) const SERVER_COMMAND: &str = "server";

/// Starts in a row that end before the server serves, until the keeper gives up.
const FAILED_STARTS: u32 = 10;
/// Servers in a row that serve and die within [`QUICK`], until the keeper gives up.
const QUICK_DEATHS: u32 = 100;
/// A server that lives this long was a good one.
const QUICK: Duration = Duration::from_secs(2);
/// First and longest pause before a start after a failed one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// glibc's allocator keeps what chunks of megabytes leave behind, in an arena for each thread: with few arenas, and chunks
/// mapped by themselves, freed memory goes back to the system.
const MALLOC: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "262144")];
/// The log in the run directory, which is memory, is emptied when it is longer.
const MAX_LOG: u64 = 16 << 20;
/// What the server may take longer than the limit of a mount: the limit is also that of its source of credentials, and it is the server
/// that can say so.
const LAST_WORD: Duration = Duration::from_secs(5);
/// How often the log's length is looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(30);

/// Mounts, calls `ready` once when the mount serves (or never), keeps it until it is unmounted. `held` is the ContainerRequest, which
/// every server reads; this process never does.
///
/// # Errors
/// Why it could not be mounted (nothing is left behind), or why it had to be given up.
pub(crate) fn run(
    request: &MountRequest,
    held: Option<OwnedFd>,
    ready: impl FnOnce(&Mounted) -> io::Result<()>,
) -> Result<(), MountError> {
    // So do blocked ones; nothing is started yet that would want another mask.
    if let Err(error) = SigSet::all().thread_unblock() {
        tracing::warn!(%error, "cannot unblock signals");
    }
    let dir = RunDir::of(&request.run_dir, &request.mountpoint);
    let lock = dir.take(&request.mountpoint)?;
    let result = mounted(request, held.as_ref(), &dir, ready);
    // While the lock is held nobody else can begin to use the directory.
    dir.remove();
    drop::<Lock>(lock);
    result
}

fn mounted(
    request: &MountRequest,
    held: Option<&OwnedFd>,
    dir: &RunDir,
    ready: impl FnOnce(&Mounted) -> io::Result<()>,
) -> Result<(), MountError> {
    // Held until the end.
    let index = open_index(&request.server.index)?;
    let document = ServerDocument {
        config: request.server.clone(),
        mount_timeout: request.mount_timeout,
        holds_request: held.is_some(),
    };
    dir.write(&dir.server_config(), &document)?;
    heal(&request.mountpoint)?;
    let fuse = open_fuse()?;
    mount_at(request, &fuse)?;
    let failed = |source| MountError::Mount { path: request.mountpoint.clone(), source };
    let entry = mountinfo::at(&request.mountpoint).map_err(failed)?.filter(mountinfo::Entry::is_ours);
    let device = entry.ok_or_else(|| failed(io::Error::other("it is covered at once")))?.device;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| MountError::Spawn { what: "keeper", source });
    let result = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let given = Given { fuse, index, request: held };
            let mut keeper = Keeper::new(request, dir, given, device.clone())?;
            let result = keeper.keep(ready).await;
            keeper.kill_server().await;
            result
        })
    });
    // On the way out of a failure: after a normal end there is nothing left to unmount.
    if result.is_err() {
        match attempt(&request.mountpoint, &device, true) {
            Ok(Attempt::Gone) => {}
            Ok(Attempt::Busy | Attempt::Covered) => tracing::error!("a dead mount is left behind"),
            Err(error) => tracing::error!(%error, "cannot unmount"),
        }
    }
    result
}

/// Detaches a dead mount. That nobody holds our run directory proves nothing: the keeper may have another one.
fn heal(mountpoint: &Path) -> Result<(), MountError> {
    let failed = |source| MountError::Unmount { path: mountpoint.to_owned(), source };
    let Some(top) = mountinfo::at(mountpoint).map_err(failed)?.filter(mountinfo::Entry::is_ours) else {
        return Ok(());
    };
    if !mountinfo::is_dead(mountpoint) {
        return Err(MountError::AlreadyMounted(mountpoint.to_owned()));
    }
    attempt(mountpoint, &top.device, true).map(drop).map_err(failed)
}

fn open_index(path: &Path) -> Result<File, MountError> {
    File::open(path).map_err(|error| {
        let error = IndexError::Io(error);
        let message = format!("{}: {}", path.display(), sentence(&error));
        MountError::Refused { message, code: exit::index(&error) }
    })
}

fn open_fuse() -> Result<File, MountError> {
    let file = File::options().read(true).write(true).open("/dev/fuse").map_err(MountError::NoFuse)?;
    let is_device = file.metadata().map_err(MountError::NoFuse)?.file_type().is_char_device();
    if is_device { Ok(file) } else { Err(MountError::NoFuse(io::Error::other("not a character device"))) }
}

fn mount_at(request: &MountRequest, fuse: &File) -> Result<(), MountError> {
    let (mountpoint, image) = (request.mountpoint.as_path(), request.server.name.as_str());
    let mode = std::fs::metadata(mountpoint).map(|m| m.mode()).unwrap_or(libc::S_IFDIR) & libc::S_IFMT;
    let options = format!(
        "fd={},rootmode={mode:o},user_id=0,group_id=0,default_permissions,allow_other",
        fuse.as_raw_fd()
    );
    // Devices and setuid work as in any root file system unless they are declined: only root gets here.
    let flags = MsFlags::MS_RDONLY | declined(request.flags);
    mount(Some(image), mountpoint, Some(mountinfo::FS_TYPE), flags, Some(options.as_str()))
        .map_err(|errno| MountError::Mount { path: mountpoint.to_owned(), source: errno.into() })
}

fn declined(flags: MountFlags) -> MsFlags {
    let MountFlags { nosuid, nodev, noexec } = flags;
    [(nosuid, MsFlags::MS_NOSUID), (nodev, MsFlags::MS_NODEV), (noexec, MsFlags::MS_NOEXEC)]
        .into_iter()
        .filter_map(|(declined, flag)| declined.then_some(flag))
        .collect()
}

/// Raises the kernel's read-ahead: FUSE_INIT caps it at 128 KiB.
fn raise_read_ahead(device: &str, bytes: u64) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, (bytes / 1024).max(4).to_string()) {
        tracing::debug!(path, %error, "cannot raise the read-ahead");
    }
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        // Ignored signals stay ignored over exec(2), and where SIGCHLD is ignored nobody can wait for a child. A handler, once
        // installed, stays.
        drop(signal(SignalKind::child())?);
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Told to end. A hangup is none: the terminal of a background mount may go.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.hup.recv() => {}
            }
        }
    }
}

/// What every server is given.
struct Given<'a> {
    /// The connection.
    fuse: File,
    index: File,
    /// The ContainerRequest, where it is in memory.
    request: Option<&'a OwnedFd>,
}

/// The server process of the moment.
struct Server {
    child: Child,
    report: tokio::io::Lines<BufReader<UnixStream>>,
    started: Instant,
    served: bool,
}

struct Keeper<'a> {
    request: &'a MountRequest,
    dir: &'a RunDir,
    given: Given<'a>,
    signals: Signals,
    server: Server,
    device: String,
}

impl<'a> Keeper<'a> {
    fn new(
        request: &'a MountRequest,
        dir: &'a RunDir,
        given: Given<'a>,
        device: String,
    ) -> Result<Self, MountError> {
        let spawn = |what, source| MountError::Spawn { what, source };
        let signals = Signals::new().map_err(|e| spawn("keeper", e))?;
        let server = start(dir, &given).map_err(|e| spawn("server", e))?;
        Ok(Self { request, dir, given, signals, server, device })
    }

    fn server_pid(&self) -> u32 {
        self.server.child.id().unwrap_or(0)
    }

    async fn kill_server(&mut self) {
        // Fails only if it is dead already.
        let _ = self.server.child.kill().await;
    }

    /// Whether the connection still has a mount (or open files of a detached one) at its other end.
    fn connected(&self) -> bool {
        let mut fds = [PollFd::new(self.given.fuse.as_fd(), PollFlags::empty())];
        match nix::poll::poll(&mut fds, PollTimeout::ZERO) {
            Ok(0) | Err(_) => true,
            Ok(_) => !fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)),
        }
    }

    async fn keep(&mut self, ready: impl FnOnce(&Mounted) -> io::Result<()>) -> Result<(), MountError> {
        let path = self.request.mountpoint.clone();
        let limit = self.request.mount_timeout;
        let state = tokio::time::timeout(limit + LAST_WORD, self.first_start()).await;
        let state = state.unwrap_or(Err(MountError::Timeout { path: path.clone(), after: limit }))?;
        let mut kept = self.describe();
        self.dir.write_state(&kept)?;
        let mounted = Mounted {
            mountpoint: path.clone(),
            keeper_pid: std::process::id(),
            server_pid: self.server_pid(),
            state,
        };
        if let Err(error) = ready(&mounted) {
            tracing::debug!(%error, "nobody waits for the mount any more");
        }
        let (mut failed, mut quick) = (0, 0);
        loop {
            let Some(status) = self.server_end().await else {
                if self.stop().await? {
                    return Ok(());
                }
                continue;
            };
            // A server that cannot be waited for has died, for all we know: the mount is not ended on suspicion.
            let ended = status.as_ref().is_ok_and(ExitStatus::success);
            if ended || !self.connected() {
                tracing::info!(mountpoint = %path.display(), "unmounted");
                return Ok(());
            }
            (failed, quick) = match (self.server.served, self.server.started.elapsed() < QUICK) {
                (false, _) => (failed + 1, quick),
                (true, true) => (0, quick + 1),
                (true, false) => (0, 0),
            };
            let status = match status {
                Ok(status) => status.to_string(),
                Err(error) => {
                    // It must not answer beside the next one.
                    self.kill_server().await;
                    error.to_string()
                }
            };
            tracing::warn!(status, failed, quick, "the server died: starting it again");
            if failed >= FAILED_STARTS || quick >= QUICK_DEATHS {
                return Err(MountError::CrashLoop { path, times: failed.max(quick) });
            }
            if failed > 0 {
                let pause = BACKOFF.0.saturating_mul(1 << failed.min(10)).min(BACKOFF.1);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.signals.stop() => if self.stop().await? { return Ok(()) },
                }
            }
            match start(self.dir, &self.given) {
                Ok(server) => self.server = server,
                Err(error) => {
                    // Counts as a failed start: the old, dead server is waited for once more.
                    tracing::error!(%error, "cannot start the server");
                    self.server.served = false;
                    continue;
                }
            }
            kept.server_restarts += 1;
            kept.server_pid = self.server_pid();
            if let Err(error) = self.dir.write_state(&kept) {
                tracing::warn!(%error, "cannot write the mount's state");
            }
        }
    }

    fn describe(&self) -> KeeperState {
        let config = &self.request.server;
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        KeeperState {
            mountpoint: self.request.mountpoint.clone(),
            image: config.name.clone(),
            digest: config.digest.clone(),
            keeper_pid: std::process::id(),
            server_pid: self.server_pid(),
            server_restarts: 0,
            cache_dir: config.cache_dir.clone(),
            started,
            device: self.device.clone(),
        }
    }

    /// Waits until the server serves and proves it by asking the kernel for the root.
    async fn first_start(&mut self) -> Result<State, MountError> {
        let path = self.request.mountpoint.clone();
        let line = tokio::select! {
            line = self.server.report.next_line() => line,
            () = self.signals.stop() => return Err(MountError::Interrupted(path)),
        };
        let report = line.ok().flatten().and_then(|line| serde_json::from_str(&line).ok());
        let state = match report {
            Some(ServerReport::Ready { state }) => state,
            Some(ServerReport::Failed { message, code }) => {
                return Err(MountError::Refused { message, code });
            }
            None => {
                let status = self.server.child.wait().await.map_or_else(|e| e.to_string(), |s| s.to_string());
                return Err(MountError::Died { path, status });
            }
        };
        self.server.served = true;
        let probe = path.clone();
        let probed = tokio::task::spawn_blocking(move || std::fs::metadata(probe)).await;
        probed
            .unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(|source| MountError::Mount { path, source })?;
        raise_read_ahead(&self.device, self.request.read_ahead);
        Ok(state)
    }

    /// The server's end; `None` = told to stop.
    async fn server_end(&mut self) -> Option<io::Result<ExitStatus>> {
        let mut listening = true;
        loop {
            tokio::select! {
                status = self.server.child.wait() => return Some(status),
                line = self.server.report.next_line(), if listening => match line {
                    Ok(Some(line)) => match serde_json::from_str(&line) {
                        Ok(ServerReport::Ready { .. }) => self.server.served = true,
                        Ok(ServerReport::Failed { message, .. }) => tracing::error!(message, "the server cannot start"),
                        Err(error) => tracing::warn!(%error, "the server speaks gibberish"),
                    },
                    Ok(None) | Err(_) => listening = false,
                },
                () = self.signals.stop() => return None,
                () = tokio::time::sleep(HOUSEKEEPING) => self.bound_log(),
            }
        }
    }

    fn bound_log(&self) {
        let log = self.dir.log();
        if std::fs::metadata(&log).is_ok_and(|m| m.len() > MAX_LOG) {
            // Written with O_APPEND: writers go on at the new end.
            let _ = File::options()
                .write(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(log)
                .and_then(|file| file.set_len(0));
        }
    }

    /// Grace, lazy detach, grace for open files, abort. `false`: still mounted, but not where it could be unmounted: goes on.
    async fn stop(&mut self) -> Result<bool, MountError> {
        let path = self.request.mountpoint.clone();
        let grace = self.request.unmount_timeout;
        let failed = |source| MountError::Unmount { path: path.clone(), source };
        let since = Instant::now();
        while self.connected() {
            let late = since.elapsed() >= grace;
            match attempt(&path, &self.device, late).map_err(failed)? {
                Attempt::Gone => break,
                Attempt::Covered if late => {
                    tracing::warn!("something is mounted over it, or it was moved: the mount is kept");
                    return Ok(false);
                }
                Attempt::Covered | Attempt::Busy => tokio::time::sleep(RETRY).await,
            }
        }
        // A server that dies now is not replaced: the mount is on its way out. Told twice = no more grace.
        let ended = tokio::select! {
            _ = self.server.child.wait() => true,
            () = tokio::time::sleep(grace) => false,
            () = self.signals.stop() => false,
        };
        if !ended {
            tracing::warn!("files are still open: aborting the connection");
            abort(&self.device);
            self.kill_server().await;
        }
        Ok(true)
    }
}

/// The program of this process, even if its file was replaced in the meantime: an upgrade that does not work must not take
/// over a mount that does.
fn this_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Starts a server: the connection is its standard input, the socket for its word to us its standard output, the log its standard
/// error.
fn start(dir: &RunDir, given: &Given<'_>) -> io::Result<Server> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    handover::give(&ours, &given.index, given.request)?;
    let child = Command::new(this_program())
        .arg0("clipfs")
        .arg(SERVER_COMMAND)
        .arg(dir.path())
        .envs(MALLOC)
        .stdin(Stdio::from(given.fuse.try_clone()?))
        .stdout(OwnedFd::from(theirs))
        .spawn()?;
    ours.set_nonblocking(true)?;
    let report = BufReader::new(UnixStream::from_std(ours)?).lines();
    Ok(Server { child, report, started: Instant::now(), served: false })
}
