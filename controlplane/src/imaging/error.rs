//! What can go wrong when an image is made, by what it means to the caller.

use std::error::Error as _;
use std::time::Duration;

use clipfs::build::BuildError;
use clipfs::credentials::CredentialError;
use clipfs::registry::RegistryError;

use crate::credentials::CredentialsError;
use crate::store::StoreError;
use crate::vault::VaultError;

/// Why an image is not made. Never holds a credential.
#[derive(Debug, thiserror::Error)]
pub enum ImagingError {
    /// INVALID_ARGUMENT: parameters that make no sense, credentials that the registry refuses, an image that cannot be mounted.
    #[error("{0}")]
    Invalid(String),
    /// NOT_FOUND: the registry has no such image, or none for these credentials.
    #[error("{0}")]
    NotFound(String),
    /// UNAVAILABLE: the registry, or who exchanges the credentials, is away.
    #[error("{0}")]
    Unavailable(String),
    /// RESOURCE_EXHAUSTED: the registry asks to wait.
    #[error("{reason}")]
    TryLater {
        /// Its words.
        reason: String,
        /// How long, if it said so.
        after: Option<Duration>,
    },
    /// DEADLINE_EXCEEDED: it takes too long.
    #[error("{0}")]
    Deadline(String),
    /// INTERNAL: disk, settings, bugs. For the log; callers are told that it is so, not what.
    #[error("{0}")]
    Internal(String),
    /// Secrets that an image names and that cannot be had.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A secret's value cannot be sealed or opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImagingError {
    /// For the audit: the code and why.
    pub(super) fn for_audit(&self) -> String {
        let code = match self {
            Self::Invalid(_) => "INVALID_ARGUMENT",
            Self::NotFound(_) => "NOT_FOUND",
            Self::Unavailable(_) => "UNAVAILABLE",
            Self::TryLater { .. } => "RESOURCE_EXHAUSTED",
            Self::Deadline(_) => "DEADLINE_EXCEEDED",
            Self::Internal(_) => return "INTERNAL".into(),
            Self::Credentials(CredentialsError::Unusable(_)) => "FAILED_PRECONDITION",
            Self::Credentials(_) | Self::Vault(_) | Self::Store(_) => "failed",
        };
        format!("{code}: {self}")
    }
}

impl From<RegistryError> for ImagingError {
    fn from(error: RegistryError) -> Self {
        let said = error.to_string();
        match error {
            RegistryError::Credentials(error) => error.into(),
            RegistryError::NotFound(_) => Self::NotFound(said),
            RegistryError::UnknownHost { .. } | RegistryError::Unavailable { .. } => Self::Unavailable(said),
            RegistryError::TooManyRequests { retry_after, .. } => {
                Self::TryLater { reason: said, after: retry_after }
            }
            // A registry that cannot be used is a wrong argument: another one was never meant.
            RegistryError::InvalidReference { .. }
            | RegistryError::Denied { .. }
            | RegistryError::Protocol { .. }
            | RegistryError::NotTls { .. }
            | RegistryError::Mismatch { .. }
            | RegistryError::NotAnImage { .. }
            | RegistryError::NoPlatform { .. } => Self::Invalid(said),
            RegistryError::Configuration { .. } | RegistryError::Io { .. } => Self::Internal(said),
        }
    }
}

impl From<CredentialError> for ImagingError {
    fn from(error: CredentialError) -> Self {
        let said = error.to_string();
        match error {
            CredentialError::NotFound { .. }
            | CredentialError::Denied { .. }
            | CredentialError::Malformed(_)
            | CredentialError::Refused(_) => Self::Invalid(said),
            CredentialError::Unavailable(_) => Self::Unavailable(said),
            CredentialError::TryLater { after, .. } => Self::TryLater { reason: said, after },
            CredentialError::Configuration(_) | CredentialError::Broken(_) => Self::Internal(said),
        }
    }
}

impl From<BuildError> for ImagingError {
    fn from(error: BuildError) -> Self {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        let said = format!("{error}{cause}");
        match error {
            BuildError::Fetch { source, .. } => match Self::from(source) {
                Self::Invalid(_) => Self::Invalid(said),
                Self::NotFound(_) => Self::NotFound(said),
                Self::Unavailable(_) => Self::Unavailable(said),
                Self::TryLater { after, .. } => Self::TryLater { reason: said, after },
                other => other,
            },
            BuildError::Decode { .. }
            | BuildError::Digest { .. }
            | BuildError::Size { .. }
            | BuildError::DiffId { .. }
            | BuildError::DiffIds { .. }
            | BuildError::Merge(_) => Self::Invalid(format!("the image cannot be indexed: {said}")),
            BuildError::Output { .. } | BuildError::Panicked(_) => Self::Internal(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_blame() {
        let host = || "r.example".to_owned();
        let denied = RegistryError::Denied {
            host: host(),
            what: "r.example/a:1".into(),
            reason: "it answers 401".into(),
        };
        let said = ImagingError::from(denied);
        assert!(matches!(&said, ImagingError::Invalid(why) if why.contains("it answers 401")), "{said}");
        assert_eq!(said.for_audit(), format!("INVALID_ARGUMENT: {said}"));
        let away = RegistryError::Unavailable { host: host(), reason: "connection refused".into() };
        let layer = clipfs::oci::Digest::of(b"layer");
        let fetch = ImagingError::from(BuildError::Fetch { layer, source: away });
        assert!(
            matches!(&fetch, ImagingError::Unavailable(why) if why.contains("connection refused")),
            "{fetch}"
        );
        let slow = RegistryError::TooManyRequests { host: host(), retry_after: Some(Duration::from_secs(7)) };
        let slow = ImagingError::from(BuildError::Fetch { layer, source: slow });
        assert!(matches!(slow, ImagingError::TryLater { after: Some(after), .. } if after.as_secs() == 7));
        let disk =
            BuildError::Output { path: "/data/x".into(), source: std::io::ErrorKind::StorageFull.into() };
        assert_eq!(
            ImagingError::from(disk).for_audit(),
            "INTERNAL",
            "paths of the control plane are not told"
        );
        let lie = ImagingError::from(BuildError::Size { layer, expected: 1, found: 2 });
        assert!(matches!(lie, ImagingError::Invalid(_)));
    }
}
