//! Counts how a mount's questions for credentials end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::credentials::provider::AnswerFuture;
use crate::credentials::{CredentialError, CredentialProvider, CredentialRequest};

/// How a question can end, as metrics call it.
const RESULTS: [&str; 9] = [
    "ok",
    "not_found",
    "denied",
    "configuration",
    "malformed",
    "unavailable",
    "try_later",
    "refused",
    "broken",
];

const fn result(error: &CredentialError) -> usize {
    match error {
        CredentialError::NotFound { .. } => 1,
        CredentialError::Denied { .. } => 2,
        CredentialError::Configuration(_) => 3,
        CredentialError::Malformed(_) => 4,
        CredentialError::Unavailable(_) => 5,
        CredentialError::TryLater { .. } => 6,
        CredentialError::Refused(_) => 7,
        CredentialError::Broken(_) => 8,
    }
}

/// Questions by their end.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; RESULTS.len()]);

impl Counts {
    /// Every result with its count.
    pub(super) fn by_result(&self) -> Vec<(&'static str, u64)> {
        RESULTS.into_iter().zip(self.0.iter().map(|count| count.load(Relaxed))).collect()
    }

    /// All questions.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// A provider whose answers are counted.
#[derive(Debug)]
pub(super) struct Counted {
    /// Who answers.
    pub(super) inner: Arc<dyn CredentialProvider>,
    /// Where it is counted.
    pub(super) counts: Arc<Counts>,
}

impl CredentialProvider for Counted {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            let answer = self.inner.credential(request).await;
            self.counts.0[answer.as_ref().map_or_else(result, |_| 0)].fetch_add(1, Relaxed);
            answer
        })
    }

    fn version(&self) -> u64 {
        self.inner.version()
    }

    fn refused(&self, request: &CredentialRequest) {
        self.inner.refused(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Credential, Static};

    #[tokio::test]
    async fn answers_are_counted_by_their_kind() {
        let counts = Arc::new(Counts::default());
        let inner = Static { registry: "r.example".into(), credential: Credential::Anonymous };
        let counted = Counted { inner: Arc::new(inner), counts: Arc::clone(&counts) };
        for (registry, times) in [("r.example", 2), ("other.example", 1)] {
            let request =
                CredentialRequest { registry: registry.into(), image: String::new(), scope: String::new() };
            for _ in 0..times {
                let answer = counted.credential(&request).await;
                assert_eq!(answer.is_ok(), registry == "r.example");
            }
        }
        let found: Vec<_> = counts.by_result().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!((found, counts.total()), (vec![("ok", 2), ("not_found", 1)], 3));
    }
}
