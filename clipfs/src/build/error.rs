//! Why an index cannot be built.

use std::io;
use std::path::PathBuf;

use crate::decode::DecodeError;
use crate::image::MergeError;
use crate::oci::Digest;
use crate::registry::RegistryError;

/// Why an index cannot be built, or an image cannot be compared with one. Names the layer.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A layer's bytes cannot be had.
    #[error("cannot read layer {layer}")]
    Fetch {
        /// Digest of the blob.
        layer: Digest,
        /// Cause.
        #[source]
        source: RegistryError,
    },
    /// A layer's bytes are what the manifest says, but make no sense.
    #[error("cannot index layer {layer}")]
    Decode {
        /// Digest of the blob.
        layer: Digest,
        /// Cause.
        #[source]
        source: DecodeError,
    },
    /// A layer's bytes are not those that the manifest names.
    #[error("layer {layer} does not match its digest: its bytes hash to {found}")]
    Digest {
        /// Digest in the manifest.
        layer: Digest,
        /// Digest of what came.
        found: Digest,
    },
    /// A layer is longer or shorter than the manifest says.
    #[error("layer {layer} has {found} bytes, the manifest says {expected}")]
    Size {
        /// Digest of the blob.
        layer: Digest,
        /// Size in the manifest.
        expected: u64,
        /// Size of what came.
        found: u64,
    },
    /// A layer's plain stream is not the one that the image config names.
    #[error("layer {layer} does not match its diff_id {expected}: its plain bytes hash to {found}")]
    DiffId {
        /// Digest of the blob.
        layer: Digest,
        /// diff_id in the config.
        expected: Digest,
        /// Digest of the plain stream.
        found: Digest,
    },
    /// Manifest and config contradict each other.
    #[error("the manifest has {layers} layers but the image config has {diff_ids} diff_ids")]
    DiffIds {
        /// Layers in the manifest.
        layers: usize,
        /// diff_ids in the config.
        diff_ids: usize,
    },
    /// The layers do not make a tree.
    #[error("cannot merge the layers")]
    Merge(#[from] MergeError),
    /// The index file, or the temporary files beside it, cannot be written.
    #[error("cannot write {path}")]
    Output {
        /// Where the index was to go.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A thread of the builder panicked: a bug.
    #[error("the {0} thread panicked")]
    Panicked(String),
}

impl BuildError {
    /// A task that did not return. (Tasks are only aborted when nobody waits for them any more.)
    pub(super) fn panicked(what: &str, error: &tokio::task::JoinError) -> Self {
        tracing::debug!(%error, what, "task failed");
        Self::Panicked(what.to_owned())
    }
}
