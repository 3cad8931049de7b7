//! A database that is away: said once, asked again ever more slowly, said again when it is back.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::passes;
use crate::store::Result;

/// First pause after a failure; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is known of the database's health.
#[derive(Debug, Default)]
pub(super) struct Calm {
    failures: Mutex<u32>,
}

impl Calm {
    /// Takes an answer; of a failure, how long to wait.
    pub(super) fn heard<T>(&self, answer: Result<T>) -> std::result::Result<T, Duration> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(answer) => {
                if std::mem::take(&mut *failures) > 0 {
                    tracing::info!("scheduling again");
                }
                Ok(answer)
            }
            Err(error) => {
                if *failures == 0 && passes(&error) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "not scheduling: trying again");
                } else if *failures == 0 {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "scheduling fails: trying again"
                    );
                }
                let pause = pause(*failures);
                *failures = failures.saturating_add(1);
                Err(pause.mul_f64(0.5 + fastrand::f64() / 2.0))
            }
        }
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn pauses_grow_and_are_forgotten() {
        let calm = Calm::default();
        let away = || -> Result<u32> { Err(StoreError::Unavailable(sqlx::Error::PoolClosed)) };
        let first = calm.heard(away()).unwrap_err();
        assert!(first >= FIRST_PAUSE / 2 && first <= FIRST_PAUSE);
        for _ in 0..30 {
            let _ = calm.heard(away());
        }
        let late = calm.heard(away()).unwrap_err();
        assert!(late >= LONGEST_PAUSE / 2 && late <= LONGEST_PAUSE);
        assert_eq!(calm.heard(Ok(7)), Ok(7));
        assert!(calm.heard(away()).unwrap_err() <= FIRST_PAUSE);
    }
}
