//! Where images come from: registries over HTTP, and layouts and archives on disk. The one door to the network.
//!
//! Knows nothing of the store, of chunks or of FUSE: manifests, and blobs whole or by range.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::credentials::CredentialProvider;
use crate::oci::{Descriptor, Digest, ImageConfig, ImageSpec, Manifest, Platform};

pub mod error;
pub mod stats;

pub use error::RegistryError;

/// How to reach registries.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Who answers for credentials.
    pub credentials: Arc<dyn CredentialProvider>,
    /// Allow plain http to registries that are not loopback.
    pub plain_http: bool,
    /// containerd's `certs.d`: mirrors, CA files, client certificates.
    pub hosts_dir: Option<PathBuf>,
    /// Time to a connection.
    pub connect_timeout: Duration,
    /// Longest time without a byte before a transfer counts as stalled.
    pub progress_timeout: Duration,
    /// Attempts per request, first one included.
    pub attempts: u32,
}

/// An image, found: its documents, checked against their digests.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Reference for people: with digest where there is one.
    pub name: String,
    /// Digest of `manifest_bytes`.
    pub manifest_digest: Digest,
    /// The one platform's manifest as served.
    pub manifest_bytes: Bytes,
    /// Parsed.
    pub manifest: Manifest,
    /// The config blob as served.
    pub config_bytes: Bytes,
    /// Parsed.
    pub config: ImageConfig,
}

/// An opened place that holds one image. Cheap to clone; safe to use from many tasks.
#[derive(Debug, Clone)]
pub struct ImageSource {}

/// A blob's bytes on their way. Ends with an error if the transfer fails for good; lost connections in the middle are
/// resumed inside. Cancel safe: dropping it ends the transfer.
#[derive(Debug)]
pub struct BlobStream {}

impl BlobStream {
    /// The next bytes; `None` at the end of the asked range, which was then delivered in full.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        unimplemented!()
    }

    /// All bytes in one buffer; for ranges of a few chunks.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn collect(self) -> Result<Bytes, RegistryError> {
        unimplemented!()
    }
}

impl ImageSource {
    /// Opens a place without touching the network (layouts and archives are opened and checked).
    ///
    /// # Errors
    /// Missing or malformed layouts and archives; broken TLS configuration.
    pub async fn open(spec: &ImageSpec, options: RegistryOptions) -> Result<Self, RegistryError> {
        let _ = (spec, options);
        unimplemented!()
    }

    /// Fetches and checks the manifest (choosing the platform from a manifest list) and the config.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn resolve(&self, platform: &Platform) -> Result<ResolvedImage, RegistryError> {
        let _ = platform;
        unimplemented!()
    }

    /// Asks whether the manifest is still there and may be read: told at mount, not as EIO an hour later.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn check(&self, manifest: &Digest) -> Result<(), RegistryError> {
        let _ = manifest;
        unimplemented!()
    }

    /// A blob from its first to its last byte. The caller checks the digest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob(&self, blob: &Descriptor) -> Result<BlobStream, RegistryError> {
        let _ = blob;
        unimplemented!()
    }

    /// A range of a blob (`range` within `0..blob.size`, not empty). The bytes are unverified.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob_range(
        &self,
        blob: &Descriptor,
        range: Range<u64>,
    ) -> Result<BlobStream, RegistryError> {
        let _ = (blob, range);
        unimplemented!()
    }

    /// Told by the reader that bytes of a range failed verification: the next request for this blob uses another
    /// connection (or mirror).
    pub fn distrust(&self, blob: &Descriptor) {
        let _ = blob;
    }

    /// Counters since opening.
    #[must_use]
    pub fn stats(&self) -> stats::RegistryStats {
        unimplemented!()
    }
}
