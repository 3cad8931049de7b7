//! A container's life as the worker sees it: started, looked at, stopped, buried, removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::bundle::Parts;
use super::error::{INTERNAL, UNAVAILABLE};
use super::image::Settings;
use super::job::{self, Job};
use super::monitor::{self, Begun, Ended, Plan, Report, write_document};
use super::{
    End, Inner, JobState, Machine, Network, RuntimeError, RuntimeOptions, Started, is_held, overlay, shared,
    user,
};
use crate::index::ClipIndex;

/// What a monitor may take longer than the OCI runtime's two calls.
const SLACK: Duration = Duration::from_secs(10);
/// How long a monitor may take to end after its container was killed.
const KILLED: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(10);
/// Of a monitor's log, its beginning is enough.
const MAX_LOG: usize = 2000;

/// What [`Inner::prepare`] found or made.
pub(super) enum Prepared {
    /// It was started before, and this is its first process.
    Begun(i32),
    /// Everything is ready for the monitor.
    Planned,
}

impl Ended {
    fn end(self) -> End {
        End { exit_code: self.exit_code, reason: self.reason, code: self.code }
    }
}

impl Inner {
    /// Writes bundle and plan, unless the container was started already.
    pub(super) fn prepare(&self, job: &Job) -> Result<Prepared, RuntimeError> {
        let begun: Option<Begun> = read(&job.started())?;
        if let Some(begun) = begun {
            return Ok(Prepared::Begun(begun.pid.unwrap_or(0)));
        }
        if is_held(&job.alive()).map_err(RuntimeError::io("look at", &job.alive()))? {
            return Ok(Prepared::Begun(0));
        }
        let Some(machine) = &self.machine else {
            write_document(&job.started(), &Begun { monitor: 0, pid: Some(0), boot: monitor::boot() })?;
            return Ok(Prepared::Begun(0));
        };
        if !overlay::is_mounted(&job.rootfs())? {
            return Err(RuntimeError::NotStarted(job.key.clone()));
        }
        let refuse = |reason: String| RuntimeError::Image { image: job.image.clone(), reason };
        let index =
            ClipIndex::open(&job.index).map_err(|e| refuse(format!("its index cannot be used: {e}")))?;
        let process = Settings::parse(index.config()).map_err(refuse)?.process(&job.image, &job.request)?;
        let user = user::find(&job.rootfs(), &process.user).map_err(refuse)?;
        let host_network = self.options.network == Network::Host && !job.request.block_network;
        let parts = Parts { job, process: &process, user: &user, cgroups: &machine.cgroups, host_network };
        write_document(&job.bundle().join("config.json"), &parts.spec()?)?;
        shared::write_private(&job.run_dir.join("stop-signal"), process.stop_signal.as_bytes())?;
        let plan = Plan {
            oci: machine.oci.clone(),
            container: job.container(),
            bundle: job.bundle(),
            run_dir: job.run_dir.clone(),
            output: job.output(),
            exit: job.exit(),
            started: job.started(),
            max_log: self.options.max_log,
            cgroup: machine.cgroups.path(&job.key),
            memory: job.request.memory,
        };
        write_document(&job.plan(), &plan)?;
        make_fifo(&job.alive()).map_err(RuntimeError::io("make", &job.alive()))?;
        Ok(Prepared::Planned)
    }

    /// How far it has come. A container whose monitor is dead is buried.
    pub(super) fn look(&self, job: &Job) -> Result<JobState, RuntimeError> {
        if let Some(ended) = read::<Ended>(&job.exit())? {
            return Ok(JobState::Ended(ended.end()));
        }
        let alive = job.alive();
        if is_held(&alive).map_err(RuntimeError::io("look at", &alive))? {
            return Ok(JobState::Running);
        }
        // It may have written that down between the two looks.
        if let Some(ended) = read::<Ended>(&job.exit())? {
            return Ok(JobState::Ended(ended.end()));
        }
        match (read::<Begun>(&job.started())?, &self.machine) {
            (Some(Begun { monitor: 0, .. }), _) if overlay::is_mounted(&job.rootfs())? => {
                Ok(JobState::Running)
            }
            (Some(begun), machine) => self.bury(job, &begun, machine.as_ref()).map(JobState::Ended),
            (None, _) if overlay::is_mounted(&job.rootfs())? => Ok(JobState::Mounted),
            (None, _) => Ok(JobState::NotStarted),
        }
    }

