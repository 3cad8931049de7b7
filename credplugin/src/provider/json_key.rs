//! Google's users `_json_key` and `_json_key_base64`: their password is a service account's key, which nobody exchanges.
//!
//! Source: "Service account key" in Artifact Registry's documentation of authentication. The console gives a key out in several
//! lines, and so does `base64`; a password is one line. Line ends mean nothing in either: they are taken out, for Google only.

use secrecy::{ExposeSecret, SecretString};

use crate::Error;
use crate::json::{self, Kind, Path};
use crate::request::MAX_REQUEST;

use super::Target;

/// The password is JSON.
const JSON_USER: &str = "_json_key";

/// The password is JSON in base64.
const BASE64_USER: &str = "_json_key_base64";

/// The password of one of these users in one line, where it has several; `None` = it is good as it is, or somebody else's.
///
/// # Errors
/// [`crate::Code::BadRequest`], which names `key`: it has several lines and is not what the user's name says.
pub(super) fn one_line(
    target: &Target<'_>,
    user: &SecretString,
    key: &str,
    password: &SecretString,
) -> Result<Option<SecretString>, Error> {
    let text = password.expose_secret();
    if !target.is_google() || !text.contains(['\r', '\n']) {
        return Ok(None);
    }
    match user.expose_secret() {
        JSON_USER => {
            // Not the parser's own words: names in there are a part of the password.
            let document = json::parse(text.as_bytes(), MAX_REQUEST, key).ok();
            let is_object = |document: &json::Value| matches!(document.kind(), Kind::Object(_));
            let document = document.filter(is_object).ok_or_else(|| {
                Path::root(key)
                    .error("has a line break in it, and is no service account's key: a JSON object")
            })?;
            let line = json::to_string(|out| json::write_value(out, &document));
            Ok(Some(SecretString::from(line.as_str())))
        }
        BASE64_USER => {
            let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
            let of_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
            if !text.bytes().all(|byte| is_line_end(&byte) || of_base64(byte)) {
                return Err(Path::root(key).error("is no base64"));
            }
            // In one allocation: a buffer that grows would leave copies behind.
            let line = json::to_string(|out| text.lines().try_for_each(|line| out.write_str(line)));
            Ok(Some(SecretString::from(line.as_str())))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Endpoints, Scheme};

    const GAR: &str = "europe-docker.pkg.dev";

    /// A key as the console gives it out.
    const KEY: &str = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN\\npl4nted-\\u0000 ä\\/\\n\",\r\n\t\"n\": [1.50, {}]\n}\n";

    fn scheme(registry: &str, endpoints: &Endpoints, user: &str, password: &str) -> Result<Scheme, Error> {
        let map = [("USERNAME", user), ("PASSWORD", password)].into_iter().collect();
        super::super::basic::scheme(&Target { registry, named: true, endpoints }, &map)
    }

    fn password(scheme: Result<Scheme, Error>) -> String {
        match scheme {
            Ok(Scheme::Basic { password, .. }) => password.expose_secret().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_become_one_line_of_the_same_value() {
        let own = Endpoints::default();
        for registry in [GAR, "gcr.io", "eu.gcr.io"] {
            let line = password(scheme(registry, &own, JSON_USER, KEY));
            assert!(!line.contains(['\r', '\n', '\t', '\0']), "{line}");
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(value(&line), value(KEY));
            assert_eq!(password(scheme(registry, &own, JSON_USER, &line)), line);
            assert_eq!(password(scheme(registry, &own, BASE64_USER, "cGw0\r\nbnRl\nZA==\n")), "cGw0bnRlZA==");
        }
        let emulated = Endpoints { gcp: Some("http://127.0.0.1:1/token".into()), ..Endpoints::default() };
        assert!(!password(scheme("127.0.0.1:5000", &emulated, JSON_USER, KEY)).contains('\n'));
    }

    #[test]
    fn what_is_one_line_is_kept_exactly() {
        let own = Endpoints::default();
        for (user, text) in
            [(JSON_USER, "{ \"b\": 1,  \"a\": 2 } "), (JSON_USER, "no JSON"), (BASE64_USER, "e30 =")]
        {
            assert_eq!(password(scheme(GAR, &own, user, text)), text);
        }
    }

    #[test]
    fn everything_else_with_a_line_end_is_refused() {
        let own = Endpoints::default();
        let cases = [
            (GAR, JSON_USER, "pl4nted-1\npl4nted-2"),
            (GAR, JSON_USER, "{\"a\": \"pl4nted-\n\"}"),
            (GAR, JSON_USER, "{\"a\": 1}\n{\"pl4nted-\": 1}"),
            (GAR, JSON_USER, "{\"pl4nted-\": 1,\n\"pl4nted-\": 2}"),
            (GAR, JSON_USER, "[\n\"pl4nted-\"]"),
            (GAR, BASE64_USER, "cGw0bnRlZC0=\nX: pl4nted-"),
            (GAR, "json_key", KEY),
            (GAR, "oauth2accesstoken", KEY),
            ("gcr.io.evil.example", JSON_USER, KEY),
            ("europe-docker.pkg.dev:443", JSON_USER, KEY),
            ("127.0.0.1:5000", JSON_USER, KEY),
            ("ghcr.io", JSON_USER, KEY),
        ];
        for (registry, user, text) in cases {
            let error = scheme(registry, &own, user, text).unwrap_err();
            assert_eq!(error.code, Code::BadRequest, "{registry} {user}");
            assert!(error.message.contains("PASSWORD"), "{}", error.message);
            assert!(!format!("{error:?}").contains("pl4nted"), "{error:?}");
        }
    }
}
