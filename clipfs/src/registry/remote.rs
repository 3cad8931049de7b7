//! An image in a registry: its endpoints in order, asked until one answers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response};

use super::auth::Auth;
use super::client::{Http, Timeouts};
use super::endpoint::{Ask, Endpoint};
use super::guard::{Guard, Lookup, SystemLookup};
use super::in_the_clear::InTheClear;
use super::retry::{Budget, Failure, Retry};
use super::safe_url::authority;
use super::stats::Counters;
use super::whose::Whose;
use super::{Reach, RegistryError, RegistryOptions, deadline, hosts, range};
use crate::credentials::{CredentialProvider, CredentialRequest};
use crate::num::to_u64;
use crate::oci::manifest::MAX_MANIFEST;
use crate::oci::{Descriptor, Digest, Reference};

/// Everything that may be under a tag, best first. One constant: the order is a preference to some registries.
const ACCEPT_MANIFEST: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// How long the registry may take to say whether it accepts the credentials. It is asked for the manifest after that anyway,
/// unless there are mirrors: then it may be out of reach for ever, and a mount waits only for this.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_WITH_MIRRORS: Duration = Duration::from_secs(2);

/// One repository, opened.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) reference: Reference,
    endpoints: Vec<Endpoint>,
    pub(super) attempts: u32,
    pub(super) timeouts: Timeouts,
    pub(super) counters: Arc<Counters>,
    /// How often a blob's bytes failed verification: who is asked first moves on.
    distrusted: Mutex<HashMap<Digest, usize>>,
}

/// A 2xx answer with a blob's bytes.
#[derive(Debug)]
pub(super) struct OpenBlob {
    pub(super) response: Response,
    pub(super) skip: u64,
}

impl Remote {
    pub(super) fn open(reference: Reference, options: &RegistryOptions) -> Result<Self, RegistryError> {
        Self::open_with(reference, options, Arc::new(SystemLookup))
    }

