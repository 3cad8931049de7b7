//! The one door to the network: short exchanges with token endpoints.
//!
//! Every exchange is a POST of a small body, answered by a small JSON document. No proxy, no redirect, no cookie, no referer: a credential
//! reaches the host of the URL or nobody. Plain http is spoken to this machine only.
//!
//! The names of endpoints come from a fixed list or from the operator, never from a request or from an answer. That is why they may
//! resolve to private addresses (a VPC endpoint does); TLS says whether it is the right one.
//!
//! Nothing is logged here, and errors are built from words of our own, the host, and what the endpoint says of the failure, in which
//! all that was sent is blotted out (`Secrets::scrub`).

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::HeaderMap;
use url::Url;
use zeroize::Zeroizing;

use crate::endpoints::may_speak;
use crate::{Code, Error};

mod failure;
mod reply;
mod scrub;

pub(crate) use reply::{Reply, is_token};
pub(crate) use scrub::Secrets;

/// Longest wait for a connection, its name and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest exchange. Token endpoints answer within one second; a caller waits 60 s for all of them.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Largest answer, as for registry tokens.
const MAX_BODY: usize = 64 << 10;

/// How often an exchange that failed in passing is tried again.
const RETRIES: u32 = 2;

/// Wait before the first of these; doubles, and is then shortened at random.
const BACKOFF: Duration = Duration::from_millis(200);

/// The clients of one ask: made when first needed, since reading the CA certificates of the machine takes longer than all the rest.
#[derive(Default)]
pub(crate) struct Http {
    tls: OnceLock<reqwest::Client>,
    plain: OnceLock<reqwest::Client>,
}

impl Http {
    /// Posts a body. Any answer other than a request to wait is `Ok`, refusals too: see [`Reply`].
    ///
    /// Connections that fail and 5xx are tried again; the body must therefore be harmless to repeat.
    ///
    /// # Errors
    /// [`Code::Unavailable`], and [`Code::TryLater`] where the endpoint asks for it. Cancel safe.
    pub(crate) async fn post(&self, url: &Url, headers: &HeaderMap, body: &Bytes) -> Result<Reply, Error> {
        let mut tries = 0;
        loop {
            let outcome = self.once(url, headers, body).await;
            let again = match &outcome {
                Ok(reply) => reply.is_passing(),
                Err(failure) => failure.passing,
            };
            if !again || tries == RETRIES {
                return outcome.map_err(|failure| failure.error)?.unless_throttled();
            }
            tokio::time::sleep(BACKOFF.mul_f64(f64::from(1_u32 << tries) * (0.5 + fastrand::f64() / 2.0)))
                .await;
            tries += 1;
        }
    }

    async fn once(&self, url: &Url, headers: &HeaderMap, body: &Bytes) -> Result<Reply, failure::Failure> {
        let host = authority(url);
        let client = self.client(url)?;
        let request = client.post(url.clone()).headers(headers.clone()).body(body.clone());
        let mut response = request.send().await.map_err(|error| failure::of(&error, &host))?;
        let (status, headers) = (response.status(), response.headers().clone());
        // All of it at once: a buffer that grows leaves copies of the token behind.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_BODY));
        while let Some(chunk) = response.chunk().await.map_err(|error| failure::of(&error, &host))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(failure::Failure::lasting(Error::new(
                    Code::Unavailable,
                    format!("{host}: its answer is larger than {MAX_BODY} bytes"),
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply::new(host, status, &headers, body, SystemTime::now()))
    }

    fn client(&self, url: &Url) -> Result<&reqwest::Client, failure::Failure> {
        let plain = url.scheme() == "http";
        if !may_speak(url) {
            return Err(failure::Failure::lasting(Error::new(
                Code::BadRequest,
                format!("{}: an endpoint is https, or http on this machine", authority(url)),
            )));
        }
        let slot = if plain { &self.plain } else { &self.tls };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = build(plain).map_err(|error| failure::unusable_tls(&error))?;
        Ok(slot.get_or_init(|| client))
    }
}

fn build(plain: bool) -> reqwest::Result<reqwest::Client> {
    let loopback = [std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    let builder = reqwest::Client::builder()
        .user_agent(concat!("credplugin/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        // One exchange, seldom two: HTTP/2 has nothing to offer.
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(EXCHANGE_TIMEOUT)
        .pool_max_idle_per_host(1)
        // Whatever the machine's resolver makes of that name. Port 0 = that of the URL.
        .resolve_to_addrs("localhost", &loopback.map(|address| std::net::SocketAddr::new(address, 0)));
    if plain { builder.tls_certs_only([]).build() } else { builder.build() }
}

/// Host and port of a URL, for messages.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A body of `application/x-www-form-urlencoded` that forgets itself.
pub(crate) fn form(fields: &[(&str, &str)]) -> Bytes {
    let room = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut text = url::form_urlencoded::Serializer::new(String::with_capacity(room));
    text.extend_pairs(fields);
    Bytes::from_owner(Zeroizing::new(text.finish().into_bytes()))
}

#[cfg(test)]
pub(crate) mod tests;