    /// Ends what nobody watches, and writes that down.
    fn bury(&self, job: &Job, begun: &Begun, machine: Option<&Machine>) -> Result<End, RuntimeError> {
        let (code, reason) = if job.alive().exists() && begun.boot == monitor::boot() {
            (INTERNAL, "its monitor was killed")
        } else {
            (UNAVAILABLE, "the machine was started again while it ran")
        };
        if let Some(machine) = machine {
            machine.oci.delete(&job.container())?;
            machine.cgroups.remove(&job.key)?;
        }
        let ended = Ended { exit_code: 128 + libc::SIGKILL, reason: Some(reason.to_owned()), code };
        write_document(&job.exit(), &ended)?;
        Ok(ended.end())
    }

    /// Sends the stop signal; `false` = there is nothing to be stopped.
    pub(super) fn terminate(&self, job: &Job) -> Result<bool, RuntimeError> {
        if self.look(job)? != JobState::Running {
            return Ok(false);
        }
        let Some(machine) = &self.machine else {
            write_document(&job.exit(), &Ended { exit_code: 0, reason: None, code: 0 })?;
            return Ok(false);
        };
        let path = job.run_dir.join("stop-signal");
        let signal = fs::read_to_string(&path).map_err(RuntimeError::io("read", &path))?;
        match machine.oci.kill(&job.container(), signal.trim(), false) {
            // It has ended meanwhile, or is not quite there: what follows will tell.
            Err(error) => {
                tracing::debug!(key = job.key, %error, "the stop signal was not taken");
                Ok(true)
            }
            Ok(()) => Ok(true),
        }
    }

