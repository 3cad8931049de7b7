//! What to present to one registry: learns from its challenges, asks the provider, keeps the token, renews it early.
//!
//! Any number of readers, one renewal: it runs under an async lock, and who waited for it shares its outcome, good or bad.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::HeaderValue;

use super::RegistryError;
use super::challenge::Challenge;
use super::client::Http;
use super::safe_url::authority;
use super::token::{self, NoToken, TokenSource};
use crate::credentials::{Credential, CredentialProvider, CredentialRequest};

/// After fresh credentials were refused, nobody is asked for this long.
const DENIED_HOLD: Duration = Duration::from_secs(30);
/// A 403 may hide an expired token (ECR); how often that is tried.
const FORBIDDEN_RENEWAL: Duration = Duration::from_secs(30);
/// After a failed early renewal, the next one.
const EARLY_RETRY: Duration = Duration::from_secs(5);
/// Most scopes asked for at once.
const MAX_SCOPES: usize = 8;

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
    provider: Arc<dyn CredentialProvider>,
    request: CredentialRequest,
    state: Mutex<State>,
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    grant: Option<Grant>,
    generation: u64,
    /// How the registry wants it, once it has said so.
    scheme: Option<Scheme>,
    /// What the provider answered last, and until when that holds.
    credential: Option<(Credential, Option<Instant>)>,
    denied: Option<(Instant, String)>,
    forbidden_renewal: Option<Instant>,
    /// Failed renewals so far and the last one's error, for those who waited for it.
    failures: u64,
    last_failure: Option<RegistryError>,
}

