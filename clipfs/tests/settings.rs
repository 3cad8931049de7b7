//! What the operator sets and what it means, asked of the program itself: the environment is read nowhere else.

use std::path::Path;
use std::process::{Command, Output};

fn clipfs(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipfs"));
    command.args(args).env_clear().envs(env.iter().copied());
    command.env("CLIPFS_CACHE_DIR", dir.join("cache")).env("CLIPFS_RUN_DIR", dir.join("run"));
    command.stdin(std::process::Stdio::null());
    command.output().unwrap()
}

#[test]
fn exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = format!("oci:{}", dir.path().join("none").display());
    let no_dir = dir.path().join("none").display().to_string();
    let broken = dir.path().join("certs.d");
    std::fs::create_dir_all(broken.join("_default")).unwrap();
    std::fs::write(broken.join("_default/hosts.toml"), "server = 1").unwrap();
    let broken = broken.display().to_string();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let not_json = file("not.json", "{");
    let empty = file("empty.json", "{}");
    let endpoints = file("endpoints.toml", "[endpoints]\necr = \"http://127.0.0.1:1\"\n");
    let foreign = file("foreign.toml", "[endpoints]\necr = \"http://ecr.example\"\n");
    let misspelt = file("misspelt.toml", "[endpoints]\necs = \"http://127.0.0.1:1\"\n");
    let image = "127.0.0.1:1/team/app:1";
    for (args, env, want) in [
        (&["inspect", &nowhere][..], &[("CLIPFS_PLAIN_HTTP", "1")][..], 66),
        (&["inspect", &nowhere], &[("CLIPFS_PLAIN_HTTP", "no")], 66),
        (&["inspect", &nowhere], &[("CLIPFS_PLAIN_HTTP", "perhaps")], 64),
        // Credentials that cannot be used are told before the image is looked for.
        (&["inspect", &nowhere], &[("CLIPFS_CREDENTIAL_PLUGIN", "/bin/x")], 78),
        (&["inspect", &nowhere], &[("CLIPFS_CREDENTIAL_PLUGIN", "docker:no-such-helper")], 78),
        (&["inspect", &nowhere], &[("CLIPFS_CREDENTIAL_PLUGIN", "helm:/bin/x")], 64),
        (&["inspect", &nowhere], &[("CLIPFS_CREDENTIAL_PLUGIN_ENV", "NAME=VALUE")], 78),
        (&["inspect", &nowhere, "--request", &no_dir], &[], 78),
        (&["inspect", &nowhere, "--request", &not_json], &[], 65),
        (&["inspect", &nowhere, "--request", "-"], &[], 65),
        (&["inspect", &nowhere, "--request", &empty], &[], 66),
        (&["inspect", &nowhere, "--request", &empty, "--credential-plugin", "docker:/bin/true"], &[], 78),
        (&["inspect", &nowhere, "--config", &endpoints], &[], 66),
        (&["inspect", &nowhere, "--config", &misspelt], &[], 78),
        (&["inspect", &nowhere, "--config", &foreign], &[], 78),
        (&["inspect", image, "--hosts-dir", &no_dir], &[], 78),
        (&["inspect", image, "--hosts-dir", &broken], &[], 78),
        (&["inspect", image], &[], 69),
    ] {
        let output = clipfs(dir.path(), args, env);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(want), "{args:?} {env:?}: {text}");
    }
}

#[test]
fn questions_make_no_directories() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["cache", "stat", "--json"][..], &["status"], &["status", "--json"]] {
        let output = clipfs(dir.path(), args, &[]);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        if args[0] == "cache" {
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!((&report["disk_bytes"], &report["objects"]), (&0.into(), &0.into()));
        }
    }
    assert_eq!(clipfs(dir.path(), &["status", "/"], &[]).status.code(), Some(66));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
