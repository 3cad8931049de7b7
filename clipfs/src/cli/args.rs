//! Arguments as they are typed. What they mean is settled once, in [`super::context`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{ByteSize, Layer, LogFormat, Passthrough, Prefetch, Span};
use crate::credentials::PluginSpec;
use crate::oci::Platform;

mod worker;

pub(super) use worker::WorkerArgs;

/// Mounts unmodified OCI images lazily.
///
/// An image in any registry becomes a root file system at once: only the bytes that are touched are fetched, and
/// every byte is verified before it is seen.
#[derive(Debug, Parser)]
#[command(
    name = "clipfs",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Example:\n  clipfs mount registry.example/team/app:1.4 /mnt\n\n\
    IMAGE is [docker://]registry/repo[:tag][@digest], oci:DIR[:ref], oci-archive:FILE or docker-archive:FILE.\n\
    Settings: flag > CLIPFS_* environment > /etc/clipfs/config.toml > default.")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct GlobalArgs {
    /// Which log lines to write: error, warn, info, debug, trace, or target=level pairs
    #[arg(long, global = true, value_name = "LEVEL", env = "CLIPFS_LOG_LEVEL")]
    pub(super) log_level: Option<String>,
    /// Form of log lines: text or json
    #[arg(long, global = true, value_name = "FORMAT", env = "CLIPFS_LOG_FORMAT")]
    pub(super) log_format: Option<LogFormat>,
    /// Settings file
    #[arg(long, global = true, value_name = "FILE", env = "CLIPFS_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Where running mounts are described [default: /run/clipfs]
    #[arg(long, global = true, value_name = "DIR", env = "CLIPFS_RUN_DIR", hide = true)]
    pub(super) run_dir: Option<PathBuf>,
}

/// How to reach images.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct SourceArgs {
    /// Platform to choose from a multi-platform image [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", env = "CLIPFS_PLATFORM")]
    pub(super) platform: Option<Platform>,
    /// Allow plain http to registries that are not on this machine
    #[arg(long, env = "CLIPFS_PLAIN_HTTP", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) plain_http: bool,
    /// Directory of containerd's certs.d: mirrors, CA files, client certificates
    #[arg(long, value_name = "DIR", env = "CLIPFS_HOSTS_DIR")]
    pub(super) hosts_dir: Option<PathBuf>,
    /// Credentials: a ContainerRequest as JSON, whose image_credentials are for the image's registry. A file is read again
    /// whenever credentials are asked for, so that whoever rewrites it renews them; `-` (standard input) and pipes are
    /// read once and kept in memory. What it holds is used or refused, never passed over; empty credentials mean
    /// anonymous access
    #[arg(long, value_name = "FILE|-")]
    pub(super) request: Option<PathBuf>,
    /// Who is asked for credentials: PATH or clipfs:PATH (gets the request), docker:PATH (a credential helper), kubelet:PATH (a
    /// credential provider), docker-config:FILE, containers-auth:FILE. A name without a slash is looked for in PATH
    /// [default: clipfs itself answers from the request; without one, access is anonymous]
    #[arg(long, value_name = "PLUGIN", env = "CLIPFS_CREDENTIAL_PLUGIN")]
    pub(super) credential_plugin: Option<PluginSpec>,
    /// Names of environment variables that plugins other than clipfs' own get besides PATH and HOME
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', env = "CLIPFS_CREDENTIAL_PLUGIN_ENV")]
    pub(super) credential_plugin_env: Option<Vec<String>>,
}

/// Where the cache is.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct CacheArgs {
    /// Cache directory [default: /var/cache/clipfs]
    #[arg(long, value_name = "DIR", env = "CLIPFS_CACHE_DIR")]
    pub(super) cache_dir: Option<PathBuf>,
    /// Most bytes of objects on disk [default: 20GiB]
    #[arg(long, value_name = "SIZE", env = "CLIPFS_CACHE_SIZE")]
    pub(super) cache_size: Option<ByteSize>,
}

