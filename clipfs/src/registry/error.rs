//! What can go wrong between us and an image's bytes.

/// Why an image or its bytes cannot be had. Texts name host, repository and reason; never credentials, never the query
/// string of a URL.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The reference makes no sense.
    #[error("invalid image reference {reference:?}: {reason}")]
    InvalidReference {
        /// As given.
        reference: String,
        /// What is wrong.
        reason: String,
    },
    /// Manifest, blob, layout or archive does not exist.
    #[error("{0} not found")]
    NotFound(String),
    /// 401 or 403 with the credentials there are (or without any).
    #[error("access to {what} denied by {host}: {reason}")]
    Denied {
        /// Host.
        host: String,
        /// Repository or blob.
        what: String,
        /// Status and the registry's words.
        reason: String,
    },
    /// Credentials could not be had.
    #[error(transparent)]
    Credentials(#[from] crate::credentials::CredentialError),
    /// The host name does not resolve.
    #[error("cannot resolve host {host}")]
    UnknownHost {
        /// Host.
        host: String,
    },
    /// Connection refused, reset, timed out, 5xx after all retries.
    #[error("{host} is unavailable: {reason}")]
    Unavailable {
        /// Host.
        host: String,
        /// Why.
        reason: String,
    },
    /// 429 beyond what we may wait.
    #[error("{host} asks to slow down")]
    TooManyRequests {
        /// Host.
        host: String,
        /// How long, if it said so.
        retry_after: Option<std::time::Duration>,
    },
    /// TLS failure, forbidden redirect or realm, answers that break the protocol.
    #[error("{host}: {reason}")]
    Protocol {
        /// Host.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// Bytes do not match their digest or declared size.
    #[error("{what} does not match its digest")]
    Mismatch {
        /// Manifest or blob.
        what: String,
    },
    /// The document is not an image that can be mounted (artifact, no such platform, malformed JSON, too large).
    #[error("{what} is not a usable image: {reason}")]
    NotAnImage {
        /// Image.
        what: String,
        /// Why.
        reason: String,
    },
    /// Reading a layout or archive.
    #[error("reading {what}")]
    Io {
        /// Path.
        what: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
}

impl RegistryError {
    /// Whether asking again soon is pointless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !matches!(
            self,
            Self::Unavailable { .. }
                | Self::TooManyRequests { .. }
                | Self::UnknownHost { .. }
                | Self::Io { .. }
        )
    }
}
