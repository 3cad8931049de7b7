//! Takes secrets out of a plugin's words, so that an operator can be told them.
//!
//! A plugin is told the whole request (its credentials, but also environments, keys of buckets, configurations) and may repeat any
//! of it in its complaint: as it is, or as it stands in URLs, headers and JSON. So every string of the request goes but for names
//! that tell what the complaint is about. Only what the request holds can be recognised; besides, whatever looks like a token is
//! taken out.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;
use zeroize::Zeroizing;

/// What stands for a secret.
const MARK: &str = "[…]";

/// Shorter values are words that occur in any sentence: only credentials that short are taken out, and only where they stand alone.
const MIN_SECRET: usize = 4;

/// What is looked at of a message: more than is told, and little enough to look for every string of a request in it.
const MAX_MESSAGE: usize = 2 << 10;

/// Of a request with more strings nothing is told: they cannot be looked for in no time.
const MAX_SECRETS: usize = 2048;

/// Fields of a request that name things: no secrets, and what an operator looks for in a log.
const IDENTITIES: [&str; 10] = [
    "container_id",
    "image_id",
    "stub_id",
    "workspace_id",
    "app_id",
    "machine_id",
    "task_id",
    "hostname",
    "timestamp",
    "checkpoint_trigger",
];

/// Likewise of the workspace and the stub.
const IDENTITIES_INSIDE: [&str; 4] = ["id", "external_id", "name", "type"];

/// Fields that are credentials whatever their length.
const CREDENTIALS: [&str; 5] =
    ["image_credentials", "build_registry_credentials", "source_image_creds", "build_secrets", "signing_key"];

/// Longest line that is told, in characters.
const MAX_LINE: usize = 300;

/// A run of so many letters and digits is no word: digests and tokens are.
const TOKEN_RUN: usize = 48;

/// How deep JSON within strings within JSON is looked into: a service account within `image_credentials` is at 2.
const MAX_NESTING: u32 = 8;

/// What must not be told.
#[derive(Default)]
pub(super) struct Scrubber {
    secrets: Vec<Zeroizing<String>>,
    /// Credentials too short to be looked for within words.
    words: Vec<Zeroizing<String>>,
    /// Names of registries: within these nothing is taken out, a region least of all.
    registries: Vec<String>,
}

impl Scrubber {
    /// Of a whole request as JSON, for a question about this registry.
    pub(super) fn of_request(request: &str, registry: &str) -> Self {
        let mut scrubber = Self { registries: vec![registry.to_owned()], ..Self::default() };
        match serde_json::from_str(request) {
            Ok(Value::Object(members)) => {
                for (key, value) in members {
                    scrubber.collect_field(&key, value);
                }
            }
            _ => scrubber.collect(request, 0, true),
        }
        scrubber.sorted()
    }

    /// Of credentials alone: each in any of its forms.
    #[cfg(test)]
    pub(super) fn of(credentials: &[&str]) -> Self {
        let mut scrubber = Self::default();
        for text in credentials {
            scrubber.collect(text, 0, true);
        }
        scrubber.sorted()
    }

    fn sorted(mut self) -> Self {
        // The longest first, so that what is part of another leaves nothing of it.
        for found in [&mut self.secrets, &mut self.words] {
            found.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
            found.dedup();
        }
        self
    }

    fn collect_field(&mut self, key: &str, value: Value) {
        let is_credential = CREDENTIALS.contains(&key);
        match value {
            _ if IDENTITIES.contains(&key) => {}
            Value::String(text) if is_credential => self.collect(&Zeroizing::new(text), 0, true),
            Value::Object(members) => {
                let named = key == "workspace" || key == "stub";
                for (inner, value) in members {
                    if !(named && IDENTITIES_INSIDE.contains(&inner.as_str())) && inner != "source_image" {
                        self.collect_field(&inner, value);
                    }
                }
            }
            Value::Array(items) => items.into_iter().for_each(|item| self.collect_field(key, item)),
            Value::String(text) => self.collect_plain(&Zeroizing::new(text)),
            Value::Number(_) | Value::Null | Value::Bool(_) => {}
        }
    }

    /// A string that may be a secret, or hold one: `NAME=value`, a URL with a password.
    fn collect_plain(&mut self, text: &str) {
        self.collect(text, 1, false);
        let value = text.split_once('=').map_or(text, |(_, value)| value);
        if value.len() < text.len() {
            self.collect(value, 1, false);
        }
        let userinfo = value.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
        if let Some((userinfo, _)) = userinfo {
            userinfo.split(':').for_each(|part| self.add(part, false));
        }
    }

