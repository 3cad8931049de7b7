//! The HTTP client: one pool per host configuration, nothing taken from the environment.
//!
//! No proxy, no `.netrc`, no cookies, no redirects of its own, no `Referer`. (The platform's CA bundle is found as OpenSSL's
//! users expect: `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured for that alone.)

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderMap;
use reqwest::{Certificate, Client, Identity, Method, Response, StatusCode, Url};

use super::RegistryError;
use super::classify::classify;
use super::deadline;
use super::echo::Sent;
use super::guard::{Guard, GuardedResolver, Lookup};
use super::retry::{Failure, RETRY_AFTER_CAP, Retry, retry_after};
use super::safe_url::{authority, same_origin};
use super::stats::Counters;
use crate::num::to_u64;
use crate::oci::printable::printable;

/// Largest error or token document read.
pub(super) const MAX_SMALL_BODY: u64 = 64 << 10;
/// Idle connections kept per host: as many as ranges in flight.
const POOL_IDLE: usize = 32;
/// A pooled connection older than this is likely to have been dropped by a load balancer (AWS: 60 s).
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// HTTP/2 windows: 100 MB/s over 40 ms of round trip.
const H2_STREAM_WINDOW: u32 = 4 << 20;
const H2_CONNECTION_WINDOW: u32 = 16 << 20;
/// Hosts whose wish to be left alone is remembered at once.
const MAX_HOLDS: usize = 256;

/// TLS settings of one host.
#[derive(Debug, Clone, Default)]
pub(super) struct TlsOptions {
    /// Further CAs, besides the platform's.
    pub(super) ca: Vec<Certificate>,
    /// Client certificate and key. Shown to the host itself only, never to where it redirects.
    pub(super) identity: Option<Identity>,
    /// No verification of the host itself; never extends to where it redirects.
    pub(super) skip_verify: bool,
}

/// Timeouts of all requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) progress: Duration,
}

/// One request.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// A form.
    pub(super) body: Option<secrecy::SecretString>,
}

/// A client for one registry or mirror, and for the places it leads to.
#[derive(Debug)]
pub(super) struct Http {
    base: Url,
    tls: TlsOptions,
    lookup: Arc<dyn Lookup>,
    pub(super) guard: Arc<Guard>,
    pub(super) timeouts: Timeouts,
    pub(super) counters: Arc<Counters>,
    clients: Mutex<Clients>,
    holds: Mutex<HashMap<String, Instant>>,
}

#[derive(Debug, Clone)]
struct Clients {
    /// For the host itself.
    own: Client,
    /// For redirect targets and realms elsewhere.
    foreign: Client,
}

impl Http {
    pub(super) fn new(
        base: Url,
        tls: TlsOptions,
        guard: Arc<Guard>,
        lookup: Arc<dyn Lookup>,
        timeouts: Timeouts,
        counters: Arc<Counters>,
    ) -> Result<Self, RegistryError> {
        let clients = build(&base, &tls, &guard, &lookup, timeouts)?;
        let (clients, holds) = (Mutex::new(clients), Mutex::default());
        Ok(Self { base, tls, lookup, guard, timeouts, counters, clients, holds })
    }

    /// Gives up all pooled connections: the next request opens a new one.
    pub(super) fn reconnect(&self) {
        if let Ok(fresh) = build(&self.base, &self.tls, &self.guard, &self.lookup, self.timeouts) {
            *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }

    /// Sends one request and waits for the head of its answer. Waits first if the host asked for a pause.
    pub(super) async fn send(&self, out: Outgoing) -> Result<Response, Failure> {
        let host = authority(&out.url);
        self.wait_if_held(&host).await?;
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let client = if same_origin(&self.base, &out.url) { clients.own } else { clients.foreign };
        self.counters.requests.fetch_add(1, Relaxed);
        let mut request = client.request(out.method, out.url).headers(out.headers);
        if let Some(form) = out.body {
            request = request.body(secrecy::ExposeSecret::expose_secret(&form).to_owned());
        }
        let limit = self.timeouts.connect + self.timeouts.progress;
        let outcome = tokio::time::timeout(limit, request.send()).await;
        let code =
            outcome.as_ref().ok().and_then(|sent| sent.as_ref().ok()).map(|answer| answer.status().as_u16());
        self.counters.answered(&host, code);
        match outcome {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(classify(&error, &host)),
            Err(_) => Err(Failure::transient(RegistryError::Unavailable {
                host,
                reason: format!("no answer within {limit:?}"),
            })),
        }
    }

    async fn wait_if_held(&self, host: &str) -> Result<(), Failure> {
        let until = self.holds.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied();
        let wait = until.map(|until| until.saturating_duration_since(Instant::now()));
        let Some(wait) = wait.filter(|wait| !wait.is_zero()) else { return Ok(()) };
        if deadline::left().is_some_and(|left| wait >= left) {
            let error = RegistryError::TooManyRequests { host: host.to_owned(), retry_after: Some(wait) };
            return Err(Failure::definite(error));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Remembers that a host wants no requests for a while.
    fn hold(&self, host: &str, wait: Duration) {
        let now = Instant::now();
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.retain(|_, until| *until > now);
        if holds.len() < MAX_HOLDS {
            holds.insert(host.to_owned(), now + wait.min(RETRY_AFTER_CAP));
        }
    }

    /// What an answer means that is neither success nor redirect nor about credentials.
    pub(super) async fn failure(&self, response: Response, what: &str, sent: &Sent) -> Failure {
        let host = authority(response.url());
        let status = response.status();
        let wait = retry_after(response.headers(), SystemTime::now());
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Failure::definite(RegistryError::NotFound(format!("{what} at {host}")))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                if let Some(wait) = wait {
                    tracing::warn!(host, "registry asks to wait {} s", wait.as_secs());
                    self.hold(&host, wait);
                }
                let error = RegistryError::TooManyRequests { host, retry_after: wait };
                Failure { error, retry: wait.map_or(Retry::Backoff, Retry::After) }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                Failure::definite(RegistryError::Mismatch { what: what.to_owned() })
            }
            _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                if let Some(wait) = wait {
                    self.hold(&host, wait);
                }
                let error = RegistryError::Unavailable { host, reason: format!("it answers {status}") };
                Failure { error, retry: wait.map_or(Retry::Backoff, Retry::After) }
            }
            _ => {
                let words = self.words(response, sent).await;
                let reason = format!("unexpected answer {status}{words} to a request for {what}");
                Failure::definite(RegistryError::Protocol { host, reason })
            }
        }
    }

