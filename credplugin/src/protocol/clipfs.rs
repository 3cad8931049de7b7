//! The protocol `clipfs`: one document in, one document out. Used by both ends.
//!
//! ```json
//! {"apiVersion":"clipfs.dev/v1","kind":"CredentialRequest","image":"r.example.com/app:1","registry":"r.example.com","scope":"repository:app:pull","endpoints":{},"containerRequest":{}}
//! {"apiVersion":"clipfs.dev/v1","kind":"CredentialResponse","registry":"r.example.com","scheme":"Basic","username":"u","password":"p","expiresAt":"2026-11-24T10:00:00Z"}
//! {"apiVersion":"clipfs.dev/v1","kind":"Error","code":"denied","message":"…","retryAfterMs":1000}
//! ```
//!
//! Another `apiVersion` or `kind` is refused, unknown fields are passed over. `expiresAt` is the only time that crosses: written from
//! a remaining life, and turned back into one at once, so that a clock that steps later does not matter.

use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::fields::Fields;
use crate::json::MAX_DOCUMENT;
use crate::{Answer, Code, Endpoints, Error, Scheme};

/// The version that is spoken.
pub const API_VERSION: &str = "clipfs.dev/v1";
/// `kind` of a question.
pub const REQUEST_KIND: &str = "CredentialRequest";
/// `kind` of an answer.
pub const RESPONSE_KIND: &str = "CredentialResponse";
/// `kind` of a refusal.
pub const ERROR_KIND: &str = "Error";
/// Largest document in.
pub const MAX_REQUEST: usize = MAX_DOCUMENT;
/// Largest document out.
pub const MAX_REPLY: usize = 64 << 10;

/// Longest message that is taken from a foreign Error document, in characters.
const MAX_MESSAGE: usize = 1000;

/// What a plugin is asked.
#[derive(Clone, Default)]
pub struct CredentialRequest {
    /// Image reference as the user gave it; empty if only the registry is known.
    pub image: String,
    /// Registry host with port; empty = that of the image.
    pub registry: String,
    /// Token scope; empty if unknown.
    pub scope: String,
    /// The operator's own token endpoints, settled by who asks; `None` = the plugin reads its own settings.
    pub endpoints: Option<Endpoints>,
    /// The ContainerRequest: the bytes of one JSON object, which the writer has parsed before.
    pub container_request: Option<Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for CredentialRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialRequest")
            .field("image", &self.image)
            .field("registry", &self.registry)
            .field("scope", &self.scope)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl CredentialRequest {
    /// The document.
    ///
    /// # Errors
    /// [`Code::BadRequest`]: it would be larger than [`MAX_REQUEST`].
    pub fn write(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Head<'a> {
            api_version: &'static str,
            kind: &'static str,
            image: &'a str,
            registry: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            scope: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            endpoints: Option<&'a Endpoints>,
        }
        let head = Head {
            api_version: API_VERSION,
            kind: REQUEST_KIND,
            image: &self.image,
            registry: &self.registry,
            scope: &self.scope,
            endpoints: self.endpoints.as_ref(),
        };
        let mut head = serde_json::to_vec(&head).map_err(|_| bug("the request cannot be written"))?;
        let inner: &[u8] = self.container_request.as_ref().map_or(&[], |bytes| bytes.as_slice());
        const KEY: &[u8] = b",\"containerRequest\":";
        // All the room at once: a vector that grows leaves copies of what it held.
        let size = head.len() + KEY.len() + inner.len();
        if size > MAX_REQUEST {
            return Err(Error::new(
                Code::BadRequest,
                format!("the credential request is of {size} bytes, more than {MAX_REQUEST}"),
            ));
        }
        let mut out = Zeroizing::new(Vec::with_capacity(size));
        head.pop();
        out.extend_from_slice(&head);
        if !inner.is_empty() {
            out.extend_from_slice(KEY);
            out.extend_from_slice(inner);
        }
        out.push(b'}');
        Ok(out)
    }

    pub(super) fn of(fields: &Fields) -> Result<Self, Error> {
        fields.version(API_VERSION)?;
        let text = |key| Ok(fields.string(key)?.unwrap_or_default().to_owned());
        Ok(Self {
            image: text("image")?,
            registry: text("registry")?,
            scope: text("scope")?,
            endpoints: fields.endpoints("endpoints")?,
            container_request: fields.object("containerRequest")?,
        })
    }
}

fn bug(message: &str) -> Error {
    Error::new(Code::Internal, message)
}

/// What a plugin says.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A credential.
    Answer(Answer),
    /// A refusal. Its message is the plugin's own text: bounded, without control characters.
    Error(Error),
}

/// Why a reply is none. Never holds what was received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The answered credential has ended already.
    #[error("the answer for {registry} expired {}", ago(*.since))]
    Expired {
        /// The registry that was answered.
        registry: String,
        /// For how long it has been of no use.
        since: Duration,
    },
    /// Not a document of this protocol.
    #[error("{0}")]
    Malformed(String),
}

fn ago(since: Duration) -> String {
    format!("{} s ago", since.as_secs())
}

/// A response or an error, as it crosses: its fields in order.
struct Wire<'a>(Vec<(&'static str, Field<'a>)>);

#[derive(Serialize)]
#[serde(untagged)]
enum Field<'a> {
    Text(&'a str),
    Number(u64),
}

impl<'a> Wire<'a> {
    fn new(kind: &'a str) -> Self {
        Self(Vec::new()).with("apiVersion", API_VERSION).with("kind", kind)
    }

    fn with(mut self, key: &'static str, text: &'a str) -> Self {
        self.0.push((key, Field::Text(text)));
        self
    }
}

