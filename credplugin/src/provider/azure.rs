//! Microsoft: a service principal's secret → Entra's token → the registry's refresh token, which is a password there.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use url::Url;
use zeroize::Zeroizing;

use crate::host::{AzureCloud, Vendor, vendor};
use crate::http::{self, Http, Reply, Secrets};
use crate::json::{self, Kind, Value};
use crate::keys;
use crate::registry::is_loopback;
use crate::{CredentialMap, Error, Scheme};

use super::gcp::form_headers;
use super::{Target, expiry, pair};

/// User name of refresh tokens: the one that no user has.
const USER: &str = "00000000-0000-0000-0000-000000000000";

/// What Entra's token is for: registries, and nothing else. Registries also take tokens for the management of the whole subscription,
/// unless that is switched off, which new ones are advised to do. The audience is the same in all of Microsoft's clouds.
const SCOPE: &str = "https://containerregistry.azure.net/.default";

/// Life of a refresh token that does not say. Theirs last three hours; Entra's that they come from, one.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);

/// Longest tenant: a GUID, or a domain name.
const MAX_TENANT: usize = 128;

/// Largest claims of a token: no answer is larger.
const MAX_CLAIMS: usize = 64 << 10;

/// Tokens to be asked for.
pub(super) struct Plan {
    login: Url,
    exchange: Url,
    service: String,
    tenant: String,
    id: SecretString,
    secret: SecretString,
}

impl Plan {
    pub(super) fn new(target: &Target<'_>, credentials: &CredentialMap) -> Result<Self, Error> {
        let (id, secret) = pair(credentials, keys::AZURE)?;
        let tenant = credentials.require(keys::AZURE_TENANT)?.expose_secret();
        if !is_tenant(tenant) {
            return Err(Error::bad_request(keys::AZURE_TENANT, "is no tenant: a GUID or a domain name"));
        }
        let endpoints = target.endpoints;
        let (cloud, host) = match vendor(target.registry) {
            Some(Vendor::Azure(cloud)) => (cloud, Some(target.registry)),
            // An emulator of the registry must be named itself: its host says neither scheme nor whether it exchanges tokens.
            None if is_loopback(target.registry)
                && (endpoints.azure.is_some() || endpoints.acr.is_some()) =>
            {
                (AzureCloud::Public, None)
            }
            _ => return Err(target.not_for("Azure's credentials are for its registries (NAME.azurecr.io)")),
        };
        let exchange = endpoints.acr(host)?.ok_or_else(|| {
            Error::bad_request("endpoints.acr", "not set, and needed for a registry on this machine")
        })?;
        Ok(Self {
            login: endpoints.azure(cloud, tenant)?,
            exchange,
            service: target.registry.to_owned(),
            tenant: tenant.to_owned(),
            id,
            secret,
        })
    }

    pub(super) async fn run(self, http: &Http) -> Result<(Scheme, Option<Duration>), Error> {
        let (id, secret) = (self.id.expose_secret(), self.secret.expose_secret());
        let mut secrets = Secrets::new([id, secret, self.tenant.as_str()]);
        let login = [
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret),
            ("scope", SCOPE),
        ];
        let reply = http.post(&self.login, &form_headers(), &http::form(&login)).await?;
        let access = token(&reply, &secrets, "access_token")?;
        secrets.add(access.expose_secret());
        let exchange = [
            ("grant_type", "access_token"),
            ("service", self.service.as_str()),
            ("tenant", self.tenant.as_str()),
            ("access_token", access.expose_secret()),
        ];
        let reply = http.post(&self.exchange, &form_headers(), &http::form(&exchange)).await?;
        let password = token(&reply, &secrets, "refresh_token")?;
        let end = end(password.expose_secret());
        let life = end.map_or(DEFAULT_LIFE, |end| expiry::until(Some(&end), reply.now()));
        Ok((Scheme::Basic { username: USER.to_owned(), password }, Some(life)))
    }
}

fn token(reply: &Reply, secrets: &Secrets, name: &str) -> Result<SecretString, Error> {
    if reply.is_success() { reply.token(&reply.document()?, name) } else { Err(reply.refused(secrets)) }
}

/// The `exp` of a token that is a JWT; `None` = it is none, or has none. Not verified: it is used to come back in time, for nothing else.
fn end(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?);
    let claims = json::parse(&payload, MAX_CLAIMS, "").ok()?;
    claims.get("exp").filter(|end| matches!(end.kind(), Kind::Number(_))).cloned()
}

/// Whether a text is a tenant, and one component of a path.
fn is_tenant(text: &str) -> bool {
    text.len() <= MAX_TENANT
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        && !text.contains("..")
}

#[cfg(test)]
mod tests;
