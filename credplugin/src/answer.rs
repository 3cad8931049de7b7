//! What is asked and what is answered.

use std::time::Duration;

use secrecy::SecretString;

/// What a caller wants credentials for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Image reference as the user gave it; empty where the caller knows the registry only.
    pub image: String,
    /// Registry host with port, as in the reference (`docker.io` for Docker Hub).
    pub registry: String,
    /// Token scope, e.g. `repository:team/app:pull`; empty if unknown.
    pub scope: String,
}

/// How a registry wants it.
#[derive(Debug, Clone)]
pub enum Scheme {
    /// No credentials, because the request carries none.
    None,
    /// User name and password, at the registry or its token endpoint.
    Basic {
        /// User name; has no colon.
        username: String,
        /// Password or token.
        password: SecretString,
    },
    /// A registry token, used as it is.
    Bearer {
        /// The token.
        token: SecretString,
    },
    /// A refresh token for the registry's OAuth2 token endpoint.
    RefreshToken {
        /// The token.
        token: SecretString,
    },
}

/// A credential for one registry.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The registry that was asked for, and the only one that gets it.
    pub registry: String,
    /// The credential.
    pub scheme: Scheme,
    /// Its remaining life when it was answered; `None` = as long as the registry accepts it.
    pub valid_for: Option<Duration>,
}
