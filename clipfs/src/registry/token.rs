//! The token dance of the distribution spec: `GET` with Basic, or OAuth2 `POST`; one of them is understood everywhere.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};

use super::RegistryError;
use super::client::{Http, Outgoing};
use super::echo::Sent;
use super::retry::Failure;
use super::safe_url::{SafeUrl, authority};
use crate::credentials::{Credential, CredentialError};

/// Life of a token that does not say, or says nonsense; and the shortest believed. From the token spec.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Longest life believed.
const MAX_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Lives beyond this are nonsense, not long.
const ABSURD_LIFE: u64 = 366 * 24 * 3600;

/// Where a token comes from and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenSource {
    /// Already checked.
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scopes: Vec<String>,
}

/// A token.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) value: SecretString,
    pub(super) valid_for: Duration,
    /// What the endpoint understood.
    pub(super) way: Way,
}

/// The two forms of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Get,
    Post,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoToken {
    /// The credential was refused: another one may do.
    Refused(String),
    /// Anything else.
    Failed(RegistryError),
}

/// An HTTP Basic header.
///
/// # Errors
/// A colon in the user name or control characters anywhere: they would not arrive as they are.
pub(super) fn basic(
    host: &str,
    username: &str,
    password: &SecretString,
) -> Result<HeaderValue, RegistryError> {
    let refuse =
        |why: &str| RegistryError::from(CredentialError::Malformed(format!("credentials for {host}: {why}")));
    let forbidden = |s: &str| s.contains(['\r', '\n', '\0']);
    if username.contains(':') {
        return Err(refuse("the user name has a colon in it"));
    }
    if forbidden(username) || forbidden(password.expose_secret()) {
        return Err(refuse("they have line breaks or NUL in them"));
    }
    header(host, "Basic ", &STANDARD.encode(format!("{username}:{}", password.expose_secret())))
}

/// A Bearer header.
///
/// # Errors
/// A token with characters that no header may have.
pub(super) fn bearer(host: &str, token: &SecretString) -> Result<HeaderValue, RegistryError> {
    header(host, "Bearer ", token.expose_secret())
}

fn header(host: &str, scheme: &str, value: &str) -> Result<HeaderValue, RegistryError> {
    let printable = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic());
    let mut header =
        printable.then(|| HeaderValue::from_str(&format!("{scheme}{value}")).ok()).flatten().ok_or_else(
            || CredentialError::Malformed(format!("the token for {host} has characters no header may have")),
        )?;
    header.set_sensitive(true);
    Ok(header)
}

/// Whether a credential can be presented at all.
///
/// # Errors
/// What no header may have in it.
pub(super) fn check(host: &str, credential: &Credential) -> Result<(), CredentialError> {
    let outcome = match credential {
        Credential::Anonymous => return Ok(()),
        Credential::Basic { username, password } => basic(host, username, password),
        Credential::Bearer(token) | Credential::RefreshToken(token) => bearer(host, token),
    };
    match outcome {
        Ok(_) => Ok(()),
        Err(RegistryError::Credentials(error)) => Err(error),
        Err(other) => Err(CredentialError::Malformed(other.to_string())),
    }
}

/// Gets a token, asking in the way that was understood before first. One attempt: whoever needs the token tries again.
pub(super) async fn fetch(
    http: &Http,
    source: &TokenSource,
    credential: &Credential,
    way: Option<Way>,
) -> Result<Token, NoToken> {
    match once(http, source, credential, way).await {
        Ok(Ok(token)) => Ok(token),
        Ok(Err(refused)) => Err(NoToken::Refused(refused)),
        Err(failure) => Err(NoToken::Failed(failure.error)),
    }
}

/// Both ways once. The inner error is a refusal of the credential.
async fn once(
    http: &Http,
    source: &TokenSource,
    credential: &Credential,
    way: Option<Way>,
) -> Result<Result<Token, String>, Failure> {
    let host = authority(&source.realm);
    let mut ways = match credential {
        Credential::Anonymous | Credential::Bearer(_) => vec![(Way::Get, get(source, None))],
        Credential::Basic { username, password } => vec![
            (Way::Get, get(source, Some(basic(&host, username, password)?))),
            (Way::Post, post(source, credential)),
        ],
        Credential::RefreshToken(token) => vec![
            (Way::Post, post(source, credential)),
            (Way::Get, get(source, Some(basic(&host, "<token>", token)?))),
        ],
    };
    ways.sort_by_key(|(each, _)| way.is_some_and(|way| way != *each));
    let sent = Sent::credential(credential);
    let mut refusals: Vec<(StatusCode, String)> = Vec::new();
    for (way, request) in ways {
        http.counters.token_requests.fetch_add(1, Relaxed);
        let response = http.send(request).await?;
        let status = response.status();
        if status.is_success() {
            let body = http.small_body(response).await?;
            return Ok(Ok(parse(&body, way).map_err(|reason| {
                Failure::definite(RegistryError::Protocol { host: host.clone(), reason: reason.into() })
            })?));
        }
        match status.as_u16() {
            400 | 401 | 403 | 404 | 405 => {
                let words = http.words(response, &sent).await;
                refusals.push((status, format!("its token endpoint answers {status}{words}")));
                if status == StatusCode::FORBIDDEN {
                    break;
                }
            }
            300..=399 => {
                let reason = format!("the token endpoint {} redirects", SafeUrl(&source.realm));
                return Err(Failure::definite(RegistryError::Protocol { host, reason }));
            }
            _ => return Err(http.failure(response, "a token", &sent).await),
        }
    }
    // "Wrong password" says more than "method not allowed", whichever was said first.
    let telling = |status: StatusCode| match status.as_u16() {
        401 | 403 => 0,
        400 => 1,
        _ => 2,
    };
    let (status, reason) = refusals
        .into_iter()
        .min_by_key(|(status, _)| telling(*status))
        .unwrap_or((StatusCode::UNAUTHORIZED, "no token".into()));
    if telling(status) == 2 {
        return Err(Failure::definite(RegistryError::Protocol { host, reason }));
    }
    Ok(Err(reason))
}

