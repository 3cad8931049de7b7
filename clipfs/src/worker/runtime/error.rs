//! Why a container is not running: one sentence each, with the code of gRPC's error model that says the same.

use std::io;
use std::path::{Path, PathBuf};

use crate::exit;

/// `INVALID_ARGUMENT`: the request or the image asks for what cannot be done, on no machine.
pub(super) const INVALID_ARGUMENT: i32 = 3;
/// `NOT_FOUND`: the registry has no such image.
pub(super) const NOT_FOUND: i32 = 5;
/// `RESOURCE_EXHAUSTED`: a limit of the request was reached.
pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
/// `FAILED_PRECONDITION`: credentials, or something of this machine that somebody has to mend.
pub(super) const FAILED_PRECONDITION: i32 = 9;
/// `INTERNAL`: this machine, or a bug.
pub(super) const INTERNAL: i32 = 13;
/// `UNAVAILABLE`: passes by itself, or is better elsewhere.
pub(super) const UNAVAILABLE: i32 = 14;

/// Why something could not be done for a container.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The key of a job cannot be the name of a directory, a container and a cgroup.
    #[error("{0:?} cannot be a container's key: letters, digits, - and _ can, up to 100 of them")]
    Key(String),
    /// The image's config cannot be run.
    #[error("image {image} cannot be run: {reason}")]
    Image {
        /// Reference.
        image: String,
        /// Why.
        reason: String,
    },
    /// The request asks for what cannot be done.
    #[error("the request's {field} cannot be used: {reason}")]
    Request {
        /// Its field.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// `clipfs mount` failed.
    #[error("image {image} cannot be mounted: {reason}")]
    Mount {
        /// Reference.
        image: String,
        /// Its own words.
        reason: String,
        /// Its exit code; `None` = a signal, or it had to be killed.
        exit: Option<u8>,
    },
    /// `clipfs mount` did not end.
    #[error("mounting image {image} took longer than {seconds} s and was given up")]
    MountTimeout {
        /// Reference.
        image: String,
        /// The limit.
        seconds: u64,
    },
    /// The image's mount does not go away.
    #[error("mount {path} cannot be unmounted: {reason}")]
    Unmount {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The container's program cannot be started as the request and the image say.
    #[error("the container's program cannot be started: {0}")]
    Program(String),
    /// The OCI runtime, or this machine, cannot start the container.
    #[error("container {key} cannot be started: {reason}")]
    Start {
        /// The job.
        key: String,
        /// The OCI runtime's own words, mostly.
        reason: String,
    },
    /// The OCI runtime does not do what it is told.
    #[error("{program} failed to {what}: {reason}")]
    Oci {
        /// The runtime.
        program: PathBuf,
        /// What it was to do.
        what: &'static str,
        /// Its own words.
        reason: String,
    },
    /// The OCI runtime is not installed, or cannot be executed.
    #[error("OCI runtime {program} cannot be used: {reason}")]
    NoProgram {
        /// As it was named.
        program: PathBuf,
        /// Why.
        reason: String,
    },
    /// This machine's cgroups cannot be used.
    #[error("cgroups cannot be written: {path}: {source}")]
    Cgroups {
        /// The directory that cannot be made.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A limit that this machine cannot hold.
    #[error("this machine cannot limit {what}: it has no cgroup controller {controller}")]
    NoController {
        /// What was to be limited.
        what: &'static str,
        /// What is missing.
        controller: &'static str,
    },
    /// The process that watches the container ended before the container was started.
    #[error("the monitor of container {key} said nothing: {reason}")]
    Monitor {
        /// The job.
        key: String,
        /// Why, as far as is known.
        reason: String,
    },
    /// Nothing was started that could be waited for.
    #[error("container {0} was not started")]
    NotStarted(String),
    /// A file or directory of ours.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The attempt.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread of ours panicked.
    #[error("a task for container {0} was lost: this is a bug")]
    Lost(String),
}

impl RuntimeError {
    /// The code of gRPC's error model.
    #[must_use]
    pub const fn code(&self) -> i32 {
        match self {
            Self::Key(_) | Self::Image { .. } | Self::Request { .. } | Self::Program(_) => INVALID_ARGUMENT,
            Self::Mount { exit: Some(code), .. } => mount_code(*code),
            Self::MountTimeout { .. } => UNAVAILABLE,
            Self::NoProgram { .. }
            | Self::Cgroups { .. }
            | Self::NoController { .. }
            | Self::NotStarted(_) => FAILED_PRECONDITION,
            Self::Mount { .. }
            | Self::Unmount { .. }
            | Self::Start { .. }
            | Self::Oci { .. }
            | Self::Monitor { .. }
            | Self::Io { .. }
            | Self::Lost(_) => INTERNAL,
        }
    }

    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// What `clipfs mount`'s exit code means for the container.
const fn mount_code(code: u8) -> i32 {
    match code {
        exit::NO_INPUT => NOT_FOUND,
        exit::UNAVAILABLE | exit::NO_HOST | exit::TRY_LATER => UNAVAILABLE,
        // Credentials, their source, a registry that must not be talked to, an index or image that is none.
        exit::DENIED | exit::CONFIG | exit::PROTOCOL | exit::DATA => FAILED_PRECONDITION,
        _ => INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_the_mount_become_codes_of_the_container() {
        let table = [
            (exit::DENIED, FAILED_PRECONDITION),
            (exit::CONFIG, FAILED_PRECONDITION),
            (exit::NO_INPUT, NOT_FOUND),
            (exit::UNAVAILABLE, UNAVAILABLE),
            (exit::TRY_LATER, UNAVAILABLE),
            (exit::NO_HOST, UNAVAILABLE),
            (exit::SOFTWARE, INTERNAL),
            (exit::CANNOT_CREATE, INTERNAL),
        ];
        for (exit, code) in table {
            let error = RuntimeError::Mount { image: String::new(), reason: String::new(), exit: Some(exit) };
            assert_eq!(error.code(), code, "exit code {exit}");
        }
    }
}
