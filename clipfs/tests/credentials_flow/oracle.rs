//! Where secrets may be: judges what every server saw against what it was meant to see.
//!
//! Every secret of a scenario has the mark of [`fixtures::secret`], so that one can be found however it is written. Each may stand in
//! the places that [`Allowed`] lists and nowhere else; and some headers are never sent at all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fixtures::secret;

use crate::server::Seen;

/// A place where a secret may be.
#[derive(Debug, Clone)]
pub(crate) enum Allowed {
    /// `Authorization: Basic` with this user and password.
    Basic { host: String, pair: String },
    /// `Authorization: Bearer` with a token that begins so.
    Bearer { host: String, token: String },
    /// A field of a form, at this path.
    Form { host: String, path: String, field: &'static str, value: String },
    /// Anywhere in the query.
    Query { host: String, value: String },
    /// A header that the operator has set.
    Header { host: String, name: &'static str, value: String },
}

/// Headers that no request has: they tell one server what another has said.
const NEVER: [&str; 6] = ["cookie", "cookie2", "referer", "origin", "proxy-authorization", "x-forwarded-for"];

/// What is wrong with what was seen; empty = nothing. Never tells a secret.
pub(crate) fn violations(seen: &[Seen], allowed: &[Allowed]) -> Vec<String> {
    let mut wrong = Vec::new();
    for request in seen {
        let mut tell = |what: &str| {
            wrong.push(format!("{} {} at {}: {what}", request.method, request.path(), request.host));
        };
        let here = |place: &Allowed| match place {
            Allowed::Basic { host, .. }
            | Allowed::Bearer { host, .. }
            | Allowed::Form { host, .. }
            | Allowed::Query { host, .. }
            | Allowed::Header { host, .. } => *host == request.host,
        };
        let places: Vec<_> = allowed.iter().filter(|place| here(place)).collect();
        for (name, value) in &request.headers {
            if NEVER.contains(&name.as_str()) {
                tell(&format!("it has the header {name}"));
            } else if name == "authorization" {
                if !places.iter().any(|place| may_authorize(place, value)) {
                    tell("its authorization is not meant for this host");
                }
            } else if secret::find(format!("{name}: {value}").as_bytes()).is_some() {
                let meant = places.iter().any(|place| {
                    matches!(place, Allowed::Header { name: n, value: v, .. } if n == name && v == value)
                });
                if !meant {
                    tell(&format!("a secret is in the header {name}"));
                }
            }
        }
        if secret::find(request.path().as_bytes()).is_some() {
            tell("a secret is in its path");
        }
        for (name, value) in url::form_urlencoded::parse(request.query().as_bytes()) {
            let meant =
                places.iter().any(|place| matches!(place, Allowed::Query { value: v, .. } if *v == value));
            if !meant && secret::find(format!("{name}={value}").as_bytes()).is_some() {
                tell(&format!(
                    "a secret is in its query, in {}",
                    if name.contains("pl4nted") { "a name" } else { &name }
                ));
            }
        }
        for (name, value) in url::form_urlencoded::parse(request.body.as_bytes()) {
            let meant = places.iter().any(|place| {
                matches!(place, Allowed::Form { path, field, value: v, .. }
                    if path == request.path() && *field == name && *v == value)
            });
            if !meant && secret::find(format!("{name}={value}").as_bytes()).is_some() {
                tell("a secret is in its body");
            }
        }
    }
    wrong
}

fn may_authorize(place: &Allowed, value: &str) -> bool {
    match place {
        Allowed::Basic { pair, .. } => value
            .strip_prefix("Basic ")
            .and_then(|text| STANDARD.decode(text).ok())
            .is_some_and(|text| text == pair.as_bytes()),
        Allowed::Bearer { token, .. } => {
            value.strip_prefix("Bearer ").is_some_and(|text| text.starts_with(token.as_str()))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{basic, planted};

    const HOME: &str = "127.0.0.1:1";
    const STORE: &str = "127.0.0.3:1";

    fn allowed() -> Vec<Allowed> {
        vec![
            Allowed::Basic { host: HOME.into(), pair: format!("u:{}", planted("password")) },
            Allowed::Bearer { host: HOME.into(), token: planted("token") },
            Allowed::Form {
                host: HOME.into(),
                path: "/token".into(),
                field: "refresh_token",
                value: planted("refresh"),
            },
            Allowed::Query { host: STORE.into(), value: planted("signature") },
            Allowed::Header { host: STORE.into(), name: "x-key", value: planted("key") },
        ]
    }

    fn judge(host: &str, target: &str, header: Option<(&str, String)>, body: &str) -> usize {
        let headers = header.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let (host, target, body) = (host.to_owned(), target.to_owned(), body.to_owned());
        violations(&[Seen { host, method: "GET".into(), target, headers, body }], &allowed()).len()
    }

    /// A log that is as it should be passes; the same with any one thing moved does not.
    #[test]
    fn it_can_fail() {
        let pair = basic("u", &planted("password"));
        let bearer = format!("Bearer {}", planted("token"));
        let form = format!("grant_type=refresh_token&refresh_token={}", planted("refresh"));
        let signed = format!("/x?sig={}&y=1", planted("signature"));
        for (host, target, header, body) in [
            (HOME, "/v2/", Some(("authorization", pair.clone())), ""),
            (HOME, "/v2/", Some(("authorization", format!("{bearer}-7"))), ""),
            (HOME, "/token", None, form.as_str()),
            (STORE, signed.as_str(), Some(("x-key", planted("key"))), ""),
            (STORE, "/x?ns=a&range=b", Some(("accept", "*/*".into())), "a=b"),
        ] {
            assert_eq!(judge(host, target, header, body), 0, "{host} {target} {body}");
        }
        let twice = STANDARD.encode(&pair);
        for (host, target, header, body) in [
            (STORE, "/x", Some(("authorization", pair.clone())), ""),
            (STORE, "/x", Some(("authorization", bearer.clone())), ""),
            (STORE, "/x", Some(("authorization", "Basic YTpi".into())), ""),
            (HOME, "/x", Some(("authorization", basic("u", &planted("other")))), ""),
            (HOME, "/x", Some(("authorization", basic("v", &planted("password")))), ""),
            (HOME, "/x", Some(("authorization", format!("Bearer {}", planted("other")))), ""),
            (HOME, "/other", None, form.as_str()),
            (STORE, "/token", None, form.as_str()),
            (HOME, "/token", None, &form.replace("refresh_token=", "password=")),
            (HOME, &format!("/token?{form}"), None, ""),
            (HOME, signed.as_str(), None, ""),
            (HOME, "/x", Some(("x-key", planted("key"))), ""),
            (STORE, "/x", Some(("x-other", planted("key"))), ""),
            (STORE, &format!("/{}", planted("password")), None, ""),
            (STORE, &format!("/x?a={}", twice.replace('=', "%3D")), None, ""),
            (STORE, &format!("/x?{}=1", planted("password")), None, ""),
            (STORE, "/x", Some(("user-agent", twice.clone())), ""),
            (HOME, "/x", Some(("cookie", "sid=1".into())), ""),
            (HOME, "/x", Some(("referer", "http://h/".into())), ""),
        ] {
            assert!(judge(host, target, header.clone(), body) > 0, "{host} {target} {header:?} {body}");
        }
        let seen =
            Seen { host: STORE.into(), headers: vec![("authorization".into(), pair)], ..Seen::default() };
        assert!(!violations(&[seen], &allowed()).concat().contains("pl4nted-"), "findings tell no secret");
    }
}