fn get(source: &TokenSource, authorization: Option<HeaderValue>) -> Outgoing {
    let mut url = source.realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &source.service {
            query.append_pair("service", service);
        }
        for scope in &source.scopes {
            query.append_pair("scope", scope);
        }
    }
    let mut headers = accept_json();
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization);
    }
    Outgoing { method: Method::GET, url, headers, body: None }
}

fn post(source: &TokenSource, credential: &Credential) -> Outgoing {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    match credential {
        Credential::Basic { username, password } => {
            form.append_pair("grant_type", "password");
            form.append_pair("username", username);
            form.append_pair("password", password.expose_secret());
        }
        Credential::RefreshToken(token) => {
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("refresh_token", token.expose_secret());
        }
        Credential::Anonymous | Credential::Bearer(_) => {}
    }
    form.append_pair("client_id", "clipfs");
    if let Some(service) = &source.service {
        form.append_pair("service", service);
    }
    form.append_pair("scope", &source.scopes.join(" "));
    let mut headers = accept_json();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    Outgoing { method: Method::POST, url: source.realm.clone(), headers, body: Some(form.finish().into()) }
}

fn accept_json() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))])
}

fn parse(body: &[u8], way: Way) -> Result<Token, &'static str> {
    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
        #[serde(default)]
        expires_in: serde_json::Value,
    }
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "the token endpoint's answer is malformed")?;
    let value = [answer.token, answer.access_token].into_iter().flatten().find(|t| !t.is_empty());
    let value = value.ok_or("the token endpoint's answer has no token")?.into();
    Ok(Token { value, valid_for: life(&answer.expires_in), way })
}

fn life(expires_in: &serde_json::Value) -> Duration {
    match expires_in.as_u64() {
        Some(seconds) if seconds <= ABSURD_LIFE => Duration::from_secs(seconds).clamp(DEFAULT_LIFE, MAX_LIFE),
        _ => DEFAULT_LIFE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        for (json, want) in [
            (r#"{"token":"t","expires_in":300}"#, 300),
            (r#"{"token":"t"}"#, 60),
            (r#"{"token":"t","expires_in":0}"#, 60),
            (r#"{"token":"t","expires_in":5}"#, 60),
            (r#"{"token":"t","expires_in":-300}"#, 60),
            (r#"{"token":"t","expires_in":1000000000000000000}"#, 60),
            (r#"{"token":"t","expires_in":"300"}"#, 60),
            (r#"{"token":"t","expires_in":null}"#, 60),
            (r#"{"token":"t","expires_in":12.5}"#, 60),
            (r#"{"token":"t","expires_in":86400}"#, 43_200),
        ] {
            assert_eq!(
                parse(json.as_bytes(), Way::Get).unwrap().valid_for,
                Duration::from_secs(want),
                "{json}"
            );
        }
        assert_eq!(
            parse(br#"{"token":"","access_token":"a"}"#, Way::Get).unwrap().value.expose_secret(),
            "a"
        );
        for bad in ["", "{}", r#"{"token":""}"#, r#"{"token":7}"#, "[]"] {
            assert!(parse(bad.as_bytes(), Way::Get).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_hold_no_surprises() {
        let secret = |s: &str| SecretString::from(s);
        let good = basic("r", "u", &secret("p w:x")).unwrap();
        assert_eq!(good, "Basic dTpwIHc6eA==");
        assert!(good.is_sensitive() && !format!("{good:?}").contains("dTp"));
        for (user, password) in [("a:b", "p"), ("a\n", "p"), ("a", "p\r\nX: y"), ("a", "\0")] {
            let error = basic("r", user, &secret(password)).unwrap_err().to_string();
            assert!(!error.contains(password) || password == "p", "{error}");
        }
        for token in ["", "a b", "a\r\nb", "ü"] {
            assert!(bearer("r", &secret(token)).is_err(), "{token:?}");
        }
    }

    #[test]
    fn requests() {
        let source = TokenSource {
            realm: Url::parse("https://auth.example/token?x=1").unwrap(),
            service: Some("r.example".into()),
            scopes: vec!["repository:a/b:pull".into(), "aws".into()],
        };
        let url = get(&source, None).url.to_string();
        assert_eq!(
            url,
            "https://auth.example/token?x=1&service=r.example&scope=repository%3Aa%2Fb%3Apull&scope=aws"
        );
        let out = post(&source, &Credential::RefreshToken("r&t".into()));
        let form = out.body.unwrap();
        assert_eq!(
            form.expose_secret(),
            "grant_type=refresh_token&refresh_token=r%26t&client_id=clipfs&service=r.example&scope=repository%3Aa%2Fb%3Apull+aws"
        );
    }
}
