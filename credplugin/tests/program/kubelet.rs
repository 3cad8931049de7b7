//! A caller that is as strict as the kubelet: `pkg/credentialprovider/plugin/plugin.go` and `keyring.go` of Kubernetes.

use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use crate::run::{Ran, basic, program, request, run, wrapped};

const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// The kubelet decodes with a strict codec: no unknown fields, no duplicate ones.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Response {
    api_version: String,
    kind: String,
    cache_key_type: CacheKeyType,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, Auth>>,
}

#[derive(Debug, PartialEq, Deserialize)]
enum CacheKeyType {
    Image,
    Registry,
    Global,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    username: String,
    password: String,
}

/// `time.ParseDuration` of Go: `1h2m3.5s`; a bare `0`.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let units =
            [("ms", 0.001), ("us", 0.000_001), ("ns", 0.000_000_001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += value * seconds;
        rest = &rest[unit.len()..];
    }
    (!text.is_empty()).then(|| Duration::from_secs_f64(total))
}

/// Host, port, path of a key or an image.
fn split(text: &str) -> (Vec<&str>, Option<&str>, &str) {
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    (host.split('.').collect(), port, path)
}

/// A label with one or more `*`.
fn glob(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((head, tail)) => label.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(tail, &rest[at..]))
        }),
    }
}

fn matches(key: &str, image: &str) -> bool {
    let ((key_labels, key_port, key_path), (labels, port, path)) = (split(key), split(image));
    key_labels.len() == labels.len()
        && key_port == port
        && path.starts_with(key_path)
        && key_labels.iter().zip(&labels).all(|(pattern, label)| glob(pattern, label))
}

#[test]
fn the_caller_is_as_strict_as_it_says() {
    for (text, seconds) in
        [("0s", Some(0.0)), ("90s", Some(90.0)), ("1h2m3.5s", Some(3723.5)), ("0", Some(0.0))]
    {
        assert_eq!(go_duration(text).map(|d| d.as_secs_f64()), seconds, "{text}");
    }
    for text in ["", "90", "s", "-", "1d", "PT5M"] {
        assert_eq!(go_duration(text), None, "{text}");
    }
    let table = [
        ("r.example.com", "r.example.com/a", true),
        ("*.example.com", "r.example.com/a", true),
        ("*.example.com", "a.r.example.com/a", false),
        ("r.example.com", "r.example.com:5000/a", false),
        ("r.example.com:5000", "r.example.com:5000/a", true),
        ("r.example.com/team", "r.example.com/other", false),
        ("r.*.com", "r.example.com/x", true),
    ];
    for (key, image, expected) in table {
        assert_eq!(matches(key, image), expected, "{key} {image}");
    }
    let unknown = r#"{"apiVersion":"v1","kind":"k","cacheKeyType":"Image","auth":{},"expiresAt":"x"}"#;
    assert!(serde_json::from_str::<Response>(unknown).is_err());
}

fn question(image: &str) -> String {
    json!({
        "apiVersion": VERSION, "kind": "CredentialProviderRequest", "image": image,
        "serviceAccountToken": "pl4nted-service-account", "serviceAccountAnnotations": {"a": "b"},
    })
    .to_string()
}

/// As the kubelet runs it: the operator's arguments, the request in a file.
fn plugin(args: &[&str], request: &str) -> (tempfile::TempDir, Command) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("request.json");
    std::fs::write(&file, request).unwrap();
    let mut command = program();
    command.args(args).env("CLIPFS_REQUEST_FILE", file);
    (dir, command)
}

fn decode(ran: &Ran) -> Response {
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let response: Response = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert_eq!(
        (response.api_version.as_str(), response.kind.as_str()),
        (VERSION, "CredentialProviderResponse")
    );
    assert_ne!(response.cache_key_type, CacheKeyType::Global);
    if let Some(duration) = &response.cache_duration {
        assert!(go_duration(duration).is_some(), "{duration}");
    }
    response
}

#[test]
fn answers_the_kubelet() {
    for args in [&[][..], &["get"]] {
        for registry in ["r.example.com", "r.example.com:5000", "127.0.0.1:5000", "localhost"] {
            let image = format!("{registry}/team/app");
            let (_dir, mut command) = plugin(args, &basic(registry, "pl4nted-p"));
            let response = decode(&run(&mut command, question(&image)));
            assert_eq!(
                (&response.cache_key_type, &response.cache_duration),
                (&CacheKeyType::Registry, &None)
            );
            let auth = response.auth.unwrap();
            let found: Vec<_> = auth.iter().filter(|(key, _)| matches(key, &image)).collect();
            let expected = Auth { username: "u".into(), password: "pl4nted-p".into() };
            assert_eq!((auth.len(), found.len(), found[0].1), (1, 1, &expected), "{image}");
            for other in ["r.example.com.evil.io/team/app", "x.example.com/team/app", "docker.io/team/app"] {
                assert!(!auth.keys().any(|key| matches(key, other)), "{other}");
            }
        }
    }
}

#[test]
fn credentials_of_docker_hub() {
    let (_dir, mut command) = plugin(&[], &basic("index.docker.io", "pl4nted-p"));
    let auth = decode(&run(&mut command, question("docker.io/library/ubuntu"))).auth.unwrap();
    assert!(auth.keys().all(|key| matches(key, "docker.io/library/ubuntu")), "{auth:?}");
}

#[test]
fn anonymous_is_an_empty_answer_that_is_not_kept() {
    let (_dir, mut command) = plugin(&[], &request(&json!("")));
    let response = decode(&run(&mut command, question("r.example.com/app")));
    assert_eq!(response.auth.unwrap().len(), 0);
    assert_eq!(go_duration(&response.cache_duration.unwrap()), Some(Duration::ZERO));
}

#[test]
fn credentials_without_a_registry_are_for_their_image() {
    let flat = request(&json!({"USERNAME": "u", "PASSWORD": "pl4nted-p"}));
    let (_dir, mut command) = plugin(&[], &flat);
    let ran = run(&mut command, question("r.example.com/app"));
    assert_eq!(ran.tells_nothing().code, 66, "{ran:?}");
    command.env("CLIPFS_IMAGE", "r.example.com/app:1");
    let response = decode(&run(&mut command, question("r.example.com/app")));
    assert_eq!((response.cache_key_type, response.auth.unwrap().len()), (CacheKeyType::Image, 1));
    let ran = run(&mut command, question("other.example.com/app"));
    assert_eq!(ran.tells_nothing().code, 66, "{ran:?}");
}

#[test]
fn refuses_the_kubelet() {
    let good = basic("r.example.com", "pl4nted-p");
    let half = request(&wrapped("r.example.com", "basic", json!({"USERNAME": "pl4nted-u"})));
    let table = [
        (&good, question("other.example.com/app"), 66, "other.example.com"),
        (&half, question("r.example.com/app"), 65, "both"),
        (&good, question(""), 65, "image"),
        (&good, question("r.example.com/app").replace("/v1", "/v1alpha1"), 65, "apiVersion"),
    ];
    for (request, question, code, part) in table {
        let (_dir, mut command) = plugin(&[], request);
        let ran = run(&mut command, &question);
        assert_eq!(ran.tells_nothing().code, code, "{ran:?}");
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
    let ran = run(&mut program(), question("r.example.com/app"));
    assert!(ran.code == 64 && ran.stderr.contains("CLIPFS_REQUEST_FILE"), "{ran:?}");
    let ran = run(program().env("CLIPFS_REQUEST_FILE", "/dev/zero"), question("r.example.com/app"));
    assert!(ran.code == 64 && ran.stderr.contains("regular file"), "{ran:?}");
}