    fn collect(&mut self, text: &str, depth: u32, is_credential: bool) {
        let value = (depth < MAX_NESTING).then(|| serde_json::from_str::<Value>(text).ok()).flatten();
        let is_document = matches!(value, Some(Value::Object(_) | Value::Array(_)));
        self.add(text, is_credential && !is_document);
        if let Some(value) = value {
            self.collect_json(value, depth, is_credential);
        } else if let Some((user, password)) = text.split_once(':')
            && depth == 0
        {
            self.add(user, is_credential);
            self.add(password, is_credential);
        } else if let Some((_, value)) = text.split_once('=')
            && depth == 0
        {
            self.add(value, is_credential);
        }
        // Of a key in lines, each line.
        if text.contains('\n') {
            text.lines().for_each(|line| self.add(line.trim(), false));
        }
    }

    fn collect_json(&mut self, value: Value, depth: u32, is_credential: bool) {
        match value {
            Value::String(text) => self.collect(&Zeroizing::new(text), depth + 1, is_credential),
            Value::Array(items) => {
                items.into_iter().for_each(|item| self.collect_json(item, depth, is_credential));
            }
            Value::Object(members) => {
                // The wrapped form's own words are no secrets, and complaints name them.
                let wrapped = depth == 0 && members.contains_key("credentials");
                for (key, value) in members {
                    match value {
                        Value::String(name) if wrapped && key == "registry" => self.registries.push(name),
                        _ if wrapped && key == "type" => {}
                        value => self.collect_json(value, depth, is_credential),
                    }
                }
            }
            Value::Number(number) => self.add(&number.to_string(), is_credential),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn add(&mut self, secret: &str, is_credential: bool) {
        let mut add = |text: String| {
            if text.len() >= MIN_SECRET {
                self.secrets.push(Zeroizing::new(text));
            } else if is_credential && !text.is_empty() {
                self.words.push(Zeroizing::new(text));
            }
        };
        add(secret.to_owned());
        if secret.contains(char::is_control) {
            add(secret.chars().filter(|c| !c.is_control()).collect());
        }
        // As it stands in quoted text, without the quotes.
        let quoted = Zeroizing::new(serde_json::to_string(secret).unwrap_or_default());
        let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        if inner != secret {
            add(inner.to_owned());
        }
    }

    /// One printable line of at most 300 characters, without secrets.
    pub(super) fn line(&self, message: &str) -> String {
        if self.secrets.len() > MAX_SECRETS {
            return "its words are not repeated: the request has too many strings to look for all of them"
                .into();
        }
        let message: Zeroizing<String> = Zeroizing::new(message.chars().take(MAX_MESSAGE).collect());
        // Once before characters are dropped, once after: dropping may join what was apart.
        let folded = fold(&self.without_secrets(&message));
        let line = self.without_secrets(&folded);
        if line.is_empty() {
            return "no reason given".into();
        }
        match line.char_indices().nth(MAX_LINE - 1) {
            Some((end, last)) if end + last.len_utf8() < line.len() => format!("{}…", &line[..end]),
            _ => line,
        }
    }

    fn without_secrets(&self, text: &str) -> String {
        let mut found = tokens(text);
        let decoded = Decoded::of(text);
        for secret in &self.secrets {
            found.extend(cut_off(text, secret));
            if secret.len() > text.len() {
                continue;
            }
            found.extend(text.match_indices(secret.as_str()).map(|(at, hit)| at..at + hit.len()));
            found.extend(decoded.find(secret.as_bytes()));
            // A stray `%` before it makes decoding lose its place.
            let escaped = escaped(secret);
            found.extend(text.match_indices(escaped.as_str()).map(|(at, hit)| at..at + hit.len()));
            for core in base64_cores(secret.as_bytes()) {
                let plain = text.match_indices(core.as_str()).map(|(at, hit)| at..at + hit.len());
                let hits = plain.chain(decoded.find(core.as_bytes()));
                found.extend(hits.map(|hit| whole_run(text, hit)));
            }
        }
        for word in &self.words {
            let hits = text.match_indices(word.as_str()).map(|(at, hit)| at..at + hit.len());
            found.extend(hits.filter(|hit| stands_alone(text, hit)));
        }
        let names: Vec<_> = self.registries.iter().filter(|name| name.contains(['.', ':'])).collect();
        let names: Vec<_> = names.iter().flat_map(|name| text.match_indices(name.as_str())).collect();
        found.retain(|hit| !names.iter().any(|(at, name)| *at <= hit.start && hit.end <= at + name.len()));
        replace(text, found)
    }
}

/// Whether neither a letter nor a digit is next to it.
fn stands_alone(text: &str, hit: &Range<usize>) -> bool {
    !text[..hit.start].ends_with(char::is_alphanumeric) && !text[hit.end..].starts_with(char::is_alphanumeric)
}

/// Text whose percent escapes are taken out, with the place where each byte came from.
struct Decoded {
    bytes: Zeroizing<Vec<u8>>,
    from: Vec<Range<usize>>,
}

impl Decoded {
    fn of(text: &str) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        let mut from = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some(&byte) = text.as_bytes().get(at) {
            let escape = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
            // `from_str_radix` takes signs.
            let escape = escape.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let (value, length) = match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(value) => (value, 3),
                // Forms write it for a space; where it is meant as it stands, the undecoded text is searched too.
                None if byte == b'+' => (b' ', 1),
                None => (byte, 1),
            };
            bytes.push(value);
            from.push(at..at + length);
            at += length;
        }
        Self { bytes, from }
    }

