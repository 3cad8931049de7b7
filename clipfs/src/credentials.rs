//! Which credentials a registry gets: asks a provider, never the node.
//!
//! Fail closed: what a provider cannot answer is an error, never anonymous access instead. A provider is opened from a
//! [`CredentialSource`]: the ContainerRequest itself ([`in_process`]), a plugin that is run ([`plugin`], [`docker`], [`kubelet`] over
//! [`exec`]), or a credentials file that the operator named ([`config_file`]).

use std::time::Duration;

use secrecy::SecretString;

use crate::oci::reference::Reference;

mod answered;
pub mod config_file;
pub mod docker;
pub mod exec;
pub mod hardening;
pub mod in_process;
mod json;
pub mod kubelet;
pub mod plugin;
pub mod provider;
pub mod request;
mod scrub;
mod server;
pub mod source;
mod value;

pub(crate) use answered::is_same_registry;
pub use hardening::harden;
pub use json::Fault;
#[cfg(test)]
pub(crate) use provider::Static;
pub use provider::{Anonymous, CredentialProvider};
pub use source::{CredentialSource, PluginSpec};

/// Longest life of any answer that is believed.
pub const MAX_LIFE: Duration = Duration::from_secs(12 * 3600);

/// What a registry accepts.
#[derive(Debug, Clone)]
pub enum Credential {
    /// No credentials, by the operator's or the request's explicit choice.
    Anonymous,
    /// HTTP Basic, at the registry or its token endpoint.
    Basic {
        /// User name.
        username: String,
        /// Password or token.
        password: SecretString,
    },
    /// A registry token, used as it is.
    Bearer(SecretString),
    /// A refresh token for the OAuth2 token endpoint.
    RefreshToken(SecretString),
}

/// What is asked of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRequest {
    /// Registry host with port, as in the reference.
    pub registry: String,
    /// Image reference, as the user gave it.
    pub image: String,
    /// Token scope, e.g. `repository:team/app:pull`.
    pub scope: String,
}

impl CredentialRequest {
    /// The repository at [`Self::registry`], as far as the scope or the image tells it. The scope comes first: a mirror's names
    /// need not be the image's.
    #[must_use]
    pub fn repository(&self) -> Option<String> {
        let scoped = self.scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
        match scoped {
            Some((repository, _)) if !repository.is_empty() => Some(repository.to_owned()),
            _ => Reference::parse(&self.image)
                .ok()
                .filter(|image| image.registry == server::fold(&self.registry))
                .map(|image| image.repository),
        }
    }
}

/// Why there are no credentials. The text never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The source has none for this registry.
    #[error("no credentials for registry {registry}: {reason}")]
    NotFound {
        /// The registry.
        registry: String,
        /// What there is instead, without values.
        reason: String,
    },
    /// The source says no.
    #[error("credentials for registry {registry} denied: {reason}")]
    Denied {
        /// The registry.
        registry: String,
        /// The source's words, without values.
        reason: String,
    },
    /// What the operator has set cannot be used: no such plugin, not executable.
    #[error("credential source: {0}")]
    Configuration(String),
    /// The ContainerRequest, or the credentials in it, are malformed.
    #[error("malformed credentials: {0}")]
    Malformed(String),
    /// The source cannot be reached now, or does not answer in time.
    #[error("credential source unavailable: {0}")]
    Unavailable(String),
    /// The source asks to wait.
    #[error("credential source asks to wait: {reason}")]
    TryLater {
        /// The source's words, without values.
        reason: String,
        /// How long, if it said so.
        after: Option<Duration>,
    },
    /// An answer that must not be used: for another registry, expired.
    #[error("credential source refused: {0}")]
    Refused(String),
    /// The source is broken: it crashes, or its answer is none.
    #[error("credential source is broken: {0}")]
    Broken(String),
}

impl CredentialError {
    /// Whether asking again soon may help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TryLater { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_repository() {
        let table = [
            ("r.example", "r.example/team/app:1", "repository:team/app:pull", Some("team/app")),
            (
                "mirror.example",
                "docker.io/library/alpine",
                "repository:hub/alpine:pull,push",
                Some("hub/alpine"),
            ),
            ("r.example:5000", "r.example:5000/team/app@sha256:0", "", None),
            ("r.example:5000", "r.example:5000/team/app:1", "registry:catalog:*", Some("team/app")),
            ("docker.io", "alpine", "", Some("library/alpine")),
            ("index.docker.io", "alpine", "repository::pull", Some("library/alpine")),
            ("mirror.example", "alpine", "", None),
            ("r.example", "", "", None),
        ];
        for (registry, image, scope, expected) in table {
            let request =
                CredentialRequest { registry: registry.into(), image: image.into(), scope: scope.into() };
            assert_eq!(request.repository().as_deref(), expected, "{request:?}");
        }
    }
}
