//! Why there is no mount (or why it will not go away): one sentence each, with the contract's exit code.

pub(crate) use crate::read::sentence;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// mount(2) needs root.
    #[error("mounting needs root")]
    NotRoot,
    /// `/dev/fuse` cannot be opened.
    #[error("cannot open /dev/fuse")]
    NoFuse(#[source] std::io::Error),
    /// There is nothing to mount on.
    #[error("mountpoint {0} does not exist")]
    NoMountpoint(PathBuf),
    /// There is something, but not a directory.
    #[error("mountpoint {0} is not a directory")]
    NotADirectory(PathBuf),
    /// An image is mounted there and served.
    #[error("{0} is already a clipfs mount")]
    AlreadyMounted(PathBuf),
    /// The mountpoint cannot be looked at.
    #[error("cannot use mountpoint {path}")]
    Mountpoint {
        /// Mountpoint.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The mount's run directory cannot be used.
    #[error("cannot use run directory {path}")]
    RunDir {
        /// Directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refuses.
    #[error("cannot mount on {path}")]
    Mount {
        /// Mountpoint.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Keeper or server cannot be started.
    #[error("cannot start the {what}")]
    Spawn {
        /// `keeper` or `server`.
        what: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The server said why it cannot serve.
    #[error("{message}")]
    Refused {
        /// Its sentence.
        message: String,
        /// The exit code that goes with it.
        code: u8,
    },
    /// The server went without a word.
    #[error("the server of {path} ended before it served ({status})")]
    Died {
        /// Mountpoint.
        path: PathBuf,
        /// How.
        status: String,
    },
    /// The server keeps dying.
    #[error("the server of {path} died {times} times in a row: giving up")]
    CrashLoop {
        /// Mountpoint.
        path: PathBuf,
        /// How often.
        times: u32,
    },
    /// It took too long.
    #[error("{path} does not serve after {after:?}")]
    Timeout {
        /// Mountpoint.
        path: PathBuf,
        /// The limit.
        after: Duration,
    },
    /// Told to stop while mounting.
    #[error("mounting on {0} was interrupted")]
    Interrupted(PathBuf),
    /// Nothing of ours to unmount.
    #[error("{0} is not a clipfs mount")]
    NotMounted(PathBuf),
    /// Something else is mounted over it, or it was moved: not taken away under that.
    #[error("{0} is mounted elsewhere, or under another mount")]
    Covered(PathBuf),
    /// The control socket's name does not fit into an address.
    #[error("run directory {0} has too long a name: a control socket in it cannot be reached")]
    LongRunDir(PathBuf),
    /// The kernel refuses to unmount.
    #[error("cannot unmount {path}")]
    Unmount {
        /// Mountpoint.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Unmounted, but its processes do not end.
    #[error("{0} is unmounted but its keeper does not end")]
    Lingers(PathBuf),
}

impl MountError {
    /// The contract's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRoot => exit::DENIED,
            Self::NoFuse(_) => exit::UNAVAILABLE,
            Self::NoMountpoint(_) | Self::NotMounted(_) => exit::NO_INPUT,
            Self::NotADirectory(_)
            | Self::AlreadyMounted(_)
            | Self::RunDir { .. }
            | Self::Mount { .. }
            | Self::Mountpoint { .. } => exit::CANNOT_CREATE,
            Self::Refused { code, .. } => *code,
            Self::Spawn { .. } | Self::Died { .. } | Self::CrashLoop { .. } => exit::SOFTWARE,
            Self::Timeout { .. } | Self::Interrupted(_) | Self::Lingers(_) | Self::Covered(_) => {
                exit::TRY_LATER
            }
            Self::LongRunDir(_) => exit::CONFIG,
            Self::Unmount { .. } => exit::IO,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotRoot => Some("run it with sudo"),
            Self::NoFuse(_) => Some("load the module with `modprobe fuse`, or give the container /dev/fuse"),
            Self::NoMountpoint(_) => Some("create it with `mkdir -p`"),
            Self::Covered(_) => Some("unmount what is mounted over it first"),
            Self::LongRunDir(_) => Some("choose a shorter one with `--run-dir`"),
            Self::AlreadyMounted(_) => Some("unmount it first with `clipfs umount`"),
            Self::Died { .. } | Self::CrashLoop { .. } => {
                Some("keep its log, which says more, with `log_file` in the settings file")
            }
            _ => None,
        }
    }
}
