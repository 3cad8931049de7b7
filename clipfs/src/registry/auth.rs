//! What to present to one registry: learns from its challenges, asks the provider, keeps the token, renews it early.
//!
//! Any number of readers, one renewal: it runs under an async lock, and who waited for it shares its outcome, good or bad.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::HeaderValue;

use super::RegistryError;
use super::asker::{Asker, HoldId, Kept, early};
use super::challenge::Challenge;
use super::client::Http;
use super::safe_url::authority;
use super::scheme::{self, Scheme, pick};
use super::token::{self, NoToken};
use crate::credentials::{Credential, CredentialProvider, CredentialRequest};

/// A 403 may hide an expired token (ECR); how often a new one is tried, once a new one was refused too.
const FORBIDDEN_RENEWAL: Duration = Duration::from_secs(30);
/// After a failed early renewal, the next one.
const EARLY_RETRY: Duration = Duration::from_secs(5);
/// Renewals in a row for one request: who answers with what has ended before it can be presented is not asked for ever.
const MAX_ROUNDS: u32 = 3;

/// What a request presented, so that a refusal can be told from news.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) header: Option<HeaderValue>,
    generation: u64,
}

/// The credentials of one endpoint.
#[derive(Debug)]
pub(super) struct Auth {
    http: Arc<Http>,
    base: Url,
    asker: Asker,
    state: Mutex<State>,
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    grant: Option<Grant>,
    generation: u64,
    /// How the registry wants it, once it has said so: in its order.
    schemes: Vec<Scheme>,
    /// Which way of asking the token endpoint understood last.
    way: Option<token::Way>,
    /// The generation that was to be renewed because of a 403, and when that began.
    forbidden_renewal: Option<(u64, Instant)>,
    /// Failed renewals so far and the last one's error, for those who waited for it.
    failures: u64,
    last_failure: Option<RegistryError>,
}

#[derive(Debug)]
struct Grant {
    header: HeaderValue,
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
    /// Which of the provider's answers it was made of.
    answer: u64,
    /// Whether the provider was asked for it.
    fresh: bool,
    /// Whether it is the credential itself: nobody has looked at it yet.
    as_it_is: bool,
    /// Whether the registry has accepted it.
    worked: bool,
}

/// Why there is to be a new grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// There is none, or it has ended.
    Needed,
    /// It will end soon.
    Early,
    /// The registry refused it.
    Refused,
    /// The registry refused it right after it had refused the one before.
    RefusedAgain,
}

