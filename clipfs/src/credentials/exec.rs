//! Runs a plugin: bounded input, output and time; killed as a group; its words never logged.
//!
//! What a plugin gets: the given environment and no other, `/` as its directory, three descriptors (input, output, `/dev/null` as
//! standard error: its content could hold secrets; all that this process opens is closed on exec), default signals, no core dumps ([`hardening`]), a process group of its own. At most
//! [`MAX_RUNNING`] run at a time, see [`Places`]. There is one thread for each, which starts it, waits for it and reaps it; so that whatever
//! becomes of the caller (an error, the time limit, a dropped future) the group is killed while its leader's number cannot
//! have been given to anybody else, and nothing is left behind as a zombie.
//!
//! An answer ends at the end of the output, or [`GRACE`] after the plugin's exit: a child of it that holds the output open is not
//! waited for. What had come until then is handed over (the caller sees whether it is a whole document), and the group is killed
//! in any case. A descendant that made a session of its own escapes the kill, and can hold up nothing.
//!
//! Knows no protocol: [`super::plugin`], [`super::docker`] and [`super::kubelet`] do.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{AccessFlags, Pid, access};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::{CredentialError, hardening};

/// Plugins that this process runs at a time: each may hold [`Run::max_output`] and a process or more.
pub const MAX_RUNNING: usize = 8;

/// How long output is awaited after the exit: what a plugin has written is in the pipe by then, so this is for shell
/// pipelines whose last part is not waited for.
pub const GRACE: Duration = Duration::from_millis(250);

/// Attempts to start a program that is being written: a plugin that is being installed.
const BUSY_ATTEMPTS: u32 = 20;

/// Pause between two of them.
const BUSY_PAUSE: Duration = Duration::from_millis(25);

/// PATH of a process that has none.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Places for [`MAX_RUNNING`] plugins. Clones share them.
#[derive(Debug, Clone)]
pub struct Places(Arc<Semaphore>);

impl Places {
    /// Those of this process, which all providers share unless they are told otherwise.
    #[must_use]
    pub fn of_this_process() -> Self {
        static PLACES: LazyLock<Places> = LazyLock::new(Places::default);
        PLACES.clone()
    }
}

/// New ones, shared with nobody.
impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_RUNNING)))
    }
}

/// What is run, and how far it may go.
pub struct Run<'a> {
    /// Where there must be room for it.
    pub places: &'a Places,
    /// The program, from [`find_program`].
    pub program: &'a Path,
    /// Its arguments: never a secret, everybody can read them.
    pub args: &'a [&'a str],
    /// Its whole environment.
    pub env: &'a [(OsString, OsString)],
    /// What it reads from its standard input, which is closed after that.
    pub input: &'a [u8],
    /// For everything: waiting for a free place, starting, writing, reading.
    pub limit: Duration,
    /// Longest output, in bytes.
    pub max_output: usize,
}

/// How it ended and what it said.
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output. Wiped when dropped.
    pub output: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The output is secret.
        f.debug_struct("Ran")
            .field("status", &self.status)
            .field("output_len", &self.output.len())
            .finish_non_exhaustive()
    }
}

impl Ran {
    /// Ends that no protocol gives a meaning to: by a signal, or by a shell that could not run what it was to run.
    ///
    /// # Errors
    /// [`CredentialError::Unavailable`] if it was killed from outside, [`CredentialError::Broken`] if it crashed,
    /// [`CredentialError::Configuration`] on 126 and 127.
    pub fn check_end(&self, program: &Path) -> Result<(), CredentialError> {
        let name = program.display();
        if let Some(number) = self.status.signal() {
            return Err(if number == Signal::SIGKILL as i32 {
                CredentialError::Unavailable(format!(
                    "{name} was killed (SIGKILL): the system may be short of memory"
                ))
            } else {
                let signal = Signal::try_from(number).map_or("an unknown signal", Signal::as_str);
                CredentialError::Broken(format!("{name} crashed ({signal})"))
            });
        }
        match self.status.code() {
            Some(126) => Err(CredentialError::Configuration(format!(
                "{name} ended with exit code 126: something that it runs is not executable"
            ))),
            Some(127) => Err(CredentialError::Configuration(format!(
                "{name} ended with exit code 127: something that it runs was not found"
            ))),
            _ => Ok(()),
        }
    }
}

/// A program as an absolute path: paths with a slash from the working directory, bare names by PATH.
///
/// # Errors
/// [`CredentialError::Configuration`]: there is none, or it is no executable file.
pub fn find_program(path: &Path) -> Result<PathBuf, CredentialError> {
    let wrong = |reason: String| CredentialError::Configuration(reason);
    if path.components().count() > 1
        || path.is_absolute()
        || path.as_os_str().as_encoded_bytes().contains(&b'/')
    {
        let absolute = std::path::absolute(path).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
        return check_program(&absolute).map(|()| absolute);
    }
    if path.as_os_str().is_empty() {
        return Err(wrong("the plugin's name is empty: name a program".into()));
    }
    let dirs = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    find_in(path, std::env::split_paths(&dirs))
}

