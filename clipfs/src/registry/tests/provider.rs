//! A provider that says what a test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::server::options;
use crate::credentials::provider::{Answer, AnswerFuture};
use crate::credentials::{Credential, CredentialError, CredentialProvider, CredentialRequest};
use crate::registry::RegistryOptions;

type Say = dyn Fn(usize) -> Result<Answer, CredentialError> + Send + Sync;

/// A provider of the test's own; `asked` counts, `version` is what the source is at.
pub(super) struct Scripted {
    asked: AtomicUsize,
    pub(super) version: AtomicU64,
    pub(super) refused: AtomicUsize,
    say: Box<Say>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Scripted {
    pub(super) fn new(
        say: impl Fn(usize) -> Result<Answer, CredentialError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (asked, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { asked, version: AtomicU64::new(0), refused, say: Box::new(say) })
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

#[derive(Debug)]
pub(super) struct Shared(pub(super) Arc<Scripted>);

impl CredentialProvider for Shared {
    fn credential<'a>(&'a self, _: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            let n = self.0.asked.fetch_add(1, SeqCst);
            tokio::task::yield_now().await;
            (self.0.say)(n)
        })
    }

    fn version(&self) -> u64 {
        self.0.version.load(SeqCst)
    }

    fn refused(&self, _: &CredentialRequest) {
        self.0.refused.fetch_add(1, SeqCst);
    }
}

pub(super) fn with(provider: &Arc<Scripted>) -> RegistryOptions {
    RegistryOptions { credentials: Arc::new(Shared(Arc::clone(provider))), ..options() }
}

/// User `u` with this password.
pub(super) fn password(password: &str, valid_for: Option<u64>) -> Answer {
    let credential = Credential::Basic { username: "u".into(), password: password.into() };
    Answer { credential, valid_for: valid_for.map(Duration::from_secs) }
}

pub(super) fn basic(password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("u:{password}")))
}
