use proptest::prelude::*;

use super::*;

/// Registry, type and values of what was parsed.
fn parsed(text: &str) -> (Option<String>, Option<CredentialType>, Vec<(String, String)>) {
    let found = parse_credentials(text).expect(text).expect(text);
    let values = found.credentials.values();
    let values = values.map(|(key, value)| (key.to_owned(), value.expose_secret().to_owned())).collect();
    (found.registry, found.kind, values)
}

fn pairs(values: &[(&str, &str)]) -> Vec<(String, String)> {
    values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn all_forms_are_read() {
    use CredentialType::{Aws, Basic, Public, Token};
    let user = &[("PASSWORD", "p"), ("USERNAME", "u")][..];
    for (text, registry, kind, values) in [
        ("u:p", None, None, user),
        ("u:p:q", None, None, &[("PASSWORD", "p:q"), ("USERNAME", "u")]),
        ("u: pä ", None, None, &[("PASSWORD", " pä "), ("USERNAME", "u")]),
        (r#"u:{"a":1}"#, None, None, &[("PASSWORD", r#"{"a":1}"#), ("USERNAME", "u")]),
        (r#"{"USERNAME":"u","PASSWORD":"p"}"#, None, None, user),
        (" {\"PASSWORD\":\"p\",\n\"USERNAME\":\"u\",\"EMPTY\":\"\",\"NULL\":null} ", None, None, user),
        (
            r#"{"registry":"docker.io","type":"basic","credentials":{"USERNAME":"u","PASSWORD":"p"}}"#,
            Some("docker.io"),
            Some(Basic),
            user,
        ),
        (
            r#"{"registry":"https://index.docker.io/v1/","credentials":{"USERNAME":"u","PASSWORD":"p"}}"#,
            Some("docker.io"),
            None,
            user,
        ),
        (
            r#"{"registry":"R.example.com:5000","type":"","credentials":{"USERNAME":"u","PASSWORD":"p"}}"#,
            Some("r.example.com:5000"),
            None,
            user,
        ),
        (
            r#"{"registry":"registry:5000","type":null,"credentials":{"USERNAME":"u","PASSWORD":"p"}}"#,
            Some("registry:5000"),
            None,
            user,
        ),
        (
            r#"{"registry":"ghcr.io","type":"token","credentials":{"GITHUB_TOKEN":"t"}}"#,
            Some("ghcr.io"),
            Some(Token),
            &[("GITHUB_TOKEN", "t")],
        ),
        (r#"{"registry":"ghcr.io","type":"public","credentials":{}}"#, Some("ghcr.io"), Some(Public), &[]),
        (
            r#"{"registry":"ghcr.io","type":"public","credentials":{"USERNAME":""}}"#,
            Some("ghcr.io"),
            Some(Public),
            &[],
        ),
        (r#"{"registry":"ghcr.io","type":"public"}"#, Some("ghcr.io"), Some(Public), &[]),
        (r#"{"registry":"ghcr.io","type":"aws","credentials":null}"#, Some("ghcr.io"), Some(Aws), &[]),
        (r#"{"registry":"ghcr.io"}"#, Some("ghcr.io"), None, &[]),
    ] {
        assert_eq!(parsed(text), (registry.map(str::to_owned), kind, pairs(values)), "{text}");
    }
    for text in ["", "{}"] {
        assert!(parse_credentials(text).expect(text).is_none(), "{text}");
    }
    // Somebody's variable was not set: no wish for anonymous access.
    for (text, path) in [
        (":", "image_credentials: "),
        (r#"{"USERNAME":"","PASSWORD":null}"#, "image_credentials: "),
        (r#"{"registry":"r.io","credentials":{"GITHUB_TOKEN":""}}"#, "image_credentials.credentials: "),
        (
            r#"{"registry":"r.io","type":"basic","credentials":{"USERNAME":""}}"#,
            "image_credentials.credentials: ",
        ),
    ] {
        let error = parse_credentials(text).expect_err(text);
        assert_eq!(error.message, format!("{path}every value is empty; give them, or leave the keys out"));
    }
}

#[test]
fn anything_else_names_the_path_and_no_value() {
    for (text, says) in [
        ("pl4nted-form-1", ": expected a JSON object or user:password"),
        (" ", ": expected a JSON object or user:password"),
        ("null", ": expected a JSON object or user:password"),
        (":pl4nted-form-1", ": both USERNAME and PASSWORD must be provided together"),
        ("pl4nted-form-1:", ": both USERNAME and PASSWORD must be provided together"),
        (r#"["u:pl4nted-form-1"]"#, ": expected an object, found an array (at byte 0)"),
        (r#""u:pl4nted-form-1""#, ": expected an object, found a string (at byte 0)"),
        ("\u{feff}{\"USERNAME\":\"pl4nted-form-1\"}", ": it starts with a byte-order mark"),
        (r#"{"USERNAME":"pl4nted-form-1","#, ": it ends where a key in quotation marks is expected"),
        (r#"{"USERNAME":"pl4nted-form-1"} x"#, ": something follows the JSON document"),
        (r#"{"USERNAME":"pl4nted-form-1","USERNAME":"b"}"#, ".USERNAME: the key stands twice"),
        (r#"{"USERNAME":4711}"#, ".USERNAME: expected a string, found a number"),
        (r#"{"USERNAME":{"a":"pl4nted-form-1"}}"#, ".USERNAME: expected a string, found an object"),
        (r#"{"credentials":{"USERNAME":"pl4nted-form-1"}}"#, ".registry: not found or empty"),
        (r#"{"type":"basic"}"#, ".registry: not found or empty"),
        (r#"{"registry":"","credentials":{}}"#, ".registry: not found or empty"),
        (r#"{"registry":null,"credentials":{}}"#, ".registry: not found or empty"),
        (r#"{"registry":1}"#, ".registry: expected a string, found a number"),
        (r#"{"registry":"u:pl4nted-form-1@ghcr.io"}"#, ".registry: not an image reference or registry"),
        (
            r#"{"registry":"ubuntu"}"#,
            ".registry: not an image reference or registry: a host without a dot needs a port",
        ),
        (
            r#"{"registry":"ghcr.io","type":"pl4nted-form-1"}"#,
            ".type: unknown type; expected basic, aws, gcp, azure, token or public",
        ),
        (r#"{"registry":"ghcr.io","type":"Basic"}"#, ".type: unknown type"),
        (r#"{"registry":"ghcr.io","type":["basic"]}"#, ".type: expected a string, found an array"),
        (
            r#"{"registry":"ghcr.io","credentials":"u:pl4nted-form-1"}"#,
            ".credentials: expected an object, found a string",
        ),
        (
            r#"{"registry":"ghcr.io","credentials":{"USERNAME":["pl4nted-form-1"]}}"#,
            ".credentials.USERNAME: expected a string, found an array",
        ),
        (
            r#"{"registry":"ghcr.io","type":"public","credentials":{"USERNAME":"pl4nted-form-1"}}"#,
            ".type: it is public, but there are credentials",
        ),
        (
            r#"{"registry":"ghcr.io","USERNAME":"pl4nted-form-1"}"#,
            ".USERNAME: unknown key beside registry, type and credentials",
        ),
    ] {
        let error = parse_credentials(text).expect_err(text);
        assert_eq!(error.code, Code::BadRequest, "{text}");
        assert!(error.message.starts_with(&format!("image_credentials{says}")), "{text}: {}", error.message);
        assert!(!format!("{error:?}").contains("pl4nted-"), "{error:?}");
    }
    let other = parse_credentials_at("build_registry_credentials", "{\"A\":1}").expect_err("refused");
    assert!(other.message.starts_with("build_registry_credentials.A: "), "{}", other.message);
}

#[test]
fn pairs_and_required_keys_say_what_is_missing() {
    let map: CredentialMap = [("A", "1"), ("B", ""), ("C", "3")].into_iter().collect();
    assert!(map.get("A").is_some() && map.get("B").is_none() && map.get("D").is_none());
    assert!(map.get_pair("A", "C").expect("whole").is_some());
    assert!(map.get_pair("B", "D").expect("neither").is_none());
    assert_eq!(map.get_pair("A", "B").expect_err("half").message, "both A and B must be provided together");
    assert_eq!(map.get_pair("D", "A").expect_err("half").message, "both D and A must be provided together");
    assert_eq!(map.require("B").expect_err("empty").message, "B not found or empty");
    assert!(map.require("A").is_ok());
}

#[test]
fn names_of_variables_are_looked_up() {
    let lookup = |name: &str| match name {
        "USERNAME" => Some("u".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let map = credentials_from(["USERNAME"], lookup).expect("there");
    assert_eq!(map.get("USERNAME").map(ExposeSecret::expose_secret), Some("u"));
    for name in ["EMPTY", "MISSING"] {
        let error = credentials_from(["USERNAME", name], lookup).expect_err(name);
        assert_eq!((error.code, error.message), (Code::BadRequest, format!("{name} not found or empty")));
    }
}

#[test]
fn the_stored_form_is_sorted() {
    let map: CredentialMap = [("USERNAME", "u"), ("PASSWORD", "p"), ("EMPTY", "")].into_iter().collect();
    let text = marshal_credentials("docker.io", CredentialType::Basic, &map);
    assert_eq!(
        text.expose_secret(),
        r#"{"credentials":{"PASSWORD":"p","USERNAME":"u"},"registry":"docker.io","type":"basic"}"#
    );
    let none = marshal_credentials("ghcr.io", CredentialType::Public, &CredentialMap::default());
    assert_eq!(none.expose_secret(), r#"{"credentials":{},"registry":"ghcr.io","type":"public"}"#);
}

#[test]
fn debug_shows_keys_only() {
    let text = r#"{"registry":"ghcr.io","type":"token","credentials":{"GITHUB_TOKEN":"pl4nted-debug-1"}}"#;
    let shown = format!("{:?}", parse_credentials(text).expect("JSON"));
    assert!(shown.contains("GITHUB_TOKEN") && !shown.contains("pl4nted-"), "{shown}");
}

proptest! {
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        let _ = parse_credentials(&text);
    }

    #[test]
    fn what_is_stored_is_read(values in proptest::collection::btree_map("[A-Z_]{1,12}", any::<String>(), 0..6)) {
        let map: CredentialMap = values.clone().into_iter().collect();
        let text = marshal_credentials("ghcr.io", CredentialType::Token, &map);
        let (registry, kind, found) = parsed(text.expose_secret());
        let expected: Vec<_> = values.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        prop_assert_eq!((registry.as_deref(), kind, found), (Some("ghcr.io"), Some(CredentialType::Token), expected));
        let again = parse_credentials(text.expose_secret()).expect("JSON").expect("there");
        let again = marshal_credentials("ghcr.io", CredentialType::Token, &again.credentials);
        prop_assert_eq!(again.expose_secret(), text.expose_secret());
    }
}
