//! The monitor: a process of its own for each container, which outlives the worker. It starts the container, copies its output,
//! waits for its end and writes that down. It is this program under the hidden subcommand `monitor PLAN`, started by [`super::Runtime`].
//!
//! Its standard input is the job's FIFO, open for writing: the kernel closes it with the process, whatever kills that, so that a reader's
//! end of file is the monitor's death. Its standard output takes one line for whoever started it: [`Report`]. The container is its child, as
//! it adopts orphans. It blocks all signals that can be blocked: stopping a service's whole group leaves containers running.

use std::fs::File;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::error::{INTERNAL, INVALID_ARGUMENT, RESOURCE_EXHAUSTED};
use super::output::{LogStream, MAX_RECORD, Writer};
use super::program::{self, Oci};
use super::shared::write_private;
use super::{RuntimeError, cgroup};
use crate::exit;

/// Name of the hidden subcommand.
pub(super) const COMMAND: &str = "monitor";

/// How long the runtime may take to make a container.
pub(super) const CREATE: Duration = Duration::from_secs(60);
/// How long output is awaited after the container's end: all its processes are dead by then.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Exit code of a container that was never started, as shells say of a program that cannot be executed.
const NOT_EXECUTED: i32 = 126;

/// What is to be done.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Plan {
    pub(super) oci: Oci,
    pub(super) container: String,
    pub(super) bundle: PathBuf,
    /// Where the runtime's errors and the container's number go.
    pub(super) run_dir: PathBuf,
    pub(super) output: PathBuf,
    pub(super) exit: PathBuf,
    pub(super) started: PathBuf,
    pub(super) max_log: u64,
    pub(super) cgroup: PathBuf,
    /// MiB; 0 = no limit.
    pub(super) memory: i64,
}

/// The one line for whoever started it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    Started { pid: i32 },
    Failed(Ended),
}

/// Who is at it: written before the container is made, and again when it runs.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Begun {
    pub(super) monitor: u32,
    /// The container's first process; `None` = it is being started.
    pub(super) pid: Option<i32>,
    /// Which start of the machine this was in.
    #[serde(default)]
    pub(super) boot: String,
}

/// The kernel's name for this start of the machine.
pub(super) fn boot() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    name.trim().to_owned()
}

/// How it ended.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Ended {
    /// The program's; 128 + signal where one ended it.
    pub(super) exit_code: i32,
    /// Where there is more to say.
    pub(super) reason: Option<String>,
    /// Code of gRPC's error model; 0 = the program ran and ended.
    pub(super) code: i32,
}

/// Entry point of the hidden subcommand `monitor`.
#[must_use]
pub fn monitor_main(plan: &Path) -> ExitCode {
    let result = detach().and_then(|held| {
        let plan: Plan = serde_json::from_slice(&std::fs::read(plan)?).map_err(io::Error::other)?;
        Ok((held, plan))
    });
    let ((_alive, caller), plan) = match result {
        Ok(found) => found,
        Err(error) => {
            say(&format!("not started by `clipfs worker`: {error}"));
            return ExitCode::from(exit::SOFTWARE);
        }
    };
    let mut caller = Some(File::from(caller));
    let ended = watch(&plan, |report| tell(caller.take(), report));
    if let Err(error) = plan.oci.delete(&plan.container) {
        say(&error.to_string());
    }
    let failed = ended.code != 0;
    match write_document(&plan.exit, &ended) {
        Ok(()) => {}
        Err(error) => {
            say(&error.to_string());
            return ExitCode::from(exit::IO);
        }
    }
    // Last: nobody is told of a failure that is not written down.
    if failed {
        tell(caller.take(), Report::Failed(ended));
    }
    ExitCode::SUCCESS
}

/// Leaves the worker: its session, directory, signals and descriptors. The FIFO and the report's pipe.
fn detach() -> io::Result<(OwnedFd, OwnedFd)> {
    SigSet::all().thread_set_mask()?;
    let held = io::stdin().as_fd().try_clone_to_owned()?;
    let caller = io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    std::env::set_current_dir("/")?;
    // Fails for a leader of a group, which it is not.
    nix::unistd::setsid()?;
    let _ = nix::sys::prctl::set_name(c"clipfs-monitor");
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok((held, caller))
}

/// Into the log, which is its standard error.
fn say(text: &str) {
    // Nobody is left to be told that nobody can be told.
    let _ = writeln!(io::stderr(), "{text}");
}

fn tell(caller: Option<File>, report: Report) {
    if let (Some(mut caller), Ok(mut line)) = (caller, serde_json::to_vec(&report)) {
        line.push(b'\n');
        // The worker may be dead: then the files tell.
        let _ = caller.write_all(&line);
    }
}

pub(super) fn write_document(path: &Path, document: &impl serde::Serialize) -> Result<(), RuntimeError> {
    let bytes = serde_json::to_vec(document).map_err(io::Error::other);
    write_private(path, &bytes.map_err(RuntimeError::io("write", path))?)
}