/// What to look into, for commands that do not mount.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct TargetArgs {
    /// Image, or file of a clip index
    #[arg(value_name = "IMAGE|FILE.clip")]
    pub(super) target: String,
    #[command(flatten)]
    pub(super) cache: CacheArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Build the clip index of an image
    #[command(after_help = "Examples:\n  \
        clipfs index alpine:3.20 -o alpine.clip\n  \
        clipfs index --request request.json registry.example/team/app:1.4")]
    Index(IndexArgs),
    /// Mount an image read-only and lazily
    #[command(after_help = "Examples:\n  \
        clipfs mount alpine:3.20 /mnt\n  \
        clipfs mount --prefetch all --metrics 127.0.0.1:9417 --nosuid --nodev alpine:3.20 /mnt\n  \
        clipfs mount --request request.json registry.example/team/app:1.4 /mnt\n  \
        clipfs mount --request - --credential-plugin /usr/bin/credplugin registry.example/team/app:1.4 /mnt\n  \
        clipfs mount --credential-plugin docker:docker-credential-pass registry.example/team/app:1.4 /mnt\n  \
        clipfs mount --credential-plugin docker-config:/root/.docker/config.json registry.example/team/app:1.4 /mnt\n\n\
        Returns when the mount serves; `clipfs umount` ends it. A line of /etc/fstab:\n  \
        alpine:3.20 /mnt clipfs ro,_netdev,cache_dir=/var/cache/clipfs,nosuid,nodev 0 0")]
    Mount(MountArgs),
    /// Unmount, also when the mount is dead or busy
    ///
    /// A mount in use gets a few seconds (unmount_timeout in the settings file) to become idle. Then it is detached: gone
    /// from the tree of files, while files that are open stay readable for as long again. Then these fail too, and
    /// whatever is left of the mount's processes ends.
    #[command(visible_alias = "unmount", after_help = "Example:\n  clipfs umount /mnt")]
    Umount(UmountArgs),
    /// List a directory of an image
    #[command(after_help = "Example:\n  clipfs ls -l alpine:3.20 /etc")]
    Ls(LsArgs),
    /// Write a file of an image to standard output
    #[command(after_help = "Examples:\n  \
        clipfs cat alpine:3.20 /etc/os-release\n  \
        clipfs cat --request - registry.example/team/app:1.4 /etc/os-release")]
    Cat(CatArgs),
    /// Tell everything about a file of an image
    #[command(after_help = "Example:\n  clipfs stat alpine:3.20 /bin/busybox --json")]
    Stat(StatArgs),
    /// Tell about an image and its index
    #[command(after_help = "Examples:\n  \
        clipfs inspect alpine.clip\n  \
        clipfs inspect --credential-plugin kubelet:/usr/libexec/ecr-credential-provider registry.example/team/app:1.4")]
    Inspect(InspectArgs),
    /// Check an index by itself, or against its image byte by byte
    #[command(after_help = "Example:\n  clipfs verify alpine.clip --image alpine:3.20")]
    Verify(VerifyArgs),
    /// Tell about running mounts
    ///
    /// The state is ok; degraded (the registry cannot be reached, or the server does not answer: what is cached may be
    /// read); or auth_denied (the registry refuses the credentials). Counters are those of the server process that
    /// serves now.
    #[command(after_help = "Examples:\n  clipfs status\n  clipfs status /mnt --json")]
    Status(StatusArgs),
    /// Run containers that the control plane sends to this node
    ///
    /// Runs until SIGTERM; containers run on, and the next worker with the same directories adopts them. The control plane may be away at
    /// any time. SIGUSR1: takes no new containers from now on (again: takes them again). A service manager must leave the processes of
    /// containers alone when it stops the worker (systemd: KillMode=process).
    #[command(after_help = "Example:\n  \
        clipfs worker --control-plane https://control.example:7443 --node node-1 --token-file /etc/clipfs/worker.token")]
    Worker(Box<WorkerArgs>),
    /// Look after the store
    #[command(subcommand, after_help = "Example:\n  clipfs cache gc --target 5GiB")]
    Cache(CacheCommand),
}