    /// Kills all processes of a container whose monitor lives.
    pub(super) fn kill(&self, job: &Job) -> Result<(), RuntimeError> {
        let Some(machine) = &self.machine else { return Ok(()) };
        let since = Instant::now();
        while self.look(job)? == JobState::Running {
            let killed = machine.oci.kill(&job.container(), "KILL", true);
            if since.elapsed() > KILLED {
                // The monitor does not end: without it, the next look ends the container.
                kill_monitor(job)?;
                return killed;
            }
            // One that is just being made cannot be killed yet.
            std::thread::sleep(RETRY);
            if killed.is_ok() && ends(job, KILLED)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes everything. All of it is tried; the first error is returned.
    pub(super) fn clean(&self, job: &Job) -> Result<(), RuntimeError> {
        let mut result = Ok(());
        if is_held(&job.alive()).unwrap_or(false) {
            result = self.kill(job);
            if is_held(&job.alive()).unwrap_or(false) {
                result = result.and(kill_monitor(job));
            }
        }
        if let Some(machine) = &self.machine {
            result = result.and(machine.oci.delete(&job.container()));
            result = result.and(machine.cgroups.remove(&job.key));
        }
        result = result.and(self.close_mount(job));
        for file in [job.output(), job.exit(), job.started()] {
            result = result.and(remove_file(&file));
        }
        self.places.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&job.key);
        // Others' files may be in it.
        let _ = fs::remove_dir(&job.dir);
        result
    }

    /// Unmounts what [`super::Runtime::mount`] has mounted, and removes what is in memory.
    pub(super) fn close_mount(&self, job: &Job) -> Result<(), RuntimeError> {
        let mut result = overlay::close(job);
        result = result.and(shared::leave_all(&self.options.run_dir, &job.key));
        result.and(overlay::remove(&job.run_dir))
    }

    /// [`Inner::clean`] for every job that has left something and is not among these.
    pub(super) fn reap(&self, known: &[String]) -> Result<(), RuntimeError> {
        let (state_dir, run_dir) = (&self.options.state_dir, &self.options.run_dir);
        let mut found = keys(&job::tasks(state_dir));
        found.extend(keys(run_dir));
        found.extend(shared::keys(run_dir));
        if let Some(machine) = &self.machine {
            machine.oci.sweep();
            found.extend(
                machine.oci.containers().iter().filter_map(|name| job::key_of(name)).map(str::to_owned),
            );
            found.extend(machine.cgroups.keys());
        }
        found.sort();
        found.dedup();
        let mut result = Ok(());
        for key in found.iter().filter(|key| !known.contains(key)) {
            let remains = Job::remains(key, state_dir, run_dir);
            tracing::info!(key, "removing what an unknown container has left");
            result = result.and(self.clean(&remains)).and(overlay::remove(&remains.dir));
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        result = result.and(shared::reap(run_dir, &known));
        if let (true, Some(machine)) = (known.is_empty(), &self.machine) {
            machine.cgroups.remove_empty();
        }
        result
    }
}

/// Starts the monitor and waits for its word.
pub(super) async fn launch(options: &RuntimeOptions, job: &Job) -> Result<Started, RuntimeError> {
    let failed = |reason: String| RuntimeError::Monitor { key: job.key.clone(), reason };
    let (alive, log) = (job.alive(), job.monitor_log());
    // Both ends: opening one waits for the other.
    let held = File::options().read(true).write(true).open(&alive);
    let held = held.map_err(RuntimeError::io("open", &alive))?;
    let log_file = OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
    let log_file = log_file.map_err(RuntimeError::io("open", &log))?;
    let mut child = tokio::process::Command::new(&options.clipfs)
        .arg0("clipfs")
        .arg(monitor::COMMAND)
        .arg(job.plan())
        .env_clear()
        // Where the OCI runtime finds its own programs.
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir("/")
        .stdin(held)
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .map_err(RuntimeError::io("run", &options.clipfs))?;
    let Some(stdout) = child.stdout.take() else { return Err(failed("its output is not to be had".into())) };
    // Reaped when it ends, by tokio, as long as this process lives.
    drop(child);
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    let read = tokio::time::timeout(monitor::CREATE * 2 + SLACK, stdout.read_line(&mut line)).await;
    match read.map_err(|_| failed("it was not ready in time".into()))? {
        Ok(0) | Err(_) => {
            let words = fs::read(&log).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            Err(failed(format!("it ended: {}", crate::oci::printable::printable(words.trim(), '?', MAX_LOG))))
        }
        Ok(_) => match serde_json::from_str(&line) {
            Ok(Report::Started { pid }) => Ok(Started { pid }),
            Ok(Report::Failed(ended)) => {
                let reason = ended.reason.unwrap_or_default();
                if ended.code == super::error::INVALID_ARGUMENT {
                    return Err(RuntimeError::Program(reason));
                }
                Err(RuntimeError::Start { key: job.key.clone(), reason })
            }
            Err(e) => Err(failed(e.to_string())),
        },
    }
}

/// A FIFO, new.
fn make_fifo(path: &Path) -> io::Result<()> {
    use nix::sys::stat::Mode;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    Ok(nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

/// Waits for the monitor's end; `false` = it lives.
fn ends(job: &Job, limit: Duration) -> Result<bool, RuntimeError> {
    let since = Instant::now();
    loop {
        if !is_held(&job.alive()).map_err(RuntimeError::io("look at", &job.alive()))? {
            return Ok(true);
        }
        if since.elapsed() > limit {
            return Ok(false);
        }
        std::thread::sleep(RETRY);
    }
}

/// While the FIFO is held, the process of that number is the monitor.
fn kill_monitor(job: &Job) -> Result<(), RuntimeError> {
    let begun: Option<Begun> = read(&job.started())?;
    let monitor = begun.and_then(|begun| i32::try_from(begun.monitor).ok()).filter(|pid| *pid > 1);
    if let Some(pid) = monitor
        && is_held(&job.alive()).unwrap_or(false)
    {
        // Gone meanwhile is as well.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        ends(job, KILLED)?;
    }
    Ok(())
}

/// A document of ours; `None` = there is none.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, RuntimeError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(io::Error::other)
            .map_err(RuntimeError::io("understand", path)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(RuntimeError::io("read", path)(e)),
    }
}

fn remove_file(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(RuntimeError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Directories whose names are keys.
fn keys(dir: &Path) -> Vec<String> {
    let list = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    list.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| job::is_key(name))
        .collect()
}
