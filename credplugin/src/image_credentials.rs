//! `image_credentials`: a string that holds JSON, a flat map, or `user:password`.

use std::collections::BTreeMap;

use secrecy::SecretString;

use crate::{Code, CredentialType, Error};

/// Credentials by key (`USERNAME`, `AWS_ACCESS_KEY_ID`, …). An empty value counts as missing.
#[derive(Debug, Clone, Default)]
pub struct CredentialMap(pub BTreeMap<String, SecretString>);

/// Credentials, parsed.
#[derive(Debug, Clone)]
pub struct ImageCredentials {
    /// The registry they are for, normalised by [`crate::parse_registry`]; `None` = a form that does not say: then they are for the image's.
    pub registry: Option<String>,
    /// The type that they say they have; `None` = to be detected, once the registry is known.
    pub kind: Option<CredentialType>,
    /// The values.
    pub credentials: CredentialMap,
}

/// Parses all forms. `None` = empty: anonymous.
///
/// # Errors
/// [`Code::BadRequest`], which names the path below `image_credentials` and never a value.
pub fn parse_credentials(text: &str) -> Result<Option<ImageCredentials>, Error> {
    let _ = text;
    Err(Error::new(Code::Internal, "parse_credentials"))
}

/// The stored form, keys sorted: `{"credentials":{…},"registry":"…","type":"…"}`.
#[must_use]
pub fn marshal_credentials(
    registry: &str,
    kind: CredentialType,
    credentials: &CredentialMap,
) -> SecretString {
    let _ = (registry, kind, credentials);
    SecretString::default()
}
