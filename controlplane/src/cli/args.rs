//! Arguments as they are typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::keys::{KekArgs, KeysCommand};

/// Keeps workspaces, secrets, images and containers, and runs containers on workers.
#[derive(Debug, Parser)]
#[command(name = "controlplane", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Example:
  controlplane serve &
  controlplane workspace create team
  controlplane token create --workspace team --out team.token
  export CLIPFS_TOKEN_FILE=team.token
  controlplane image create registry.example/team/app:1 --creds-env REGISTRY_USERNAME,REGISTRY_PASSWORD --id app
  controlplane run app -- /bin/echo hello

Settings: flag > CLIPFS_* environment > /etc/clipfs/controlplane.toml > default.
Exit codes: 0; that of the program (run); 64 usage; 65 bad input; 66 not found; 69 unavailable; 70 bug; 73 exists already;
74 I/O; 75 try later; 77 unknown caller, or denied; 78 configuration, or a state that does not allow it.")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct GlobalArgs {
    /// Write JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Which log lines to write: error, warn, info, debug, trace, or target=level pairs
    #[arg(long, global = true, value_name = "LEVEL", env = "CLIPFS_LOG_LEVEL")]
    pub(super) log_level: Option<String>,
    /// Form of log lines
    #[arg(long, global = true, value_name = "FORMAT", env = "CLIPFS_LOG_FORMAT", value_parser = ["text", "json"])]
    pub(super) log_format: Option<String>,
    /// Settings file [default: /etc/clipfs/controlplane.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "CLIPFS_CONTROLPLANE_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// sqlite:///PATH or postgres://USER@HOST/DATABASE [default: sqlite:///var/lib/clipfs/control.db]
    ///
    /// Arguments can be seen by others on this machine: give a URL with a password in the environment or in the settings file.
    #[arg(long, global = true, value_name = "URL", env = "CLIPFS_DATABASE", hide_env_values = true)]
    pub(super) database: Option<String>,
}

/// How clients reach the server.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Client options")]
pub(super) struct ClientArgs {
    /// The control plane [default: http://127.0.0.1:7070]
    #[arg(long, global = true, value_name = "URL", env = "CLIPFS_SERVER")]
    pub(super) server: Option<String>,
    /// File with the bearer token
    #[arg(long, global = true, value_name = "FILE", env = "CLIPFS_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Roots of the server's certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "CLIPFS_CA")]
    pub(super) ca: Option<PathBuf>,
    /// Certificate of this client (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "CLIPFS_CERT")]
    pub(super) cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "CLIPFS_KEY")]
    pub(super) key: Option<PathBuf>,
    /// Plaintext beyond this machine (clients, and `serve`): tokens and secrets travel in the clear
    #[arg(long, global = true)]
    pub(super) insecure_plaintext: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve
    Serve(ServeArgs),
    /// Make the database's tables, or take them back
    Migrate(MigrateArgs),
    /// Key encryption keys
    Keys(KeysArgs),
    /// Workspaces (with the database)
    #[command(subcommand)]
    Workspace(WorkspaceCommand),
    /// Tokens (with the database)
    #[command(subcommand)]
    Token(TokenCommand),
    /// Who did what (with the database)
    Audit(AuditArgs),
    /// Images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Secrets
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Run a container, write its output, exit with its program's code
    #[command(
        after_help = "Example:\n  controlplane run app --cpu 500m --memory 512MiB --env NAME=value -- python -m app"
    )]
    Run(RunArgs),
    /// Containers that have not ended, or all
    Ps(PsArgs),
    /// Output of a container
    Logs(LogsArgs),
    /// Stop a container
    Stop(StopArgs),
    /// Workers (needs an admin token)
    Workers,
}

/// `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  controlplane serve
  controlplane serve --listen 0.0.0.0:7070 --tls-cert server.pem --tls-key server.key --client-ca ca.pem \\
      --database postgres://clipfs@db.example/clipfs --kek-file /run/secrets/kek")]
