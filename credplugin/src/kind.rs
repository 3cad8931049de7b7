//! Types of credentials and how they are told apart.

use std::fmt;

use crate::host::{Vendor, vendor};
use crate::keys::{self, VENDORS};
use crate::{Code, CredentialMap, Error};

/// How much of a foreign key is shown, and of how many: no key of ours is longer, and no type has more.
const MAX_KEY: usize = 32;
const MAX_KEYS: usize = 8;

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

impl CredentialType {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Public, Self::Basic, Self::Aws, Self::Gcp, Self::Azure, Self::Token];

    /// The word in `type`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Basic => "basic",
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
            Self::Token => "token",
        }
    }

    /// The type of a word, which is in lower case; `None` = there is no such type.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

impl fmt::Display for CredentialType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The type of a map of credentials for a registry: by its keys, else by the host.
///
/// In this order: nothing → public; AWS id and secret; any key of Google's; Azure id and secret; a vendor's token; a user name and a
/// password; the vendor of the host.
///
/// # Errors
/// [`crate::Code::BadRequest`]: nobody knows what these are, or they have half of a pair.
pub fn detect_type(registry: &str, credentials: &CredentialMap) -> Result<CredentialType, Error> {
    if credentials.is_empty() {
        return Ok(CredentialType::Public);
    }
    if credentials.get_pair(keys::AWS)?.is_some() {
        return Ok(CredentialType::Aws);
    }
    if keys::GOOGLE.iter().any(|key| credentials.get(key).is_some()) {
        return Ok(CredentialType::Gcp);
    }
    if credentials.get_pair(keys::AZURE)?.is_some() {
        return Ok(CredentialType::Azure);
    }
    // Before the pairs: `DOCKERHUB_USERNAME` with `DOCKERHUB_TOKEN` is whole.
    if VENDORS.iter().any(|keys| credentials.get(keys.token).is_some()) {
        return Ok(CredentialType::Token);
    }
    let vendors = VENDORS.iter().filter_map(|keys| Some((keys.user?, keys.password?)));
    for pair in keys::USERS.into_iter().chain(vendors) {
        if credentials.get_pair(pair)?.is_some() {
            return Ok(CredentialType::Basic);
        }
    }
    match vendor(registry) {
        Some(Vendor::Ecr(_) | Vendor::EcrPublic) => Ok(CredentialType::Aws),
        Some(Vendor::Google) => Ok(CredentialType::Gcp),
        Some(Vendor::Azure(_)) => Ok(CredentialType::Azure),
        Some(Vendor::GitHub | Vendor::GitLab | Vendor::Quay | Vendor::Ngc) => Ok(CredentialType::Token),
        Some(Vendor::DockerHub) => Ok(CredentialType::Basic),
        None => Err(Error::new(
            Code::BadRequest,
            format!(
                "cannot tell what the credentials for {registry} are from their keys ({}); use those of their type (USERNAME and PASSWORD for most), or name the type",
                key_names(credentials)
            ),
        )),
    }
}

/// Refuses credentials of which only a part is there, also where others are whole and would be used: who sends half of a pair has lost
/// the other half, and should not get in as somebody else.
///
/// Vendors' tokens without a user name are whole here: whether one is needed depends on the vendor.
///
/// # Errors
/// [`Code::BadRequest`], which names the keys.
pub(crate) fn check_halves(credentials: &CredentialMap) -> Result<(), Error> {
    let has = |key: &str| credentials.get(key).is_some();
    for pair in keys::USERS {
        credentials.get_pair(pair)?;
    }
    for keys in VENDORS {
        let pair = match (keys.user, keys.password) {
            (Some(user), Some(password)) if !has(keys.token) || has(password) => (user, password),
            (Some(user), None) if has(user) => (user, keys.token),
            _ => continue,
        };
        credentials.get_pair(pair)?;
    }
    let ((id, secret), session) = (keys::AWS, keys::AWS_SESSION);
    if credentials.get_pair(keys::AWS)?.is_none() && has(session) {
        return Err(together(&format!("{id}, {secret} and {session}")));
    }
    let ((id, secret), tenant) = (keys::AZURE, keys::AZURE_TENANT);
    match credentials.get_pair(keys::AZURE)? {
        Some(_) => credentials.require(tenant).map(|_| ()),
        None if has(tenant) => Err(together(&format!("{id}, {secret} and {tenant}"))),
        None => Ok(()),
    }
}

fn together(keys: &str) -> Error {
    Error::new(Code::BadRequest, format!("{keys} must be provided together"))
}

/// The keys of credentials, for messages: they are foreign text, of which neither much nor what does not look like a name is shown.
#[must_use]
pub fn key_names(credentials: &CredentialMap) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let mut keys = credentials.values().map(|(key, _)| match key {
        "" => "(empty key)".to_owned(),
        key if !key.bytes().all(plain) => "(unprintable key)".to_owned(),
        key if key.len() > MAX_KEY => format!("{}…", &key[..MAX_KEY]),
        key => key.to_owned(),
    });
    let mut names = keys.by_ref().take(MAX_KEYS).collect::<Vec<_>>().join(", ");
    match keys.count() {
        0 => {}
        more => names.push_str(&format!(" and {more} more")),
    }
    names
}

#[cfg(test)]
mod tests;
