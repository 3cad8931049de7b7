//! What `clipfs mount`, keeper and server tell each other. JSON over pipes and files of the run directory; never a
//! credential.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::MountError;
use crate::credentials::CredentialSource;

/// What is to be mounted, and how. Paths are made absolute by [`super::mount`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MountRequest {
    /// Where.
    pub mountpoint: PathBuf,
    /// Directory that describes running mounts.
    pub run_dir: PathBuf,
    /// Time for the mount to serve.
    pub mount_timeout: Duration,
    /// Grace for a busy mount before it is detached, and again before it is aborted.
    pub unmount_timeout: Duration,
    /// The kernel's read-ahead in bytes.
    pub read_ahead: u64,
    /// What of the image the kernel is not to honour.
    pub flags: MountFlags,
    /// Log of keeper and server in background mode; `None` = a bounded file in the run directory.
    pub log_file: Option<PathBuf>,
    /// Whether the ContainerRequest is in memory, as the keeper's standard output. Set by [`super::mount`].
    #[serde(default)]
    pub holds_request: bool,
    /// What the server serves.
    pub server: ServerConfig,
}

/// What of an image the kernel is not to honour; see mount(8). As in any root file system, all of it is by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MountFlags {
    /// Setuid and setgid bits, file capabilities.
    pub nosuid: bool,
    /// Devices.
    pub nodev: bool,
    /// Running programs.
    pub noexec: bool,
}

/// What the server serves.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServerConfig {
    /// The image as `IMAGE` is written; `None` = no source, only what the store has.
    pub image: Option<String>,
    /// Reference with digest, for people and for the root's virtual xattr.
    pub name: String,
    /// Digest of the manifest: the index must be bound to it.
    pub digest: String,
    /// The clip index.
    pub index: PathBuf,
    /// The store's directory.
    pub cache_dir: PathBuf,
    /// Most bytes of the store on disk.
    pub cache_size: u64,
    /// Most bytes of decoded chunks in memory.
    pub memory: u64,
    /// Hard deadline of every read.
    pub read_timeout: Duration,
    /// Files up to this size are fetched whole when opened.
    pub small_file: u64,
    /// Fetch the whole image in the background.
    pub prefetch_all: bool,
    /// Where Prometheus may ask for metrics.
    pub metrics: Option<SocketAddr>,
    /// Hand complete files to the kernel where possible.
    pub passthrough: bool,
    /// Plain http to registries that are not loopback.
    pub plain_http: bool,
    /// containerd's `certs.d`.
    pub hosts_dir: Option<PathBuf>,
    /// Who answers for credentials.
    pub credentials: CredentialSource,
    /// Filter of log lines.
    pub log_level: String,
    /// Log lines as JSON.
    pub log_json: bool,
}

/// `server.json`: what the keeper tells its servers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ServerDocument {
    /// What to serve.
    #[serde(flatten)]
    pub(crate) config: ServerConfig,
    /// Time for the source of credentials to answer before the mount serves.
    pub(crate) mount_timeout: Duration,
    /// Whether the ContainerRequest is in memory, and comes with the clip index: see [`super::handover`].
    pub(crate) holds_request: bool,
}

/// A mount that serves.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mounted {
    /// Where.
    pub mountpoint: PathBuf,
    /// The keeper.
    pub keeper_pid: u32,
    /// The server.
    pub server_pid: u32,
    /// State of the image's source.
    pub state: State,
}

/// How well the mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum State {
    /// All is well.
    Ok = 0,
    /// The registry cannot be reached, or nobody serves: what is cached may be read.
    Degraded = 1,
    /// The registry refuses our credentials.
    AuthDenied = 2,
}

/// The server's word to the keeper: one line on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServerReport {
    Ready { state: State },
    Failed { message: String, code: u8 },
}

/// The keeper's word to `clipfs mount`: one line on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeeperReport {
    Mounted(Mounted),
    Failed { message: String, code: u8 },
}

impl KeeperReport {
    pub(crate) fn of(result: &Result<Mounted, MountError>) -> Self {
        match result {
            Ok(mounted) => Self::Mounted(mounted.clone()),
            Err(error) => Self::Failed { message: super::error::sentence(error), code: error.exit_code() },
        }
    }
}

/// One JSON document and a line feed, in one write: it fits any pipe's buffer.
pub(crate) fn send(out: &mut impl std::io::Write, report: &impl serde::Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(report).map_err(std::io::Error::other)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}
