//! Writes a clip index. Deterministic: the same image gives the same bytes.

use std::fs::File;

use super::LayerIndex;
use crate::image::Tree;
use crate::oci::Digest;

/// What an index says about its image besides the tree and the layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMeta {
    /// Digest of `manifest`: what the index is bound to.
    pub manifest_digest: Digest,
    /// The raw manifest of the one platform.
    pub manifest: Vec<u8>,
    /// The raw image config.
    pub config: Vec<u8>,
    /// Plain bytes between checkpoints that the index was built with.
    pub chunk: u32,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteSummary {
    /// Length of the index file.
    pub bytes: u64,
    /// Of which windows.
    pub window_bytes: u64,
    /// Inodes in the tree.
    pub files: u64,
}

/// Writes the index of an image to `out` (positioned at its start, empty).
///
/// # Errors
/// Writing `out` or reading a layer's windows fails.
pub fn write(
    out: &mut File,
    meta: &ImageMeta,
    tree: &Tree,
    layers: &mut [LayerIndex],
) -> std::io::Result<WriteSummary> {
    let _ = (out, meta, tree, layers);
    unimplemented!()
}
