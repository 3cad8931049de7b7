//! Which credentials a registry gets: asks a provider, never the node.
//!
//! Fail closed: what a provider cannot answer is an error, never anonymous access instead.

use secrecy::SecretString;

pub mod provider;

pub use provider::{Anonymous, CredentialProvider, Static};

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

/// Why there are no credentials. The text never holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialError {
    /// The source has none for this registry.
    #[error("no credentials for registry {0}")]
    NotFound(String),
    /// The source says no.
    #[error("credentials for registry {registry} denied: {reason}")]
    Denied {
        /// The registry.
        registry: String,
        /// The source's words, without values.
        reason: String,
    },
    /// The source is configured wrongly or misbehaves.
    #[error("credential source: {0}")]
    Source(String),
    /// The source cannot be reached now.
    #[error("credential source unavailable: {0}")]
    Unavailable(String),
}