/// [`find_program`] off the threads that drive connections: the program may be on a file system that hangs.
///
/// # Errors
/// As [`find_program`].
pub async fn look_for(path: PathBuf) -> Result<PathBuf, CredentialError> {
    tokio::task::spawn_blocking(move || find_program(&path))
        .await
        .map_err(|_| CredentialError::Unavailable("the plugin was not looked for".into()))?
}

/// A bare name in the directories of PATH. Relative ones do not count: what is run must not depend on the working directory.
fn find_in(name: &Path, dirs: impl Iterator<Item = PathBuf>) -> Result<PathBuf, CredentialError> {
    let mut unusable = None;
    for dir in dirs.filter(|dir| dir.is_absolute()) {
        let candidate = dir.join(name);
        match check_program(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if fs::symlink_metadata(&candidate).is_ok() => {
                unusable.get_or_insert(error);
            }
            Err(_) => {}
        }
    }
    Err(unusable.unwrap_or_else(|| {
        let name = name.display();
        CredentialError::Configuration(format!(
            "no program {name} in PATH: install it, or give its whole path"
        ))
    }))
}

fn check_program(path: &Path) -> Result<(), CredentialError> {
    let name = path.display();
    let reason = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_ok() => {
            format!("{name} is a link that leads nowhere: install what it points to")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            format!("there is no {name}: install the plugin, or mend its path")
        }
        Err(error) => format!("{name}: {error}"),
        Ok(found) if found.is_dir() => format!("{name} is a directory: name the program in it"),
        Ok(found) if !found.is_file() => format!("{name} is not a regular file: name a program"),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => {
            format!("{name} is not executable: chmod +x it, or name another program")
        }
        Ok(_) => match access(path, AccessFlags::X_OK) {
            Ok(()) => return Ok(()),
            Err(error) => {
                format!("{name} may not be executed by this user ({}): mend its mode or owner", error.desc())
            }
        },
    };
    Err(CredentialError::Configuration(reason))
}

/// PATH, HOME and the variables of these names, as far as this process has them.
#[must_use]
pub fn environment(names: &[String]) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    for name in ["PATH", "HOME"].into_iter().chain(names.iter().map(String::as_str)) {
        // `var_os` of a name that cannot be one is `None`.
        if let Some(value) = std::env::var_os(name)
            && !env.iter().any(|(known, _)| known == name)
        {
            env.push((name.into(), value));
        }
    }
    env
}

/// Runs it to its end. Cancel safe: a dropped future kills the group.
///
/// # Errors
/// [`CredentialError::Configuration`]: it cannot be started as it is. [`CredentialError::Unavailable`]: it did not end in time, or
/// there are no resources to start it. [`CredentialError::Broken`]: it said too much. How it ended is the caller's business:
/// [`Ran::check_end`].
pub async fn run(run: Run<'_>) -> Result<Ran, CredentialError> {
    let name = run.program.display();
    let deadline = Instant::now() + run.limit;
    let place = timeout_at(deadline, Arc::clone(&run.places.0).acquire_owned()).await;
    let place = place.map_err(|_| {
        CredentialError::Unavailable(format!(
            "{MAX_RUNNING} plugins are running and none ended: {name} waited"
        ))
    })?;
    let place = place.map_err(|_| CredentialError::Broken("no more plugins are run".into()))?;
    match timeout_at(deadline, exchange(&run, place)).await {
        Ok(result) => result,
        Err(_) => Err(CredentialError::Unavailable(format!(
            "{name} did not end within {} s and was killed",
            run.limit.as_secs_f32()
        ))),
    }
}

async fn exchange(run: &Run<'_>, place: OwnedSemaphorePermit) -> Result<Ran, CredentialError> {
    let name = run.program.display();
    let internal = |e: io::Error| CredentialError::Unavailable(format!("{name} cannot be talked to: {e}"));
    let started = start(run, place).await.map_err(|error| cannot_start(run.program, &error))?;
    // Dropped last or with the future: kills the group.
    let Started { input, output, mut ended, group: _group } = started;
    let mut input = pipe::Sender::from_owned_fd(input).map_err(internal)?;
    let mut output = pipe::Receiver::from_owned_fd(output).map_err(internal)?;

    // One allocation, never moved: no copies of secrets stay behind. One byte more than allowed tells "more" from "all".
    let mut buffer = Zeroizing::new(vec![0; run.max_output + 1]);
    let mut filled = 0;
    let mut feed = Box::pin(async move {
        // A plugin need not read what it is told.
        let _ = input.write_all(run.input).await;
    });
    let mut fed = false;
    let mut closed = false;
    let mut status = None;
    let mut grace = Box::pin(tokio::time::sleep(Duration::ZERO));
    while !closed || status.is_none() {
        tokio::select! {
            () = &mut feed, if !fed => fed = true,
            read = output.read(&mut buffer[filled..]), if !closed => match read.map_err(internal)? {
                0 => closed = true,
                n => {
                    filled += n;
                    if filled > run.max_output {
                        return Err(CredentialError::Broken(format!(
                            "{name} printed more than {} and was killed",
                            size(run.max_output)
                        )));
                    }
                }
            },
            end = &mut ended, if status.is_none() => {
                let end = end.map_err(|_| CredentialError::Broken(format!("{name} was lost")))?;
                status = Some(end);
                grace.as_mut().reset(Instant::now() + GRACE);
            }
            () = &mut grace, if status.is_some() => break,
        }
    }
    buffer.truncate(filled);
    let status = status.ok_or_else(|| CredentialError::Broken(format!("{name} was lost")))?;
    Ok(Ran { status, output: buffer })
}

