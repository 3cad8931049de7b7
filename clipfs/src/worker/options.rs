//! What the operator says.

use std::net::IpAddr;
use std::path::PathBuf;

use url::{Host, Url};

use super::WorkerError;
use super::capacity::NodeCapacity;
use super::runtime::RuntimeOptions;

/// Where Debian, and those who follow it, keep the certificates of authorities.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Longest name of a node.
const MAX_NAME: usize = 128;

/// Options of a worker.
#[derive(Debug, Clone)]
pub struct Options {
    /// `https://host[:port]`, or `http://` on this machine.
    pub control_plane: String,
    /// This node's name: the same name is the same worker.
    pub node: String,
    /// Holds the worker token. Read again with every connection.
    pub token_file: PathBuf,
    /// Authorities that may vouch for the control plane; `None` = the system's.
    pub ca: Option<PathBuf>,
    /// Certificate chain and key by which the control plane knows this node.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What survives a reboot: what was dispatched, and what became of it.
    pub state_dir: PathBuf,
    /// What does not: requests with credentials. On a tmpfs.
    pub run_dir: PathBuf,
    /// It need not be a tmpfs.
    pub secrets_on_disk: bool,
    /// What the node has.
    pub capacity: NodeCapacity,
    /// The pool that it serves; empty: the default one.
    pub pool: String,
    /// How containers are run.
    pub runtime: RuntimeOptions,
}

impl Options {
    /// Checks what can be checked without doing anything.
    ///
    /// # Errors
    /// What does not make sense.
    pub fn check(&self) -> Result<(), WorkerError> {
        check_name("--node", &self.node)?;
        if !self.pool.is_empty() {
            check_name("--pool", &self.pool)?;
        }
        self.url().map(drop)
    }

    /// The control plane's address.
    pub(super) fn url(&self) -> Result<Url, WorkerError> {
        let refuse = |why: &str| {
            WorkerError::Options(format!("--control-plane {}: {why}", shown(&self.control_plane)))
        };
        let url = Url::parse(&self.control_plane).map_err(|_| refuse("not a URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("credentials do not belong here: use --token-file"));
        }
        match (url.scheme(), url.host()) {
            (_, None) => Err(refuse("it has no host")),
            ("https", Some(_)) => Ok(url),
            ("http", Some(host)) if is_loopback(&host) => Ok(url),
            ("http", Some(_)) => Err(refuse("plain http is for this machine only: use https")),
            _ => Err(refuse("it must begin with https://")),
        }
    }

    /// The authorities' certificates.
    pub(super) fn ca_file(&self) -> PathBuf {
        self.ca.clone().unwrap_or_else(|| SYSTEM_CA.into())
    }
}

/// What may be shown of a URL that is none: it may hold a password.
fn shown(url: &str) -> &str {
    if url.contains('@') { "(not shown)" } else { url }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(ip) => IpAddr::V4(*ip).is_loopback(),
        Host::Ipv6(ip) => IpAddr::V6(*ip).is_loopback(),
    }
}

/// Names that the control plane takes.
fn check_name(option: &str, name: &str) -> Result<(), WorkerError> {
    let fine = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !matches!(name, "." | "..");
    if fine {
        return Ok(());
    }
    Err(WorkerError::Options(format!("{option} must be 1 to {MAX_NAME} of A-Z a-z 0-9 _ - .")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(control_plane: &str) -> Options {
        Options {
            control_plane: control_plane.to_owned(),
            node: "node-1".to_owned(),
            token_file: PathBuf::new(),
            ca: None,
            identity: None,
            state_dir: PathBuf::new(),
            run_dir: PathBuf::new(),
            secrets_on_disk: false,
            capacity: NodeCapacity::default(),
            pool: String::new(),
            runtime: RuntimeOptions::new(PathBuf::new(), PathBuf::new(), PathBuf::new()),
        }
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in
            ["https://control.example:7443", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"]
        {
            assert!(options(good).check().is_ok(), "{good}");
        }
        for bad in [
            "http://control.example",
            "http://10.0.0.1:1",
            "ftp://x",
            "control.example:1",
            "",
            "http://localhost.example",
        ] {
            assert!(options(bad).check().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_shown() {
        for url in ["https://u:pl4nted-1@h.example", "http//u:pl4nted-1@h"] {
            let error = options(url).check().unwrap_err().to_string();
            assert!(!error.contains("pl4nted"), "{error}");
        }
    }

    #[test]
    fn names_are_names() {
        let named = |node: &str| Options { node: node.to_owned(), ..options("http://127.0.0.1:1") };
        assert!(named("a.b-c_9").check().is_ok());
        for bad in ["", "a/b", "..", "a b"] {
            assert!(named(bad).check().is_err(), "{bad}");
        }
    }
}
