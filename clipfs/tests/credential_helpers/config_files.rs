//! Credentials files on a real file system: read again, and warned of once.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use clipfs::credentials::{CredentialSource, PluginSpec};

use crate::support::{ask, logged};

#[test]
fn read_again_at_every_ask() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("auth.json");
    let write = |text: &str| {
        let new = dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, &path).unwrap();
    };
    let entry = |password: &str| {
        format!(
            r#"{{"auths":{{"r.example.com/team":{{"username":"u","password":"{password}"}},"r.example.com":{{}}}}}}"#
        )
    };
    write(&entry("pl4nted-1"));
    let source = CredentialSource {
        plugin: Some(PluginSpec::ContainersAuth(path.clone())),
        ..CredentialSource::default()
    };
    let provider = source.open().unwrap();
    let (_, log) = logged(async {
        let image = "r.example.com/team/app";
        let before = provider.version();
        assert_eq!(ask(&*provider, "r.example.com", image).await, "u|pl4nted-1");
        assert_eq!(provider.version(), before);
        write(&entry("pl4nted-2"));
        assert_ne!(provider.version(), before);
        assert_eq!(ask(&*provider, "r.example.com", image).await, "u|pl4nted-2");
        for (registry, image) in [("r.example.com", "r.example.com/other/app"), ("s.example.com", "")] {
            let answer = ask(&*provider, registry, image).await;
            assert!(answer.starts_with("NotFound: ") && answer.contains("auth.json"), "{answer}");
        }
        write(&entry("pl4nted-3\\n"));
        let answer = ask(&*provider, "r.example.com", image).await;
        assert!(answer.starts_with("Malformed: ") && answer.contains("auth.json"), "{answer}");
        write(r#"{"auths":{"r.example.com":{"auth":"pl4nted-!"}}}"#);
        let answer = ask(&*provider, "r.example.com", image).await;
        assert!(answer.starts_with("Configuration: "), "{answer}");
        assert!(answer.contains(r#"auth.json: auths["r.example.com"].auth: it is no Base64"#), "{answer}");
        fs::remove_file(&path).unwrap();
        let answer = ask(&*provider, "r.example.com", image).await;
        assert!(answer.starts_with("Configuration: ") && answer.contains("no such file"), "{answer}");
    });
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn one_warning_where_others_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs::write(&path, r#"{"auths":{"r.example.com":{"auth":"dTpwbDRudGVkLTE="}}}"#).unwrap();
    for (mode, warnings) in [(0o600, 0), (0o640, 1), (0o604, 1), (0o700, 0)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let (_, log) = logged(async {
            let source = CredentialSource {
                plugin: Some(PluginSpec::DockerConfig(path.clone())),
                ..CredentialSource::default()
            };
            let provider = source.open().unwrap();
            for _ in 0..3 {
                assert_eq!(ask(&*provider, "r.example.com", "").await, "u|pl4nted-1");
            }
        });
        assert_eq!(log.matches("WARN").count(), warnings, "{mode:o}: {log}");
    }
}
