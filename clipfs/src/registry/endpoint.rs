//! One registry or mirror: a request with everything that may happen on its way, short of trying again later.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::RegistryError;
use super::auth::{Auth, Ticket};
use super::challenge;
use super::client::{Http, Outgoing};
use super::echo::Sent;
use super::redirect::{self, MAX_HOPS, RedirectCache};
use super::retry::Failure;
use super::safe_url::{authority, same_origin};
use crate::oci::Digest;

/// How long a mirror that failed is passed over.
const SICK: Duration = Duration::from_secs(10);
/// Most renewals for one request: tokens may end again and again while it waits its turn, but not for ever.
const MAX_RENEWALS: u32 = 4;

/// What is asked of an endpoint.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Below `/v2/`: `team/app/manifests/latest`.
    pub(super) path: String,
    pub(super) accept: Option<&'static str>,
    /// Value of the `Range` header.
    pub(super) range: Option<String>,
    /// The blob whose redirect may be remembered.
    pub(super) blob: Option<Digest>,
    /// For messages.
    pub(super) what: String,
}

/// A registry or a mirror of one.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Ends in a slash: `https://registry-1.docker.io/v2/`.
    pub(super) base: Url,
    /// The registry a mirror stands in for (`ns=` of containerd's mirrors).
    pub(super) namespace: Option<String>,
    pub(super) can_resolve: bool,
    pub(super) can_pull: bool,
    /// Fixed headers the operator wants sent.
    pub(super) headers: HeaderMap,
    pub(super) http: Arc<Http>,
    pub(super) auth: Arc<Auth>,
    pub(super) redirects: RedirectCache,
    /// The provider's answer that this registry is known to accept; see `proof`.
    pub(super) proven: tokio::sync::Mutex<Option<u64>>,
    sick_until: Mutex<Option<Instant>>,
    without_ranges: Mutex<HashSet<String>>,
}

impl Endpoint {
    pub(super) fn new(base: Url, http: Arc<Http>, auth: Arc<Auth>) -> Self {
        Self {
            base,
            namespace: None,
            can_resolve: true,
            can_pull: true,
            headers: HeaderMap::new(),
            http,
            auth,
            redirects: RedirectCache::default(),
            proven: tokio::sync::Mutex::default(),
            sick_until: Mutex::default(),
            without_ranges: Mutex::default(),
        }
    }

    pub(super) fn host(&self) -> String {
        authority(&self.base)
    }

