//! Applies layers in order: OCI whiteouts (to lower layers only, whatever their order in the tar), hard links
//! before or after their target and across layers, parents that are symlinks, names that try to escape.

use super::{LayerEntries, Tree};

/// Why layers cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A hard link whose target exists in no layer.
    #[error("layer {layer}: hard link {path:?} points to {target:?}, which does not exist")]
    DanglingHardlink {
        /// Layer number, base = 0.
        layer: u32,
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A name that cannot be (component over 255 bytes, whiteout of `.` or `..`, too many symlinks…).
    #[error("layer {layer}: bad name {path:?}: {reason}")]
    BadName {
        /// Layer number, base = 0.
        layer: u32,
        /// The name.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// More entries, names or data than the index format can address.
    #[error("image too large for a clip index: {0}")]
    TooLarge(&'static str),
}

/// Merges layers into a [`Tree`].
#[derive(Debug, Default)]
pub struct Merger {}

impl Merger {
    /// Applies the next layer (the first call is the base); `layer` is its number from 0. Consumes the entries so that
    /// their memory is freed.
    ///
    /// # Errors
    /// See [`MergeError`].
    pub fn apply(&mut self, layer: u32, entries: LayerEntries) -> Result<(), MergeError> {
        let _ = (layer, entries);
        unimplemented!()
    }

    /// The merged tree.
    ///
    /// # Errors
    /// [`MergeError::TooLarge`].
    pub fn finish(self) -> Result<Tree, MergeError> {
        unimplemented!()
    }
}
