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
        Scrubber::of(&[&wrapped(&serde_json::json!({"USERNAME": "abc", "PASSWORD": "pl4nted-stay"})), "{}"]);
    for line in [
        "credentials are for r.example.com, type basic",
        "no such host: https://login.example.com/tenant/oauth2",
        "what is part of a word stays: abcd, {}",
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

#[test]
fn short_credentials_go_where_they_stand_alone() {
    let table = [
        (
            r#"{"USERNAME":"abc","PASSWORD":"p"}"#,
            "no p for user \"abc\", please",
            "no […] for user \"[…]\", please",
        ),
        ("ab:c", "ab:c is wrong: ab, c", "[…] is wrong: […], […]"),
        (r#"{"PASSWORD":17}"#, "17 of 170", "[…] of 170"),
    ];
    for (credentials, message, expected) in table {
        assert_eq!(Scrubber::of(&[credentials]).line(message), expected);
    }
}

/// A request whose every string is planted but for what names things.
fn planted_request() -> serde_json::Value {
    serde_json::json!({
        "container_id": "container-1", "image_id": "image-1", "stub_id": "stub-1", "workspace_id": "workspace-1",
        "app_id": "app-1", "machine_id": "machine-1", "task_id": "task-1", "hostname": "worker-7",
        "timestamp": "2026-11-24T10:00:00Z",
        "entry_point": ["run", "--token=pl4nted-argument"],
        "env": ["API_KEY=pl4nted-env", "DB=postgres://user:pl4nted-url@db/x", "REGISTRY=r.example.com", "DEBUG=1",
            "JSON={\"a\":[\"pl4nted-json\"]}"],
        "workspace": {"external_id": "workspace-1", "name": "my team", "signing_key": "pl4",
            "storage": {"access_key": "pl4nted-access", "nested": {"secret_key": "pl4nted-storage"}}},
        "stub": {"external_id": "stub-1", "name": "my stub", "type": "endpoint",
            "config": "{\"runtime\":{\"secret\":\"pl4nted-config\"}}"},
        "mounts": [{"mount_path": "/data", "mountpoint_config": {"secret_key": "pl4nted-mount"}}],
        "build_options": {"source_image": "r.example.com/base:1", "source_image_creds": "u:pl4nted-base",
            "build_secrets": ["NAME=pl4nted-build", "PIN=42"]},
        "image_credentials": wrapped(&serde_json::json!({"USERNAME": "robot", "PASSWORD": "pl4nted-image"})),
        "build_registry_credentials": "builder:pl4nted-registry",
        "runtime_secret_names": ["pl4nted-name"],
        "unknown_of_tomorrow": {"deep": ["pl4nted-unknown"]},
    })
}

#[test]
fn every_string_of_a_request_goes_but_for_names() {
    let scrubber = Scrubber::of_request(&planted_request().to_string(), "r.example.com");
    for secret in [
        "pl4nted-argument",
        "pl4nted-env",
        "pl4nted-url",
        "pl4nted-json",
        "pl4",
        "pl4nted-access",
        "pl4nted-storage",
        "pl4nted-config",
        "pl4nted-mount",
        "pl4nted-base",
        "pl4nted-build",
        "42",
        "pl4nted-image",
        "pl4nted-registry",
        "pl4nted-name",
        "pl4nted-unknown",
    ] {
        assert_eq!(scrubber.line(&format!("a <{secret}> b")), format!("a <{MARK}> b"));
        let encoded = STANDARD.encode(format!("user:{secret}"));
        assert!(secret.len() < 4 || !scrubber.line(&encoded).contains(&encoded[8..]), "{secret}");
    }
    let names = "container-1 image-1 stub-1 workspace-1 my team worker-7 task-1 r.example.com 1";
    assert_eq!(scrubber.line(names), names);
}

#[test]
fn names_of_registries_stay_whole() {
    let registry = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
    let values = serde_json::json!({"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "pl4nted-amazonaws"});
    let credentials =
        serde_json::json!({"registry": registry, "type": "aws", "credentials": values}).to_string();
    let request = serde_json::json!({"image_credentials": credentials}).to_string();
    let scrubber = Scrubber::of_request(&request, "127.0.0.1:5000");
    let table = [
        (format!("they are for {registry}, not for 127.0.0.1:5000"), None),
        (format!("they are for {registry}"), None),
        (format!("eu-west-1 of {registry}"), Some(format!("{MARK} of {registry}"))),
        (format!("pl4nted-amazonaws at {registry}"), Some(format!("{MARK} at {registry}"))),
    ];
    for (message, expected) in table {
        assert_eq!(scrubber.line(&message), expected.unwrap_or_else(|| message.clone()));
    }
}

#[test]
fn a_request_with_too_many_strings_is_not_searched_for() {
    let many: Vec<_> = (0..3 * MAX_SECRETS).map(|n| format!("pl4nted-{n}")).collect();
    let request = serde_json::json!({"env": many}).to_string();
    let line = Scrubber::of_request(&request, "r.example.com").line("it is pl4nted-17, sadly");
    assert!(!line.contains("pl4nted") && !line.contains("sadly"), "{line}");
}
