//! Types of credentials and how they are told apart.

use crate::{CredentialMap, Error};

/// What kind of credentials a map holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialType {
    /// None needed.
    Public,
    /// User name and password.
    Basic,
    /// AWS keys.
    Aws,
    /// A Google access token or service account.
    Gcp,
    /// An Azure service principal.
    Azure,
    /// A vendor's token.
    Token,
}

/// The type of a map of credentials for a registry: by its keys, else by the host.
///
/// # Errors
/// [`crate::Code::BadRequest`]: nobody knows what these are.
pub fn detect_type(registry: &str, credentials: &CredentialMap) -> Result<CredentialType, Error> {
    let _ = (registry, credentials);
    Err(Error::new(crate::Code::Internal, "detect_type"))
}