    /// Whether it failed a moment ago.
    pub(super) fn is_sick(&self) -> bool {
        let until = *self.sick_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| until > Instant::now())
    }

    pub(super) fn set_sick(&self, sick: bool) {
        let until = if sick { Instant::now().checked_add(SICK) } else { None };
        *self.sick_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// The next request for a blob goes over a new connection, and to where the registry then says.
    pub(super) fn distrust(&self, blob: &Digest) {
        self.redirects.forget(blob);
        self.http.reconnect();
    }

    /// Remembers that whoever answered ignores ranges.
    pub(super) fn note_without_ranges(&self, host: String) {
        let mut hosts = self.without_ranges.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() < 64 && hosts.insert(host.clone()) {
            tracing::warn!(host, "the server ignores ranges: reads from it fetch more than they need");
        }
    }

    /// Whether blobs were last served by a host that ignores ranges.
    pub(super) fn lacks_ranges(&self, blob: &Digest) -> bool {
        let host = self.redirects.get(blob).map_or_else(|| self.host(), |url| authority(&url));
        self.without_ranges.lock().unwrap_or_else(PoisonError::into_inner).contains(&host)
    }

    /// One attempt: redirects are followed, credentials renewed, and a remembered redirect that ended is asked for again
    /// once. `Ok` is a 2xx answer.
    pub(super) async fn once(&self, ask: &Ask) -> Result<Response, Failure> {
        let start = self.url(ask)?;
        let mut renewals = 0;
        let mut round = 0;
        'from_the_start: loop {
            round += 1;
            let remembered =
                if round == 1 { ask.blob.and_then(|blob| self.redirects.get(&blob)) } else { None };
            // Once stripped, credentials are never put back, even if a later hop leads home.
            let mut stripped = remembered.is_some();
            let mut url = remembered.unwrap_or_else(|| start.clone());
            let mut hops = 0;
            let mut presented = None;
            loop {
                let ticket = if stripped { None } else { Some(self.auth.ticket().await?) };
                let response = match self.http.send(self.outgoing(ask, url.clone(), ticket.as_ref())).await {
                    Ok(response) => response,
                    Err(failure) => {
                        self.forget(ask, stripped);
                        return Err(failure);
                    }
                };
                let status = response.status();
                // A redirect says nothing about what was presented: refusals may be redirects too. Where it ends tells.
                presented = ticket.clone().or(presented);
                if is_redirect(status) {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Err(
                            self.protocol(&url, format!("more than {MAX_HOPS} redirects for {}", ask.what))
                        );
                    }
                    let next = redirect::target(&url, response.headers(), &self.http.guard)
                        .map_err(|why| self.protocol(&url, why))?;
                    stripped |= !same_origin(&url, &next);
                    url = next;
                    continue;
                }
                if status.is_success() {
                    if let Some(presented) = &presented {
                        self.auth.accepted(presented);
                    }
                    if let (true, Some(blob)) = (stripped, ask.blob) {
                        self.redirects.remember(blob, url);
                    }
                    return Ok(response);
                }
                let authorization = ticket.as_ref().and_then(|ticket| ticket.header.as_ref());
                let sent = Sent::request(&url, authorization);
                match (status, ticket) {
                    // What worked a moment ago has ended; what never worked is asked for anew once.
                    (StatusCode::UNAUTHORIZED, Some(ticket))
                        if renewals < MAX_RENEWALS && (renewals == 0 || !self.auth.is_final(&ticket)) =>
                    {
                        renewals += 1;
                        self.auth.renew(&ticket, challenge::parse(response.headers()), renewals > 1).await?;
                        // If a redirect led to the refusal, it may be how it was told.
                        (url, hops) = (start.clone(), 0);
                    }
                    (StatusCode::FORBIDDEN, Some(ticket))
                        if renewals == 0 && self.auth.may_renew_forbidden(&ticket) =>
                    {
                        renewals += 1;
                        self.auth.renew(&ticket, challenge::parse(response.headers()), false).await?;
                        (url, hops) = (start.clone(), 0);
                    }
                    (StatusCode::UNAUTHORIZED, Some(ticket)) => {
                        return Err(Failure::definite(self.deny(&ticket, response, &sent).await));
                    }
                    // A signed link that ended: S3 says 403 or 400, others 401; a deleted one 404.
                    (
                        StatusCode::UNAUTHORIZED
                        | StatusCode::FORBIDDEN
                        | StatusCode::BAD_REQUEST
                        | StatusCode::NOT_FOUND,
                        None,
                    ) if round == 1 => {
                        self.forget(ask, true);
                        continue 'from_the_start;
                    }
                    (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                        self.forget(ask, stripped);
                        let host = authority(&url);
                        let reason = format!("it answers {status}{}", self.http.words(response, &sent).await);
                        return Err(Failure::definite(RegistryError::Denied {
                            host,
                            what: ask.what.clone(),
                            reason,
                        }));
                    }
                    _ => {
                        self.forget(ask, stripped);
                        return Err(self.http.failure(response, &ask.what, &sent).await);
                    }
                }
            }
        }
    }

    /// The end of a ticket. Its hold begins before the registry's words are read: they may take as long as they like.
    pub(super) async fn deny(&self, ticket: &Ticket, response: Response, sent: &Sent) -> RegistryError {
        let status = response.status();
        let hold = self.auth.deny(ticket, format!("it answers {status}"));
        let reason = format!("it answers {status}{}", self.http.words(response, sent).await);
        self.auth.denied(hold, reason)
    }

    fn forget(&self, ask: &Ask, stripped: bool) {
        if let (true, Some(blob)) = (stripped, ask.blob) {
            self.redirects.forget(&blob);
        }
    }

    fn protocol(&self, url: &Url, reason: String) -> Failure {
        Failure::definite(RegistryError::Protocol { host: authority(url), reason })
    }

    pub(super) fn url(&self, ask: &Ask) -> Result<Url, Failure> {
        let mut url = self
            .base
            .join(&ask.path)
            .map_err(|_| self.protocol(&self.base, format!("cannot make a URL for {}", ask.what)))?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    pub(super) fn outgoing(&self, ask: &Ask, url: Url, ticket: Option<&Ticket>) -> Outgoing {
        // The operator's headers may be secrets too: they stay at home.
        let mut headers = if ticket.is_some() { self.headers.clone() } else { HeaderMap::new() };
        if let Some(accept) = ask.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if ask.blob.is_some() {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if let Some(range) = ask.range.as_deref().and_then(|range| HeaderValue::from_str(range).ok()) {
            headers.insert(RANGE, range);
        }
        if let Some(header) = ticket.and_then(|ticket| ticket.header.clone()) {
            headers.insert(AUTHORIZATION, header);
        }
        Outgoing { method: ask.method.clone(), url, headers, body: None }
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
