//! `CredentialProviderResponse`, decoded as strictly as the kubelet does: unknown members, repeated ones and wrong types are errors.

use std::time::Duration;

use zeroize::Zeroizing;

use super::super::json::{self, Fault, Value, member};
use super::{API_VERSION, MAX_OUTPUT, duration, pattern};

/// For what an answer may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheKeyType {
    Image,
    Registry,
    Global,
}

/// `AuthConfig`.
pub(super) struct Auth {
    pub(super) username: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
}

/// What a plugin answered. Its `Debug` names no value.
pub(super) struct Response {
    pub(super) cache_key_type: CacheKeyType,
    /// `None` = it does not say.
    pub(super) cache_duration: Option<Duration>,
    auths: Vec<(String, Auth)>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("cache_key_type", &self.cache_key_type)
            .field("cache_duration", &self.cache_duration)
            .field("auths", &self.auths.len())
            .finish()
    }
}

impl Response {
    pub(super) fn parse(output: &[u8]) -> Result<Self, Fault> {
        let document = json::parse(output, MAX_OUTPUT)?;
        let mut api_version = "";
        let mut kind = "";
        let mut cache_key_type = "";
        let mut cache_duration = "";
        let mut auths = Vec::new();
        for (key, value) in json::members(&document, "")? {
            let path = member("", key);
            match key.as_str() {
                "apiVersion" => api_version = json::text(value, &path)?,
                "kind" => kind = json::text(value, &path)?,
                "cacheKeyType" => cache_key_type = json::text(value, &path)?,
                "cacheDuration" => cache_duration = json::text(value, &path)?,
                // Of answers to service account tokens, which are not sent.
                "serviceAccountTokenCacheType" => drop(json::text(value, &path)?),
                "auth" => auths = parse_auths(value, &path)?,
                _ => return Err(Fault::new(path, "there is no such member")),
            }
        }
        if api_version != API_VERSION {
            return Err(Fault::new("apiVersion", format!("it must be {API_VERSION}")));
        }
        if kind != "CredentialProviderResponse" {
            return Err(Fault::new("kind", "it must be CredentialProviderResponse"));
        }
        let cache_key_type = match cache_key_type {
            "Image" => CacheKeyType::Image,
            "Registry" => CacheKeyType::Registry,
            "Global" => CacheKeyType::Global,
            _ => return Err(Fault::new("cacheKeyType", "it must be Image, Registry or Global")),
        };
        let cache_duration = match cache_duration {
            "" => None,
            text => Some(
                duration::parse(text)
                    .ok_or_else(|| Fault::new("cacheDuration", "it is no duration, as 1h30m is"))?,
            ),
        };
        Ok(Self { cache_key_type, cache_duration, auths })
    }

    /// The credentials of the most specific key that is for an image.
    pub(super) fn matching(&self, image: &str) -> Option<&Auth> {
        let key = pattern::most_specific(self.auths.iter().map(|(key, _)| key.as_str()), image)?;
        self.auths.iter().find(|(known, _)| known == key).map(|(_, auth)| auth)
    }
}

fn parse_auths(value: &Value, path: &str) -> Result<Vec<(String, Auth)>, Fault> {
    let mut auths = Vec::new();
    for (key, value) in json::members(value, path)? {
        let path = member(path, key);
        let mut auth = Auth { username: Zeroizing::default(), password: Zeroizing::default() };
        for (name, value) in json::members(value, &path)? {
            let path = member(&path, name);
            match name.as_str() {
                "username" => auth.username = Zeroizing::new(json::text(value, &path)?.to_owned()),
                "password" => auth.password = Zeroizing::new(json::text(value, &path)?.to_owned()),
                _ => return Err(Fault::new(path, "there is no such member")),
            }
        }
        auths.push((key.to_string(), auth));
    }
    Ok(auths)
}
