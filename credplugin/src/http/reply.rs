//! What an endpoint answered.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{MAX_BODY, Secrets};
use crate::json::{self, Kind};
use crate::{Code, Error};

/// Longest `Retry-After` that is passed on; "in ten years" is not.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Where Amazon puts the word for what went wrong, besides the body.
const AMZN_ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Words for "too many requests" under statuses that say something else: Amazon answers 400.
const THROTTLED: [&str; 5] = [
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "RequestThrottledException",
];

/// Words for the endpoint's own trouble under statuses that blame the caller (RFC 6749, section 4.1.2.1, and Microsoft).
const TROUBLED: [&str; 2] = ["temporarily_unavailable", "server_error"];

/// A complete answer.
pub(crate) struct Reply {
    host: String,
    status: StatusCode,
    error_type: Option<String>,
    retry_after: Option<Duration>,
    date: Option<SystemTime>,
    received: SystemTime,
    body: Zeroizing<Vec<u8>>,
}

impl Reply {
    pub(super) fn new(
        host: String,
        status: StatusCode,
        headers: &HeaderMap,
        body: Zeroizing<Vec<u8>>,
        received: SystemTime,
    ) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let date = text(DATE).and_then(|text| httpdate::parse_http_date(text).ok());
        let retry_after = text(RETRY_AFTER).and_then(|text| wait(text, date.unwrap_or(received)));
        let error_type = text(AMZN_ERROR_TYPE).and_then(word);
        Self { host, status, error_type, retry_after, date, received, body }
    }

    /// Whether the next try may fare better: 5xx, unless the endpoint says when to come back.
    pub(super) fn is_passing(&self) -> bool {
        self.status.is_server_error()
            && self.status != StatusCode::NOT_IMPLEMENTED
            && self.retry_after.is_none()
    }

    /// The answer, unless it says to come back later.
    pub(super) fn unless_throttled(self) -> Result<Self, Error> {
        let asked = self.status == StatusCode::SERVICE_UNAVAILABLE && self.retry_after.is_some();
        let throttled = !self.status.is_success()
            && self.error_word().is_some_and(|word| THROTTLED.contains(&word.as_str()));
        if !asked && !throttled && self.status != StatusCode::TOO_MANY_REQUESTS {
            return Ok(self);
        }
        let message = format!("{} asks to wait (it answered {})", self.host, self.status.as_u16());
        Err(Error { retry_after: self.retry_after, ..Error::new(Code::TryLater, message) })
    }

    /// The endpoint's time when it answered, or ours where it does not say.
    pub(crate) fn now(&self) -> SystemTime {
        self.date.unwrap_or(self.received)
    }

    /// The endpoint's time, if it is that far from ours.
    pub(crate) fn other_time(&self, tolerance: Duration) -> Option<SystemTime> {
        let date = self.date?;
        let ahead = date.duration_since(self.received).unwrap_or_default();
        let behind = self.received.duration_since(date).unwrap_or_default();
        (ahead.max(behind) > tolerance).then_some(date)
    }

    /// Whether it is a token (2xx) rather than a refusal.
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// The document of a success.
    ///
    /// # Errors
    /// [`Code::Unavailable`]. What the parser says is left out: it quotes values.
    pub(crate) fn document(&self) -> Result<json::Value, Error> {
        let document = json::parse(&self.body, MAX_BODY, "").ok();
        document
            .filter(|document| matches!(document.kind(), Kind::Object(_)))
            .ok_or_else(|| self.odd("its answer is not the JSON that was asked for"))
    }

    /// A token in it: not empty, and nothing in it that a header cannot hold.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub(crate) fn token(&self, document: &json::Value, name: &str) -> Result<SecretString, Error> {
        let token = document.get(name).and_then(text).filter(|token| is_token(token));
        token.map(SecretString::from).ok_or_else(|| self.odd(&format!("its answer has no usable {name}")))
    }

    /// A success that cannot be used.
    pub(crate) fn odd(&self, reason: &str) -> Error {
        Error::new(Code::Unavailable, format!("{}: {reason}", self.host))
    }

    /// The endpoint's word for what went wrong: `invalid_client`, `UnrecognizedClientException`.
    pub(crate) fn error_word(&self) -> Option<String> {
        self.error_type.clone().or_else(|| self.refusal().0)
    }

    /// The error of an answer that is none ([`Self::is_success`]), without anything of what was sent.
    pub(crate) fn refused(&self, secrets: &Secrets) -> Error {
        let (code, description) = self.refusal();
        let code = self.error_type.clone().or(code);
        let troubled = code.as_deref().is_some_and(|code| TROUBLED.contains(&code));
        let denied = !troubled
            && matches!(
                self.status,
                StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
            );
        let mut message = if denied {
            format!("{} refuses the credentials", self.host)
        } else if self.status.is_redirection() {
            format!("{} answered {}, a redirect, which is not followed", self.host, self.status.as_u16())
        } else {
            format!("{} answered {}", self.host, self.status.as_u16())
        };
        if !self.status.is_redirection() {
            let said = [code, description].into_iter().flatten().collect::<Vec<_>>().join(": ");
            let said = secrets.scrub(&said);
            if !said.is_empty() {
                message.push_str(": ");
                message.push_str(&said);
            }
        }
        Error::new(if denied { Code::Denied } else { Code::Unavailable }, message)
    }

    /// Code and description of a refusal, in the dialects of OAuth2, Amazon, Google and registries.
    fn refusal(&self) -> (Option<String>, Option<String>) {
        let Ok(body) = json::parse(&self.body, MAX_BODY, "") else { return (None, None) };
        let said = |value: &json::Value, names: &[&str]| {
            names.iter().find_map(|name| value.get(name).and_then(text).map(str::to_owned))
        };
        let inner = match (body.get("errors").map(json::Value::kind), body.get("error")) {
            (Some(Kind::Array(errors)), _) if !errors.is_empty() => &errors[0],
            (_, Some(error)) if matches!(error.kind(), Kind::Object(_)) => error,
            _ => &body,
        };
        let code = said(inner, &["error", "__type", "status", "code"]).and_then(|code| word(&code));
        (code, said(inner, &["error_description", "message", "Message"]))
    }
}