impl Auth {
    pub(super) fn new(
        http: Arc<Http>,
        base: Url,
        provider: Arc<dyn CredentialProvider>,
        request: CredentialRequest,
    ) -> Self {
        let asker = Asker::new(provider, request);
        Self { http, base, asker, state: Mutex::default(), renewing: tokio::sync::Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the provider says; it is asked unless its answer is known.
    pub(super) async fn answer(&self) -> Result<Kept, RegistryError> {
        let _one_at_a_time = self.renewing.lock().await;
        match self.known() {
            Some(kept) => Ok(kept),
            None => self.asker.ask().await,
        }
    }

    /// What the provider would say now, as far as it can be known without asking.
    pub(super) fn known(&self) -> Option<Kept> {
        self.asker.kept().filter(|kept| self.asker.is_newest(kept))
    }

    /// Nothing: for a request that is to be challenged.
    pub(super) fn blank(&self) -> Ticket {
        Ticket { header: None, generation: self.state().generation }
    }

    /// Whether there is a challenge that can be met.
    pub(super) fn can_meet(&self, challenges: &[Challenge]) -> bool {
        self.understand(challenges).is_ok_and(|schemes| !schemes.is_empty())
    }

    /// What is to be presented and was neither accepted nor made by a token endpoint.
    pub(super) fn unproven(&self) -> Option<Ticket> {
        let state = self.state();
        let grant = state.grant.as_ref().filter(|grant| grant.as_it_is && !grant.worked)?;
        Some(Ticket { header: Some(grant.header.clone()), generation: state.generation })
    }

    /// What to send along: nothing before the first challenge; waits for a renewal only when there is nothing valid left.
    pub(super) async fn ticket(self: &Arc<Self>) -> Result<Ticket, RegistryError> {
        for _ in 0..MAX_ROUNDS {
            let (ticket, renew_early) = match self.present() {
                Ok(presented) => presented,
                Err(ended) => {
                    self.renew_generation(ended, None, Why::Needed).await?;
                    continue;
                }
            };
            if ticket.header.is_none()
                && let Some(error) = self.asker.held_off()
            {
                return Err(error);
            }
            if renew_early {
                let (auth, generation) = (Arc::clone(self), ticket.generation);
                tokio::spawn(async move {
                    // On failure the old grant is used to its end; then the error is told.
                    if let Err(error) = auth.renew_generation(generation, None, Why::Early).await {
                        let registry = &auth.asker.request.registry;
                        tracing::warn!(%registry, %error, "cannot renew the registry token early");
                    }
                });
            }
            return Ok(ticket);
        }
        let reason = "its credentials end before they can be presented".into();
        Err(RegistryError::Unavailable { host: authority(&self.base), reason })
    }

    /// What there is, and whether to renew it early; or the generation that has ended.
    fn present(&self) -> Result<(Ticket, bool), u64> {
        let mut state = self.state();
        let (now, generation) = (Instant::now(), state.generation);
        let Some(grant) = &mut state.grant else { return Ok((Ticket { header: None, generation }, false)) };
        if grant.ends_at.is_some_and(|ends| ends <= now) {
            return Err(generation);
        }
        let early = grant.renew_at.is_some_and(|at| at <= now);
        if early {
            grant.renew_at = now.checked_add(EARLY_RETRY);
        }
        Ok((Ticket { header: Some(grant.header.clone()), generation }, early))
    }

    /// After a 401 (`again`: after another one, a moment ago): gets something better than `ticket`. When it returns `Ok`,
    /// the request may be sent once more.
    pub(super) async fn renew(
        &self,
        ticket: &Ticket,
        challenges: Vec<Challenge>,
        again: bool,
    ) -> Result<(), RegistryError> {
        let why = match (&ticket.header, again) {
            (None, _) => Why::Needed,
            (Some(_), false) => Why::Refused,
            (Some(_), true) => Why::RefusedAgain,
        };
        self.renew_generation(ticket.generation, Some(challenges), why).await
    }

    /// The registry let this ticket in: if it refuses it later, it has ended since.
    pub(super) fn accepted(&self, ticket: &Ticket) {
        let mut state = self.state();
        if state.generation == ticket.generation
            && let Some(grant) = &mut state.grant
        {
            grant.worked = true;
        }
    }

    /// Whether nothing better than this ticket can be had: it is from the provider's newest word and was never accepted.
    pub(super) fn is_final(&self, ticket: &Ticket) -> bool {
        let state = self.state();
        state.generation == ticket.generation
            && state.grant.as_ref().is_some_and(|grant| grant.fresh && !grant.worked)
    }

    /// Whether a 403 should be answered by [`Auth::renew`]: some registries mean "expired" by it. All who come with what was
    /// renewed, or is being renewed, may try what there is instead; only what is new may not be renewed at once.
    pub(super) fn may_renew_forbidden(&self, ticket: &Ticket) -> bool {
        if ticket.header.is_none() {
            return false;
        }
        let mut state = self.state();
        let now = Instant::now();
        match state.forbidden_renewal {
            _ if state.generation != ticket.generation => true,
            Some((generation, _)) if generation == ticket.generation => true,
            Some((_, at)) if at + FORBIDDEN_RENEWAL > now => false,
            _ => {
                state.forbidden_renewal = Some((ticket.generation, now));
                true
            }
        }
    }

    /// A fresh ticket was refused: holds off and forgets what it was made of, unless there is something newer already.
    /// Decides at once, before anything else is awaited of the answer; [`Auth::denied`] tells the whole reason.
    pub(super) fn deny(&self, ticket: &Ticket, reason: String) -> Option<HoldId> {
        let grant = {
            let mut state = self.state();
            if state.generation != ticket.generation {
                return None;
            }
            let grant = state.grant.take()?;
            state.generation += 1;
            grant
        };
        self.asker.deny(grant.answer, self.denied_error(reason))
    }

    /// The error of a refusal, also for those whom its hold stops.
    pub(super) fn denied(&self, hold: Option<HoldId>, reason: String) -> RegistryError {
        let error = self.denied_error(reason);
        if let Some(hold) = hold {
            self.asker.explain(&hold, error.duplicate());
        }
        error
    }

    /// The token endpoint refused what the provider has just said.
    fn deny_answer(&self, kept: &Kept, reason: String) -> RegistryError {
        let error = self.denied_error(reason);
        self.asker.deny(kept.answer, error.duplicate());
        let mut state = self.state();
        state.grant = None;
        state.generation += 1;
        error
    }

    fn denied_error(&self, reason: String) -> RegistryError {
        RegistryError::Denied { host: authority(&self.base), what: self.asker.request.image.clone(), reason }
    }

    /// Before anything was presented: makes something of what the provider said that meets the challenges.
    pub(super) async fn meet(&self, blank: &Ticket, challenges: Vec<Challenge>) -> Result<(), RegistryError> {
        self.renew_generation(blank.generation, Some(challenges), Why::Needed).await
    }

    async fn renew_generation(
        &self,
        used: u64,
        challenges: Option<Vec<Challenge>>,
        why: Why,
    ) -> Result<(), RegistryError> {
        let failures = self.state().failures;
        let _one_at_a_time = self.renewing.lock().await;
        {
            let state = self.state();
            if state.generation != used {
                return Ok(());
            }
            if state.failures != failures
                && let Some(error) = &state.last_failure
            {
                return Err(error.duplicate());
            }
        }
        let outcome = self.obtain(challenges, why).await;
        let mut state = self.state();
        match outcome {
            Ok(grant) => {
                state.grant = Some(grant);
                state.generation += 1;
                state.last_failure = None;
                Ok(())
            }
            Err(error) => {
                state.failures += 1;
                state.last_failure = Some(error.duplicate());
                Err(error)
            }
        }
    }

    /// The challenge ▸ the provider ▸ the token endpoint.
    async fn obtain(&self, challenges: Option<Vec<Challenge>>, why: Why) -> Result<Grant, RegistryError> {
        let schemes = self.schemes(challenges)?;
        let (mut kept, mut fresh) = self.credential(&schemes, why).await?;
        loop {
            match self.grant(&schemes, &kept, fresh).await {
                Ok(grant) => return Ok(grant),
                Err(NoToken::Failed(error)) => return Err(error),
                // What is in use has not been refused: it is used to its end.
                Err(NoToken::Refused(reason)) if fresh && why == Why::Early => {
                    return Err(self.denied_error(reason));
                }
                Err(NoToken::Refused(reason)) if fresh => return Err(self.deny_answer(&kept, reason)),
                Err(NoToken::Refused(_)) => {
                    self.asker.refused();
                    kept = self.asker.ask().await?;
                    self.asker.make_use(&kept);
                    fresh = true;
                }
            }
        }
    }

    /// How the registry wants it. Some answers of a registry (403, and a few 401) carry no challenge: what it said before
    /// holds.
    fn schemes(&self, challenges: Option<Vec<Challenge>>) -> Result<Vec<Scheme>, RegistryError> {
        let said = challenges.map(|challenges| self.understand(&challenges)).transpose()?.unwrap_or_default();
        let mut state = self.state();
        if !said.is_empty() {
            state.schemes = said;
        }
        let schemes = state.schemes.clone();
        drop(state);
        if schemes.is_empty() {
            let reason = "it wants authentication of a kind that clipfs does not speak";
            return Err(self.denied_error(reason.into()));
        }
        Ok(schemes)
    }

    /// What the provider said, or says now; and whether that is as good as just asked for.
    async fn credential(&self, schemes: &[Scheme], why: Why) -> Result<(Kept, bool), RegistryError> {
        let kept = self.asker.kept();
        let makes_tokens = |kept: &Kept| {
            !matches!(kept.credential, Credential::Bearer(_))
                && matches!(pick(schemes, &kept.credential), Some(Scheme::Bearer(_)))
        };
        let may_stay = |kept: &Kept| match why {
            Why::Needed => self.asker.is_of_this_version(kept),
            Why::Early => !kept.is_stale() && self.asker.is_of_this_version(kept),
            // A token was refused, not what it was made of: the token endpoint will say. And what was said a moment ago is
            // tried once more before a program is run again. All that unless there is something new.
            Why::Refused => {
                !kept.is_stale() && (makes_tokens(kept) || kept.is_recent()) && self.asker.is_newest(kept)
            }
            Why::RefusedAgain => false,
        };
        if let Some(kept) = kept.as_ref().filter(|kept| may_stay(kept)) {
            return Ok((kept.clone(), self.asker.make_use(kept)));
        }
        if matches!(why, Why::Refused | Why::RefusedAgain) {
            self.asker.refused();
        }
        let error = match self.asker.ask().await {
            Ok(kept) => {
                self.asker.make_use(&kept);
                return Ok((kept, true));
            }
            Err(error) => error,
        };
        // A provider that cannot answer now says nothing against what it said before. Nor does a refusal of a token made
        // from it: the token may have ended.
        let may_serve = |kept: &Kept| match why {
            Why::Needed => true,
            Why::Early | Why::Refused => makes_tokens(kept),
            Why::RefusedAgain => false,
        };
        let passing = matches!(&error, RegistryError::Credentials(error) if error.is_passing());
        match kept.filter(|kept| passing && may_serve(kept)) {
            Some(kept) => {
                tracing::warn!(registry = %self.asker.request.registry, %error, "uses the credentials of before");
                Ok((kept, false))
            }
            None => Err(error),
        }
    }

    async fn grant(&self, schemes: &[Scheme], kept: &Kept, fresh: bool) -> Result<Grant, NoToken> {
        let host = authority(&self.base);
        let as_it_is = |header| {
            // One that is stale already is kept because there is no newer one.
            let soon = Instant::now().checked_add(EARLY_RETRY);
            let renew_at = kept.renew_at.max(soon.filter(|_| kept.renew_at.is_some()));
            let (ends_at, answer) = (kept.ends_at, kept.answer);
            Ok(Grant { header, renew_at, ends_at, answer, fresh, as_it_is: true, worked: false })
        };
        match (&kept.credential, pick(schemes, &kept.credential)) {
            (Credential::Bearer(token), _) => as_it_is(token::bearer(&host, token).map_err(NoToken::Failed)?),
            (Credential::Basic { username, password }, Some(Scheme::Basic)) => {
                as_it_is(token::basic(&host, username, password).map_err(NoToken::Failed)?)
            }
            (Credential::RefreshToken(_), Some(Scheme::Basic) | None) => Err(NoToken::Refused(
                "it wants a user name and password and there is only a refresh token".into(),
            )),
            (_, Some(Scheme::Basic) | None) => {
                Err(NoToken::Refused("it wants credentials and there are none".into()))
            }
            (credential, Some(Scheme::Bearer(source))) => {
                // The token's life begins before its answer arrives.
                let now = Instant::now();
                let way = self.state().way;
                let token = token::fetch(&self.http, source, credential, way).await?;
                self.state().way = Some(token.way);
                let header = token::bearer(&host, &token.value).map_err(NoToken::Failed)?;
                Ok(Grant {
                    header,
                    renew_at: now.checked_add(early(token.valid_for)),
                    ends_at: now.checked_add(token.valid_for),
                    answer: kept.answer,
                    fresh,
                    as_it_is: false,
                    worked: false,
                })
            }
        }
    }

    /// Lets tokens and credentials grow older without waiting.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        self.asker.age(by);
        let mut state = self.state();
        if let Some((_, at)) = &mut state.forbidden_renewal {
            *at = at.checked_sub(by).unwrap_or(*at);
        }
        if let Some(grant) = &mut state.grant {
            for at in [&mut grant.renew_at, &mut grant.ends_at] {
                *at = at.and_then(|at| at.checked_sub(by));
            }
        }
    }

    fn understand(&self, challenges: &[Challenge]) -> Result<Vec<Scheme>, RegistryError> {
        scheme::understand(challenges, &self.base, &self.http.guard, &self.asker.request.scope)
    }
}
