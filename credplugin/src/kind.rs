//! Types of credentials and how they are told apart.

use std::fmt;

use crate::host::{Vendor, vendor};
use crate::keys::{self, VENDORS};
use crate::{Code, CredentialMap, Error};

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
                "cannot tell what the credentials for {registry} are; use the keys of its type (USERNAME and PASSWORD for most), or name the type"
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