/// `clipfs index`.
#[derive(Debug, clap::Args)]
pub(super) struct IndexArgs {
    /// Image
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
    /// Where to write the index [default: index/MANIFEST-DIGEST.clip in the cache directory]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Plain bytes between checkpoints: smaller chunks fetch less, larger ones make smaller indexes [default: 2MiB]
    #[arg(long, value_name = "SIZE", env = "CLIPFS_CHUNK_SIZE")]
    pub(super) chunk: Option<ByteSize>,
    /// Build the index even if there is a valid one, and replace whatever stands at its place
    #[arg(long)]
    pub(super) force: bool,
    /// Report as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) cache: CacheArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// `clipfs mount`. Every long option is also an option of `mount.clipfs -o`, with `_` for `-`.
#[derive(Debug, clap::Args)]
pub(super) struct MountArgs {
    /// Image, or file of a clip index (which then needs --image)
    #[arg(value_name = "IMAGE|FILE.clip")]
    pub(super) target: String,
    /// An existing directory
    #[arg(value_name = "MOUNTPOINT")]
    pub(super) mountpoint: PathBuf,
    /// Clip index to use instead of looking for one
    #[arg(long, value_name = "FILE", env = "CLIPFS_INDEX")]
    pub(super) index: Option<PathBuf>,
    /// Image to fetch from when a FILE.clip is mounted
    #[arg(long, value_name = "IMAGE", conflicts_with = "index")]
    pub(super) image: Option<String>,
    /// Stay in the foreground until unmounted
    #[arg(long)]
    pub(super) foreground: bool,
    /// Most bytes of decoded chunks in memory [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "CLIPFS_MEMORY")]
    pub(super) memory: Option<ByteSize>,
    /// Hard deadline of every read [default: 30s]
    #[arg(long, value_name = "TIME", env = "CLIPFS_READ_TIMEOUT")]
    pub(super) read_timeout: Option<Span>,
    /// Time to find the image and to serve the mount; building an index is not counted [default: 30s]
    #[arg(long, value_name = "TIME", env = "CLIPFS_MOUNT_TIMEOUT")]
    pub(super) mount_timeout: Option<Span>,
    /// What to fetch before it is asked for: none; profile (what earlier starts of the image touched; nothing until
    /// profiles can be recorded); all (the whole image, in the background, while no reader waits, as far as the cache's
    /// quota allows) [default: profile]
    #[arg(long, value_name = "WHAT", env = "CLIPFS_PREFETCH")]
    pub(super) prefetch: Option<Prefetch>,
    /// Let the kernel read complete files directly: auto or off [default: auto]
    #[arg(long, value_name = "WHEN", env = "CLIPFS_PASSTHROUGH")]
    pub(super) passthrough: Option<Passthrough>,
    /// Serve Prometheus metrics at this address, as http://ADDR/metrics; port 0 takes a free one, which status tells
    #[arg(long, value_name = "ADDR", env = "CLIPFS_METRICS")]
    pub(super) metrics: Option<SocketAddr>,
    /// Let other users in, as the modes of the files say. Always so: only root can mount, and a root file system that
    /// shuts users out is none. Accepted for scripts and for mount(8)
    #[arg(long)]
    pub(super) allow_other: bool,
    /// Do not honour setuid and setgid bits and file capabilities
    #[arg(long)]
    pub(super) nosuid: bool,
    /// Do not honour devices
    #[arg(long)]
    pub(super) nodev: bool,
    /// Do not run programs from the mount
    #[arg(long)]
    pub(super) noexec: bool,
    /// Report as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) cache: CacheArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// `clipfs umount`.
#[derive(Debug, clap::Args)]
pub(super) struct UmountArgs {
    /// Where the image is mounted
    #[arg(value_name = "MOUNTPOINT")]
    pub(super) mountpoint: PathBuf,
}

/// `clipfs ls`.
#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Directory or file in the image
    #[arg(value_name = "PATH", default_value = "/")]
    pub(super) path: std::ffi::OsString,
    /// With mode, links, owner, size and time
    #[arg(short, long)]
    pub(super) long: bool,
    /// Subdirectories as well
    #[arg(short = 'R', long)]
    pub(super) recursive: bool,
    /// Report as JSON, one object a line
    #[arg(long)]
    pub(super) json: bool,
}

/// `clipfs cat`.
#[derive(Debug, clap::Args)]
pub(super) struct CatArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// File in the image; symlinks are followed
    #[arg(value_name = "PATH")]
    pub(super) path: std::ffi::OsString,
    /// Image to fetch from when a FILE.clip is read
    #[arg(long, value_name = "IMAGE")]
    pub(super) image: Option<String>,
}