    /// `open` with a resolver of one's own.
    pub(super) fn open_with(
        reference: Reference,
        options: &RegistryOptions,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, RegistryError> {
        let timeouts = Timeouts { connect: options.connect_timeout, progress: options.progress_timeout };
        let counters = Arc::new(Counters::default());
        let mut endpoints = Vec::new();
        for host in hosts::load(&reference, options.hosts_dir.as_deref(), options.plain_http)? {
            let reach = if host.is_named { Reach::Anywhere } else { options.reach };
            let guard = Arc::new(Guard::new(&host.base, host.allow_private).within(reach));
            guard
                .check_own(&host.base)
                .map_err(|reason| RegistryError::Protocol { host: authority(&host.base), reason })?;
            let (base, lookup, counted) = (host.base.clone(), Arc::clone(&lookup), Arc::clone(&counters));
            let http = Arc::new(Http::new(base, host.tls, guard, lookup, timeouts, counted)?);
            let request = CredentialRequest {
                // Another host is another registry: the registry's own credentials are not for it.
                registry: match host.whose {
                    Whose::Own => authority(&host.base),
                    Whose::Registrys | Whose::Nobodys => reference.registry.clone(),
                },
                image: reference.to_string(),
                scope: format!("repository:{}:pull", reference.repository),
            };
            let provider: Arc<dyn CredentialProvider> = match host.whose {
                Whose::Nobodys => Arc::new(InTheClear(Arc::clone(&options.credentials))),
                Whose::Own | Whose::Registrys => Arc::clone(&options.credentials),
            };
            let auth = Auth::new(Arc::clone(&http), host.base.clone(), provider, request);
            let mut endpoint = Endpoint::new(host.base, http, Arc::new(auth));
            endpoint.namespace = host.is_mirror.then(|| reference.registry.clone());
            (endpoint.can_pull, endpoint.can_resolve) = (host.can_pull, host.can_resolve);
            endpoint.headers = host.headers;
            endpoints.push(endpoint);
        }
        let attempts = options.attempts;
        Ok(Self { reference, endpoints, attempts, timeouts, counters, distrusted: Mutex::default() })
    }

    /// Fetches a manifest by tag or digest; `expected` is checked against the bytes. Also gives its `Content-Type`.
    pub(super) async fn manifest(
        &self,
        selector: &str,
        expected: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<(Bytes, Option<String>), RegistryError> {
        let what = if selector.starts_with("sha256:") {
            format!("{}/{}@{selector}", self.reference.registry, self.reference.repository)
        } else {
            format!("{}/{}:{selector}", self.reference.registry, self.reference.repository)
        };
        let ask = self.ask_manifest(Method::GET, selector, what.clone());
        let mut budget = Budget::new(self.attempts);
        let mut mismatches = 0;
        loop {
            let (endpoint, response) = self.request(&ask, &mut budget).await?;
            let text =
                |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let media_type = text(CONTENT_TYPE.as_str());
            // For a tag, this tells bytes damaged on their way from bytes meant.
            let announced = text("docker-content-digest").and_then(|digest| digest.parse::<Digest>().ok());
            let too_large = RegistryError::NotAnImage {
                what: what.clone(),
                reason: format!("its manifest is larger than {} MiB", MAX_MANIFEST >> 20),
            };
            match endpoint.http.body(response, MAX_MANIFEST, too_large).await {
                Ok(bytes) => {
                    let digest = Digest::of(&bytes);
                    let right = expected.or(announced.as_ref()).is_none_or(|expected| *expected == digest)
                        && size.is_none_or(|size| size == to_u64(bytes.len()));
                    if right {
                        return Ok((bytes, media_type));
                    }
                    mismatches += 1;
                    if mismatches == 2 {
                        return Err(RegistryError::Mismatch { what });
                    }
                    endpoint.http.reconnect();
                }
                Err(failure) => self.pause(&mut budget, failure).await?,
            }
        }
    }

    /// Asks whether a manifest is there.
    pub(super) async fn check(&self, digest: &Digest) -> Result<(), RegistryError> {
        let what = format!("{}/{}@{digest}", self.reference.registry, self.reference.repository);
        let ask = self.ask_manifest(Method::HEAD, &digest.to_string(), what);
        self.request(&ask, &mut Budget::new(self.attempts)).await.map(drop)
    }

    fn ask_manifest(&self, method: Method, selector: &str, what: String) -> Ask {
        let path = format!("{}/manifests/{selector}", self.reference.repository);
        Ask { method, path, accept: Some(ACCEPT_MANIFEST), range: None, blob: None, what }
    }

    /// Opens a blob at a range and checks the head of the answer.
    pub(super) async fn open_blob(
        &self,
        blob: &Descriptor,
        wanted: &Range<u64>,
        budget: &mut Budget,
    ) -> Result<OpenBlob, RegistryError> {
        let what = self.blob_name(blob);
        let ask = Ask {
            method: Method::GET,
            path: format!("{}/blobs/{}", self.reference.repository, blob.digest),
            accept: None,
            range: range::header(wanted, blob.size),
            blob: Some(blob.digest),
            what: what.clone(),
        };
        loop {
            let (endpoint, response) = self.request(&ask, budget).await?;
            let host = authority(response.url());
            match range::check(response.status(), response.headers(), wanted, blob.size) {
                Ok(accepted) => {
                    if accepted.ignores_ranges {
                        endpoint.note_without_ranges(host);
                    }
                    return Ok(OpenBlob { response, skip: accepted.skip });
                }
                Err(range::Refused::TooFar) => {
                    endpoint.note_without_ranges(host.clone());
                    let reason = format!("it ignores ranges, and {what} is too large to read from its start");
                    return Err(RegistryError::Protocol { host, reason });
                }
                Err(range::Refused::WrongLength) => {
                    endpoint.distrust(&blob.digest);
                    let error = RegistryError::Mismatch { what: what.clone() };
                    self.pause(budget, Failure::transient(error)).await?;
                }
                Err(range::Refused::Contradiction(reason)) => {
                    // Perhaps a broken cache in between: another connection may do better.
                    endpoint.distrust(&blob.digest);
                    self.pause(budget, Failure::transient(RegistryError::Protocol { host, reason })).await?;
                }
            }
        }
    }

    pub(super) fn blob_name(&self, blob: &Descriptor) -> String {
        format!("blob {} of {}/{}", blob.digest, self.reference.registry, self.reference.repository)
    }

    /// See [`super::ImageSource::distrust`].
    pub(super) fn distrust(&self, blob: &Descriptor) {
        let mut distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        if distrusted.len() < 10_000 || distrusted.contains_key(&blob.digest) {
            *distrusted.entry(blob.digest).or_default() += 1;
        }
        drop(distrusted);
        for endpoint in &self.endpoints {
            endpoint.distrust(&blob.digest);
        }
    }

    /// Asks for the credentials of the image's own registry now: see [`super::ImageSource::authenticate`].
    pub(super) async fn authenticate(&self) -> Result<(), RegistryError> {
        // The registry itself comes after its mirrors.
        let Some(endpoint) = self.endpoints.last() else { return Err(self.nobody()) };
        let patience = if self.endpoints.len() > 1 { PATIENCE_WITH_MIRRORS } else { PATIENCE };
        let mut budget = Budget::new(self.attempts);
        while let Err(error) = endpoint.authenticate(patience).await {
            self.pause(&mut budget, error.into()).await?;
        }
        Ok(())
    }

    /// Lets tokens grow older without waiting.
    #[cfg(test)]
    pub(super) fn age_tokens(&self, by: Duration) {
        for endpoint in &self.endpoints {
            endpoint.auth.age(by);
        }
    }

    /// Waits after a failure, or gives up.
    pub(super) async fn pause(&self, budget: &mut Budget, failure: Failure) -> Result<(), RegistryError> {
        tracing::debug!(error = %failure.error, "a request failed");
        tokio::time::sleep(budget.spend(failure, deadline::left())?).await;
        Ok(())
    }

    /// Asks the endpoints in order until one answers with 2xx; when all fail, once more after a while.
    async fn request(&self, ask: &Ask, budget: &mut Budget) -> Result<(&Endpoint, Response), RegistryError> {
        let order = self.order(ask)?;
        loop {
            let mut last = None;
            for (i, endpoint) in order.iter().enumerate() {
                let is_last = i + 1 == order.len();
                if !is_last && endpoint.is_sick() {
                    continue;
                }
                match endpoint.once(ask).await {
                    Ok(response) => {
                        endpoint.set_sick(false);
                        return Ok((endpoint, response));
                    }
                    Err(failure) => {
                        if !is_last {
                            tracing::debug!(mirror = endpoint.host(), error = %failure.error, "trying the next host");
                            endpoint.set_sick(failure.retry != Retry::Never);
                        }
                        last = Some(failure);
                    }
                }
            }
            let Some(failure) = last else { return Err(self.nobody()) };
            self.pause(budget, failure).await?;
        }
    }

    /// Who is asked, in order. For a blob whose bytes were wrong, the order turns.
    fn order(&self, ask: &Ask) -> Result<Vec<&Endpoint>, RegistryError> {
        // What a digest names cannot be forged: for that, a mirror need not be trusted to know tags.
        let by_digest = ask.blob.is_some() || ask.path.contains("/manifests/sha256:");
        let able = |e: &&Endpoint| if by_digest { e.can_pull } else { e.can_resolve };
        let mut order: Vec<_> = self.endpoints.iter().filter(able).collect();
        if order.is_empty() {
            return Err(self.nobody());
        }
        if let Some(blob) = &ask.blob {
            let distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
            let turns = distrusted.get(blob).copied().unwrap_or(0) % order.len();
            order.rotate_left(turns);
            // A server that ignores ranges costs the most: it comes last.
            order.sort_by_key(|endpoint| ask.range.is_some() && endpoint.lacks_ranges(blob));
        }
        Ok(order)
    }

    fn nobody(&self) -> RegistryError {
        let reason = "hosts.toml leaves no host that may be asked for this".into();
        RegistryError::Protocol { host: self.reference.registry.clone(), reason }
    }
}
