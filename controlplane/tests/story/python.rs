//! A client in Python that has the `.proto` files and nothing else.

use std::path::Path;
use std::process::Command;

use fixtures::secret::secret;
use serde_json::Value;

use crate::world::{USER, World};

fn python(world: &World, token: &Path, arguments: &[&str]) -> Value {
    let fixtures = std::env::var("CLIPFS_FIXTURES").expect("CLIPFS_FIXTURES: `make test` sets it");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(Path::new(&fixtures).join("python/bin/python"));
    command
        .arg(here.join("tests/story/client.py"))
        .arg(here.join("api/proto"))
        .arg(world.address(0))
        .arg(token);
    command
        .args(arguments)
        .env("REGISTRY_USER", USER)
        .env("USERNAME", USER)
        .env("PASSWORD", secret("registry 1"));
    command.env("TMPDIR", world.dir.path());
    let output = command.output().expect("a Python environment: `make test` makes it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn base_image_creds_are_names_or_values() {
    let mut world = World::sqlite();
    let token = world.workspace("team");
    world.start_worker("node-1");
    let image = world.image();

    let made = python(&world, &token, &["create-image", &image, r#"["USERNAME", "PASSWORD"]"#, "by-names"]);
    assert_eq!(made["image_id"], "by-names", "{made}");
    assert!(
        made["credential_secret_name"].as_str().unwrap().starts_with("oci-registry-127-0-0-1-"),
        "{made}"
    );

    let values = serde_json::json!({ "USERNAME": USER, "PASSWORD": secret("registry 1") }).to_string();
    let again = python(&world, &token, &["create-image", &image, &values, "by-values"]);
    assert_eq!(again["credential_secret_id"], made["credential_secret_id"], "one secret a registry: {again}");

    let wrong = serde_json::json!({ "USERNAME": USER, "PASSWORD": secret("wrong") }).to_string();
    let refused = python(&world, &token, &["create-image", &image, &wrong, "wrong"]);
    assert_eq!(refused["code"], "INVALID_ARGUMENT", "{refused}");
    assert!(fixtures::secret::find(refused.to_string().as_bytes()).is_none());

    let half = python(&world, &token, &["create-image", &image, r#"{"USERNAME": "me"}"#, "half"]);
    assert_eq!(half["code"], "INVALID_ARGUMENT", "{half}");

    let ran = python(&world, &token, &["run", "by-names", "/bin/sh", "-c", "echo from Python; exit 3"]);
    assert_eq!((&ran["exit_code"], ran["output"].as_str()), (&3.into(), Some("from Python\n")), "{ran}");
    let states: Vec<&str> = ran["states"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(states, ["QUEUED", "SCHEDULED", "MOUNTING", "RUNNING", "EXITED"], "{ran}");
}