pub(super) struct ServeArgs {
    /// Address [default: 127.0.0.1:7070]; port 0: any
    #[arg(long, value_name = "ADDR", env = "CLIPFS_LISTEN")]
    pub(super) listen: Option<SocketAddr>,
    /// Keys and unfinished indexes [default: the directory of the SQLite database]
    #[arg(long, value_name = "DIR", env = "CLIPFS_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) kek: KekArgs,
    /// Certificate of the server and what leads to its root (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// Serve only clients whose certificate leads to one of these roots (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) client_ca: Option<PathBuf>,
    /// Serve Prometheus metrics here
    #[arg(long, value_name = "ADDR", env = "CLIPFS_METRICS")]
    pub(super) metrics: Option<SocketAddr>,
    /// Do not touch the tables
    #[arg(long)]
    pub(super) no_migrate: bool,
    /// Let anybody ask what is spoken here
    #[arg(long)]
    pub(super) reflection: bool,
    /// Time without a heartbeat until a worker is lost, 2s to 1h [default: 20s]
    #[arg(long, value_name = "TIME", value_parser = super::settings::lease)]
    pub(super) lease: Option<std::time::Duration>,
    /// Let tenants name registries in private networks [default: only where the address is loopback]
    #[arg(long)]
    pub(super) private_registries: Option<bool>,
    /// Directory of containerd's certs.d: mirrors, CA files, client certificates of registries
    #[arg(long, value_name = "DIR", env = "CLIPFS_HOSTS_DIR")]
    pub(super) hosts_dir: Option<PathBuf>,
    /// Allow plain http to registries that are not on this machine
    #[arg(long)]
    pub(super) plain_http: bool,
}

/// `migrate`.
#[derive(Debug, clap::Args)]
pub(super) struct MigrateArgs {
    /// Take the tables back to this version; 0: none are left, and everything in them is gone
    #[arg(long, value_name = "VERSION")]
    pub(super) revert: Option<i64>,
}

/// `keys`.
#[derive(Debug, clap::Args)]
pub(super) struct KeysArgs {
    #[command(flatten)]
    pub(super) kek: KekArgs,
    /// Where the key of the embedded default is
    #[arg(long, value_name = "DIR", env = "CLIPFS_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: KeysCommand,
}

/// `workspace`.
#[derive(Debug, Subcommand)]
pub(super) enum WorkspaceCommand {
    /// Make one
    Create {
        /// Its name
        name: String,
    },
    /// List them
    Ls,
}

/// `token`.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make one; it is told only once
    #[command(
        after_help = "Example:\n  controlplane token create --worker --node gpu-7 --out /etc/clipfs/worker.token"
    )]
    #[command(group = clap::ArgGroup::new("kind").required(true))]
    Create {
        /// Of a workspace (name or id)
        #[arg(long, group = "kind", value_name = "WORKSPACE")]
        workspace: Option<String>,
        /// Of a worker
        #[arg(long, group = "kind")]
        worker: bool,
        /// Of an administrator
        #[arg(long, group = "kind")]
        admin: bool,
        /// The only node that may use it [default: the first that does]
        #[arg(long, requires = "worker", conflicts_with_all = ["admin", "workspace"])]
        node: Option<String>,
        /// How long it lives: 30m, 12h, 90d [default: for ever]
        #[arg(long, value_name = "TIME", value_parser = super::settings::duration)]
        ttl: Option<std::time::Duration>,
        /// Write it into this file (mode 0600) [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List them, without what is borne
    Ls {
        /// Only those of a workspace
        #[arg(long)]
        workspace: Option<String>,
    },
    /// End one
    Revoke {
        /// Its id
        token_id: String,
    },
}

/// `audit`.
#[derive(Debug, clap::Args)]
pub(super) struct AuditArgs {
    /// Only of a workspace (name or id)
    #[arg(long)]
    pub(super) workspace: Option<String>,
    /// Most lines, newest first
    #[arg(long, default_value_t = 100)]
    pub(super) limit: u32,
}

