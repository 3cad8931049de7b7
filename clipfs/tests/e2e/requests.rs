//! ContainerRequests, plugins and private registries for tests. Every secret here is planted: it must show up nowhere.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::LazyLock;

use fixtures::registry::{Kind, Registry};
use serde_json::json;

use crate::support::Sandbox;

/// The user of every private registry here.
pub(crate) const USER: &str = "puller";

/// A ContainerRequest with these `image_credentials`.
pub(crate) fn request_with(image_credentials: &str) -> String {
    json!({"container_id": "c-1", "image_id": "i-1", "image_credentials": image_credentials}).to_string()
}

/// A ContainerRequest with a user name and password for one registry.
pub(crate) fn request(registry: &str, password: &str) -> String {
    let credentials = json!({
        "registry": registry,
        "type": "basic",
        "credentials": {"USERNAME": USER, "PASSWORD": password},
    });
    request_with(&credentials.to_string())
}

/// The `credplugin` program of this build, beside `clipfs`. Another package's binary is not built for these tests by itself, but for
/// the tests of the whole workspace.
pub(crate) fn credplugin() -> &'static Path {
    static BESIDE: LazyLock<PathBuf> = LazyLock::new(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_clipfs")).with_file_name("credplugin");
        let path = program.display();
        assert!(program.is_file(), "there is no {path}: `cargo build -p credplugin` builds it for this test");
        program
    });
    &BESIDE
}

/// Writes a script that can be run.
pub(crate) fn script(sandbox: &Sandbox, name: &str, body: &str) -> PathBuf {
    let path = sandbox.path(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs `clipfs` with something on its standard input.
pub(crate) fn run_with_input(sandbox: &Sandbox, args: &[&str], input: &[u8]) -> Output {
    let mut child = sandbox
        .clipfs(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // One that is refused early need not be read.
    let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap();
    sandbox.take_log(output)
}

/// Bytes of layers that a registry has given to anybody who showed no credentials.
pub(crate) fn anonymous_blobs(registry: &Registry) -> usize {
    let log = registry.log();
    let given = |r: &&fixtures::registry::Request| {
        r.kind == Kind::Blob && r.status < 300 && r.authorization().is_none()
    };
    log.iter().filter(given).count()
}