impl Serialize for Wire<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, field)| (key, field)))
    }
}

/// Writes an answer; `now` is what `expiresAt` is counted from.
///
/// # Errors
/// [`Code::Internal`]: larger than [`MAX_REPLY`], or an end that no calendar has.
pub fn write_answer(answer: &Answer, now: SystemTime) -> Result<Zeroizing<Vec<u8>>, Error> {
    let wire = Wire::new(RESPONSE_KIND).with("registry", &answer.registry);
    let mut wire = match &answer.scheme {
        Scheme::None => wire.with("scheme", "None"),
        Scheme::Basic { username, password } => {
            wire.with("scheme", "Basic").with("username", username).with("password", password.expose_secret())
        }
        Scheme::Bearer { token } => wire.with("scheme", "Bearer").with("token", token.expose_secret()),
        Scheme::RefreshToken { token } => {
            wire.with("scheme", "RefreshToken").with("token", token.expose_secret())
        }
    };
    let end = answer.valid_for.map(|life| expiry(now, life)).transpose()?;
    if let Some(end) = &end {
        wire = wire.with("expiresAt", end);
    }
    super::write_json(&wire, MAX_REPLY)
}

fn expiry(now: SystemTime, life: Duration) -> Result<String, Error> {
    let beyond = || bug("the credential's end is beyond the calendar");
    let life = time::Duration::try_from(life).map_err(|_| beyond())?;
    let end = OffsetDateTime::from(now).checked_add(life).ok_or_else(beyond)?;
    // Milliseconds are plenty, and rounding down errs on the safe side.
    let end = end.replace_millisecond(end.millisecond()).map_err(|_| beyond())?;
    end.format(&Rfc3339).map_err(|_| beyond())
}

/// Writes a refusal.
#[must_use]
pub fn write_error(error: &Error) -> Vec<u8> {
    let mut wire = Wire::new(ERROR_KIND).with("code", error.code.word()).with("message", &error.message);
    if let Some(wait) = error.retry_after {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        wire.0.push(("retryAfterMs", Field::Number(millis)));
    }
    serde_json::to_vec(&wire).unwrap_or_default()
}

/// [`parse_answer_at`] now.
///
/// # Errors
/// See [`ReplyError`].
pub fn parse_answer(bytes: &[u8]) -> Result<Reply, ReplyError> {
    parse_answer_at(bytes, SystemTime::now())
}

/// Reads what a plugin wrote; `now` turns `expiresAt` into a remaining life. Who asked still checks the registry, and caps the life.
///
/// # Errors
/// See [`ReplyError`].
pub fn parse_answer_at(bytes: &[u8], now: SystemTime) -> Result<Reply, ReplyError> {
    let malformed = |text: String| ReplyError::Malformed(text);
    let fields = Fields::parse(bytes, MAX_REPLY).map_err(|e| malformed(e.message))?;
    let text = |key: &str| fields.string(key).map_err(|e| malformed(e.message));
    let needed = |key: &str| text(key)?.ok_or_else(|| malformed(format!("{key}: not found or empty")));
    fields.version(API_VERSION).map_err(|e| malformed(e.message))?;
    match needed("kind")? {
        RESPONSE_KIND => {}
        ERROR_KIND => return Ok(Reply::Error(refusal(&fields)?)),
        _ => return Err(malformed(format!("kind: neither {RESPONSE_KIND} nor {ERROR_KIND}"))),
    }
    let registry = needed("registry")?.to_owned();
    // What ends up in a header has no line ends, or it would be two headers.
    let secret = |key: &str| {
        let value = needed(key)?;
        if value.contains(['\r', '\n', '\0']) {
            return Err(malformed(format!("{key}: has a control character")));
        }
        Ok(value)
    };
    let token = || secret("token").map(SecretString::from);
    let scheme = match needed("scheme")? {
        "None" => Scheme::None,
        "Basic" => {
            let username = secret("username")?.to_owned();
            if username.contains(':') {
                return Err(malformed("username: has a colon".into()));
            }
            Scheme::Basic { username, password: secret("password")?.into() }
        }
        "Bearer" => Scheme::Bearer { token: token()? },
        "RefreshToken" => Scheme::RefreshToken { token: token()? },
        _ => return Err(malformed("scheme: not one of None, Basic, Bearer, RefreshToken".into())),
    };
    let valid_for = match text("expiresAt")? {
        None => None,
        Some(end) => {
            let end = OffsetDateTime::parse(end, &Rfc3339)
                .map_err(|_| malformed("expiresAt: not a time of RFC 3339".into()))?;
            match (end - OffsetDateTime::from(now)).try_into() {
                Ok(life) if life > Duration::ZERO => Some(life),
                _ => {
                    let since = (OffsetDateTime::from(now) - end).unsigned_abs();
                    return Err(ReplyError::Expired { registry, since });
                }
            }
        }
    };
    Ok(Reply::Answer(Answer { registry, scheme, valid_for }))
}

fn refusal(fields: &Fields) -> Result<Error, ReplyError> {
    let text = |key: &str| fields.string(key).map_err(|e| ReplyError::Malformed(e.message));
    let code = text("code")?.ok_or_else(|| ReplyError::Malformed("code: not found or empty".into()))?;
    let message = text("message")?.unwrap_or("no reason given");
    let retry_after = fields.millis("retryAfterMs").map_err(|e| ReplyError::Malformed(e.message))?;
    Ok(Error {
        // A word of a later version is a failure all the same.
        code: Code::of_word(code).unwrap_or(Code::Internal),
        message: message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect(),
        retry_after,
    })
}

#[cfg(test)]
mod tests;
