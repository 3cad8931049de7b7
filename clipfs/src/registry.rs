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

mod archive;
mod asker;
mod auth;
mod challenge;
mod classify;
mod client;
mod deadline;
mod docker_archive;
mod echo;
mod endpoint;
mod guard;
mod hosts;
mod in_the_clear;
mod layout;
mod local;
mod proof;
mod range;
mod reach;
mod redirect;
mod remote;
mod resolve;
mod retry;
mod safe_url;
mod scheme;
mod stream;
mod token;
mod whose;

/// Parsers of foreign bytes, for fuzz targets: they panic when a parser breaks its own rules.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// Values of `WWW-Authenticate`, one a line.
    pub fn challenge(data: &[u8]) {
        super::challenge::fuzz(data);
    }

    /// A `hosts.toml`.
    pub fn hosts_toml(data: &[u8]) {
        super::hosts::fuzz(data);
    }
}

#[cfg(test)]
mod tests;

pub use deadline::within;
pub use error::RegistryError;
pub use reach::Reach;
pub use stream::BlobStream;
use {local::Local, remote::Remote, stream::HttpStream};

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
    /// Where the registry may be; told before a packet goes there.
    pub reach: Reach,
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
pub struct ImageSource(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Remote(Arc<Remote>),
    Local(Arc<Local>),
}

impl ImageSource {
    /// Opens a place without touching the network (layouts and archives are opened and checked).
    ///
    /// # Errors
    /// Missing or malformed layouts and archives; broken TLS configuration.
    pub async fn open(spec: &ImageSpec, options: RegistryOptions) -> Result<Self, RegistryError> {
        Ok(Self(match spec {
            ImageSpec::Registry(reference) => {
                let reference = reference.clone();
                // Reads certificates and hosts.toml.
                Inner::Remote(Arc::new(local::blocking(move || Remote::open(reference, &options)).await?))
            }
            _ => Inner::Local(Arc::new(Local::open(spec).await?)),
        }))
    }

    /// Asks the credential provider for the image's own registry now, and keeps the answer for when the registry asks: a
    /// request whose credentials cannot be used is told at once, even where the registry never wants any. What it answers is
    /// shown to the registry, so that credentials it refuses are told too, even where a mirror or a public repository would
    /// let us in without. Before or beside other requests; providers that are asked already are not asked twice. Nothing
    /// happens for layouts and archives, and a registry that cannot be reached proves nothing.
    ///
    /// # Errors
    /// [`RegistryError::Credentials`], after waiting for a provider that asks to wait as long as [`within`] allows;
    /// [`RegistryError::Denied`].
    pub async fn authenticate(&self) -> Result<(), RegistryError> {
        match &self.0 {
            Inner::Remote(remote) => remote.authenticate().await,
            Inner::Local(_) => Ok(()),
        }
    }

    /// Fetches and checks the manifest (choosing the platform from a manifest list) and the config.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn resolve(&self, platform: &Platform) -> Result<ResolvedImage, RegistryError> {
        Box::pin(resolve::resolve(&self.0, platform)).await
    }

    /// Asks whether the manifest is still there and may be read: told at mount, not as EIO an hour later. For a layout or
    /// archive, being open is enough.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn check(&self, manifest: &Digest) -> Result<(), RegistryError> {
        match &self.0 {
            Inner::Remote(remote) => remote.check(manifest).await,
            Inner::Local(_) => Ok(()),
        }
    }

    /// A blob from its first to its last byte. The caller checks the digest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob(&self, blob: &Descriptor) -> Result<BlobStream, RegistryError> {
        self.blob_range(blob, 0..blob.size).await
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
        if range.start > range.end || range.end > blob.size {
            return Err(RegistryError::Mismatch {
                what: format!("a range beyond the end of blob {}", blob.digest),
            });
        }
        match &self.0 {
            Inner::Remote(remote) => {
                Ok(BlobStream::http(Box::pin(HttpStream::open(Arc::clone(remote), blob, range)).await?))
            }
            Inner::Local(local) => Ok(BlobStream::file(local.blob(blob, range).await?)),
        }
    }

    /// Told by the reader that bytes of a range failed verification: the next request for this blob uses another
    /// connection (or mirror).
    pub fn distrust(&self, blob: &Descriptor) {
        if let Inner::Remote(remote) = &self.0 {
            remote.distrust(blob);
        }
    }

    /// Counters since opening; for layouts and archives only bytes are counted.
    #[must_use]
    pub fn stats(&self) -> stats::RegistryStats {
        match &self.0 {
            Inner::Remote(remote) => remote.counters.snapshot(),
            Inner::Local(local) => local.counters.snapshot(),
        }
    }

    /// Requests since opening by host and answer; none for layouts and archives.
    #[must_use]
    pub fn answers(&self) -> Vec<stats::AnswerCount> {
        match &self.0 {
            Inner::Remote(remote) => remote.counters.answers(),
            Inner::Local(_) => Vec::new(),
        }
    }

    /// Lets tokens grow older without waiting.
    #[cfg(test)]
    fn age_tokens(&self, by: Duration) {
        if let Inner::Remote(remote) = &self.0 {
            remote.age_tokens(by);
        }
    }
}
