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
    /// A server that answers in plain http where TLS is expected.
    #[error("{host}: TLS failed: it answers in plain http")]
    NotTls {
        /// Host.
        host: String,
    },
    /// What the operator has set (`hosts.toml`, its directory, certificates) cannot be used.
    #[error("{what}: {reason}")]
    Configuration {
        /// File or directory.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Bytes do not match their digest or declared size.
    #[error("{what} does not match its digest")]
    Mismatch {
        /// Manifest or blob.
        what: String,
    },
    /// The document is not an image that can be mounted (artifact, malformed JSON, too large).
    #[error("{what} is not a usable image: {reason}")]
    NotAnImage {
        /// Image.
        what: String,
        /// Why.
        reason: String,
    },
    /// A manifest list without the platform that is wanted.
    #[error("{what} is not a usable image: no manifest for {platform}: {detail}")]
    NoPlatform {
        /// Image.
        what: String,
        /// The platform wanted.
        platform: String,
        /// What there is instead.
        detail: String,
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

impl From<crate::oci::reference::InvalidReference> for RegistryError {
    fn from(e: crate::oci::reference::InvalidReference) -> Self {
        Self::InvalidReference { reference: e.reference, reason: e.reason }
    }
}

impl RegistryError {
    /// The same error once more: several waiters share one failed request. The source of an I/O error becomes its text.
    pub(super) fn duplicate(&self) -> Self {
        match self {
            Self::InvalidReference { reference, reason } => {
                Self::InvalidReference { reference: reference.clone(), reason: reason.clone() }
            }
            Self::NotFound(what) => Self::NotFound(what.clone()),
            Self::Denied { host, what, reason } => {
                Self::Denied { host: host.clone(), what: what.clone(), reason: reason.clone() }
            }
            Self::Credentials(e) => Self::Credentials(e.clone()),
            Self::UnknownHost { host } => Self::UnknownHost { host: host.clone() },
            Self::Unavailable { host, reason } => {
                Self::Unavailable { host: host.clone(), reason: reason.clone() }
            }
            Self::TooManyRequests { host, retry_after } => {
                Self::TooManyRequests { host: host.clone(), retry_after: *retry_after }
            }
            Self::Protocol { host, reason } => Self::Protocol { host: host.clone(), reason: reason.clone() },
            Self::NotTls { host } => Self::NotTls { host: host.clone() },
            Self::Configuration { what, reason } => {
                Self::Configuration { what: what.clone(), reason: reason.clone() }
            }
            Self::Mismatch { what } => Self::Mismatch { what: what.clone() },
            Self::NotAnImage { what, reason } => {
                Self::NotAnImage { what: what.clone(), reason: reason.clone() }
            }
            Self::NoPlatform { what, platform, detail } => {
                Self::NoPlatform { what: what.clone(), platform: platform.clone(), detail: detail.clone() }
            }
            Self::Io { what, source } => Self::Io {
                what: what.clone(),
                source: std::io::Error::new(source.kind(), source.to_string()),
            },
        }
    }

    /// Whether asking again soon is pointless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::TooManyRequests { .. }
            | Self::UnknownHost { .. }
            | Self::Io { .. } => false,
            Self::Credentials(error) => !error.is_passing(),
            _ => true,
        }
    }
}
