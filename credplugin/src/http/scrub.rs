//! Blots out, in what an endpoint says, whatever it was sent.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// Longest sentence of an endpoint that is passed on, in characters.
const MAX_SAID: usize = 200;

/// How much of it is looked at, in characters: many times what is passed on.
const MAX_READ: usize = 4 << 10;

/// What a piece of a secret must measure to be taken for one: endpoints quote the beginnings of tokens.
const PIECE: usize = 8;

/// What stands in the place of a secret.
const BLOT: &str = "[redacted]";

/// Values that must not come back in a message.
#[derive(Default)]
pub(crate) struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    /// These values; empty ones do not count.
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut secrets = Self::default();
        for value in values {
            secrets.add(value);
        }
        secrets
    }

    /// One value more.
    pub(crate) fn add(&mut self, value: &str) {
        if !value.is_empty() {
            self.0.push(Zeroizing::new(value.to_owned()));
        }
    }

    /// A text in one line, at most [`MAX_SAID`] characters, without any of these values or longer pieces of them, in all the ways in
    /// which they can be written. Takes time linear in the values and the text.
    pub(crate) fn scrub(&self, text: &str) -> String {
        let text = text.char_indices().nth(MAX_READ).map_or(text, |(end, _)| &text[..end]);
        let mut blots = Blots::new(text.as_bytes());
        for secret in &self.0 {
            for written in spellings(secret) {
                blots.add(written.as_bytes());
            }
        }
        let blotted = blots.blotted;
        let mut out = String::new();
        let mut before = false;
        for (at, character) in text.char_indices() {
            // A piece may begin or end inside a character.
            let blot = blotted[at..at + character.len_utf8()].contains(&true);
            match (blot, before) {
                (true, false) => out.push_str(BLOT),
                (true, true) => {}
                (false, _) => out.push(character),
            }
            before = blot;
        }
        one_line(&out)
    }
}

/// The ways in which a value can be written.
fn spellings(value: &str) -> Vec<Zeroizing<String>> {
    let form = url::form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>();
    // RFC 3986's way of writing a space.
    let percent = form.replace('+', "%20");
    let json = Zeroizing::new(serde_json::Value::from(value).to_string());
    let json = json[1..json.len() - 1].to_owned();
    let every = |before: &str| value.bytes().map(|byte| format!("{before}{byte:02x}")).collect::<String>();
    let mut all = vec![value.to_owned(), form, percent, json, every(""), every("%")];
    // Wherever in a base64 text it begins: pieces cover all but its first characters.
    for before in 0..3 {
        let shifted = Zeroizing::new([&[0; 3][..before], value.as_bytes()].concat());
        all.extend([STANDARD.encode(&*shifted), URL_SAFE_NO_PAD.encode(&*shifted)]);
    }
    let mut all: Vec<_> = all.into_iter().map(Zeroizing::new).collect();
    // Most values look the same in most ways.
    all.dedup();
    all
}

/// Which bytes of a text are pieces of secrets. Upper and lower case are the same.
struct Blots<'a> {
    text: &'a [u8],
    /// Where in the text each piece stands that was not looked for yet. It is the text that is indexed, which is short: secrets of any
    /// length are then gone through once.
    pieces: HashMap<[u8; PIECE], Vec<usize>>,
    blotted: Vec<bool>,
}

impl<'a> Blots<'a> {
    fn new(text: &'a [u8]) -> Self {
        let mut pieces = HashMap::<_, Vec<_>>::new();
        for (at, piece) in text.windows(PIECE).enumerate() {
            pieces.entry(folded(piece)).or_default().push(at);
        }
        Self { text, pieces, blotted: vec![false; text.len()] }
    }

    /// Blots out a secret, or what there is of it.
    fn add(&mut self, secret: &[u8]) {
        if secret.len() >= PIECE {
            for piece in secret.windows(PIECE) {
                for at in self.pieces.remove(&folded(piece)).unwrap_or_default() {
                    self.blotted[at..at + PIECE].fill(true);
                }
            }
        } else if !secret.is_empty() {
            for (at, window) in self.text.windows(secret.len()).enumerate() {
                if window.eq_ignore_ascii_case(secret) {
                    self.blotted[at..at + secret.len()].fill(true);
                }
            }
        }
    }
}

/// A piece, which has [`PIECE`] bytes, in lower case.
fn folded(piece: &[u8]) -> [u8; PIECE] {
    std::array::from_fn(|at| piece[at].to_ascii_lowercase())
}

