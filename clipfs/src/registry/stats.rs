//! What was read from an image's place: over the wire, or from its file.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of one [`super::ImageSource`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryStats {
    /// Bytes of blobs received (compressed bytes), failed attempts included.
    pub blob_bytes: u64,
    /// HTTP requests sent, retries and redirects included.
    pub requests: u64,
    /// Requests to token endpoints.
    pub token_requests: u64,
}

/// The counters while they count.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) blob_bytes: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) token_requests: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self) -> RegistryStats {
        RegistryStats {
            blob_bytes: self.blob_bytes.load(Relaxed),
            requests: self.requests.load(Relaxed),
            token_requests: self.token_requests.load(Relaxed),
        }
    }
}
