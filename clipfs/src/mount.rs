//! One mount's life: keeper and server, run directory, status, unmounting.
//!
//! `clipfs mount` is two processes. The keeper opens `/dev/fuse`, mounts and holds the descriptor; the server is everything
//! else and may die at any time: the keeper starts it again, and it adopts the connection ([`crate::fuse::session`]). Both
//! are this program under hidden subcommands: `keeper` (its standard input is a socket for the request and its report; its standard
//! output a held ContainerRequest, if there is one) and `server RUN_DIR`. Used by [`crate::cli`].

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

mod asked;
mod descriptors;
pub mod error;
mod handover;
mod keeper;
mod logging;
mod metrics;
pub(crate) mod mountinfo;
mod protocol;
mod rundir;
mod server;
mod source;
mod status;
mod unmount;

pub use descriptors::keep_from_children;
pub use error::MountError;
pub use protocol::{MountFlags, MountRequest, Mounted, ServerConfig, State};
pub use server::server_main;
pub use status::{MountStatus, ServerCounters, list, status};
pub use unmount::unmount;

use nix::sys::socket::UnixAddr;

use protocol::{KeeperReport, send};
use rundir::RunDir;

/// Name of the hidden subcommand that runs the keeper.
const KEEPER_COMMAND: &str = "keeper";

/// What the keeper may take longer than the mount itself: starting, and cleaning up after a failure.
const KEEPER_SLACK: Duration = Duration::from_secs(10);

/// Mounts in the background: returns when the mount serves, or failed with nothing left behind. `held`: the ContainerRequest
/// in memory, where it has no file that could be read again; the keeper holds it for all servers.
///
/// # Errors
/// See [`MountError`].
pub fn mount(request: MountRequest, held: Option<OwnedFd>) -> Result<Mounted, MountError> {
    let mut request = check(request)?;
    request.holds_request = held.is_some();
    let spawn = |source| MountError::Spawn { what: "keeper", source };
    let dir = RunDir::of(&request.run_dir, &request.mountpoint);
    let log = open_log(&request, &dir).map_err(|source| MountError::RunDir {
        path: request.log_file.clone().unwrap_or_else(|| dir.path().to_owned()),
        source,
    })?;
    let (mut ours, theirs) = UnixStream::pair().map_err(spawn)?;
    // Descriptors go as standard ones only: nothing else is ever inherited, by nobody.
    let mut child = Command::new("/proc/self/exe")
        .arg0("clipfs")
        .arg(KEEPER_COMMAND)
        .stdin(OwnedFd::from(theirs))
        .stdout(held.map_or_else(Stdio::null, Stdio::from))
        .stderr(log)
        .spawn()
        .map_err(spawn)?;
    send(&mut ours, &request).and_then(|()| ours.shutdown(Shutdown::Write)).map_err(spawn)?;
    let limit = request.mount_timeout + request.unmount_timeout + KEEPER_SLACK;
    match report(ours, limit) {
        Some(KeeperReport::Mounted(mounted)) => Ok(mounted),
        Some(KeeperReport::Failed { message, code }) => {
            // It has reported last thing before its end.
            let _ = child.wait();
            Err(MountError::Refused { message, code })
        }
        None => {
            let _ = child.kill();
            let status = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            // A killed keeper cleans nothing up.
            if let Ok(Some(entry)) = mountinfo::at(&request.mountpoint)
                && entry.is_ours()
                && !dir.is_kept()
            {
                let _ = unmount::attempt(&request.mountpoint, &entry.device, true);
            }
            dir.reap();
            Err(MountError::Died { path: request.mountpoint, status })
        }
    }
}

/// Mounts and keeps the mount in this process until it is unmounted or a signal ends it; `ready` is called when it serves.
///
/// # Errors
/// See [`MountError`].
pub fn mount_foreground(
    request: MountRequest,
    held: Option<OwnedFd>,
    ready: impl FnOnce(&Mounted),
) -> Result<(), MountError> {
    let request = check(request)?;
    keeper::run(&request, held, |mounted| {
        ready(mounted);
        Ok(())
    })
}

/// Entry point of the hidden subcommand `keeper`.
#[must_use]
pub fn keeper_main() -> ExitCode {
    let (request, held, mut caller) = match take_over() {
        Ok(taken) => taken,
        Err(error) => {
            tracing::error!(%error, "not started by `clipfs mount`");
            return ExitCode::from(crate::exit::SOFTWARE);
        }
    };
    logging::init(&request.server.log_level, request.server.log_json);
    name_process(c"clipfs-keeper");
    if let Err(error) = detach() {
        tracing::warn!(%error, "cannot leave the session");
    }
    let mut told = false;
    let result = keeper::run(&request, held, |mounted| {
        told = true;
        tell(&mut caller, &Ok(mounted.clone()))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            tracing::error!("{}", error::sentence(&error));
            if !told && let Err(error) = tell(&mut caller, &Err(error)) {
                tracing::debug!(%error, "nobody waits for the mount any more");
            }
            ExitCode::from(code)
        }
    }
}

/// What `clipfs mount` hands over: the request, the ContainerRequest in memory, and the socket it waits at. Standard input and
/// output become `/dev/null`: no server inherits them.
fn take_over() -> io::Result<(MountRequest, Option<OwnedFd>, UnixStream)> {
    let caller = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let held = io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    let request: MountRequest = serde_json::from_reader(&caller).map_err(io::Error::other)?;
    let held = request.holds_request.then_some(held);
    Ok((request, held, caller))
}