/// `clipfs stat`.
#[derive(Debug, clap::Args)]
pub(super) struct StatArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// File in the image; a symlink is not followed
    #[arg(value_name = "PATH")]
    pub(super) path: std::ffi::OsString,
    /// Follow a symlink
    #[arg(short = 'L', long)]
    pub(super) dereference: bool,
    /// Report as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `clipfs inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Report as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `clipfs verify`.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// File of a clip index
    #[arg(value_name = "FILE.clip")]
    pub(super) file: PathBuf,
    /// Image to compare with: every layer is read once
    #[arg(long, value_name = "IMAGE")]
    pub(super) image: Option<String>,
    /// Report as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// `clipfs status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Only this mount
    #[arg(value_name = "MOUNTPOINT")]
    pub(super) mountpoint: Option<PathBuf>,
    /// Report as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `clipfs cache …`.
#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Tell what the store holds
    #[command(after_help = "Example:\n  clipfs cache stat --json")]
    Stat(CacheStatArgs),
    /// Evict what is beyond the quota
    #[command(after_help = "Example:\n  clipfs cache gc --target 0")]
    Gc(CacheGcArgs),
    /// Read and check everything, remove what is corrupt
    #[command(after_help = "Example:\n  clipfs cache verify")]
    Verify(CacheStatArgs),
    /// Remove every object; mounts go on and fetch again
    #[command(after_help = "Example:\n  clipfs cache clear --cache-dir /var/cache/clipfs")]
    Clear(CacheStatArgs),
}

/// `clipfs cache stat|verify|clear`.
#[derive(Debug, clap::Args)]
pub(super) struct CacheStatArgs {
    #[command(flatten)]
    pub(super) cache: CacheArgs,
    /// Report as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `clipfs cache gc`.
#[derive(Debug, clap::Args)]
pub(super) struct CacheGcArgs {
    #[command(flatten)]
    pub(super) cache: CacheArgs,
    /// Bytes to keep [default: the quota]
    #[arg(long, value_name = "SIZE")]
    pub(super) target: Option<ByteSize>,
    /// Report as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Command {
    /// The arguments about sources, of commands that may reach one.
    pub(super) fn source(&self) -> Option<&SourceArgs> {
        self.parts().1
    }

    /// What the flags say about settings.
    pub(super) fn settings(&self, global: &GlobalArgs) -> Layer {
        let (cache, source) = self.parts();
        let mut layer = Layer {
            log_level: global.log_level.clone(),
            log_format: global.log_format,
            run_dir: global.run_dir.clone(),
            credential_plugin: source.and_then(|s| s.credential_plugin.clone()),
            credential_plugin_env: source.and_then(|s| s.credential_plugin_env.clone()),
            cache_dir: cache.and_then(|c| c.cache_dir.clone()),
            cache_size: cache.and_then(|c| c.cache_size),
            // The flag can only say yes; its absence leaves the word to the settings file.
            plain_http: source.and_then(|s| s.plain_http.then_some(true)),
            hosts_dir: source.and_then(|s| s.hosts_dir.clone()),
            ..Layer::default()
        };
        match self {
            Self::Index(args) => layer.chunk_size = args.chunk,
            Self::Mount(args) => {
                layer.memory = args.memory;
                layer.read_timeout = args.read_timeout;
                layer.mount_timeout = args.mount_timeout;
                layer.prefetch = args.prefetch;
                layer.passthrough = args.passthrough;
                layer.metrics = args.metrics;
            }
            _ => {}
        }
        layer
    }

    fn parts(&self) -> (Option<&CacheArgs>, Option<&SourceArgs>) {
        match self {
            Self::Index(a) => (Some(&a.cache), Some(&a.source)),
            Self::Mount(a) => (Some(&a.cache), Some(&a.source)),
            Self::Ls(LsArgs { target, .. })
            | Self::Cat(CatArgs { target, .. })
            | Self::Stat(StatArgs { target, .. })
            | Self::Inspect(InspectArgs { target, .. }) => (Some(&target.cache), Some(&target.source)),
            Self::Verify(a) => (None, Some(&a.source)),
            Self::Cache(CacheCommand::Stat(a) | CacheCommand::Verify(a) | CacheCommand::Clear(a)) => {
                (Some(&a.cache), None)
            }
            Self::Cache(CacheCommand::Gc(a)) => (Some(&a.cache), None),
            Self::Worker(a) => (Some(&a.cache), None),
            Self::Umount(_) | Self::Status(_) => (None, None),
        }
    }
}

#[cfg(test)]
mod tests;