fn size(bytes: usize) -> String {
    if bytes.is_multiple_of(1024) { format!("{} KiB", bytes / 1024) } else { format!("{bytes} bytes") }
}

fn cannot_start(program: &Path, error: &io::Error) -> CredentialError {
    let name = program.display();
    match error.raw_os_error().map(Errno::from_raw) {
        // The file was there when it was looked for.
        Some(Errno::ENOENT) => CredentialError::Configuration(format!(
            "{name} cannot be started: it, its interpreter (the #! line) or its loader is not there"
        )),
        Some(Errno::EACCES | Errno::EPERM) => CredentialError::Configuration(format!(
            "{name} cannot be started: permission denied (mode, owner, or a file system mounted noexec)"
        )),
        Some(Errno::ENOEXEC) => CredentialError::Configuration(format!(
            "{name} is no program of this machine: a script needs a #! line, a binary this architecture"
        )),
        Some(Errno::ETXTBSY) => {
            CredentialError::Unavailable(format!("{name} cannot be started: it is being written"))
        }
        Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => {
            CredentialError::Unavailable(format!("{name} cannot be started: {error}"))
        }
        _ => CredentialError::Configuration(format!("{name} cannot be started: {error}")),
    }
}

/// A process group, killed when dropped. Its leader is reaped after that and not before: `done` tells the thread that waits.
struct Group {
    leader: Pid,
    /// Only its end matters.
    _done: mpsc::Sender<()>,
}

impl Drop for Group {
    fn drop(&mut self) {
        // Fails if all have ended: the leader, dead or alive, is there until it is reaped, but a group of zombies is none.
        let _ = killpg(self.leader, Signal::SIGKILL);
    }
}

/// A plugin that runs.
struct Started {
    input: OwnedFd,
    output: OwnedFd,
    ended: oneshot::Receiver<ExitStatus>,
    group: Group,
}

async fn start(run: &Run<'_>, place: OwnedSemaphorePermit) -> io::Result<Started> {
    if let Err(error) = hardening::limit_cores() {
        tracing::warn!(%error, "cannot turn off core files of plugins");
    }
    let mut command = Command::new(run.program);
    command.args(run.args).env_clear().envs(run.env.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("plugin".into()).spawn(move || {
        attend(command, tell);
        drop(place);
    })?;
    told.await.unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
}

/// One plugin's life, on a thread of its own.
fn attend(mut command: Command, tell: oneshot::Sender<io::Result<Started>>) {
    let mut child = match spawn(&mut command, &tell) {
        Ok(child) => child,
        Err(error) => return drop(tell.send(Err(error))),
    };
    let (done, until_done) = mpsc::channel();
    let (tell_end, ended) = oneshot::channel();
    let leader = pid(&child);
    let group = Group { leader, _done: done };
    // Whoever drops this, here or there, kills the group.
    let answer = match (child.stdin.take(), child.stdout.take()) {
        (Some(input), Some(output)) => {
            Ok(Started { input: input.into(), output: output.into(), ended, group })
        }
        _ => Err(io::Error::other("no pipes")),
    };
    drop(tell.send(answer));
    if let Some(status) = wait_without_reaping(leader) {
        let _ = tell_end.send(status);
    }
    // Ends when the group has been dropped: nothing is ever sent.
    let _ = until_done.recv();
    let _ = child.wait();
}

fn spawn(command: &mut Command, tell: &oneshot::Sender<io::Result<Started>>) -> io::Result<Child> {
    let mut attempt = 0;
    loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && attempt < BUSY_ATTEMPTS
                    && !tell.is_closed() =>
            {
                attempt += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

fn pid(child: &Child) -> Pid {
    // Linux numbers processes up to 2²².
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// `None` = somebody else has reaped it, which nobody does.
fn wait_without_reaping(leader: Pid) -> Option<ExitStatus> {
    loop {
        match waitid(Id::Pid(leader), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            // The encoding of wait(2).
            Ok(WaitStatus::Exited(_, code)) => return Some(ExitStatus::from_raw((code & 0xff) << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some(ExitStatus::from_raw(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
