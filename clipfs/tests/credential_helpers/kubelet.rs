//! Plugins of the kubelet's protocol: scripts that are as strict about what they are told as we are about what they say.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use clipfs::credentials::{CredentialProvider, CredentialRequest, CredentialSource};

use crate::support::{ask, logged, script};

/// Answers only to exactly one document of the right kind, with nothing around it, without arguments; counts its runs.
fn strict(dir: &Path, image: &str, answer: &str) -> Arc<dyn CredentialProvider> {
    let expected = dir.join("expected");
    fs::write(
        &expected,
        format!(
            r#"{{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest","image":"{image}"}}"#
        ),
    )
    .unwrap();
    fs::write(dir.join("answer"), answer).unwrap();
    let dir = dir.display();
    let body = format!(
        "echo run >>{dir}/runs\n[ $# = 0 ] || exit 91\ncat >{dir}/told\ncmp -s {dir}/told {dir}/expected || exit 92\n\
         [ \"$(env | grep -c '^CARGO')\" = 0 ] || exit 93\ncat {dir}/answer"
    );
    let path = script(Path::new(&dir.to_string()), "plugin", &body);
    let source = CredentialSource {
        plugin: Some(format!("kubelet:{}", path.display()).parse().unwrap()),
        ..CredentialSource::default()
    };
    source.open().unwrap()
}

fn response(cache: &str, auth: &str) -> String {
    format!(
        r#"{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",{cache},"auth":{auth}}}"#
    )
}

fn runs(dir: &Path) -> usize {
    fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().count()
}

#[test]
fn one_document_each_way() {
    let dir = tempfile::tempdir().unwrap();
    let auth = r#"{"*.example.com":{"username":"star","password":"pl4nted-kubelet-1"},
        "r.example.com:5000/team":{"username":"u","password":"pl4nted-kubelet-2"},
        "r.example.com":{"username":"x","password":"pl4nted-kubelet-3"}}"#;
    let answer = response(r#""cacheKeyType":"Image","cacheDuration":"1h""#, auth);
    let provider = strict(dir.path(), "r.example.com:5000/team/app", &answer);
    logged(async {
        for image in ["r.example.com:5000/team/app:1", "r.example.com:5000/team/app"] {
            assert_eq!(ask(&*provider, "r.example.com:5000", image).await, "u|pl4nted-kubelet-2");
        }
        assert_eq!(runs(dir.path()), 1, "kept for the image");
        // Strict as it is, the plugin refuses another image: so it was asked.
        let answer = ask(&*provider, "r.example.com:5000", "r.example.com:5000/team/other").await;
        assert!(answer.starts_with("Broken: ") && answer.contains("exit code 92"), "{answer}");
        assert_eq!(runs(dir.path()), 2);
    });
}

#[test]
fn what_the_registry_refused_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let image = "r.example.com/team/app";
    let answer = |password: &str| {
        response(
            r#""cacheKeyType":"Global","cacheDuration":"12h0m0s""#,
            &format!(r#"{{"r.example.com":{{"username":"u","password":"{password}"}}}}"#),
        )
    };
    let provider = strict(dir.path(), image, &answer("pl4nted-old"));
    let request =
        CredentialRequest { registry: "r.example.com".into(), image: image.into(), scope: String::new() };
    logged(async {
        assert_eq!(ask(&*provider, "r.example.com", image).await, "u|pl4nted-old");
        fs::write(dir.path().join("answer"), answer("pl4nted-new")).unwrap();
        assert_eq!(ask(&*provider, "r.example.com", image).await, "u|pl4nted-old");
        provider.refused(&request);
        assert_eq!(ask(&*provider, "r.example.com", image).await, "u|pl4nted-new");
        assert_eq!(runs(dir.path()), 2);
    });
}

#[test]
fn what_must_not_be_kept_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let auth = r#"{"docker.io":{"username":"u","password":"p"}}"#;
    let answer = response(r#""cacheKeyType":"Registry","cacheDuration":"0s""#, auth);
    let provider = strict(dir.path(), "docker.io/library/alpine", &answer);
    logged(async {
        for n in 1..=3 {
            assert_eq!(ask(&*provider, "docker.io", "alpine").await, "u|p");
            assert_eq!(runs(dir.path()), n);
        }
    });
}

#[test]
fn answers_that_are_none() {
    let image = "r.example.com/a";
    let cached = r#""cacheKeyType":"Image""#;
    let table = [
        (response(cached, "null"), "NotFound: "),
        (response(cached, r#"{"s.example.com":{"username":"u","password":"pl4nted-1"}}"#), "NotFound: "),
        (response(cached, r#"{"r.example.com":{"username":"u","password":"pl4nted-1\n"}}"#), "Malformed: "),
        (response(r#""cacheKeyType":"pl4nted-1""#, "{}"), "Broken: "),
        (response(cached, r#"{"r.example.com":{"username":"u","password":"p","pl4nted":1}}"#), "Broken: "),
        (response(cached, "{}") + "pl4nted-1", "Broken: "),
        ("pl4nted-1".into(), "Broken: "),
        (String::new(), "Broken: "),
        ("x".repeat(65 << 10), "Broken: "),
    ];
    for (answer, kind) in table {
        let dir = tempfile::tempdir().unwrap();
        let provider = strict(dir.path(), image, &answer);
        logged(async {
            let said = ask(&*provider, "r.example.com", image).await;
            assert!(said.starts_with(kind), "{answer:.200}: {said}");
        });
    }
}
