//! Credentials that would go in the clear, to the registry's own host, against its operator's word.
//!
//! A `hosts.toml` may say that a registry is spoken to over plain http. That is enough to read what is public, and not to send a
//! password: for that, plain http must have been allowed as such.

use std::sync::Arc;

use crate::credentials::provider::AnswerFuture;
use crate::credentials::{Credential, CredentialError, CredentialProvider, CredentialRequest};

/// A provider whose credentials are withheld: having none is its only good answer.
#[derive(Debug)]
pub(super) struct InTheClear(pub(super) Arc<dyn CredentialProvider>);

impl CredentialProvider for InTheClear {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            let answer = self.0.credential(request).await?;
            match answer.credential {
                Credential::Anonymous => Ok(answer),
                _ => Err(CredentialError::Configuration(format!(
                    "those for {} are not sent in the clear, as hosts.toml says, without --plain-http",
                    request.registry
                ))),
            }
        })
    }

    fn version(&self) -> u64 {
        self.0.version()
    }

    fn refused(&self, request: &CredentialRequest) {
        self.0.refused(request);
    }
}
