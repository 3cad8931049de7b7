//! The trait behind which plugins, requests and tests stand.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{Credential, CredentialError, CredentialRequest};

/// A credential and how long it may be used (on the monotonic clock, from the moment of the answer); `None` = as
/// long as the registry accepts it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The credential.
    pub credential: Credential,
    /// Its remaining life.
    pub valid_for: Option<Duration>,
}

/// A boxed future, so that the trait is usable as `dyn`.
pub type AnswerFuture<'a> = Pin<Box<dyn Future<Output = Result<Answer, CredentialError>> + Send + 'a>>;

/// Answers which credentials a registry gets. Asked again whenever they expire or are refused.
pub trait CredentialProvider: Send + Sync + std::fmt::Debug {
    /// The credential for one registry. Cancel safe.
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a>;

    /// Changes when the source does: then a refusal of the old credentials says nothing about the new ones.
    fn version(&self) -> u64 {
        0
    }

    /// The registry refused what was last answered to this: a provider that keeps answers forgets it, so that the next ask
    /// goes to the source. Without a default, so that nobody who wraps a provider swallows it.
    fn refused(&self, request: &CredentialRequest);
}

/// Always anonymous: for images that need no credentials.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

impl CredentialProvider for Anonymous {
    fn credential<'a>(&'a self, _request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async { Ok(Answer { credential: Credential::Anonymous, valid_for: None }) })
    }

    fn refused(&self, _request: &CredentialRequest) {}
}

/// One credential for one registry; other registries get [`CredentialError::NotFound`].
#[cfg(test)]
#[derive(Debug, Clone)]
pub(crate) struct Static {
    pub(crate) registry: String,
    pub(crate) credential: Credential,
}

#[cfg(test)]
impl CredentialProvider for Static {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            if request.registry == self.registry {
                Ok(Answer { credential: self.credential.clone(), valid_for: None })
            } else {
                Err(CredentialError::NotFound {
                    registry: request.registry.clone(),
                    reason: format!("there are some for {} only", self.registry),
                })
            }
        })
    }

    fn refused(&self, _request: &CredentialRequest) {}
}
