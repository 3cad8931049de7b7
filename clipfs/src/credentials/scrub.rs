//! Takes secrets out of a plugin's words, so that an operator can be told them.
//!
//! A plugin is told the request's credentials and may repeat them in its complaint: as they are, or as they stand in URLs,
//! headers and JSON. Only what the request holds can be recognised; besides, whatever looks like a token is taken out.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// What stands for a secret.
const MARK: &str = "[…]";

/// Shorter values are words that occur in any sentence.
const MIN_SECRET: usize = 4;

/// Longest line that is told, in characters.
const MAX_LINE: usize = 300;

/// A run of so many letters and digits is no word: digests and tokens are.
const TOKEN_RUN: usize = 48;

/// How deep JSON within strings within JSON is looked into: a service account within `image_credentials` is at 2.
const MAX_NESTING: u32 = 8;

/// What must not be told.
pub(super) struct Scrubber {
    secrets: Vec<Zeroizing<String>>,
}

impl Scrubber {
    /// Of the credentials of a request: each in any of its forms.
    pub(super) fn of(credentials: &[&str]) -> Self {
        let mut scrubber = Self { secrets: Vec::new() };
        for text in credentials {
            scrubber.collect(text, 0);
        }
        // The longest first, so that what is part of another leaves nothing of it.
        scrubber.secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        scrubber.secrets.dedup();
        scrubber
    }

    fn collect(&mut self, text: &str, depth: u32) {
        self.add(text);
        if depth >= MAX_NESTING {
            return;
        }
        if let Ok(value) = serde_json::from_str::<serde_json::Value>(text) {
            self.collect_json(value, depth);
        } else if let Some((user, password)) = text.split_once(':')
            && depth == 0
        {
            self.add(user);
            self.add(password);
        }
        // Of a key in lines, each line.
        if text.contains('\n') {
            text.lines().for_each(|line| self.add(line.trim()));
        }
    }

    fn collect_json(&mut self, value: serde_json::Value, depth: u32) {
        use serde_json::Value;
        match value {
            Value::String(text) => self.collect(&Zeroizing::new(text), depth + 1),
            Value::Array(items) => items.into_iter().for_each(|item| self.collect_json(item, depth)),
            Value::Object(members) => {
                // The wrapped form's own words are no secrets, and complaints name them.
                let wrapped = depth == 0 && members.contains_key("credentials");
                for (key, value) in members {
                    if !(wrapped && (key == "registry" || key == "type")) {
                        self.collect_json(value, depth);
                    }
                }
            }
            Value::Number(number) => self.add(&number.to_string()),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn add(&mut self, secret: &str) {
        let mut add = |text: String| {
            if text.len() >= MIN_SECRET {
                self.secrets.push(Zeroizing::new(text));
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
        // Once before characters are dropped, once after: dropping may join what was apart.
        let folded = fold(&self.without_secrets(message));
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
            for core in base64_cores(secret.as_bytes()) {
                let plain = text.match_indices(core.as_str()).map(|(at, hit)| at..at + hit.len());
                let hits = plain.chain(decoded.find(core.as_bytes()));
                found.extend(hits.map(|hit| whole_run(text, hit)));
            }
        }
        replace(text, found)
    }
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
