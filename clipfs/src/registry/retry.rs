//! When to ask again: failures that say so, backoff with full jitter, `Retry-After`, and a budget.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::RegistryError;
use crate::credentials::CredentialError;

/// First step of the exponential backoff.
const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// Its last step: the deadline of a read is 30 s, and several attempts must fit.
const BACKOFF_CAP: Duration = Duration::from_secs(5);
/// Longest `Retry-After` that is waited for; "in ten years" is not.
pub(super) const RETRY_AFTER_CAP: Duration = Duration::from_secs(30);

/// Whether another attempt makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// The answer is definite.
    Never,
    /// After a while that grows.
    Backoff,
    /// The server said when.
    After(Duration),
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: RegistryError,
    pub(super) retry: Retry,
}

impl Failure {
    pub(super) fn definite(error: RegistryError) -> Self {
        Self { error, retry: Retry::Never }
    }

    pub(super) fn transient(error: RegistryError) -> Self {
        Self { error, retry: Retry::Backoff }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let retry = match &error {
            RegistryError::TooManyRequests { retry_after: Some(wait), .. }
            | RegistryError::Credentials(CredentialError::TryLater { after: Some(wait), .. }) => {
                Retry::After(*wait)
            }
            _ if error.is_permanent() => Retry::Never,
            _ => Retry::Backoff,
        };
        Self { error, retry }
    }
}

/// How many attempts are left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    attempts: u32,
    failed: u32,
}

impl Budget {
    pub(super) fn new(attempts: u32) -> Self {
        Self { attempts: attempts.max(1), failed: 0 }
    }

    /// After a failure: how long to wait before the next attempt, or the failure's error if there is none. `left`
    /// is the time that the whole operation still has: a wait that the server asks for is not begun if it ends later.
    pub(super) fn spend(
        &mut self,
        failure: Failure,
        left: Option<Duration>,
    ) -> Result<Duration, RegistryError> {
        self.failed += 1;
        if failure.retry == Retry::Never || self.failed >= self.attempts {
            return Err(failure.error);
        }
        let jittered = backoff_cap(self.failed - 1).mul_f64(fastrand::f64());
        let Retry::After(wait) = failure.retry else { return Ok(jittered) };
        let wait = wait.min(RETRY_AFTER_CAP).max(jittered);
        if left.is_some_and(|left| wait >= left) { Err(failure.error) } else { Ok(wait) }
    }

    /// Something was achieved: failures so far are forgiven.
    pub(super) fn refresh(&mut self) {
        self.failed = 0;
    }
}

fn backoff_cap(failures: u32) -> Duration {
    BACKOFF_BASE.saturating_mul(1 << failures.min(16)).min(BACKOFF_CAP)
}

/// `Retry-After` as a duration from `now`; `None` if absent, past or garbage.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 has is a very long time, not garbage.
        Duration::from_secs(if text.is_empty() { 0 } else { text.parse().unwrap_or(u64::MAX) })
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?
    };
    (!wait.is_zero()).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(retry: Retry) -> Failure {
        Failure { error: RegistryError::NotFound("x".into()), retry }
    }

    #[test]
    fn retry_after_forms() {
        let now = httpdate::parse_http_date("Tue, 24 Nov 2026 10:00:00 GMT").unwrap();
        for (text, want) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("0", None),
            ("Tue, 24 Nov 2026 10:00:09 GMT", Some(9)),
            ("Tue, 24 Nov 2026 09:00:00 GMT", None),
            ("Tuesday, 24-Nov-26 10:00:05 GMT", Some(5)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("315360000", Some(315_360_000)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers, now), want.map(Duration::from_secs), "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn budgets() {
        let mut budget = Budget::new(3);
        assert!(budget.spend(failure(Retry::Backoff), None).unwrap() <= BACKOFF_BASE);
        let ten_years = Duration::from_secs(315_360_000);
        assert_eq!(budget.spend(failure(Retry::After(ten_years)), None).unwrap(), RETRY_AFTER_CAP);
        assert!(budget.spend(failure(Retry::Backoff), None).is_err(), "three attempts, three failures");
        budget.refresh();
        assert!(budget.spend(failure(Retry::Backoff), None).is_ok());
        assert!(budget.spend(failure(Retry::Never), None).is_err());
        assert!(Budget::new(0).spend(failure(Retry::Backoff), None).is_err());
        let wait = |asked, left| {
            let (asked, left) = (Duration::from_secs(asked), Some(Duration::from_secs(left)));
            Budget::new(3).spend(failure(Retry::After(asked)), left).ok()
        };
        assert_eq!(wait(u64::MAX, 5), None, "it cannot end in time");
        assert_eq!(wait(u64::MAX, 31), Some(RETRY_AFTER_CAP));
        assert_eq!(wait(4, 5), Some(Duration::from_secs(4)));
        assert_eq!(backoff_cap(2), Duration::from_millis(400));
        assert_eq!(backoff_cap(u32::MAX), BACKOFF_CAP);
    }
}
