//! The OCI runtime: `crun`, `runc`, or another program with their command line.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::{RuntimeError, cgroup};

/// How long a call that does little may take.
const CALL: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
/// Beginning of the names of logs of single calls.
const LOG: &str = ".call-";
/// Of what a runtime writes down, its last words are enough.
const MAX_WORDS: usize = 2000;

/// The program and where it keeps its containers' states.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Oci {
    pub(super) program: PathBuf,
    pub(super) root: PathBuf,
}

impl Oci {
    /// A command of the runtime, whose errors go to a log.
    pub(super) fn command(&self, log: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg0(self.program.file_name().unwrap_or(self.program.as_os_str()))
            .arg("--root")
            .arg(&self.root)
            .args(["--log-format", "json", "--log"])
            .arg(log)
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Sends a signal to the container's first process, or to all of them.
    pub(super) fn kill(&self, container: &str, signal: &str, all: bool) -> Result<(), RuntimeError> {
        let mut args = vec!["kill"];
        if all {
            args.push("--all");
        }
        args.extend([container, signal]);
        self.call("signal a container", &args)
    }

    /// Kills the container if it lives, and forgets it. One that is not known is fine.
    pub(super) fn delete(&self, container: &str) -> Result<(), RuntimeError> {
        if !self.root.join(container).exists() {
            return Ok(());
        }
        let result = self.call("delete a container", &["delete", "--force", container]);
        if self.root.join(container).exists() { result } else { Ok(()) }
    }

    /// Names of all containers that are known.
    pub(super) fn containers(&self) -> Vec<String> {
        let list = fs::read_dir(&self.root).into_iter().flatten().filter_map(Result::ok);
        list.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Removes logs of calls that were killed. One that is being written has no name then, and no words: no more.
    pub(super) fn sweep(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(LOG) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn call(&self, what: &'static str, args: &[&str]) -> Result<(), RuntimeError> {
        let failed = |reason: String| RuntimeError::Oci { program: self.program.clone(), what, reason };
        let internal = |e: io::Error| failed(e.to_string());
        let log = tempfile::Builder::new().prefix(LOG).tempfile_in(&self.root).map_err(internal)?;
        let mut command = self.command(log.path());
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawn(command).map_err(internal)?;
        match wait(&mut child, CALL).map_err(internal)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(failed(words(log.path()).unwrap_or_else(|| status.to_string()))),
            None => Err(failed(format!("it did not end within {} s and was killed", CALL.as_secs()))),
        }
    }
}

/// Finds the program, as an absolute path.
pub(super) fn find(program: &Path) -> Result<PathBuf, RuntimeError> {
    crate::credentials::exec::find_program(program)
        .map_err(|e| RuntimeError::NoProgram { program: program.to_owned(), reason: e.to_string() })
}

/// Waits for the end up to a limit; `None` = it was killed.
pub(super) fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<std::process::ExitStatus>> {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if since.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// The last error in a log of JSON lines.
pub(super) fn words(log: &Path) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        msg: String,
        #[serde(default)]
        level: String,
    }
    let text = io::read_to_string(File::open(log).ok()?).ok()?;
    let lines: Vec<Line> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let line = lines.iter().rev().find(|line| line.level == "error").or(lines.last())?;
    Some(crate::oci::printable::printable(line.msg.trim(), '?', MAX_WORDS))
}

/// Starts a command of the runtime. crun refuses machines that have both versions of cgroups: it is shown version 1 only, in a mount
/// namespace that ends with it (a container's root is made from it, and left behind by it).
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
    if !cgroup::is_hybrid() {
        return command.spawn();
    }
    // Namespaces are a thread's own: one that is made for this.
    let spawned = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        // What is unmounted here stays mounted elsewhere; what is unmounted elsewhere goes here too.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
        umount2(cgroup::UNIFIED, MntFlags::MNT_DETACH)?;
        command.spawn()
    });
    spawned.join().map_err(|_| io::Error::other("a thread panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(words(&log), None);
        let lines = [
            r#"{"msg":"first","level":"error","time":"x"}"#,
            r#"{"msg":"the reason","level":"error","time":"x"}"#,
            r#"{"msg":"chatter","level":"debug","time":"x"}"#,
            "torn",
        ];
        fs::write(&log, lines.join("\n")).unwrap();
        assert_eq!(words(&log).unwrap(), "the reason");
    }
}
