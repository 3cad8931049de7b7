//! Types of credentials and how they are told apart.

use std::fmt;
use std::str::FromStr;

use crate::host::{Vendor, vendor};
use crate::{Code, CredentialMap, Error};

/// Keys of user name and password for any registry, the ones that win first.
pub const USER_KEYS: [(&str, &str); 3] = [
    ("REGISTRY_USERNAME", "REGISTRY_PASSWORD"),
    ("DOCKER_USERNAME", "DOCKER_PASSWORD"),
    ("USERNAME", "PASSWORD"),
];

/// Those of Docker Hub.
pub const HUB_KEYS: (&str, &str) = ("DOCKERHUB_USERNAME", "DOCKERHUB_PASSWORD");

/// Keys of vendors' tokens.
pub const TOKEN_KEYS: [&str; 5] =
    ["NGC_API_KEY", "GITHUB_TOKEN", "GITLAB_TOKEN", "QUAY_TOKEN", "DOCKERHUB_TOKEN"];

/// Keys of vendors' user names, each with that of its token. A token may come without.
const TOKEN_USERS: [(&str, &str); 3] = [
    ("GITHUB_USERNAME", "GITHUB_TOKEN"),
    ("GITLAB_USERNAME", "GITLAB_TOKEN"),
    ("QUAY_USERNAME", "QUAY_TOKEN"),
];

/// How much of a foreign key is shown, and of how many: no key of ours is longer, and no type has more.
const MAX_KEY: usize = 32;
const MAX_KEYS: usize = 8;

/// Keys of Google's: any of them says what these are.
pub const GCP_KEYS: [&str; 3] = ["GCP_ACCESS_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "GCP_PROJECT_ID"];

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

impl FromStr for CredentialType {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        let reason = "unknown type; expected basic, aws, gcp, azure, token or public";
        Self::of_word(word).ok_or_else(|| Error::new(Code::BadRequest, reason))
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
    if credentials.get_pair("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")?.is_some() {
        return Ok(CredentialType::Aws);
    }
    if GCP_KEYS.iter().any(|key| credentials.get(key).is_some()) {
        return Ok(CredentialType::Gcp);
    }
    if credentials.get_pair("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")?.is_some() {
        return Ok(CredentialType::Azure);
    }
    // Before the pairs: `DOCKERHUB_USERNAME` with `DOCKERHUB_TOKEN` is whole.
    if TOKEN_KEYS.iter().any(|key| credentials.get(key).is_some()) {
        return Ok(CredentialType::Token);
    }
    for (user, password) in USER_KEYS.into_iter().chain([HUB_KEYS]) {
        if credentials.get_pair(user, password)?.is_some() {
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
    for (user, password) in USER_KEYS {
        credentials.get_pair(user, password)?;
    }
    if !has("DOCKERHUB_TOKEN") || has(HUB_KEYS.1) {
        credentials.get_pair(HUB_KEYS.0, HUB_KEYS.1)?;
    }
    for (user, token) in TOKEN_USERS {
        if has(user) {
            credentials.get_pair(user, token)?;
        }
    }
    let (id, secret, session) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN");
    if credentials.get_pair(id, secret)?.is_none() && has(session) {
        return Err(together(&format!("{id}, {secret} and {session}")));
    }
    let (id, secret, tenant) = ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID");
    match credentials.get_pair(id, secret)? {
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
