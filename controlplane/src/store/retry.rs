//! Asking again where the database wants it.

use std::time::Duration;

use tokio::time::Instant;

use super::StoreError;

/// A conflict is over as soon as the other transaction ends: many quick tries do it.
const MAX_TRIES: u32 = 10;

/// Whoever calls has a deadline too; after this long he rather hears that the database is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// First pause; each is twice as long as the one before, and between half and all of that.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Tries of one transaction.
#[derive(Debug)]
pub(super) struct Retry {
    tries: u32,
    pause: Duration,
    until: Instant,
}

impl Retry {
    /// Before the first try.
    pub(super) fn new() -> Self {
        Self { tries: 0, pause: FIRST_PAUSE, until: Instant::now() + PATIENCE }
    }

    /// After a try that failed: waits and answers `true` if another one may help. Only [`StoreError::Busy`] tells that nothing was
    /// done; whether a commit arrived whose answer did not is not known.
    pub(super) async fn again(&mut self, error: &StoreError) -> bool {
        self.tries += 1;
        if !matches!(error, StoreError::Busy(_)) || self.tries >= MAX_TRIES || Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_TRIES, Retry};
    use crate::store::StoreError;

    #[tokio::test]
    async fn only_what_was_not_done_is_tried_again_and_not_for_ever() {
        let mut retry = Retry::new();
        for _ in 1..MAX_TRIES {
            assert!(retry.again(&StoreError::Busy(sqlx::Error::PoolTimedOut)).await);
        }
        assert!(!retry.again(&StoreError::Busy(sqlx::Error::PoolTimedOut)).await);
        for error in [
            StoreError::Unavailable(sqlx::Error::PoolClosed),
            StoreError::Database(sqlx::Error::RowNotFound),
            StoreError::NotFound("secret"),
            StoreError::KeyReused,
        ] {
            assert!(!Retry::new().again(&error).await, "{error:?}");
        }
    }
}