/// What `ps` and `pgrep` show: started by way of `/proc/self/exe`, it would be `exe`.
fn name_process(name: &std::ffi::CStr) {
    if let Err(error) = nix::sys::prctl::set_name(name) {
        tracing::debug!(%error, "cannot name the process");
    }
}

/// Own session, no working directory that would keep a file system busy.
fn detach() -> io::Result<()> {
    std::env::set_current_dir("/")?;
    nix::unistd::setsid()?;
    Ok(())
}

/// Says the one thing that `clipfs mount` waits for, and that there is no more.
fn tell(caller: &mut UnixStream, result: &Result<Mounted, MountError>) -> io::Result<()> {
    send(caller, &KeeperReport::of(result))?;
    caller.shutdown(Shutdown::Both)
}

/// The keeper's report; `None` = it ended, or says nothing within the limit.
fn report(keeper: UnixStream, limit: Duration) -> Option<KeeperReport> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(keeper).read_line(&mut line);
        // Nobody receives after the limit.
        let _ = sender.send(read.ok().and_then(|_| serde_json::from_str(&line).ok()));
    });
    receiver.recv_timeout(limit).ok().flatten()
}

fn open_log(request: &MountRequest, dir: &RunDir) -> io::Result<File> {
    let path = match &request.log_file {
        Some(path) => path.clone(),
        None => {
            dir.create()?;
            return OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(dir.log());
        }
    };
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// What can be known before the image is looked for: whether this process may mount there. [`mount`] checks again.
///
/// # Errors
/// No root, no `/dev/fuse`, a mountpoint that is none or is taken.
pub fn preflight(run_dir: &Path, mountpoint: &Path) -> Result<(), MountError> {
    check_machine()?;
    check_mountpoint(mountpoint, &absolute(run_dir)?).map(drop)
}

fn check_machine() -> Result<(), MountError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(MountError::NotRoot);
    }
    std::fs::metadata("/dev/fuse").map(drop).map_err(MountError::NoFuse)
}

/// Everything that can be known before anything is done. Paths become absolute: the keeper has another working directory.
fn check(mut request: MountRequest) -> Result<MountRequest, MountError> {
    check_machine()?;
    let server = &mut request.server;
    let paths = [&mut request.run_dir, &mut server.index, &mut server.cache_dir];
    for path in paths.into_iter().chain(request.log_file.as_mut()).chain(server.hosts_dir.as_mut()) {
        *path = absolute(path)?;
    }
    let credentials = &mut server.credentials;
    if let Some(path) = &mut credentials.request {
        *path = absolute(path)?;
    }
    if let Some(plugin) = &credentials.plugin {
        credentials.plugin = Some(plugin.with_path(absolute(plugin.path())?));
    }
    request.mountpoint = check_mountpoint(&request.mountpoint, &request.run_dir)?;
    Ok(request)
}

fn absolute(path: &Path) -> Result<std::path::PathBuf, MountError> {
    std::path::absolute(path).map_err(|source| MountError::Mountpoint { path: path.to_owned(), source })
}

fn check_mountpoint(mountpoint: &Path, run_dir: &Path) -> Result<std::path::PathBuf, MountError> {
    let refuse = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => MountError::NoMountpoint(mountpoint.to_owned()),
        io::ErrorKind::NotADirectory => MountError::NotADirectory(mountpoint.to_owned()),
        _ => MountError::Mountpoint { path: mountpoint.to_owned(), source },
    };
    let path = mountinfo::canonical(mountpoint).map_err(refuse)?;
    let dir = RunDir::of(run_dir, &path);
    if UnixAddr::new(&dir.control()).is_err() {
        return Err(MountError::LongRunDir(run_dir.to_owned()));
    }
    if mountinfo::at(&path).map_err(refuse)?.is_some_and(|entry| entry.is_ours()) {
        if dir.is_kept() || !mountinfo::is_dead(&path) {
            return Err(MountError::AlreadyMounted(path));
        }
        // Dead: the keeper detaches it before it mounts anew.
        return Ok(path);
    }
    let metadata = std::fs::metadata(&path).map_err(refuse)?;
    if metadata.is_dir() { Ok(path) } else { Err(MountError::NotADirectory(path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountpoints_are_refused_each_for_its_own_reason() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        std::fs::write(&file, "").unwrap();
        let run_dir = top.path().join("run");
        let check = |path: &Path| check_mountpoint(path, &run_dir);
        assert!(matches!(check(&top.path().join("none")), Err(MountError::NoMountpoint(_))));
        assert!(matches!(check(&file), Err(MountError::NotADirectory(_))));
        assert!(matches!(check(&file.join("x")), Err(MountError::NotADirectory(_))));
        let link = top.path().join("link");
        std::os::unix::fs::symlink(top.path(), &link).unwrap();
        assert_eq!(check(&link).unwrap(), top.path().canonicalize().unwrap());
        let long = top.path().join("r".repeat(100));
        let error = check_mountpoint(top.path(), &long).unwrap_err();
        assert_eq!(error.exit_code(), crate::exit::CONFIG, "{error}");
        assert!(!run_dir.exists(), "checking leaves nothing behind");
    }

    #[test]
    fn requests_and_reports_survive_the_pipe() {
        let failed = KeeperReport::of(&Err(MountError::NoMountpoint("/x".into())));
        let mut pipe = Vec::new();
        send(&mut pipe, &failed).unwrap();
        assert_eq!(pipe.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<KeeperReport>(&pipe).unwrap(), failed);
        let KeeperReport::Failed { message, code } = failed else { panic!("a failure") };
        assert_eq!((message.as_str(), code), ("mountpoint /x does not exist", crate::exit::NO_INPUT));
    }
}