/// The whole life of the container.
fn watch(plan: &Plan, told: impl FnOnce(Report)) -> Ended {
    let failed = |code: i32, reason: String| Ended { exit_code: NOT_EXECUTED, reason: Some(reason), code };
    let begun = Begun { monitor: std::process::id(), pid: None, boot: boot() };
    if let Err(error) = write_document(&plan.started, &begun) {
        return failed(INTERNAL, error.to_string());
    }
    let output = match Writer::create(&plan.output, plan.max_log) {
        Ok(writer) => Arc::new(Mutex::new(writer)),
        Err(error) => return failed(INTERNAL, format!("cannot create {}: {error}", plan.output.display())),
    };
    let (done, ends) = channel();
    let pid = match create(plan, &output, &done) {
        Ok(pid) => pid,
        Err((code, reason)) => return failed(code, reason),
    };
    drop(done);
    let log = plan.run_dir.join("start.log");
    if let Err(reason) = run(plan, &log, &["start", &plan.container]) {
        return failed(code_of(&reason), reason);
    }
    if let Err(error) = write_document(&plan.started, &Begun { pid: Some(pid.as_raw()), ..begun }) {
        say(&error.to_string());
    }
    told(Report::Started { pid: pid.as_raw() });
    let exit_code = reap(pid);
    let out_of_memory = cgroup::oom_kills(&plan.cgroup).unwrap_or(0) > 0 && exit_code != 0;
    drain(&ends);
    finish(&output);
    if out_of_memory {
        let reason =
            format!("out of memory: its processes needed more than the {} MiB that it may have", plan.memory);
        return Ended { exit_code, reason: Some(reason), code: RESOURCE_EXHAUSTED };
    }
    Ended { exit_code, reason: None, code: 0 }
}

/// Makes the container, whose program waits for its start. Its output is copied from now on.
fn create(plan: &Plan, output: &Arc<Mutex<Writer>>, done: &Sender<()>) -> Result<Pid, (i32, String)> {
    let internal = |e: io::Error| (INTERNAL, format!("cannot start {}: {e}", plan.oci.program.display()));
    let (stdout, stdout_end) = io::pipe().map_err(internal)?;
    let (stderr, stderr_end) = io::pipe().map_err(internal)?;
    let (log, pid_file) = (plan.run_dir.join("create.log"), plan.run_dir.join("pid"));
    let mut command = plan.oci.command(&log);
    command
        .arg("create")
        .arg("--bundle")
        .arg(&plan.bundle)
        .arg("--pid-file")
        .arg(&pid_file)
        .arg(&plan.container)
        .stdout(stdout_end)
        .stderr(stderr_end);
    let mut child = program::spawn(command).map_err(internal)?;
    for (stream, reader) in [(LogStream::Stdout, stdout), (LogStream::Stderr, stderr)] {
        let (output, done) = (Arc::clone(output), done.clone());
        std::thread::spawn(move || {
            copy(stream, reader, &output);
            // The receiver may have given up.
            let _ = done.send(());
        });
    }
    let name = plan.oci.program.display();
    match program::wait(&mut child, CREATE).map_err(internal)? {
        Some(status) if status.success() => {}
        Some(status) => {
            let reason = program::words(&log).unwrap_or_else(|| format!("{name} ended with {status}"));
            return Err((code_of(&reason), reason));
        }
        None => return Err((INTERNAL, format!("{name} made no container within {} s", CREATE.as_secs()))),
    }
    let pid = std::fs::read_to_string(&pid_file).map_err(internal)?;
    let pid = pid.trim().parse().ok().filter(|pid: &i32| *pid > 1);
    pid.map(Pid::from_raw).ok_or_else(|| (INTERNAL, format!("{name} told no process number")))
}

fn run(plan: &Plan, log: &Path, args: &[&str]) -> Result<(), String> {
    let mut command = plan.oci.command(log);
    command.args(args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = program::spawn(command).map_err(|e| e.to_string())?;
    match program::wait(&mut child, CREATE).map_err(|e| e.to_string())? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(program::words(log).unwrap_or_else(|| status.to_string())),
        None => Err(format!("it did not end within {} s", CREATE.as_secs())),
    }
}

/// Whose fault it is that a container cannot be started: of whoever named the program, or this machine's.
fn code_of(reason: &str) -> i32 {
    const NAMED: [&str; 6] =
        ["executable file", "exec", "o such file or directory", "ermission denied", "hdir", "cwd"];
    if NAMED.iter().any(|word| reason.contains(word)) { INVALID_ARGUMENT } else { INTERNAL }
}

fn copy(stream: LogStream, mut reader: PipeReader, output: &Mutex<Writer>) {
    let mut buffer = vec![0; MAX_RECORD];
    let mut full = false;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) if !full => {
                let written =
                    output.lock().unwrap_or_else(PoisonError::into_inner).write(stream, &buffer[..n]);
                if let Err(error) = written {
                    // Read on: a program must not stop because a disk is full.
                    say(&format!("output is lost: {error}"));
                    full = true;
                }
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return say(&format!("cannot read the output: {error}")),
        }
    }
}

/// Waits for the container's first process, and for others that were left to us.
fn reap(container: Pid) -> i32 {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == container => return code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == container => return 128 + signal as i32,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                say(&format!("the container is not ours to wait for: {error}"));
                return 128 + libc::SIGKILL;
            }
        }
    }
}

/// Waits until both streams have ended.
fn drain(ends: &Receiver<()>) {
    for _ in 0..2 {
        if ends.recv_timeout(LAST_WORDS).is_err() {
            return;
        }
    }
}

fn finish(output: &Mutex<Writer>) {
    let writer = output.lock().unwrap_or_else(PoisonError::into_inner);
    if writer.dropped() > 0 {
        say(&format!("{} bytes of output were dropped", writer.dropped()));
    }
    if let Err(error) = writer.sync() {
        say(&format!("output may be lost: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_entry_point_is_the_requests_fault() {
        for reason in [
            "executable file `/nope` not found in $PATH: No such file or directory",
            "exec: \"/nope\": stat /nope: no such file or directory",
            "open executable: Permission denied",
        ] {
            assert_eq!(code_of(reason), INVALID_ARGUMENT, "{reason}");
        }
        assert_eq!(code_of("mount `proc` to `/proc`: Operation not permitted"), INTERNAL);
    }
}
