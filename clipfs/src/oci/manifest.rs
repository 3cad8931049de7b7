//! Manifests, manifest lists and image configs (OCI image spec 1.1 and Docker schema 2).

use super::Digest;

/// A pointer to a blob: what it is, how long, and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type as written in the manifest; empty if absent.
    pub media_type: String,
    /// Digest of the blob as stored (compressed).
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
}

/// One platform's image: its config and layers, lowest layer first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image config blob.
    pub config: Descriptor,
    /// Layers, base first.
    pub layers: Vec<Descriptor>,
}

/// Operating system, CPU architecture and variant, as in `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Go's name: `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …
    pub variant: Option<String>,
}

/// What clipfs reads from an image config; the raw bytes are kept in the clip index as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Platform the image is for.
    pub platform: Platform,
    /// Digest of each layer's *plain* tar stream, base first; as many as the manifest has layers.
    pub diff_ids: Vec<Digest>,
}
