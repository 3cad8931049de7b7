//! Runs the program, with nothing in its environment but what a test gives it.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

/// All planted secrets carry it.
pub(crate) const MARK: &str = "pl4nted-";

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_credplugin"));
    command.env_clear();
    command
}

/// Under the name that Docker's clients look for, in a directory for PATH.
pub(crate) fn docker_name(dir: &Path) -> PathBuf {
    let path = dir.join("docker-credential-clipfs");
    symlink(env!("CARGO_BIN_EXE_credplugin"), &path).unwrap();
    path
}

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    pub(crate) fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Nothing planted is told where something failed.
    pub(crate) fn tells_nothing(&self) -> &Self {
        assert!(!self.stdout.contains(MARK) && !self.stderr.contains(MARK), "{self:?}");
        self
    }
}

/// Starts it with pipes.
pub(crate) fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub(crate) fn run(command: &mut Command, input: impl AsRef<[u8]>) -> Ran {
    let mut child = spawn(command);
    // It may have stopped reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    child.wait_with_output().unwrap().into()
}

pub(crate) fn get<S: AsRef<OsStr>>(args: &[S], input: impl AsRef<[u8]>) -> Ran {
    run(program().arg("get").args(args), input)
}

/// A ContainerRequest with these `image_credentials`.
pub(crate) fn request(credentials: &Value) -> String {
    let text = if credentials.is_string() { credentials.clone() } else { credentials.to_string().into() };
    json!({"container_id": "c1", "cpu": 100, "image_credentials": text}).to_string()
}

/// The wrapped form, for one registry.
pub(crate) fn wrapped(registry: &str, kind: &str, credentials: Value) -> Value {
    json!({"registry": registry, "type": kind, "credentials": credentials})
}

pub(crate) fn basic(registry: &str, password: &str) -> String {
    request(&wrapped(registry, "basic", json!({"USERNAME": "u", "PASSWORD": password})))
}