    /// The server's own words for an error: `: message` or `: CODE`, or nothing. They may repeat what was `sent`, and
    /// then are not shown.
    pub(super) async fn words(&self, response: Response, sent: &Sent) -> String {
        let body = self.small_body(response).await.unwrap_or_default();
        words_of(&body)
            .map_or_else(String::new, |said| format!(": {}", printable(sent.scrub(&said), ' ', 160)))
    }

    /// The whole body of an error or token document.
    pub(super) async fn small_body(&self, response: Response) -> Result<Bytes, Failure> {
        let host = authority(response.url());
        let reason = format!("an answer of more than {MAX_SMALL_BODY} bytes");
        self.body(response, MAX_SMALL_BODY, RegistryError::Protocol { host, reason }).await
    }

    /// A whole body of at most `cap` bytes; `too_large` is said of a longer one.
    pub(super) async fn body(
        &self,
        mut response: Response,
        cap: u64,
        too_large: RegistryError,
    ) -> Result<Bytes, Failure> {
        let host = authority(response.url());
        if response.content_length().is_some_and(|n| n > cap) {
            return Err(Failure::definite(too_large));
        }
        let mut body = BytesMut::new();
        // One deadline for all of it: these documents are small, and a trickle is not progress.
        let deadline = tokio::time::Instant::now() + self.timeouts.progress;
        loop {
            match tokio::time::timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(chunk))) if to_u64(body.len()) + to_u64(chunk.len()) > cap => {
                    return Err(Failure::definite(too_large));
                }
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(body.freeze()),
                Ok(Err(error)) => return Err(classify(&error, &host)),
                Err(_) => {
                    let reason = format!("no complete answer within {:?}", self.timeouts.progress);
                    return Err(Failure::transient(RegistryError::Unavailable { host, reason }));
                }
            }
        }
    }
}

/// The first error of a registry's document (`errors`), of OAuth2's (RFC 6749, section 5.2), or of those who have a form of
/// their own.
fn words_of(body: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let first = document.get("errors").and_then(|errors| errors.get(0));
    let at = |value: Option<&serde_json::Value>, name: &str| {
        value?.get(name)?.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned)
    };
    at(first, "message")
        .or_else(|| at(first, "code"))
        .or_else(|| at(Some(&document), "error_description"))
        .or_else(|| at(Some(&document), "error"))
        .or_else(|| at(Some(&document), "message"))
        .or_else(|| at(Some(&document), "details"))
}

fn build(
    base: &Url,
    tls: &TlsOptions,
    guard: &Arc<Guard>,
    lookup: &Arc<dyn Lookup>,
    timeouts: Timeouts,
) -> Result<Clients, RegistryError> {
    let plain = || {
        Client::builder()
            .user_agent(concat!("clipfs/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(timeouts.connect)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_IDLE)
            .tcp_keepalive(Duration::from_secs(15))
            .http2_initial_stream_window_size(H2_STREAM_WINDOW)
            .http2_initial_connection_window_size(H2_CONNECTION_WINDOW)
            .dns_resolver(GuardedResolver { guard: Arc::clone(guard), lookup: Arc::clone(lookup) })
            .tls_certs_merge(tls.ca.iter().cloned())
    };
    let broken = |error: reqwest::Error| {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        RegistryError::Protocol {
            host: authority(base),
            reason: format!("its TLS settings are unusable{cause}"),
        }
    };
    let foreign = match plain().build() {
        Ok(client) => client,
        // No CA on this machine, and none wanted for plain http: then nothing is trusted, which is not an error yet.
        Err(_) if base.scheme() == "http" => plain().tls_certs_only([]).build().map_err(broken)?,
        Err(error) => return Err(broken(error)),
    };
    let own = match (&tls.identity, tls.skip_verify) {
        (None, false) => foreign.clone(),
        (identity, skip_verify) => {
            let builder = plain().tls_danger_accept_invalid_certs(skip_verify);
            identity
                .iter()
                .fold(builder, |b, identity| b.identity(identity.clone()))
                .build()
                .map_err(broken)?
        }
    };
    Ok(Clients { own, foreign })
}
