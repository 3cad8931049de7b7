//! Arguments of `clipfs worker`.

use std::path::PathBuf;

use super::CacheArgs;
use crate::config::ByteSize;
use crate::worker::capacity::{Gpus, Millicores};
use crate::worker::runtime::Program;

/// `clipfs worker`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct WorkerArgs {
    /// The control plane: https, or plain http on this machine
    #[arg(long, value_name = "URL", env = "CLIPFS_CONTROL_PLANE")]
    pub(in crate::cli) control_plane: String,
    /// This node's name: the same name is the same worker
    #[arg(long, value_name = "NAME", env = "CLIPFS_NODE")]
    pub(in crate::cli) node: String,
    /// File that holds the worker token; read again with every connection
    #[arg(long, value_name = "FILE", env = "CLIPFS_TOKEN_FILE")]
    pub(in crate::cli) token_file: PathBuf,
    /// Certificates of the authorities that may vouch for the control plane [default: the system's]
    #[arg(long, value_name = "FILE", env = "CLIPFS_CA")]
    pub(in crate::cli) ca: Option<PathBuf>,
    /// Certificate (chain) of this node, for a control plane that asks for one
    #[arg(long, value_name = "FILE", requires = "key", env = "CLIPFS_CERT")]
    pub(in crate::cli) cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "cert", env = "CLIPFS_KEY")]
    pub(in crate::cli) key: Option<PathBuf>,
    /// What survives a reboot: containers, their output until it is sent, writable layers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/clipfs/worker", env = "CLIPFS_STATE_DIR")]
    pub(in crate::cli) state_dir: PathBuf,
    /// Let the run directory (worker in --run-dir [default: /run/clipfs]: requests with credentials, mounts, bundles) be on a disk.
    /// Without this, a small tmpfs is mounted over it where it is on one
    #[arg(long)]
    pub(in crate::cli) allow_secrets_on_disk: bool,
    /// Processors to offer: 4, 1.5, 4000m [default: the machine's]
    #[arg(long, value_name = "N", env = "CLIPFS_CPU")]
    pub(in crate::cli) cpu: Option<Millicores>,
    /// Memory to offer to containers [default: the machine's]
    #[arg(long, value_name = "SIZE", env = "CLIPFS_NODE_MEMORY")]
    pub(in crate::cli) memory: Option<ByteSize>,
    /// GPUs to offer: A100, A100:4 [default: none]
    #[arg(long, value_name = "KIND[:N]", env = "CLIPFS_GPU")]
    pub(in crate::cli) gpu: Option<Gpus>,
    /// Pool that this node serves [default: the default pool]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, env = "CLIPFS_POOL")]
    pub(in crate::cli) pool: String,
    /// What runs containers: crun, runc, the path of a program like them, or none (images are mounted, and that is all)
    #[arg(long, value_name = "PROGRAM", default_value = "crun", env = "CLIPFS_RUNTIME")]
    pub(in crate::cli) runtime: Program,
    /// Network of containers: none (only a loopback interface) or host
    #[arg(long, value_name = "WHAT", default_value = "none", value_parser = ["none", "host"], env = "CLIPFS_NETWORK")]
    pub(in crate::cli) network: String,
    /// Who is asked for credentials, as in `clipfs mount` [default: clipfs itself answers from the request]
    #[arg(long, value_name = "PLUGIN", env = "CLIPFS_CREDENTIAL_PLUGIN")]
    pub(in crate::cli) credential_plugin: Option<std::ffi::OsString>,
    /// Allow plain http to registries that are not on this machine
    #[arg(long, env = "CLIPFS_PLAIN_HTTP", value_parser = clap::builder::BoolishValueParser::new())]
    pub(in crate::cli) plain_http: bool,
    /// Directory of containerd's certs.d: mirrors, CA files, client certificates
    #[arg(long, value_name = "DIR", env = "CLIPFS_HOSTS_DIR")]
    pub(in crate::cli) hosts_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) cache: CacheArgs,
}
