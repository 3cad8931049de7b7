//! Foreign JSON that may hold secrets: strings are wiped, duplicate keys refused, errors name places and never content.
//!
//! A tree rather than `derive`, because the messages of `serde` quote what they did not expect. Called by the modules that
//! read what others wrote: [`super::docker`], [`super::kubelet`], [`super::config_file`].

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use crate::oci::printable;

/// Longest key that stands in a message.
const MAX_SHOWN_KEY: usize = 100;

/// A JSON document.
pub(super) enum Value {
    Null,
    Bool,
    Number,
    String(Zeroizing<String>),
    Array(Vec<Value>),
    /// In the order of the document.
    Object(Vec<(Zeroizing<String>, Value)>),
}

/// What is wrong, and where: `auths["r.example.com"].auth`; empty = the document.
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

/// Parses one document and nothing behind it. At most 128 levels deep (`serde_json`'s limit).
///
/// # Errors
/// No JSON, or an object with the same key twice: readers differ in which of them counts.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let what = if error.is_eof() { "the JSON is incomplete" } else { "this is no JSON" };
        Fault::new("", format!("{what} (line {line}, column {column})"))
    })?;
    value.check_keys("")?;
    Ok(value)
}

/// The path of a member, as it is written in messages. Whatever stands before an `@` could be a password.
pub(super) fn member(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain {
        return if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    }
    let shown = key.rsplit_once('@').map_or(key, |(_, host)| host);
    format!("{path}[\"{}\"]", printable::printable(shown, '?', MAX_SHOWN_KEY))
}

impl Value {
    fn check_keys(&self, path: &str) -> Result<(), Fault> {
        match self {
            Self::Null | Self::Bool | Self::Number | Self::String(_) => Ok(()),
            Self::Array(values) => values.iter().try_for_each(|value| value.check_keys(&format!("{path}[]"))),
            Self::Object(members) => {
                let mut seen = HashSet::with_capacity(members.len());
                for (key, value) in members {
                    let path = member(path, key);
                    if !seen.insert(key.as_str()) {
                        return Err(Fault::new(path, "it stands there twice"));
                    }
                    value.check_keys(&path)?;
                }
                Ok(())
            }
        }
    }

    /// The members of an object; none of `null`.
    pub(super) fn members(&self, path: &str) -> Result<&[(Zeroizing<String>, Self)], Fault> {
        match self {
            Self::Object(members) => Ok(members),
            Self::Null => Ok(&[]),
            _ => Err(Fault::new(path, format!("it must be an object, not {}", self.kind()))),
        }
    }

    /// A string; `null` is an empty one.
    pub(super) fn text(&self, path: &str) -> Result<&str, Fault> {
        match self {
            Self::String(text) => Ok(text),
            Self::Null => Ok(""),
            _ => Err(Fault::new(path, format!("it must be a string, not {}", self.kind()))),
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a truth value",
            Self::Number => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Bool)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(Zeroizing::new(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Value>()? {
            members.push((Zeroizing::new(key), value));
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_and_content_is_not() {
        let deep = "[".repeat(100_000);
        let table = [
            ("", "the JSON is incomplete (line 1, column 0)"),
            (r#"{"a":"pl4nted-json-1""#, "the JSON is incomplete (line 1, column 21)"),
            (r#"{"a": pl4nted-json-2}"#, "this is no JSON (line 1, column 7)"),
            (r#"{} pl4nted-json-3"#, "this is no JSON (line 1, column 4)"),
            ("\u{feff}{}", "this is no JSON (line 1, column 1)"),
            (r#"{"a":1,"a":"pl4nted-json-4"}"#, "a: it stands there twice"),
            (r#"{"a":{"x.y":[{"c":1,"\u0063":1}]}}"#, "a[\"x.y\"][].c: it stands there twice"),
            (
                r#"{"https://u:pl4nted-json-5@h/":1,"https://u:pl4nted-json-5@h/":1}"#,
                "[\"h/\"]: it stands there twice",
            ),
            (&deep, "this is no JSON (line 1, column 128)"),
        ];
        for (text, expected) in table {
            let fault = parse(text.as_bytes()).err().expect("a fault").to_string();
            assert_eq!(fault, expected, "{:.60}", text);
        }
        assert_eq!(member("", "a\u{1b}[2J"), "[\"a?[2J\"]");
    }

    #[test]
    fn types() {
        let value = parse(br#"{"s":"x","n":null,"t":true,"i":1,"f":-1.5,"a":[]}"#).expect("JSON");
        let members = value.members("").expect("an object");
        let texts: Vec<_> = members.iter().map(|(key, value)| value.text(key).ok()).collect();
        assert_eq!(texts, [Some("x"), Some(""), None, None, None, None]);
        let faults: Vec<_> =
            members.iter().filter_map(|(key, value)| value.text(key).err()).map(|f| f.to_string()).collect();
        assert_eq!(
            faults,
            [
                "t: it must be a string, not a truth value",
                "i: it must be a string, not a number",
                "f: it must be a string, not a number",
                "a: it must be a string, not an array",
            ]
        );
        assert!(value.text("").is_err() && members[0].1.members("s").is_err());
        assert!(members[1].1.members("n").is_ok_and(<[_]>::is_empty));
    }
}