    /// Where the secret stands in the text. `+` of a secret that is only half escaped counts as a space, too.
    fn find(&self, secret: &[u8]) -> Vec<Range<usize>> {
        let same = |a: &u8, b: &u8| a == b || (*a == b' ' && *b == b'+');
        self.bytes
            .windows(secret.len())
            .enumerate()
            .filter(|(_, window)| window.iter().zip(secret).all(|(a, b)| same(a, b)))
            .map(|(at, _)| self.from[at].start..self.from[at + secret.len() - 1].end)
            .collect()
    }
}

/// With percent escapes for all but letters and digits.
fn escaped(secret: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(secret.len() * 3));
    for byte in secret.bytes() {
        if byte.is_ascii_alphanumeric() {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The end of the text, if it is the beginning of a secret: messages get cut.
fn cut_off(text: &str, secret: &str) -> Option<Range<usize>> {
    let ends = secret.char_indices().map(|(at, _)| at).rev();
    let cut = ends.take_while(|end| *end >= MIN_SECRET).find(|end| text.ends_with(&secret[..*end]))?;
    Some(text.len() - cut..text.len())
}

/// What an encoding of the secret has in common wherever it begins in the encoded text, for both alphabets.
fn base64_cores(secret: &[u8]) -> Vec<Zeroizing<String>> {
    let mut cores = Vec::with_capacity(6);
    for shift in 0..3 {
        let mut text = Zeroizing::new(vec![0; shift]);
        text.extend_from_slice(secret);
        // Characters of 6 bits that no bit of another byte is in.
        let (first, last) = ((shift * 8).div_ceil(6), (text.len() * 8) / 6);
        for alphabet in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = Zeroizing::new(alphabet.encode(&text));
            cores.push(Zeroizing::new(encoded[first..last].to_owned()));
        }
    }
    cores.dedup();
    cores
}

/// The ends of an encoding depend on what stands around the secret: they go with it.
fn whole_run(text: &str, hit: Range<usize>) -> Range<usize> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_' | '=' | '%');
    let before = text[..hit.start].trim_end_matches(is_part).len();
    let after = text[hit.end..].trim_start_matches(is_part).len();
    before..text.len() - after
}

/// Runs that are too long for words.
fn tokens(text: &str) -> Vec<Range<usize>> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '_' | '=' | '%');
    let mut runs = Vec::new();
    let mut start = 0;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        if !is_part(c) {
            if at - start >= TOKEN_RUN {
                runs.push(start..at);
            }
            start = at + c.len_utf8();
        }
    }
    runs
}

/// The text with a mark for each range, or for several that overlap or touch.
fn replace(text: &str, mut found: Vec<Range<usize>>) -> String {
    found.sort_by_key(|range| range.start);
    let mut out = String::with_capacity(text.len());
    let mut done = None;
    for range in found {
        if done.is_none_or(|done| range.start > done) {
            out.push_str(&text[done.unwrap_or(0)..range.start]);
            out.push_str(MARK);
        }
        done = done.max(Some(range.end));
    }
    out.push_str(&text[done.unwrap_or(0)..]);
    out
}

/// One line: what is no space and cannot be seen is dropped.
fn fold(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_whitespace() {
            if !line.ends_with(' ') {
                line.push(' ');
            }
        } else if !c.is_control() && !is_invisible(c) {
            line.push(c);
        }
    }
    line.trim().to_owned()
}

/// Format characters: they reorder or hide what stands around them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests;