#[derive(Debug)]
struct Grant {
    header: HeaderValue,
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Scheme {
    Basic,
    Bearer(TokenSource),
}

impl Auth {
    pub(super) fn new(
        http: Arc<Http>,
        base: Url,
        provider: Arc<dyn CredentialProvider>,
        request: CredentialRequest,
    ) -> Self {
        Self {
            http,
            base,
            provider,
            request,
            state: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to send along: nothing before the first challenge; waits for a renewal only when there is nothing valid left.
    pub(super) async fn ticket(self: &Arc<Self>) -> Result<Ticket, RegistryError> {
        loop {
            let (ticket, renew_early) = {
                let mut state = self.state();
                let now = Instant::now();
                if let Some((until, reason)) = &state.denied {
                    if *until > now {
                        return Err(self.denied_error(reason.clone()));
                    }
                    state.denied = None;
                }
                let generation = state.generation;
                match &mut state.grant {
                    None => return Ok(Ticket { header: None, generation }),
                    Some(grant) if grant.ends_at.is_some_and(|ends| ends <= now) => (Err(generation), false),
                    Some(grant) => {
                        let early = grant.renew_at.is_some_and(|at| at <= now);
                        if early {
                            grant.renew_at = now.checked_add(EARLY_RETRY);
                        }
                        (Ok(Ticket { header: Some(grant.header.clone()), generation }), early)
                    }
                }
            };
            match ticket {
                Ok(ticket) => {
                    if renew_early {
                        let (auth, generation) = (Arc::clone(self), ticket.generation);
                        tokio::spawn(async move {
                            // On failure the old token is used to its end; then the error is told.
                            if let Err(error) = auth.renew_generation(generation, None, false).await {
                                tracing::warn!(registry = %auth.request.registry, %error, "cannot renew the registry token early");
                            }
                        });
                    }
                    return Ok(ticket);
                }
                Err(expired) => self.renew_generation(expired, None, false).await?,
            }
        }
    }

    /// After a 401: gets something better than `ticket`. When it returns `Ok`, the request may be sent once more.
    pub(super) async fn renew(
        &self,
        ticket: &Ticket,
        challenges: Vec<Challenge>,
    ) -> Result<(), RegistryError> {
        self.renew_generation(ticket.generation, Some(challenges), ticket.header.is_some()).await
    }

    /// Whether a 403 should be answered by [`Auth::renew`]: some registries mean "expired" by it.
    pub(super) fn may_renew_forbidden(&self, ticket: &Ticket) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        if ticket.header.is_none() || state.forbidden_renewal.is_some_and(|at| at + FORBIDDEN_RENEWAL > now) {
            return false;
        }
        state.forbidden_renewal = Some(now);
        true
    }

    /// Fresh credentials were refused: holds off, forgets them, and gives the error.
    pub(super) fn deny(&self, reason: String) -> RegistryError {
        let mut state = self.state();
        state.grant = None;
        state.credential = None;
        state.generation += 1;
        state.denied = Instant::now().checked_add(DENIED_HOLD).map(|until| (until, reason.clone()));
        drop(state);
        self.denied_error(reason)
    }

    fn denied_error(&self, reason: String) -> RegistryError {
        RegistryError::Denied { host: authority(&self.base), what: self.request.image.clone(), reason }
    }

    async fn renew_generation(
        &self,
        used: u64,
        challenges: Option<Vec<Challenge>>,
        refused: bool,
    ) -> Result<(), RegistryError> {
        let failures = self.state().failures;
        let _one_at_a_time = self.renewing.lock().await;
        {
            let state = self.state();
            if let Some((until, reason)) = &state.denied
                && *until > Instant::now()
            {
                return Err(self.denied_error(reason.clone()));
            }
            if state.generation != used {
                return Ok(());
            }
            if state.failures != failures
                && let Some(error) = &state.last_failure
            {
                return Err(error.duplicate());
            }
        }
        match self.obtain(challenges, refused).await {
            Ok(grant) => {
                let mut state = self.state();
                state.grant = Some(grant);
                state.generation += 1;
                state.last_failure = None;
                Ok(())
            }
            Err(error) => {
                let mut state = self.state();
                state.failures += 1;
                state.last_failure = Some(error.duplicate());
                Err(error)
            }
        }
    }

    /// The challenge ▸ the provider ▸ the token endpoint.
    async fn obtain(
        &self,
        challenges: Option<Vec<Challenge>>,
        refused: bool,
    ) -> Result<Grant, RegistryError> {
        let scheme = match challenges {
            Some(challenges) => {
                // Some answers of a registry (403, and a few 401) carry no challenge: what it said before holds.
                let said = self.understand(&challenges)?;
                let scheme = said.or_else(|| self.state().scheme.clone()).ok_or_else(|| {
                    self.denied_error("it wants authentication of a kind that clipfs does not speak".into())
                })?;
                self.state().scheme = Some(scheme.clone());
                scheme
            }
            None => {
                self.state().scheme.clone().ok_or_else(|| self.denied_error("it gave no challenge".into()))?
            }
        };
        let kept = {
            let state = self.state();
            let now = Instant::now();
            state.credential.clone().filter(|(_, until)| !refused && until.is_none_or(|until| until > now))
        };
        let (mut credential, mut until, mut fresh) = match kept {
            Some((credential, until)) => (credential, until, false),
            None => {
                let (credential, until) = self.ask_provider().await?;
                (credential, until, true)
            }
        };
        loop {
            match self.grant(&scheme, &credential, until).await {
                Ok(grant) => return Ok(grant),
                Err(NoToken::Failed(error)) => return Err(error),
                Err(NoToken::Refused(reason)) if fresh => return Err(self.deny(reason)),
                Err(NoToken::Refused(_)) => {
                    (credential, until) = self.ask_provider().await?;
                    fresh = true;
                }
            }
        }
    }

    async fn ask_provider(&self) -> Result<(Credential, Option<Instant>), RegistryError> {
        let answer = self.provider.credential(&self.request).await?;
        let until = answer.valid_for.and_then(|life| Instant::now().checked_add(life));
        self.state().credential = Some((answer.credential.clone(), until));
        Ok((answer.credential, until))
    }

    async fn grant(
        &self,
        scheme: &Scheme,
        credential: &Credential,
        credential_until: Option<Instant>,
    ) -> Result<Grant, NoToken> {
        let host = authority(&self.base);
        let as_it_is = |header| Ok(Grant { header, renew_at: None, ends_at: credential_until });
        match (credential, scheme) {
            (Credential::Bearer(token), _) => as_it_is(token::bearer(&host, token).map_err(NoToken::Failed)?),
            (Credential::Basic { username, password }, Scheme::Basic) => {
                as_it_is(token::basic(&host, username, password).map_err(NoToken::Failed)?)
            }
            (Credential::Anonymous, Scheme::Basic) => {
                Err(NoToken::Refused("it wants credentials and there are none".into()))
            }
            (Credential::RefreshToken(_), Scheme::Basic) => Err(NoToken::Refused(
                "it wants a user name and password and there is only a refresh token".into(),
            )),
            (_, Scheme::Bearer(source)) => {
                let token = token::fetch(&self.http, source, credential).await?;
                let header = token::bearer(&host, &token.value).map_err(NoToken::Failed)?;
                let now = Instant::now();
                // 80 % of its life, up to a tenth earlier, so that many mounts do not renew at once.
                let early = token.valid_for.mul_f64(0.1f64.mul_add(-fastrand::f64(), 0.8));
                Ok(Grant {
                    header,
                    renew_at: now.checked_add(early),
                    ends_at: now.checked_add(token.valid_for),
                })
            }
        }
    }

    /// Lets tokens grow older without waiting.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        if let Some(grant) = &mut self.state().grant {
            for at in [&mut grant.renew_at, &mut grant.ends_at] {
                *at = at.and_then(|at| at.checked_sub(by));
            }
        }
    }

    /// The first challenge that can be met.
    fn understand(&self, challenges: &[Challenge]) -> Result<Option<Scheme>, RegistryError> {
        for challenge in challenges {
            match challenge.scheme.as_str() {
                "basic" => return Ok(Some(Scheme::Basic)),
                "bearer" => {
                    let Some(realm) = challenge.param("realm") else { continue };
                    return Ok(Some(Scheme::Bearer(self.token_source(realm, challenge)?)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn token_source(&self, realm: &str, challenge: &Challenge) -> Result<TokenSource, RegistryError> {
        let refuse = |reason: String| RegistryError::Protocol { host: authority(&self.base), reason };
        let mut realm =
            Url::parse(realm).map_err(|_| refuse("the realm of its challenge is not a URL".into()))?;
        realm.set_fragment(None);
        self.http
            .guard
            .check(&self.base, &realm)
            .map_err(|why| refuse(format!("the realm of its challenge: {why}")))?;
        let mut scopes = vec![self.request.scope.clone()];
        // Registries may want scopes of their own kind, but no challenge gets us to ask for other repositories.
        let theirs = challenge.param("scope").unwrap_or("").split_ascii_whitespace();
        scopes.extend(theirs.filter(|s| !s.starts_with("repository:") && s.len() <= 256).map(str::to_owned));
        scopes.truncate(MAX_SCOPES);
        Ok(TokenSource { realm, service: challenge.param("service").map(str::to_owned), scopes })
    }
}