/// A string.
fn text(value: &json::Value) -> Option<&str> {
    match value.kind() {
        Kind::String(text) => Some(text),
        _ => None,
    }
}

/// Whether a token fits into a header.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && !text.contains(|character: char| character.is_control())
}

/// `com.amazonaws.ecr#AccessDeniedException:http://…` → `AccessDeniedException`; `None` = nothing left.
fn word(text: &str) -> Option<String> {
    let text = text.split_once(':').map_or(text, |(text, _)| text);
    let text = text.rsplit_once('#').map_or(text, |(_, text)| text).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// `Retry-After`: seconds, or a date; `None` = past, or garbage.
fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let wait = if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?
    };
    (!wait.is_zero()).then_some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &str)], body: &str) -> Reply {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect::<HeaderMap>();
        let received = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let body = Zeroizing::new(body.as_bytes().to_vec());
        Reply::new("sts.example.com".into(), StatusCode::from_u16(status).unwrap(), &headers, body, received)
    }

    #[test]
    fn refusals_in_all_dialects() {
        let table = [
            (
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS7000215: no"}"#,
                Code::Denied,
                "sts.example.com refuses the credentials: invalid_client: AADSTS7000215: no",
            ),
            (
                400,
                r#"{"__type":"com.amazonaws.ecr#UnrecognizedClientException","message":"The token is invalid."}"#,
                Code::Denied,
                "sts.example.com refuses the credentials: UnrecognizedClientException: The token is invalid.",
            ),
            (
                403,
                r#"{"error":{"code":403,"message":"no","status":"PERMISSION_DENIED"}}"#,
                Code::Denied,
                "sts.example.com refuses the credentials: PERMISSION_DENIED: no",
            ),
            (
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
                Code::Denied,
                "sts.example.com refuses the credentials: UNAUTHORIZED: authentication required",
            ),
            (
                400,
                r#"{"error":"temporarily_unavailable"}"#,
                Code::Unavailable,
                "sts.example.com answered 400: temporarily_unavailable",
            ),
            (401, "<html>", Code::Denied, "sts.example.com refuses the credentials"),
            (404, "", Code::Unavailable, "sts.example.com answered 404"),
            (
                500,
                r#"{"__type":"ServerException"}"#,
                Code::Unavailable,
                "sts.example.com answered 500: ServerException",
            ),
            (
                307,
                r#"{"error":"x"}"#,
                Code::Unavailable,
                "sts.example.com answered 307, a redirect, which is not followed",
            ),
        ];
        for (status, body, code, message) in table {
            let error = reply(status, &[], body).refused(&Secrets::default());
            assert_eq!((error.code, error.message.as_str()), (code, message), "{status} {body}");
        }
        let typed = reply(
            400,
            &[("x-amzn-errortype", "AccessDeniedException:http://internal/")],
            r#"{"Message":"no"}"#,
        );
        let error = typed.refused(&Secrets::default());
        assert_eq!(error.message, "sts.example.com refuses the credentials: AccessDeniedException: no");
    }

    #[test]
    fn waits() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_767);
        let table = [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:17 GMT", None),
            ("315360000", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("0", None),
            ("-1", None),
            ("soon", None),
            ("", None),
        ];
        for (text, want) in table {
            assert_eq!(wait(text, now), want.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn who_asks_to_wait() {
        let throttled = |status, headers: &[(&'static str, &str)], body| {
            reply(status, headers, body).unless_throttled().err().map(|error| (error.code, error.retry_after))
        };
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(throttled(429, &[("retry-after", "3")], ""), Some((Code::TryLater, seconds(3))));
        assert_eq!(throttled(429, &[], ""), Some((Code::TryLater, None)));
        assert_eq!(throttled(503, &[("retry-after", "3")], ""), Some((Code::TryLater, seconds(3))));
        assert_eq!(throttled(503, &[], ""), None);
        assert_eq!(throttled(400, &[], r#"{"__type":"ThrottlingException"}"#), Some((Code::TryLater, None)));
        assert_eq!(throttled(400, &[], r#"{"__type":"InvalidParameterException"}"#), None);
        // A token is a token, whatever else the document says.
        assert_eq!(throttled(200, &[], r#"{"__type":"ThrottlingException"}"#), None);
    }

    #[test]
    fn the_endpoints_time() {
        let five_minutes = Duration::from_secs(300);
        // 1_800_000_000 is Fri, 15 Jan 2027 08:00:00 GMT.
        let far = reply(400, &[("date", "Fri, 15 Jan 2027 09:00:00 GMT")], "");
        let ahead = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_003_600);
        assert_eq!((far.other_time(five_minutes), far.now()), (Some(ahead), ahead));
        let behind = reply(400, &[("date", "Fri, 15 Jan 2027 07:00:00 GMT")], "");
        assert!(behind.other_time(five_minutes).is_some());
        let near = reply(400, &[("date", "Fri, 15 Jan 2027 08:04:59 GMT")], "");
        assert_eq!(near.other_time(five_minutes), None);
        assert_eq!(reply(400, &[("date", "garbage")], "").other_time(five_minutes), None);
    }

    #[test]
    fn parsing_quotes_nothing() {
        for body in [r#"{"token":"pl4nted-token""#, r#""pl4nted-token""#, r#"["pl4nted-token"]"#, ""] {
            let message = reply(200, &[], body).document().unwrap_err().message;
            assert_eq!(message, "sts.example.com: its answer is not the JSON that was asked for");
        }
        for body in [r#"{"token":7}"#, r#"{"token":""}"#, r#"{"token":"pl4nted-\r\n"}"#, r#"{}"#] {
            let reply = reply(200, &[], body);
            let error = reply.token(&reply.document().unwrap(), "token").unwrap_err();
            assert_eq!(error.message, "sts.example.com: its answer has no usable token", "{body}");
            assert_eq!(error.code, Code::Unavailable);
        }
    }
}
