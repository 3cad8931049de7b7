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
/// Shortest time from an answer to the next ask, for whom the registry refuses more than it should: a registry must not be
/// able to make us run a program for each of its answers.
pub(super) const LEAST: Duration = Duration::from_secs(2);
/// How long a provider that is out of order, or whose source is, is left alone: it will not be mended sooner.
const FAULT_HOLD: Duration = Duration::from_secs(5);
/// How long the version of the source is believed by those who look often: to look is to ask a file system.
const GLANCE: Duration = Duration::from_millis(250);

/// A credential and its life.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) credential: Credential,
    /// Of the source, before it was asked.
    version: u64,
    /// Which of the answers it is.
    pub(super) answer: u64,
    asked_at: Instant,
    /// From when on a newer one should be had.
    pub(super) renew_at: Option<Instant>,
    pub(super) ends_at: Option<Instant>,
}

impl Kept {
    /// Whether it is time for a newer one.
    pub(super) fn is_stale(&self) -> bool {
        self.renew_at.is_some_and(|at| at <= Instant::now())
    }

    /// Whether it was said so short a time ago that the provider should not be asked again.
    pub(super) fn is_recent(&self) -> bool {
        self.asked_at + LEAST > Instant::now()
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
    /// Whether nothing has been made of `kept` yet.
    unused: bool,
    /// Answers so far.
    answers: u64,
    hold: Option<Hold>,
    failed_at: Option<Instant>,
    /// The source's version, and when it was looked at.
    glance: Option<(Instant, u64)>,
}

#[derive(Debug)]
struct Hold {
    until: Instant,
    /// Of the source, when it was asked for what was refused.
    version: u64,
    /// Whether it is the provider that does not work. That is nothing to requests that need no credentials.
    is_fault: bool,
    error: RegistryError,
}

impl Hold {
    fn is_over(&self) -> bool {
        self.until <= Instant::now()
    }
}

/// A hold that was set, for who has more to say about its reason.
#[derive(Debug)]
pub(super) struct HoldId(Instant);

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

    /// The version of the provider's source, now.
    fn look(&self) -> u64 {
        // Without the lock: it is foreign code and looks at a file.
        let version = self.provider.version();
        self.state().glance = Some((Instant::now(), version));
        version
    }

    /// The version of the provider's source, now or a moment ago.
    fn glance(&self) -> u64 {
        let seen = self.state().glance.filter(|(at, _)| at.elapsed() < GLANCE);
        seen.map_or_else(|| self.look(), |(_, version)| version)
    }

    /// Whether the provider's source was a moment ago what it was when this was said.
    pub(super) fn is_of_this_version(&self, kept: &Kept) -> bool {
        kept.version == self.glance()
    }

    /// Whether the provider's source is now what it was when this was said.
    pub(super) fn is_newest(&self, kept: &Kept) -> bool {
        kept.version == self.look()
    }

    /// Something is made of an answer. Whether it is as good as just asked for: nothing was made of it before, and it is recent.
    pub(super) fn make_use(&self, kept: &Kept) -> bool {
        let mut state = self.state();
        let is_this = state.kept.as_ref().is_some_and(|this| this.answer == kept.answer);
        is_this && std::mem::take(&mut state.unused) && kept.is_recent()
    }

    /// Tells the provider that what it said was refused: what it keeps is no answer any more.
    pub(super) fn refused(&self) {
        self.provider.refused(&self.request);
    }

    /// The error of whoever would ask before a hold ends.
    pub(super) fn held(&self) -> Option<RegistryError> {
        self.hold_of(|_| true)
    }

    /// The error of whoever would send a request before a hold ends.
    pub(super) fn held_off(&self) -> Option<RegistryError> {
        self.hold_of(|hold| !hold.is_fault)
    }

