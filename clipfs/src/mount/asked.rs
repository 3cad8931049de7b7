//! Counts how a mount's questions for credentials end, and waits longer for these than for a registry.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

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

/// Questions by their end, and those that have none yet.
#[derive(Debug, Default)]
pub(super) struct Counts {
    ended: [AtomicU64; RESULTS.len()],
    open: AtomicU64,
}

impl Counts {
    /// Every result with its count.
    pub(super) fn by_result(&self) -> Vec<(&'static str, u64)> {
        RESULTS.into_iter().zip(self.ended.iter().map(|count| count.load(Relaxed))).collect()
    }

    /// All questions that have ended.
    pub(super) fn total(&self) -> u64 {
        self.ended.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Whether somebody is being asked for credentials now.
    pub(super) fn is_asking(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// Waits for work that asks a registry, and maybe for credentials before that: for the registry one `turn`, for credentials
    /// as long as who answers may take. `late` is told after every turn that was spent on these. `None`: the registry is silent.
    pub(super) async fn wait<T>(
        &self,
        work: impl Future<Output = T>,
        turn: Duration,
        mut late: impl FnMut(),
    ) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(turn, &mut work).await {
                Ok(done) => return Some(done),
                // Dropping the work would kill a plugin that is slow, and the next one, for ever.
                Err(_) if self.is_asking() => late(),
                Err(_) => return None,
            }
        }
    }
}

/// A question that has no end yet. Dropped with it, or when nobody waits for the answer any more.
struct Open<'a>(&'a Counts);

impl<'a> Open<'a> {
    fn new(counts: &'a Counts) -> Self {
        counts.open.fetch_add(1, Relaxed);
        Self(counts)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
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
            let open = Open::new(&self.counts);
            let answer = self.inner.credential(request).await;
            drop(open);
            self.counts.ended[answer.as_ref().map_or_else(result, |_| 0)].fetch_add(1, Relaxed);
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
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::credentials::provider::Answer;
    use crate::credentials::{Credential, Static};

    fn asked(registry: &str) -> CredentialRequest {
        CredentialRequest { registry: registry.into(), image: String::new(), scope: String::new() }
    }

    /// Takes its time, and remembers what it was told.
    #[derive(Debug, Default)]
    struct Slow {
        takes: Duration,
        begun: AtomicU32,
        refusals: AtomicU32,
    }

    impl CredentialProvider for Slow {
        fn credential<'a>(&'a self, _: &'a CredentialRequest) -> AnswerFuture<'a> {
            Box::pin(async {
                self.begun.fetch_add(1, Relaxed);
                tokio::time::sleep(self.takes).await;
                Ok(Answer { credential: Credential::Anonymous, valid_for: None })
            })
        }

        fn version(&self) -> u64 {
            7
        }

        fn refused(&self, _: &CredentialRequest) {
            self.refusals.fetch_add(1, Relaxed);
        }
    }

    fn slow(takes: Duration) -> (Arc<Slow>, Counted) {
        let inner = Arc::new(Slow { takes, ..Slow::default() });
        let counted = Counted { inner: inner.clone(), counts: Arc::default() };
        (inner, counted)
    }

    #[test]
    fn everything_is_passed_on() {
        let (inner, counted) = slow(Duration::ZERO);
        counted.refused(&asked("r.example"));
        assert_eq!((inner.refusals.load(Relaxed), counted.version()), (1, 7));
    }

    #[tokio::test]
    async fn credentials_are_waited_for_longer_than_registries() {
        let turn = Duration::from_millis(20);
        let (inner, counted) = slow(turn * 5);
        let request = asked("r.example");
        let mut late = 0;
        let answered = counted.counts.wait(counted.credential(&request), turn, || late += 1).await;
        assert!(answered.is_some_and(|answer| answer.is_ok()) && late > 0, "{late}");
        assert_eq!((inner.begun.load(Relaxed), counted.counts.is_asking()), (1, false), "asked once");

        let silent = std::future::pending::<()>();
        assert!(counted.counts.wait(silent, turn, || panic!("nobody is asked")).await.is_none());

        let (_, counted) = slow(Duration::from_secs(3600));
        let given_up = tokio::time::timeout(turn, counted.credential(&request)).await;
        assert!(given_up.is_err() && !counted.counts.is_asking(), "nobody is asked any more");
    }

    #[tokio::test]
    async fn answers_are_counted_by_their_kind() {
        let counts = Arc::new(Counts::default());
        let inner = Static { registry: "r.example".into(), credential: Credential::Anonymous };
        let counted = Counted { inner: Arc::new(inner), counts: Arc::clone(&counts) };
        for (registry, times) in [("r.example", 2), ("other.example", 1)] {
            let request = asked(registry);
            for _ in 0..times {
                let answer = counted.credential(&request).await;
                assert_eq!(answer.is_ok(), registry == "r.example");
            }
        }
        let found: Vec<_> = counts.by_result().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!((found, counts.total()), (vec![("ok", 2), ("not_found", 1)], 3));
    }
}
