//! What went along with a request must not come back in a message: servers repeat what they were sent.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::credentials::Credential;

/// A piece of a secret this long is as bad as all of it; shorter ones, like "password", are in honest sentences too.
const PIECE: usize = 12;
/// Secrets shorter than a piece are looked for whole, and those shorter than this as words: a password of one letter is in
/// every sentence.
const WORD: usize = 6;
/// Most of a message looked at; less is shown.
pub(super) const MOST: usize = 4096;
/// Said in place of words that cannot be shown.
const INSTEAD: &str = "its words repeat what it was sent, so they are not shown";

/// The secrets of one request.
#[derive(Debug, Default)]
pub(super) struct Sent(Vec<SecretString>);

impl Sent {
    /// What a credential may look like on its way: itself, in a header, in a form.
    pub(super) fn credential(credential: &Credential) -> Self {
        let mut sent = Self::default();
        match credential {
            Credential::Anonymous => {}
            Credential::Basic { username, password } => {
                sent.add(username);
                sent.add(password.expose_secret());
                let pair = Zeroizing::new(format!("{username}:{}", password.expose_secret()));
                sent.add(&Zeroizing::new(STANDARD.encode(pair.as_bytes())));
            }
            Credential::Bearer(token) => sent.add(token.expose_secret()),
            Credential::RefreshToken(token) => {
                sent.add(token.expose_secret());
                let pair = Zeroizing::new(format!("<token>:{}", token.expose_secret()));
                sent.add(&Zeroizing::new(STANDARD.encode(pair.as_bytes())));
            }
        }
        sent
    }

    /// What a request carried: its `Authorization`, and the query of a link, which may be signed.
    pub(super) fn request(url: &Url, authorization: Option<&HeaderValue>) -> Self {
        let mut sent = Self::default();
        for (_, value) in url.query_pairs().filter(|(name, _)| name != "ns") {
            sent.add(&value);
        }
        let value = authorization.and_then(|value| value.to_str().ok());
        if let Some((scheme, value)) = value.and_then(|value| value.split_once(' ')) {
            sent.add(value);
            let decoded = STANDARD.decode(value).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"));
            if let Some(pair) = decoded.map(Zeroizing::new)
                && let Some((user, password)) =
                    std::str::from_utf8(&pair).ok().and_then(|p| p.split_once(':'))
            {
                sent.add(user);
                sent.add(password);
            }
        }
        sent
    }

    fn add(&mut self, secret: &str) {
        let escaped: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        if escaped != secret {
            self.0.push(escaped.to_ascii_lowercase().into());
        }
        self.0.push(secret.to_ascii_lowercase().into());
    }

    /// The words, unless they hold a secret or a piece of one.
    pub(super) fn scrub<'a>(&self, words: &'a str) -> &'a str {
        let end = (0..=MOST.min(words.len())).rev().find(|at| words.is_char_boundary(*at)).unwrap_or(0);
        let words = &words[..end];
        let lower = words.to_ascii_lowercase();
        let repeats = self.0.iter().any(|secret| is_in(secret.expose_secret().as_bytes(), lower.as_bytes()));
        if repeats { INSTEAD } else { words }
    }
}

fn is_in(secret: &[u8], words: &[u8]) -> bool {
    if secret.len() >= PIECE {
        let pieces: HashSet<_> = secret.windows(PIECE).collect();
        return words.windows(PIECE).any(|piece| pieces.contains(piece));
    }
    let edge = |at: Option<&u8>| secret.len() >= WORD || at.is_none_or(|b| !b.is_ascii_alphanumeric());
    !secret.is_empty()
        && words.windows(secret.len()).enumerate().any(|(at, window)| {
            let before = at.checked_sub(1).and_then(|at| words.get(at));
            window == secret && edge(before) && edge(words.get(at + secret.len()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_come_back() {
        let basic = Credential::Basic { username: "alice".into(), password: "pl4nted- p&ss/1".into() };
        let refresh = Credential::RefreshToken("pl4nted-refresh".into());
        let short = Credential::Basic { username: "u".into(), password: "p".into() };
        let middling = Credential::Basic { username: "u".into(), password: "hunter22".into() };
        for (credential, words, shown) in [
            (&basic, "wrong user name or password", true),
            (&basic, "unknown user alice", false),
            (&basic, "password pl4nted- p&ss/1 is wrong", false),
            (&basic, "password PL4NTED- P&SS/1 is wrong", false),
            (&basic, "password pl4nted- p&s… is wrong", false),
            (&basic, "passwords have no ss/1", true),
            (&basic, "form: password=pl4nted-+p%26ss%2F1", false),
            (&basic, "Basic YWxpY2U6cGw0bnRlZC0gcCZzcy8x", false),
            (&basic, "Basic YWxpY2U6cGw0…", false),
            (&basic, "", true),
            (&refresh, "token pl4nted-refresh has ended", false),
            (&refresh, "the token has ended", true),
            (&middling, "no such user: u:hunter22x", false),
            (&short, "account closed", true),
            (&short, "user u, password ***", false),
            (&short, "password is 'p'", false),
            (&Credential::Anonymous, "anything", true),
        ] {
            assert_eq!(Sent::credential(credential).scrub(words) == words, shown, "{words}");
        }
    }

    #[test]
    fn requests_do_not_come_back() {
        let url = Url::parse("https://s3.example/x?X-Amz-Signature=pl4nted-signature&ns=r.example").unwrap();
        let header = HeaderValue::from_static("Basic YWxpY2U6cGw0bnRlZC1wYXNz"); // alice:pl4nted-pass
        let sent = Sent::request(&url, Some(&header));
        for words in
            ["signature pl4nted-signature", "Basic YWxpY2U6cGw0bnRlZC1wYXNz", "pl4nted-pass", "for alice"]
        {
            assert_ne!(sent.scrub(words), words, "{words}");
        }
        assert_eq!(sent.scrub("no such image at r.example"), "no such image at r.example");
        assert!(!format!("{sent:?}").contains("pl4nted"));
        let long = "ß".repeat(MOST);
        assert_eq!(sent.scrub(&long).len(), MOST);
    }
}
