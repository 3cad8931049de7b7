//! The provider as one endpoint sees it: what it said last, how long that holds, and when it may be asked again.
//!
//! Knows no tokens and no challenges. [`super::auth::Auth`] calls it, one call at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::RegistryError;
use super::retry::RETRY_AFTER_CAP;
use super::token;
use crate::credentials::{Credential, CredentialError, CredentialProvider, CredentialRequest, MAX_LIFE};

/// After a definite no (of the provider, or of the registry to fresh credentials), nobody is asked for this long, unless
/// the provider's source changes.
pub(super) const DENIED_HOLD: Duration = Duration::from_secs(30);
/// When a provider that asks to wait does not say how long.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// Shortest time from a failed ask to the next one: asking may mean to run a program, and many readers try again.
const PACE: Duration = Duration::from_millis(250);

/// A credential and its life.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) credential: Credential,
    /// Of the source, before it was asked.
    pub(super) version: u64,
    /// From when on a newer one should be had.
    pub(super) renew_at: Option<Instant>,
    pub(super) ends_at: Option<Instant>,
}

impl Kept {
    /// Whether it is time for a newer one.
    pub(super) fn is_stale(&self) -> bool {
        self.renew_at.is_some_and(|at| at <= Instant::now())
    }
}

/// 80 % of a life, up to a tenth earlier, so that many mounts do not renew at once.
pub(super) fn early(life: Duration) -> Duration {
    life.mul_f64(0.1f64.mul_add(-fastrand::f64(), 0.8))
}

#[derive(Debug)]
pub(super) struct Asker {
    provider: Arc<dyn CredentialProvider>,
    pub(super) request: CredentialRequest,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    hold: Option<Hold>,
    failed_at: Option<Instant>,
}

#[derive(Debug)]
struct Hold {
    until: Instant,
    version: u64,
    error: RegistryError,
}

impl Asker {
    pub(super) fn new(provider: Arc<dyn CredentialProvider>, request: CredentialRequest) -> Self {
        Self { provider, request, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was said last, if it still holds.
    pub(super) fn kept(&self) -> Option<Kept> {
        let kept = self.state().kept.clone();
        kept.filter(|kept| kept.ends_at.is_none_or(|ends| ends > Instant::now()))
    }

    /// Whether the provider's source is what it was when this was said.
    pub(super) fn is_of_this_version(&self, kept: &Kept) -> bool {
        kept.version == self.provider.version()
    }

    /// Tells the provider that what it said was refused: what it keeps is no answer any more.
    pub(super) fn refused(&self) {
        self.provider.refused(&self.request);
    }

    /// The error of whoever comes before a hold ends.
    pub(super) fn held(&self) -> Option<RegistryError> {
        let (until, version, mut error) = {
            let state = self.state();
            let hold = state.hold.as_ref()?;
            (hold.until, hold.version, hold.error.duplicate())
        };
        // Asked without the lock: it is foreign code and may look at a file.
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || self.provider.version() != version {
            let mut state = self.state();
            if state.hold.as_ref().is_some_and(|hold| hold.until == until) {
                state.hold = None;
                state.failed_at = None;
            }
            return None;
        }
        if let RegistryError::Credentials(CredentialError::TryLater { after, .. }) = &mut error {
            *after = Some(left);
        }
        Some(error)
    }

    /// Fresh credentials were refused: they are forgotten, and nobody is asked for a while.
    pub(super) fn deny(&self, error: RegistryError) {
        let version = self.provider.version();
        let mut state = self.state();
        // What was refused is what the source said then; it may have changed since.
        let version = state.kept.take().map_or(version, |kept| kept.version);
        state.hold = hold(DENIED_HOLD, version, error);
    }

    /// Asks the provider, and keeps what it says.
    pub(super) async fn ask(&self) -> Result<Kept, RegistryError> {
        if let Some(error) = self.held() {
            return Err(error);
        }
        let failed_at = self.state().failed_at;
        if let Some(at) = failed_at {
            tokio::time::sleep_until((at + PACE).into()).await;
        }
        // Before it is asked: what changes while it answers is news.
        let version = self.provider.version();
        let outcome = self.provider.credential(&self.request).await;
        let outcome = outcome.and_then(|answer| {
            token::check(&self.request.registry, &answer.credential)?;
            let life = answer.valid_for.map(|life| life.min(MAX_LIFE));
            if life.is_some_and(|life| life.is_zero()) {
                let reason = format!("the credentials for {} have ended already", self.request.registry);
                return Err(CredentialError::Refused(reason));
            }
            let now = Instant::now();
            Ok(Kept {
                credential: answer.credential,
                version,
                renew_at: life.and_then(|life| now.checked_add(early(life))),
                ends_at: life.and_then(|life| now.checked_add(life)),
            })
        });
        let mut state = self.state();
        match outcome {
            Ok(kept) => {
                *state = State { kept: Some(kept.clone()), hold: None, failed_at: None };
                Ok(kept)
            }
            Err(error) => {
                state.failed_at = Some(Instant::now());
                let wait = match &error {
                    CredentialError::TryLater { after, .. } => {
                        Some(after.unwrap_or(DEFAULT_WAIT).min(RETRY_AFTER_CAP))
                    }
                    CredentialError::Denied { .. } | CredentialError::NotFound { .. } => Some(DENIED_HOLD),
                    _ => None,
                };
                let error = RegistryError::from(error);
                state.hold = wait.and_then(|wait| hold(wait, version, error.duplicate()));
                Err(error)
            }
        }
    }

    /// Lets everything grow older without waiting.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        let mut state = self.state();
        let back = |at: &mut Option<Instant>| *at = at.and_then(|at| at.checked_sub(by));
        back(&mut state.failed_at);
        if let Some(kept) = &mut state.kept {
            back(&mut kept.renew_at);
            back(&mut kept.ends_at);
        }
        if let Some(hold) = &mut state.hold {
            hold.until = hold.until.checked_sub(by).unwrap_or(hold.until);
        }
    }
}

fn hold(wait: Duration, version: u64, error: RegistryError) -> Option<Hold> {
    Instant::now().checked_add(wait).map(|until| Hold { until, version, error })
}
