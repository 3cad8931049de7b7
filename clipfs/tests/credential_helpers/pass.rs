//! The real `docker-credential-pass`.
//!
//! The helper finds its store by variables of the environment, so each test runs its second half in a process of its own, which
//! has them: this test program again, with one ignored test.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use clipfs::credentials::{CredentialSource, PluginSpec};

use crate::support::{ask, logged, needed, shown};

const REGISTRY: &str = "r.example.com:5000";
const SECRET: &str = "pl4nted-pass-1 with: spaces ü";
const TOKEN: &str = "pl4nted-pass-token-2";
/// The names that the operator lists.
const NAMES: [&str; 2] = ["GNUPGHOME", "PASSWORD_STORE_DIR"];
/// Tells the second half its directory.
const DIR: &str = "CLIPFS_TEST_DIR";

/// A password store of its own, and the agent that goes away with it.
struct Store(tempfile::TempDir);

impl Store {
    fn new() -> Self {
        for name in ["pass", "gpg", "gpgconf", "docker-credential-pass"] {
            needed(name);
        }
        // Short: the agent's socket is in it.
        let store = Self(tempfile::Builder::new().prefix("cred-").tempdir_in("/tmp").unwrap());
        fs::create_dir(store.path("gnupg")).unwrap();
        fs::set_permissions(store.path("gnupg"), fs::Permissions::from_mode(0o700)).unwrap();
        store.run(
            "gpg",
            &[
                "--batch",
                "--quiet",
                "--passphrase",
                "",
                "--quick-gen-key",
                "test@example.com",
                "default",
                "default",
                "never",
            ],
            "",
        );
        store.run("pass", &["init", "test@example.com"], "");
        for (server, user, secret) in [
            (REGISTRY, "someone", SECRET),
            ("https://index.docker.io/v1/", "hub-user", "pl4nted-pass-3"),
            ("token.example.com", "<token>", TOKEN),
        ] {
            let entry = format!(r#"{{"ServerURL":"{server}","Username":"{user}","Secret":"{secret}"}}"#);
            store.run("docker-credential-pass", &["store"], &entry);
        }
        store
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("GNUPGHOME", self.path("gnupg"))
            .env("PASSWORD_STORE_DIR", self.path("store"))
            .env("HOME", self.path("home"))
            .env(DIR, self.0.path());
        command
    }

    /// Runs and expects success.
    fn run(&self, program: &str, args: &[&str], input: &str) {
        let mut command = self.command(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs an ignored test of this program with the store's variables.
    fn second_half(&self, name: &str) {
        let program = std::env::current_exe().unwrap();
        let output = self
            .command(program)
            .args(["--exact", &format!("pass::{name}"), "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.command("gpgconf").args(["--kill", "all"]).output();
    }
}

fn source(plugin: PluginSpec, names: &[&str]) -> CredentialSource {
    CredentialSource {
        plugin: Some(plugin),
        plugin_env: names.iter().map(|name| (*name).to_owned()).collect(),
        ..CredentialSource::default()
    }
}

#[test]
fn a_stored_secret_is_had_and_others_are_not() {
    Store::new().second_half("with_the_store");
}

#[test]
#[ignore = "the second half of a_stored_secret_is_had_and_others_are_not"]
fn with_the_store() {
    for plugin in ["docker:pass", "docker:docker-credential-pass", "docker:/usr/bin/docker-credential-pass"] {
        let provider = source(plugin.parse().unwrap(), &NAMES).open().unwrap();
        logged(async {
            assert_eq!(ask(&*provider, REGISTRY, "").await, format!("someone|{SECRET}"), "{plugin}");
            assert_eq!(ask(&*provider, "docker.io", "alpine").await, "hub-user|pl4nted-pass-3", "{plugin}");
            assert_eq!(
                ask(&*provider, "token.example.com", "").await,
                format!("refresh|{TOKEN}"),
                "{plugin}"
            );
            for unknown in ["r.example.com", "s.example.com:5000"] {
                let answer = ask(&*provider, unknown, "").await;
                assert!(answer.starts_with("NotFound: ") && answer.contains(unknown), "{answer}");
            }
        });
    }
    // Only the variables that the operator named.
    let provider = source("docker:pass".parse().unwrap(), &[]).open().unwrap();
    logged(async {
        let answer = ask(&*provider, REGISTRY, "").await;
        assert!(answer.starts_with("Broken: ") || answer.starts_with("NotFound: "), "{answer}");
    });
}

#[test]
fn by_dockers_configuration() {
    Store::new().second_half("with_a_configuration");
}

#[test]
#[ignore = "the second half of by_dockers_configuration"]
fn with_a_configuration() {
    let dir = std::env::var_os(DIR).unwrap();
    let path = Path::new(&dir).join("config.json");
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let entry = r#""auths":{"r.example.com:5000":{"auth":"dTpwbDRudGVkLWZpbGUtMQ=="}}"#;
    write(&format!(r#"{{{entry},"credsStore":"pass"}}"#));
    let docker = source(PluginSpec::DockerConfig(path.clone()), &NAMES).open().unwrap();
    logged(async {
        assert_eq!(ask(&*docker, REGISTRY, "").await, format!("someone|{SECRET}"));
        assert_eq!(ask(&*docker, "docker.io", "alpine").await, "hub-user|pl4nted-pass-3");
        let answer = ask(&*docker, "unknown.example.com", "").await;
        assert!(answer.starts_with("NotFound: "), "{answer}");

        // It is read again.
        write(&format!("{{{entry}}}"));
        assert_eq!(ask(&*docker, REGISTRY, "").await, "u|pl4nted-file-1");
        write(&format!(r#"{{{entry},"credHelpers":{{"r.example.com:5000":"pass"}}}}"#));
        assert_eq!(ask(&*docker, REGISTRY, "").await, format!("someone|{SECRET}"));
        // What is not in the store is not looked for in the file.
        write(&format!(
            r#"{{{entry},"credHelpers":{{"r.example.com:5000":"pass","s.example.com":"pass"}}}}"#
        ));
        let answer = ask(&*docker, "s.example.com", "").await;
        assert!(answer.starts_with("NotFound: "), "{answer}");
        write(&format!(r#"{{{entry},"credsStore":"is-not-installed"}}"#));
        let answer = ask(&*docker, REGISTRY, "").await;
        assert!(
            answer.starts_with("Configuration: ") && answer.contains("docker-credential-is-not-installed"),
            "{answer}"
        );
    });
    write(&format!(r#"{{{entry},"credHelpers":{{"r.example.com:5000":"pass"}}}}"#));
    let containers = source(PluginSpec::ContainersAuth(path), &NAMES).open().unwrap();
    logged(async {
        assert_eq!(
            ask(&*containers, REGISTRY, "r.example.com:5000/team/app").await,
            format!("someone|{SECRET}")
        );
    });
}

#[test]
fn a_helper_that_is_not_there() {
    let error = source("docker:is-not-installed".parse().unwrap(), &[]).open().map(drop).unwrap_err();
    let text = shown(&error);
    assert!(text.starts_with("Configuration: ") && text.contains("is-not-installed"), "{text}");
}
