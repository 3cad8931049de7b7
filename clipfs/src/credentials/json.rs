//! Foreign documents, by the strict parser of `credplugin`, with paths as they are written for people who mend files:
//! `auths["r.example.com"].auth`.
//!
//! Called by the modules that read what others wrote: [`super::docker`], [`super::kubelet`], [`super::config_file`]. Their
//! documents have other people's types: `null` means the empty value everywhere, as in Go.

use std::fmt;

pub(super) use credplugin::json::{Kind, Value};
use zeroize::Zeroizing;

use crate::oci::printable;

/// Longest key that stands in a message.
const MAX_SHOWN_KEY: usize = 100;

/// What is wrong, and where; an empty path = the document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// Path in the document.
    pub path: String,
    /// The reason, without values.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

impl Fault {
    pub(super) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }
}

/// Parses one document, which must be an object, and nothing behind it.
///
/// # Errors
/// What [`credplugin::json::parse`] refuses, repeated keys among it: readers differ in which of them counts.
pub(super) fn parse(bytes: &[u8], cap: usize) -> Result<Value, Fault> {
    let value = credplugin::json::parse(bytes, cap, "").map_err(|error| Fault::new("", error.message))?;
    match value.kind() {
        Kind::Object(_) => Ok(value),
        _ => Err(Fault::new("", "the document must be an object")),
    }
}

/// The path of a member. Whatever stands before an `@` could be a password.
pub(super) fn member(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain {
        return if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    }
    let shown = key.rsplit_once('@').map_or(key, |(_, host)| host);
    format!("{path}[\"{}\"]", printable::printable(shown, '?', MAX_SHOWN_KEY))
}

/// The members of an object, sorted by key.
pub(super) fn members<'a>(value: &'a Value, path: &str) -> Result<&'a [(Zeroizing<String>, Value)], Fault> {
    match value.kind() {
        Kind::Object(members) => Ok(members),
        Kind::Null => Ok(&[]),
        kind => Err(Fault::new(path, format!("it must be an object, not {}", kind.name()))),
    }
}

/// A string.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, Fault> {
    match value.kind() {
        Kind::String(text) => Ok(text),
        Kind::Null => Ok(""),
        kind => Err(Fault::new(path, format!("it must be a string, not {}", kind.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_not_named() {
        let deep = "[".repeat(100_000);
        let long = format!("{{\"a\":\"{}\"}}", "pl4nted-".repeat(100));
        let table = [
            "",
            r#"{"a":"pl4nted-json-1""#,
            r#"{"a": pl4nted-json-2}"#,
            "{} pl4nted-json-3",
            "\u{feff}{}",
            r#"{"a":1,"a":"pl4nted-json-4"}"#,
            r#"{"a":{"x.y":[{"c":1,"\u0063":1}]}}"#,
            r#"{"https://u:pl4nted-json-5@h/":1,"https://u:pl4nted-json-5@h/":1}"#,
            r#"["pl4nted-json-6"]"#,
            "null",
            &deep,
            &long,
        ];
        for text in table {
            let fault = parse(text.as_bytes(), 200).expect_err(text).to_string();
            assert!(!fault.contains("pl4nted-") && fault.len() < 200, "{text:.60}: {fault}");
        }
    }

    #[test]
    fn paths() {
        let path = member(&member("", "auths"), "https://u:pl4nted-@r.example:5000/v1/");
        assert_eq!(member(&path, "auth"), "auths[\"r.example:5000/v1/\"].auth");
        assert_eq!(member("a", "\u{1b}[2J"), "a[\"?[2J\"]");
        assert_eq!(member("a", ""), "a[\"\"]");
    }

    #[test]
    fn types() {
        let value = parse(br#"{"a":[],"f":-1.5,"n":null,"s":"x","t":true}"#, 100).expect("JSON");
        let all = members(&value, "").expect("an object");
        let shown =
            |result: Result<&str, Fault>| result.map_or_else(|fault| fault.to_string(), str::to_owned);
        let texts: Vec<_> = all.iter().map(|(key, value)| shown(text(value, key))).collect();
        let expected = [
            "a: it must be a string, not an array",
            "f: it must be a string, not a number",
            "",
            "x",
            "t: it must be a string, not a truth value",
        ];
        assert_eq!(texts, expected);
        assert!(members(&all[2].1, "n").is_ok_and(<[_]>::is_empty) && members(&all[3].1, "s").is_err());
    }
}
