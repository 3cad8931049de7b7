//! What went over the wire.

/// Counters of one [`super::ImageSource`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryStats {
    /// Body bytes received from blob requests (compressed bytes), failed attempts included.
    pub blob_bytes: u64,
    /// HTTP requests sent, retries and redirects included.
    pub requests: u64,
    /// Requests to token endpoints.
    pub token_requests: u64,
}