/// `image`.
#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Try credentials, keep them as a secret, build the index
    #[command(after_help = "Examples:
  controlplane image create registry.example/team/app:1 --creds-file creds.json
  controlplane image create 123456789012.dkr.ecr.eu-west-1.amazonaws.com/app:1 --secret AWS_ACCESS_KEY_ID --secret AWS_SECRET_ACCESS_KEY")]
    Create {
        /// Reference, as Docker normalises it
        reference: String,
        /// JSON object of credentials by key; -: standard input
        #[arg(long, value_name = "FILE|-")]
        creds_file: Option<PathBuf>,
        /// Names of environment variables whose values are credentials
        #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
        creds_env: Vec<String>,
        /// Secret of the workspace whose value is read when a container starts; may be repeated
        #[arg(long = "secret", value_name = "NAME", conflicts_with_all = ["creds_file", "creds_env"])]
        secrets: Vec<String>,
        /// Its id [default: made from reference and platform]
        #[arg(long)]
        id: Option<String>,
        /// Platform to choose from a multi-platform image [default: linux/amd64]
        #[arg(long, value_name = "OS/ARCH")]
        platform: Option<String>,
    },
    /// List them
    Ls,
    /// Show one
    Get {
        /// Its id
        image_id: String,
    },
    /// Delete one; its secret stays
    Rm {
        /// Its id
        image_id: String,
    },
}

/// `secret`.
#[derive(Debug, Subcommand)]
pub(super) enum SecretCommand {
    /// Make one, or give it a new value
    #[command(after_help = "Example:\n  printf %s \"$VALUE\" | controlplane secret set API_KEY")]
    Set {
        /// Name, or id
        name: String,
        /// Where its value is, kept byte by byte; -: standard input
        #[arg(long, value_name = "FILE|-", default_value = "-")]
        file: PathBuf,
    },
    /// List them, without values
    Ls,
    /// Delete one
    Rm {
        /// Name, or id
        name: String,
    },
}

/// `run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The image
    pub(super) image_id: String,
    /// Id of the container: the same again is the same container [default: made]
    #[arg(long, value_name = "ID")]
    pub(super) name: Option<String>,
    /// Cores: 2, 0.5, 500m [default: no limit]
    #[arg(long, value_parser = super::settings::millicores)]
    pub(super) cpu: Option<i64>,
    /// Memory: 512MiB, 2GiB [default: no limit]
    #[arg(long, value_parser = super::settings::mebibytes)]
    pub(super) memory: Option<i64>,
    /// Kind of GPU; any
    #[arg(long)]
    pub(super) gpu: Option<String>,
    /// Number of GPUs
    #[arg(long)]
    pub(super) gpu_count: Option<u32>,
    /// Pool of workers
    #[arg(long, value_name = "NAME")]
    pub(super) pool: Option<String>,
    /// Variable over the image's; may be repeated
    #[arg(long = "env", short = 'e', value_name = "NAME=value")]
    pub(super) env: Vec<String>,
    /// Write the container's id and return
    #[arg(long, short = 'd')]
    pub(super) detach: bool,
    /// Program and arguments [default: the image's]
    #[arg(last = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

/// `ps`.
#[derive(Debug, clap::Args)]
pub(super) struct PsArgs {
    /// Also those that have ended
    #[arg(long, short = 'a')]
    pub(super) all: bool,
}

/// `logs`.
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// The container
    pub(super) container_id: String,
    /// Go on until it ends
    #[arg(long, short = 'f')]
    pub(super) follow: bool,
}

/// `stop`.
#[derive(Debug, clap::Args)]
pub(super) struct StopArgs {
    /// The container
    pub(super) container_id: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn arguments_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_token_is_of_one_kind() {
        let parse =
            |args: &[&str]| Args::try_parse_from([&["controlplane", "token", "create"], args].concat());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--worker", "--admin"]).is_err());
        assert!(parse(&["--admin", "--node", "n"]).is_err());
        assert!(parse(&["--worker", "--node", "n", "--ttl", "12h"]).is_ok());
    }
}
