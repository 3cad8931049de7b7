//! Secrets in every form that a message could hold them in.

use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use proptest::prelude::*;

use super::*;

const SECRET: &str = "pl4nted-scrub-1 +/é\"x";

fn percent(text: &str, keep: impl Fn(u8) -> bool) -> String {
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn wrapped(values: &serde_json::Value) -> String {
    serde_json::json!({"registry": "r.example.com", "type": "basic", "credentials": values}).to_string()
}

#[test]
fn every_form_of_a_secret_goes() {
    let scrubber =
        Scrubber::of(&[&wrapped(&serde_json::json!({"USERNAME": "robot", "PASSWORD": SECRET})), ""]);
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    let forms = [
        SECRET.to_owned(),
        percent(SECRET, unreserved),
        percent(SECRET, unreserved).to_lowercase(),
        percent(SECRET, |b| unreserved(b) || b == b'+' || b == b'/'),
        percent(SECRET, unreserved).replace("%20", "+"),
        percent(SECRET, |_| false),
        STANDARD.encode(SECRET),
        URL_SAFE.encode(SECRET),
        STANDARD_NO_PAD.encode(SECRET),
        STANDARD.encode(format!("robot:{SECRET}")),
        STANDARD.encode(format!("xx{SECRET}yy")),
        percent(&STANDARD.encode(SECRET), unreserved),
        serde_json::to_string(SECRET).unwrap(),
        format!("robot:{SECRET}"),
    ];
    for form in forms {
        let line = scrubber.line(&format!("the endpoint said: <{form}>, sorry"));
        assert!(line.starts_with("the endpoint said: <") && line.ends_with(">, sorry"), "{form}: {line}");
        let rest = line.replace(MARK, "");
        assert!(rest.len() <= "the endpoint said: <\"\">, sorry".len() + 1, "{form}: {line}");
    }
}

#[test]
fn all_shapes_of_credentials_are_known() {
    let service_account = serde_json::json!({
        "type": "service_account",
        "private_key": "-----BEGIN PRIVATE KEY-----\npl4nted-line-1\npl4nted-line-2\n-----END PRIVATE KEY-----\n",
        "client_email": "pl4nted-mail@example.com",
    })
    .to_string();
    let table: [(String, &[&str]); 6] = [
        (
            wrapped(&serde_json::json!({"GOOGLE_APPLICATION_CREDENTIALS": service_account})),
            &["pl4nted-line-1", "pl4nted-line-2", "pl4nted-mail@example.com"],
        ),
        (r#"{"GITHUB_TOKEN":"pl4nted-flat"}"#.into(), &["pl4nted-flat"]),
        (r#"{"registry":"pl4nted-not-wrapped"}"#.into(), &["pl4nted-not-wrapped"]),
        ("user:pl4nted:legacy".into(), &["user:pl4nted:legacy", "pl4nted:legacy"]),
        ("{half a pl4nted-document".into(), &["{half a pl4nted-document"]),
        (
            wrapped(&serde_json::json!({"A": [["pl4nted-deep"]], "B": 1_234_567})),
            &["pl4nted-deep", "1234567"],
        ),
    ];
    for (credentials, secrets) in table {
        let scrubber = Scrubber::of(&["", &credentials]);
        for secret in secrets {
            assert_eq!(scrubber.line(&format!("a <{secret}> b")), format!("a <{MARK}> b"), "{credentials}");
        }
    }
}

#[test]
fn words_stay() {
    let scrubber =
        Scrubber::of(&[&wrapped(&serde_json::json!({"USERNAME": "abc", "PASSWORD": "pl4nted-stay"}))]);
    for line in [
        "credentials are for r.example.com, type basic",
        "no such host: https://login.example.com/tenant/oauth2",
        "a short user name like abc stays",
        "100% sure, 5 % of + and /",
        "Grüße: 日本",
    ] {
        assert_eq!(scrubber.line(line), line);
    }
}

#[test]
fn one_printable_line() {
    let scrubber = Scrubber::of(&["user:pl4nted-line"]);
    let long = "word ".repeat(100);
    let table = [
        ("a\r\n\tb", "a b"),
        ("\u{1b}[31mred\u{1b}[0m", "[31mred[0m"),
        ("a\u{2028}b\u{202e}c\u{feff}", "a bc"),
        ("", "no reason given"),
        (" \n ", "no reason given"),
        // Dropping what is invisible joins the secret.
        ("see pl4nt\u{200b}ed-line here", "see […] here"),
        ("see pl4nt\u{0}ed-line here", "see […] here"),
        // A message that was cut within a secret.
        ("cut pl4nted-l", "cut […]"),
        ("cut user", "cut […]"),
        // What the request does not hold, but looks like a token.
        (
            "got eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6IjEyMzQ1Njc4OTAifQ.eyJhdWQiOiJodHRwczovL2V4YW1wbGUifQ",
            "got […].eyJhdWQiOiJodHRwczovL2V4YW1wbGUifQ",
        ),
    ];
    for (message, expected) in table {
        assert_eq!(scrubber.line(message), expected, "{message:?}");
    }
    let line = scrubber.line(&long);
    assert!(line.chars().count() <= MAX_LINE && line.ends_with('…'), "{line}");
    let exact = "x ".repeat(149) + "yz";
    assert_eq!(scrubber.line(&exact), exact);
}

proptest! {
    /// No text, and no place in it, makes it panic or keep the secret.
    #[test]
    fn nothing_is_kept(
        before in ".{0,40}",
        after in ".{0,40}",
        secret in "[a-z0-9+/ %é\"\\\\]{4,40}",
        form in 0..4_u8,
    ) {
        let secret = secret.trim().to_owned();
        prop_assume!(secret.len() >= MIN_SECRET);
        let scrubber = Scrubber::of(&[&format!("someone:{secret}")]);
        let shown = match form {
            0 => secret.clone(),
            1 => percent(&secret, |b| b.is_ascii_alphanumeric()),
            2 => STANDARD.encode(&secret),
            _ => STANDARD.encode(format!("someone:{secret}")),
        };
        let line = scrubber.line(&format!("{before}{shown}{after}"));
        prop_assume!(!before.contains(&shown) && !after.contains(&shown) && !MARK.contains(&shown));
        prop_assert!(!line.contains(&shown), "{line}");
    }
}
