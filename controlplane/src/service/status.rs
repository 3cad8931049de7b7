//! What an error means to a caller: the one place where errors become statuses.
//!
//! Internals are logged here, once, and never sent.

use tonic::{Code, Status};

use crate::credentials::CredentialsError;
use crate::imaging::ImagingError;
use crate::store::StoreError;
use crate::vault::VaultError;

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NotFound(_) => Code::NotFound,
            StoreError::Exists(_) => Code::AlreadyExists,
            StoreError::Conflict(_) | StoreError::Stale(_) => Code::FailedPrecondition,
            StoreError::KeyReused => Code::InvalidArgument,
            StoreError::Busy(_) => Code::Aborted,
            StoreError::Unavailable(_) => Code::Unavailable,
            StoreError::Corrupt { what, why } => {
                tracing::error!(what, why, "the database holds what cannot be read");
                return Self::data_loss(format!("the database holds {what} that cannot be read"));
            }
            StoreError::Schema(why) => {
                tracing::error!(why, "the tables are not this version's");
                return Self::unavailable("the database's tables are not those of this version");
            }
            StoreError::Database(source) => {
                tracing::error!(error = %source, "the database refuses");
                return Self::internal("the database refuses; see the log of the control plane");
            }
        };
        if let StoreError::Busy(source) | StoreError::Unavailable(source) = &error {
            tracing::warn!(error = %source, "{error}");
        }
        Self::new(code, error.to_string())
    }
}

impl From<VaultError> for Status {
    fn from(error: VaultError) -> Self {
        let text = error.to_string();
        match error {
            VaultError::Store(error) => error.into(),
            VaultError::Tampered(_) => {
                tracing::error!("{text}");
                Self::data_loss(text)
            }
            // Mended by the operator, who gives the control plane its keys: nothing that a retry changes.
            VaultError::NoKek(_) => {
                tracing::error!("{text}");
                Self::failed_precondition("the control plane lacks the key that opens this secret")
            }
            VaultError::KeyFile(_) => {
                tracing::error!("{text}");
                Self::failed_precondition("the key file of the control plane cannot be used")
            }
        }
    }
}

impl From<CredentialsError> for Status {
    fn from(error: CredentialsError) -> Self {
        match error {
            CredentialsError::Unusable(why) => Self::failed_precondition(why),
            CredentialsError::Vault(error) => error.into(),
            CredentialsError::Store(error) => error.into(),
        }
    }
}

impl From<ImagingError> for Status {
    fn from(error: ImagingError) -> Self {
        match error {
            ImagingError::Invalid(why) => Self::invalid_argument(why),
            ImagingError::NotFound(why) => Self::not_found(why),
            ImagingError::Unavailable(why) => Self::unavailable(why),
            ImagingError::TryLater { reason, after } => {
                let mut status = Self::resource_exhausted(reason);
                if let Some(after) = after {
                    // gRPC's own name for it; clients with a retry policy know it.
                    let wait = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
                    status.metadata_mut().insert("grpc-retry-pushback-ms", wait.into());
                }
                status
            }
            ImagingError::Deadline(why) => Self::deadline_exceeded(why),
            ImagingError::Internal(why) => {
                tracing::error!(why, "an image cannot be made");
                Self::internal("the image cannot be made; see the log of the control plane")
            }
            ImagingError::Credentials(error) => error.into(),
            ImagingError::Vault(error) => error.into(),
            ImagingError::Store(error) => error.into(),
        }
    }
}

/// The codes' names as gRPC writes them: for metrics and people.
#[must_use]
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_code_and_internals_stay_here() {
        let inside = || sqlx::Error::Protocol("inside".to_owned());
        let corrupt = StoreError::Corrupt { what: "an image", why: "inside".to_owned() };
        for (error, code) in [
            (StoreError::NotFound("image"), Code::NotFound),
            (StoreError::Exists("secret"), Code::AlreadyExists),
            (StoreError::Conflict("it runs".to_owned()), Code::FailedPrecondition),
            (StoreError::Stale("c".to_owned()), Code::FailedPrecondition),
            (StoreError::KeyReused, Code::InvalidArgument),
            (StoreError::Busy(inside()), Code::Aborted),
            (StoreError::Unavailable(inside()), Code::Unavailable),
            (StoreError::Database(inside()), Code::Internal),
            (StoreError::Schema("inside".to_owned()), Code::Unavailable),
            (corrupt, Code::DataLoss),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("inside"), "{status:?}");
        }
        let later = ImagingError::TryLater {
            reason: "slow down".to_owned(),
            after: Some(std::time::Duration::from_secs(7)),
        };
        let status = Status::from(later);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.metadata().get("grpc-retry-pushback-ms").and_then(|ms| ms.to_str().ok()),
            Some("7000")
        );
        let status = Status::from(ImagingError::Internal("/inside".to_owned()));
        assert!(status.code() == Code::Internal && !status.message().contains("inside"), "{status:?}");
        let status = Status::from(VaultError::Tampered("s".to_owned()));
        assert_eq!(status.code(), Code::DataLoss);
        let status = Status::from(CredentialsError::Unusable("the secret is gone".to_owned()));
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "the secret is gone"));
    }
}
