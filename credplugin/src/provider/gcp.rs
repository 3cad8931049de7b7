//! Google: an access token, or a service account's key that is exchanged for one.
//!
//! The key comes in the request itself. A path would be a file of this machine, and kinds of credentials other than service accounts say
//! where to fetch something from: all of those are refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::Url;
use zeroize::Zeroizing;

use crate::endpoints::GOOGLE_TOKEN_URI;
use crate::host::{Vendor, vendor};
use crate::http::{self, Http, Reply, Secrets};
use crate::json;
use crate::registry::is_loopback;
use crate::{Code, CredentialMap, Error, Scheme};

use super::{SKEW, Target, expiry, line};

/// User name of access tokens, for both of Google's registries.
const USER: &str = "oauth2accesstoken";

/// What a token may do: read. Artifact Registry, which serves `gcr.io` too, takes Cloud Storage's scopes for pulling and pushing of
/// images ("Access scopes" in its documentation; it is also what nodes of GKE have); `cloud-platform.read-only`, the next wider one,
/// reads everything that the account can see in any service.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";

/// Life of an assertion: the longest that Google takes.
const ASSERTION_LIFE: u64 = 3600;

/// Google's own names for its token endpoint, as keys of all ages have them.
const TOKEN_URIS: [&str; 5] = [
    GOOGLE_TOKEN_URI,
    "https://accounts.google.com/o/oauth2/token",
    "https://www.googleapis.com/oauth2/v4/token",
    "https://www.googleapis.com/oauth2/v3/token",
    "https://oauth2.mtls.googleapis.com/token",
];

const JSON_KEY: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const TOKEN_KEY: &str = "GCP_ACCESS_TOKEN";

/// Longest text of a service account: ten times what there are.
const MAX_ACCOUNT: usize = 64 << 10;

/// What to do.
pub(super) enum Plan {
    /// The request has a token; nobody says how long it lives.
    Token(SecretString),
    /// A token to be asked for.
    Account(Box<Account>),
}

/// A service account.
pub(super) struct Account {
    url: Url,
    email: Zeroizing<String>,
    key_id: Option<Zeroizing<String>>,
    key: EncodingKey,
    /// Made when the plan was, which shows that the key is one.
    assertion: Zeroizing<String>,
}

#[derive(serde::Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

impl Plan {
    /// The service account wins over a token: it outlives an hour.
    pub(super) fn new(target: &Target<'_>, credentials: &CredentialMap) -> Result<Self, Error> {
        let emulated = || target.endpoints.gcp.is_some() && is_loopback(target.registry);
        if vendor(target.registry) != Some(Vendor::Google) && !emulated() {
            return Err(target.not_for("Google's credentials are for its registries (*.pkg.dev, gcr.io)"));
        }
        if let Some(json) = credentials.get(JSON_KEY) {
            let url = target.endpoints.gcp()?;
            return Ok(Self::Account(Box::new(Account::parse(json.expose_secret(), url)?)));
        }
        let Some(token) = credentials.get(TOKEN_KEY) else {
            let message = format!("{TOKEN_KEY} or {JSON_KEY} not found or empty");
            return Err(Error::new(Code::BadRequest, message));
        };
        line(TOKEN_KEY, token)?;
        Ok(Self::Token(token.clone()))
    }

    pub(super) async fn run(self, http: &Http) -> Result<(Scheme, Option<Duration>), Error> {
        let (password, life) = match self {
            Self::Token(token) => (token, None),
            Self::Account(account) => {
                let (token, life) = account.token(http).await?;
                (token, Some(life))
            }
        };
        Ok((Scheme::Basic { username: USER.to_owned(), password }, life))
    }
}

impl Account {
    fn parse(text: &str, url: Url) -> Result<Self, Error> {
        let bad = |reason: &str| Error::bad_request(JSON_KEY, reason);
        if !text.trim_start().starts_with('{') {
            return Err(bad("must hold the JSON itself, not a path"));
        }
        let document = json::parse(text.as_bytes(), MAX_ACCOUNT, JSON_KEY)?;
        let root = json::Path::root(JSON_KEY);
        let optional = |key: &str| match document.get(key) {
            Some(value) if !value.is_null() => value.as_str(&root.key(key)).map(Some),
            _ => Ok(None),
        };
        let required = |key: &str| match optional(key)? {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(root.key(key).error("not found or empty")),
        };
        match required("type")? {
            "service_account" => {}
            // Only words that are known are repeated: an unknown one may be a value that is in the wrong place.
            kind @ ("external_account"
            | "external_account_authorized_user"
            | "authorized_user"
            | "impersonated_service_account"
            | "gdch_service_account") => {
                let reason = format!("{kind} is not accepted, only service_account");
                return Err(root.key("type").error(&reason));
            }
            _ => return Err(root.key("type").error("only service_account is accepted")),
        }
        if let Some(uri) = optional("token_uri")?
            && !uri.is_empty()
            && !TOKEN_URIS.contains(&uri)
        {
            return Err(root.key("token_uri").error(&format!("is not Google's ({GOOGLE_TOKEN_URI})")));
        }
        let email = required("client_email")?;
        let pem = required("private_key")?;
        let no_key = || root.key("private_key").error("is no RSA key in PEM (PKCS#8 or PKCS#1)");
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| no_key())?;
        let mut account = Self {
            url,
            email: Zeroizing::new(email.to_owned()),
            key_id: optional("private_key_id")?
                .filter(|id| !id.is_empty())
                .map(|id| Zeroizing::new(id.to_owned())),
            key,
            assertion: Zeroizing::default(),
        };
        account.assertion = account.assert(SystemTime::now()).ok_or_else(no_key)?;
        Ok(account)
    }

    /// The signed statement that is exchanged for a token (RFC 7523); `None` = the key is none.
    fn assert(&self, now: SystemTime) -> Option<Zeroizing<String>> {
        let iat = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            iss: &self.email,
            scope: SCOPE,
            aud: GOOGLE_TOKEN_URI,
            iat,
            exp: iat.saturating_add(ASSERTION_LIFE),
        };
        let mut header = Header::new(Algorithm::RS256);
        header.kid = self.key_id.as_ref().map(|id| id.to_string());
        jsonwebtoken::encode(&header, &claims, &self.key).ok().map(Zeroizing::new)
    }

    async fn token(&self, http: &Http) -> Result<(SecretString, Duration), Error> {
        let mut secrets = Secrets::new([self.email.as_str(), self.assertion.as_str()]);
        secrets.add(self.key_id.as_ref().map_or("", |id| id.as_str()));
        let mut reply = self.ask(http, &self.assertion).await?;
        if !reply.is_success()
            && let Some(time) = reply.other_time(SKEW)
            && reply.error_word().as_deref() == Some("invalid_grant")
            && let Some(assertion) = self.assert(time)
        {
            // The clock of this machine is wrong: Google's is what counts there.
            secrets.add(&assertion);
            reply = self.ask(http, &assertion).await?;
        }
        if !reply.is_success() {
            return Err(reply.refused(&secrets));
        }
        let document = reply.document()?;
        let token = reply.token(&document, "access_token")?;
        Ok((token, expiry::lasting(document.get("expires_in"))))
    }

    async fn ask(&self, http: &Http, assertion: &str) -> Result<Reply, Error> {
        let body = http::form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", assertion),
        ]);
        http.post(&self.url, &form_headers(), &body).await
    }
}

/// The headers of a form.
pub(super) fn form_headers() -> HeaderMap {
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    HeaderMap::from_iter([(CONTENT_TYPE, form)])
}

#[cfg(test)]
mod tests;
