//! The kubelet's credential provider API, `credentialprovider.kubelet.k8s.io/v1`, the plugin's side (KEP-2133).
//!
//! The kubelet decodes strictly: a field that it does not know is an error. It matches `auth` keys against the image, and keeps
//! the answer for `cacheDuration` (absent: its own default; `0s`: not at all) under the image or its registry.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde::Serialize;
use zeroize::Zeroizing;

use super::fields::Fields;
use super::write_json;
use crate::{Answer, Code, Error, Scheme};

/// The version that is spoken: the answer is in that of the question.
pub const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";
/// `kind` of a question.
pub const REQUEST_KIND: &str = "CredentialProviderRequest";
/// `kind` of an answer.
pub const RESPONSE_KIND: &str = "CredentialProviderResponse";
/// Largest document out.
pub const MAX_REPLY: usize = 64 << 10;

/// A pull that starts just before the kubelet forgets a credential still has to fetch its layers with it.
const MIN_MARGIN: Duration = Duration::from_secs(60);
/// Longest time that the kubelet is told to keep anything.
const MAX_CACHE: Duration = Duration::from_secs(12 * 3600);

/// What the kubelet asks. A service account token that comes along is passed over: the credentials are the request's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The image, without a tag.
    pub image: String,
}

impl Request {
    pub(super) fn of(fields: &Fields) -> Result<Self, Error> {
        fields.version(API_VERSION)?;
        let image =
            fields.string("image")?.ok_or_else(|| Error::bad_request("image", "not found or empty"))?;
        Ok(Self { image: image.to_owned() })
    }
}

/// For what an answer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CacheKey {
    /// For this image only.
    Image,
    /// For all images of the registry.
    Registry,
}

/// Writes the answer; anonymous is an empty `auth`, which is not kept: the next request may have credentials.
///
/// # Errors
/// [`Code::BadRequest`]: a token, which this API cannot tell. [`Code::Internal`]: larger than [`MAX_REPLY`].
pub fn write_response(answer: &Answer, key: CacheKey) -> Result<Zeroizing<Vec<u8>>, Error> {
    #[derive(Serialize)]
    struct Auth<'a> {
        username: &'a str,
        password: &'a str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Response<'a> {
        api_version: &'static str,
        kind: &'static str,
        cache_key_type: CacheKey,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_duration: Option<String>,
        auth: BTreeMap<&'a str, Auth<'a>>,
    }
    let mut response = Response {
        api_version: API_VERSION,
        kind: RESPONSE_KIND,
        cache_key_type: key,
        cache_duration: answer.valid_for.map(cache_duration),
        auth: BTreeMap::new(),
    };
    match &answer.scheme {
        Scheme::None => {
            response.cache_key_type = CacheKey::Image;
            response.cache_duration = Some("0s".into());
        }
        Scheme::Basic { username, password } => {
            response.auth.insert(&answer.registry, Auth { username, password: password.expose_secret() });
        }
        Scheme::Bearer { .. } | Scheme::RefreshToken { .. } => {
            return Err(Error::new(
                Code::BadRequest,
                "the credential is a token, and the kubelet takes user names and passwords only",
            ));
        }
    }
    write_json(&response, MAX_REPLY)
}

/// A duration as Go reads it, less a margin of a tenth or [`MIN_MARGIN`].
fn cache_duration(life: Duration) -> String {
    let margin = (life / 10).max(MIN_MARGIN);
    let kept = life.saturating_sub(margin).min(MAX_CACHE);
    format!("{}s", kept.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_for_less_than_they_live() {
        let table =
            [(0, "0s"), (59, "0s"), (61, "1s"), (600, "540s"), (3600, "3240s"), (10 * 365 * 86400, "43200s")];
        for (life, expected) in table {
            assert_eq!(cache_duration(Duration::from_secs(life)), expected, "{life}");
        }
    }

    #[test]
    fn answers_to_the_kubelet() {
        let text = |scheme, life: Option<u64>| {
            let valid_for = life.map(Duration::from_secs);
            let answer = Answer { registry: "r.example.com:5000".into(), scheme, valid_for };
            let written = write_response(&answer, CacheKey::Registry);
            written.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).map_err(|e| e.code)
        };
        let head = format!(r#"{{"apiVersion":"{API_VERSION}","kind":"{RESPONSE_KIND}","cacheKeyType":"#);
        let auth = r#""auth":{"r.example.com:5000":{"username":"u","password":"p"}}}"#;
        let basic = Scheme::Basic { username: "u".into(), password: "p".into() };
        assert_eq!(text(basic.clone(), None), Ok(format!(r#"{head}"Registry",{auth}"#)));
        assert_eq!(text(basic, Some(600)), Ok(format!(r#"{head}"Registry","cacheDuration":"540s",{auth}"#)));
        let none = format!(r#"{head}"Image","cacheDuration":"0s","auth":{{}}}}"#);
        assert_eq!(text(Scheme::None, None), Ok(none));
        assert_eq!(text(Scheme::Bearer { token: "t".into() }, None), Err(Code::BadRequest));
        assert_eq!(text(Scheme::RefreshToken { token: "t".into() }, None), Err(Code::BadRequest));
    }
}