    fn hold_of(&self, concerns: impl Fn(&Hold) -> bool) -> Option<RegistryError> {
        let (until, version, mut error) = {
            let state = self.state();
            let hold = state.hold.as_ref().filter(|hold| concerns(hold))?;
            (hold.until, hold.version, hold.error.duplicate())
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || self.glance() != version {
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

    /// What was made of this answer was refused although it was fresh: it is forgotten, and nobody is asked for a while.
    /// Nothing happens if it is forgotten already, or if there is a newer one: nothing was said about that.
    pub(super) fn deny(&self, answer: u64, error: RegistryError) -> Option<HoldId> {
        let mut state = self.state();
        let kept = state.kept.take_if(|kept| kept.answer == answer)?;
        if state.hold.as_ref().is_some_and(|hold| !hold.is_over()) {
            return None;
        }
        state.hold = hold(DENIED_HOLD, kept.version, false, error);
        state.hold.as_ref().map(|hold| HoldId(hold.until))
    }

    /// Says more about the reason of a hold, if it is still on.
    pub(super) fn explain(&self, id: &HoldId, error: RegistryError) {
        if let Some(hold) = self.state().hold.as_mut().filter(|hold| hold.until == id.0) {
            hold.error = error;
        }
    }

    /// Waits until the provider may be asked.
    async fn pace(&self) {
        let (failed_at, kept) = {
            let state = self.state();
            (state.failed_at, state.kept.clone())
        };
        if let Some(at) = failed_at {
            tokio::time::sleep_until((at + PACE).into()).await;
        }
        if let Some(kept) = kept.filter(|kept| self.is_newest(kept)) {
            let next = kept.asked_at + LEAST;
            tokio::time::sleep_until(kept.ends_at.map_or(next, |ends| ends.min(next)).into()).await;
        }
    }

    /// Asks the provider, and keeps what it says.
    pub(super) async fn ask(&self) -> Result<Kept, RegistryError> {
        if let Some(error) = self.held() {
            return Err(error);
        }
        self.pace().await;
        // Before it is asked: what changes while it answers is news.
        let version = self.look();
        let outcome = self.provider.credential(&self.request).await;
        let outcome = outcome.and_then(|answer| {
            token::check(&self.request.registry, &answer.credential)?;
            let life = answer.valid_for.map(|life| life.min(MAX_LIFE));
            if life.is_some_and(|life| life.is_zero()) {
                let reason = format!("the credentials for {} have ended already", self.request.registry);
                return Err(CredentialError::Refused(reason));
            }
            Ok((answer.credential, life))
        });
        let now = Instant::now();
        let mut state = self.state();
        match outcome {
            Ok((credential, life)) => {
                state.answers += 1;
                let kept = Kept {
                    credential,
                    version,
                    answer: state.answers,
                    asked_at: now,
                    renew_at: life.and_then(|life| now.checked_add(early(life))),
                    ends_at: life.and_then(|life| now.checked_add(life)),
                };
                state.kept = Some(kept.clone());
                (state.unused, state.hold, state.failed_at) = (true, None, None);
                Ok(kept)
            }
            Err(error) => {
                state.failed_at = Some(now);
                let (wait, is_fault) = match &error {
                    CredentialError::TryLater { after, .. } => {
                        (Some(after.unwrap_or(DEFAULT_WAIT).min(RETRY_AFTER_CAP)), false)
                    }
                    CredentialError::Denied { .. } | CredentialError::NotFound { .. } => {
                        (Some(DENIED_HOLD), false)
                    }
                    CredentialError::Malformed(_)
                    | CredentialError::Configuration(_)
                    | CredentialError::Broken(_)
                    | CredentialError::Refused(_) => (Some(FAULT_HOLD), true),
                    CredentialError::Unavailable(_) => (None, true),
                };
                let error = RegistryError::from(error);
                state.hold = wait.and_then(|wait| hold(wait, version, is_fault, error.duplicate()));
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
        state.glance = None;
        if let Some(kept) = &mut state.kept {
            kept.asked_at = kept.asked_at.checked_sub(by).unwrap_or(kept.asked_at);
            back(&mut kept.renew_at);
            back(&mut kept.ends_at);
        }
        if let Some(hold) = &mut state.hold {
            hold.until = hold.until.checked_sub(by).unwrap_or(hold.until);
        }
    }
}

fn hold(wait: Duration, version: u64, is_fault: bool, error: RegistryError) -> Option<Hold> {
    Instant::now().checked_add(wait).map(|until| Hold { until, version, is_fault, error })
}
