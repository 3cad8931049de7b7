//! What a command can fail with: the errors of all modules, with what only the command line knows added.

use std::io;
use std::path::PathBuf;

use crate::build::{BuildError, verify::VerifyError};
use crate::config::ConfigError;
use crate::credentials::CredentialError;
use crate::index::IndexError;
use crate::mount::MountError;
use crate::oci::Digest;
use crate::oci::reference::InvalidReference;
use crate::read::ReadError;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::vfs::VfsError;
use crate::worker::WorkerError;

/// Why a command failed. What that means for the caller of the process is said in [`super::exit`].
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Arguments that parse but make no sense together.
    #[error("{0}")]
    Usage(String),
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An image argument.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The image cannot be had.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The source of credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The ContainerRequest cannot be read.
    #[error("cannot read the request {path}")]
    Request {
        /// As it was named.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// An index cannot be used.
    #[error("cannot use index {path}")]
    Index {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: IndexError,
    },
    /// An index that was named belongs to another image.
    #[error("index {path} is for another image: it has manifest {index}, the image {image}")]
    OtherImage {
        /// The file.
        path: PathBuf,
        /// Manifest in the index.
        index: Digest,
        /// Manifest of the image.
        image: Digest,
    },
    /// An index cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An index does not describe its image.
    #[error("index {path} does not describe its image")]
    Verify {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Box<VerifyError>,
    },
    /// The node agent cannot begin.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A path in the image.
    #[error("{path} in the image")]
    Path {
        /// The path.
        path: String,
        /// Cause.
        #[source]
        source: VfsError,
    },
    /// A path in the image is no regular file.
    #[error("{0} in the image is not a regular file")]
    NotAFile(String),
    /// A file of the image cannot be read.
    #[error("cannot read {path} of the image")]
    Read {
        /// The path.
        path: String,
        /// Cause.
        #[source]
        source: ReadError,
    },
    /// A clip index does not say where its image is.
    #[error("{0} does not say where its image is")]
    NeedsImage(PathBuf),
    /// Something that is no index of this image stands where the index should go.
    #[error("{0} exists and is not an index of this image")]
    Occupied(PathBuf),
    /// A directory or file cannot be created.
    #[error("cannot create {path}")]
    Create {
        /// What.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Mounting, unmounting, status.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The image was not found in time.
    #[error("{image} did not answer within {seconds} s")]
    Timeout {
        /// The image.
        image: String,
        /// The limit.
        seconds: u64,
    },
    /// Standard output.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
    /// The async runtime cannot be started.
    #[error("cannot start threads")]
    Runtime(#[source] io::Error),
    /// A thread of the command panicked.
    #[error("a thread panicked")]
    Panicked,
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted(i32),
}

impl Failure {
    /// The error and its causes in one sentence.
    pub(super) fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let next = error.to_string();
            // Transparent wrappers would say it twice.
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        // One line, whatever a registry or an image has put into it.
        super::output::printable(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_chain_in_one_line() {
        let failure = Failure::Index {
            path: "/a.clip".into(),
            source: IndexError::Io(io::Error::other("first\nsecond")),
        };
        assert_eq!(failure.sentence(), "cannot use index /a.clip: reading the clip index: first\\nsecond");
    }
}
