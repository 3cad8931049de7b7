//! Amazon: signs a `GetAuthorizationToken`, whose answer is a user name and a password for half a day.
//!
//! The region is that of the registry's host, since a token is asked for where the registry is; `AWS_REGION` is looked at for registries
//! on this machine only, whose host says nothing. The registry's account is not sent: a token is one of the caller, for all registries
//! that it may read.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::Url;
use zeroize::Zeroizing;

use crate::endpoints::ECR_PUBLIC_REGION;
use crate::host::{Vendor, vendor};
use crate::http::{Http, Reply, Secrets, is_token};
use crate::json::Kind;
use crate::keys;
use crate::registry::is_loopback;
use crate::{Code, CredentialMap, Error, Scheme};

use super::{SKEW, Target, expiry, line, pair};

/// User name of all tokens.
const USER: &str = "AWS";

/// Longest name of a region; the longest so far has 15 characters.
const MAX_REGION: usize = 32;

/// Amazon's words for a signature of another time, or one that may be.
const WRONG_TIME: [&str; 5] = [
    "RequestTimeTooSkewed",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "RequestExpired",
    "RequestInTheFuture",
];

const BODY: &[u8] = b"{}";

/// One of the two APIs.
struct Service {
    /// Its name in signatures.
    name: &'static str,
    /// The operation.
    target: &'static str,
}

const PRIVATE: Service =
    Service { name: "ecr", target: "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" };
const PUBLIC: Service =
    Service { name: "ecr-public", target: "SpencerFrontendService.GetAuthorizationToken" };

/// A token to be asked for.
pub(super) struct Plan {
    url: Url,
    service: Service,
    region: String,
    id: SecretString,
    secret: SecretString,
    session: Option<SecretString>,
}

impl Plan {
    pub(super) fn new(target: &Target<'_>, credentials: &CredentialMap) -> Result<Self, Error> {
        let (id, secret) = pair(credentials, keys::AWS)?;
        let session = credentials.get(keys::AWS_SESSION);
        if let Some(session) = session {
            line(keys::AWS_SESSION, session)?;
        }
        let (url, service, region) = place(target, credentials)?;
        Ok(Self { url, service, region, id, secret, session: session.cloned() })
    }

    pub(super) async fn run(self, http: &Http) -> Result<(Scheme, Option<Duration>), Error> {
        let secrets = Secrets::new(
            [&self.id, &self.secret].into_iter().chain(&self.session).map(ExposeSecret::expose_secret),
        );
        let mut reply = self.ask(http, SystemTime::now()).await?;
        if !reply.is_success()
            && let Some(time) = reply.other_time(SKEW)
            && reply.error_word().is_some_and(|word| WRONG_TIME.contains(&word.as_str()))
        {
            // The clock of this machine is wrong: Amazon's is what counts there.
            reply = self.ask(http, time).await?;
        }
        if !reply.is_success() {
            return Err(reply.refused(&secrets));
        }
        let document = reply.document()?;
        // An object from the public API, a list of one from the other.
        let data = match document.get("authorizationData").map(|data| (data, data.kind())) {
            Some((_, Kind::Array(list))) => list.first(),
            Some((data, _)) => Some(data),
            None => None,
        };
        let data = data.ok_or_else(|| reply.odd("its answer has no authorizationData"))?;
        let token = reply.token(data, "authorizationToken")?;
        let life = expiry::until(data.get("expiresAt"), reply.now());
        let password = password(token.expose_secret())
            .ok_or_else(|| reply.odd("its token is not the user name AWS and a password in base64"))?;
        Ok((Scheme::Basic { username: USER.to_owned(), password }, Some(life)))
    }

    async fn ask(&self, http: &Http, time: SystemTime) -> Result<Reply, Error> {
        let headers = self
            .signed(time)
            .ok_or_else(|| Error::new(Code::Internal, "the request to ECR cannot be signed"))?;
        http.post(&self.url, &headers, &Bytes::from_static(BODY)).await
    }

    /// The headers of the request, signed for a time; `None` = a bug.
    fn signed(&self, time: SystemTime) -> Option<HeaderMap> {
        let session = self.session.as_ref().map(|session| session.expose_secret().to_owned());
        let credentials =
            Credentials::new(self.id.expose_secret(), self.secret.expose_secret(), session, None, "request");
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service.name)
            .time(time)
            .settings(SigningSettings::default())
            .build()
            .ok()?
            .into();
        let own =
            [(CONTENT_TYPE.as_str(), "application/x-amz-json-1.1"), ("x-amz-target", self.service.target)];
        let request =
            SignableRequest::new("POST", self.url.as_str(), own.iter().copied(), SignableBody::Bytes(BODY));
        // The library traces what it signs, and that has the session token in it.
        let quiet = tracing::subscriber::NoSubscriber::default();
        let signed = tracing::subscriber::with_default(quiet, || sign(request.ok()?, &params).ok())?;
        let (instructions, _) = signed.into_parts();
        let mut headers = HeaderMap::new();
        for (name, value) in own.into_iter().chain(instructions.headers()) {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
        }
        Some(headers)
    }
}

/// Where to ask, whom, and the region to sign for.
fn place(target: &Target<'_>, credentials: &CredentialMap) -> Result<(Url, Service, String), Error> {
    let endpoints = target.endpoints;
    match vendor(target.registry) {
        Some(Vendor::Ecr(host)) => Ok((endpoints.ecr(&host)?, PRIVATE, host.region)),
        Some(Vendor::EcrPublic) => Ok((endpoints.ecr_public()?, PUBLIC, ECR_PUBLIC_REGION.to_owned())),
        None if is_loopback(target.registry) => {
            let (url, service) = match (endpoints.ecr_override()?, endpoints.ecr_public_override()?) {
                (Some(url), _) => (url, PRIVATE),
                (None, Some(url)) => (url, PUBLIC),
                (None, None) => return Err(foreign(target)),
            };
            let region = credentials.require("AWS_REGION")?.expose_secret();
            let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if region.len() > MAX_REGION || !region.bytes().all(known) {
                return Err(Error::bad_request("AWS_REGION", "is no region, such as us-east-1"));
            }
            Ok((url, service, region.to_owned()))
        }
        _ => Err(foreign(target)),
    }
}

fn foreign(target: &Target<'_>) -> Error {
    target.not_for("AWS keys are for ECR registries (ACCOUNT.dkr.ecr.REGION.amazonaws.com, public.ecr.aws)")
}

/// The password of a token, which is `AWS:password` in base64.
fn password(token: &str) -> Option<SecretString> {
    let plain = Zeroizing::new(STANDARD.decode(token).ok()?);
    let (user, password) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
    (user == USER && is_token(password)).then(|| SecretString::from(password))
}

#[cfg(test)]
mod tests;
