//! Credentials by key, of which an empty one is a missing one.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use crate::{Code, Error};

/// Credentials by key (`USERNAME`, `AWS_ACCESS_KEY_ID`, …). An empty value counts as missing.
#[derive(Clone, Default)]
pub struct CredentialMap(pub(crate) BTreeMap<String, SecretString>);

impl CredentialMap {
    /// A value; `None` = missing or empty.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&SecretString> {
        self.0.get(key).filter(|value| !value.expose_secret().is_empty())
    }

    /// A value that there must be.
    ///
    /// # Errors
    /// [`Code::BadRequest`]: `X not found or empty`.
    pub(crate) fn require(&self, key: &str) -> Result<&SecretString, Error> {
        self.get(key).ok_or_else(|| missing(key))
    }

    /// Two values that belong together; `None` = neither is there.
    ///
    /// # Errors
    /// [`Code::BadRequest`]: `both X and Y must be provided together`.
    pub(crate) fn get_pair(
        &self,
        (a, b): (&str, &str),
    ) -> Result<Option<(&SecretString, &SecretString)>, Error> {
        match (self.get(a), self.get(b)) {
            (Some(a), Some(b)) => Ok(Some((a, b))),
            (None, None) => Ok(None),
            _ => Err(Error::new(Code::BadRequest, format!("both {a} and {b} must be provided together"))),
        }
    }

    /// Whether nothing but empty values is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    /// The values that are not empty, sorted by key.
    pub fn values(&self) -> impl Iterator<Item = (&str, &SecretString)> {
        self.0
            .iter()
            .filter(|(_, value)| !value.expose_secret().is_empty())
            .map(|(key, value)| (key.as_str(), value))
    }
}

/// Keys only.
impl fmt::Debug for CredentialMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values().map(|(key, _)| key)).finish()
    }
}

impl<K: Into<String>, V: Into<SecretString>> FromIterator<(K, V)> for CredentialMap {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// The error of a key that there must be.
pub(crate) fn missing(key: &str) -> Error {
    Error::new(Code::BadRequest, format!("{key} not found or empty"))
}