/// A foreign text made fit for a message: one line, no control or formatting characters, at most [`MAX_SAID`] characters.
pub(super) fn one_line(text: &str) -> String {
    let visible = |character: char| {
        // Bidirectional and invisible formatting, line and paragraph separators, the byte-order mark.
        let hidden = matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
        if character.is_control() || hidden { ' ' } else { character }
    };
    let text = text.chars().take(MAX_SAID * 8).map(visible).collect::<String>();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_SAID) {
        Some(_) => text.chars().take(MAX_SAID - 1).chain(['…']).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blots_out_what_was_sent() {
        let secrets = Secrets::new(["pl4nted-s3cret/+ x", "AKIAEXAMPLE", "", "päss\"wörd"]);
        let table = [
            ("bad key AKIAEXAMPLE given", "bad key [redacted] given"),
            ("bad key akiaexample given", "bad key [redacted] given"),
            ("bad key 'AKIAEXAMP…' given", "bad key '[redacted]…' given"),
            ("got pl4nted-s3cret/+ x.", "got [redacted]."),
            ("got pl4nted-s3cret%2F%2B+x.", "got [redacted]."),
            ("got pl4nted-s3cret%2f%2b%20x.", "got [redacted]."),
            ("AKIAEXAMPLEAKIAEXAMPLE", "[redacted]"),
            ("got päss\"wörd.", "got [redacted]."),
            (r#"got päss\"wörd."#, "got [redacted]."),
            ("nothing of ours: AKIA", "nothing of ours: AKIA"),
            ("", ""),
        ];
        for (text, want) in table {
            assert_eq!(secrets.scrub(text), want, "{text:?}");
        }
        let basic = STANDARD.encode("pl4nted-s3cret/+ x");
        assert_eq!(secrets.scrub(&format!("got {basic}.")), "got [redacted].");
        for user in ["", "u", "us", "use"] {
            let within = STANDARD.encode(format!("{user}:pl4nted-s3cret/+ x:more"));
            let said = secrets.scrub(&within);
            assert!(said.contains(BLOT) && said.len() < within.len() - 8, "{said}");
        }
        assert_eq!(secrets.scrub("got 414B49414558414d504c45."), "got [redacted].");
        assert_eq!(secrets.scrub("got %41%4B%49%41%45%58%41%4D%50%4C%45."), "got [redacted].");
    }

    #[test]
    fn blots_out_short_secrets_too() {
        let secrets = Secrets::new(["xy"]);
        assert_eq!(secrets.scrub("user xy, galaxy"), "user [redacted], gala[redacted]");
    }

    /// Quadratic work would be 10¹¹ steps, and minutes.
    #[test]
    fn long_secrets_are_gone_through_once() {
        let secret = (0..250_000_u32).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761)));
        let secret = secret.collect::<String>();
        let secrets = Secrets::new([secret.as_str()]);
        let said =
            secrets.scrub(&format!("got {}. {}", &secret[1_999_900..], "- no such thing -".repeat(300)));
        assert!(said.starts_with("got [redacted]. - no such thing -"), "{said}");
    }

    #[test]
    fn a_secret_across_the_cut_is_gone() {
        let secret = "pl4nted-".repeat(6);
        let text = format!("{} {secret}", "a ".repeat(90));
        let said = Secrets::new([secret.as_str()]).scrub(&text);
        assert!(!said.contains("pl4"), "{said}");
        assert!(said.chars().count() <= MAX_SAID);
    }

    #[test]
    fn one_line_of_bounded_length() {
        let secrets = Secrets::default();
        assert_eq!(secrets.scrub("a\r\n b\u{2028}c\u{1b}[31m\u{202e}d\0"), "a b c [31m d");
        let long = secrets.scrub(&"ü".repeat(100_000));
        assert_eq!(long.chars().count(), MAX_SAID);
        assert!(long.ends_with('…'));
    }

    proptest::proptest! {
        #[test]
        fn no_secret_survives(secret in "[ -~]{8,40}", before in "\\PC{0,60}", after in "\\PC{0,60}") {
            let said = Secrets::new([secret.as_str()]).scrub(&format!("{before}{secret}{after}"));
            // The blot itself may hold a piece of a secret such as "redacted".
            proptest::prop_assert!(!said.replace(BLOT, "").contains(&secret));
        }
    }
}
