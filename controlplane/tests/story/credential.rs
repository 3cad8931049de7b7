//! Rotation, deletion, and tenants.

use std::process::Stdio;

use fixtures::secret::secret;

use crate::world::{World, until};

#[test]
fn a_rotated_secret_is_used_by_the_next_run_and_by_a_running_mount() {
    let mut world = World::sqlite();
    let token = world.workspace("team");
    world.start_worker("node-1");
    assert!(world.create_image(&token, "app", &secret("registry 1")).status.success());

    // It reads a file that nobody has fetched, after the rotation.
    let mut running = world.client(
        &token,
        &["run", "app", "--name", "long", "--", "/bin/sh", "-c", "sleep 6; sha256sum </data/big"],
    );
    let running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it runs", || world.json(&token, &["ps"])[0]["state"] == "running");
    world.rotate_registry(&secret("registry 2"));
    assert!(world.create_image(&token, "app", &secret("registry 2")).status.success());
    let ended = running.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let sum = fixtures::sha256(&fixtures::content::Content::bytes(7, 24 << 20));
    let sum = sum.trim_start_matches("sha256:");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), format!("{sum}  -\n"));

    let secrets = world.json(&token, &["secret", "ls"]);
    assert_eq!((secrets.as_array().unwrap().len(), &secrets[0]["version"]), (1, &2.into()), "{secrets}");
    let next = world.run(&token, &["app", "--", "/bin/sh", "-c", "sha256sum </data/other"]);
    assert!(next.status.success(), "{}", String::from_utf8_lossy(&next.stderr));
}

#[test]
fn a_deleted_secret_stops_the_next_run() {
    let mut world = World::sqlite();
    let token = world.workspace("team");
    world.start_worker("node-1");
    assert!(world.create_image(&token, "app", &secret("registry 1")).status.success());
    let id = world.json(&token, &["secret", "ls"])[0]["secret_id"].as_str().unwrap().to_owned();
    assert!(world.client(&token, &["secret", "rm", &id]).status().unwrap().success());
    let refused = world.run(&token, &["app"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("secret") && text.contains("deleted"), "{text}");
    assert!(refused.stdout.is_empty());
}

#[test]
fn workspaces_do_not_see_each_other() {
    let mut world = World::sqlite();
    let (one, other) = (world.workspace("one"), world.workspace("other"));
    world.start_worker("node-1");
    assert!(world.create_image(&one, "app", &secret("registry 1")).status.success());
    // The same image in another workspace needs credentials of its own.
    let refused = world.create_image(&other, "app", &secret("wrong"));
    assert_eq!(refused.status.code(), Some(65), "{}", String::from_utf8_lossy(&refused.stderr));
    let absent = world.run(&other, &["app"]);
    assert_eq!(absent.status.code(), Some(66), "{}", String::from_utf8_lossy(&absent.stderr));
    assert!(world.create_image(&other, "app", &secret("registry 1")).status.success());
    let (mine, theirs) = (world.json(&one, &["secret", "ls"]), world.json(&other, &["secret", "ls"]));
    assert_ne!(mine[0]["secret_id"], theirs[0]["secret_id"]);
    let id = mine[0]["secret_id"].as_str().unwrap();
    let refused = world.client(&other, &["secret", "rm", id]).output().unwrap();
    assert_eq!(refused.status.code(), Some(66), "{}", String::from_utf8_lossy(&refused.stderr));
    // Each with its own: what was taken from one stops one.
    assert!(world.client(&one, &["secret", "rm", id]).status().unwrap().success());
    assert!(!world.run(&one, &["app"]).status.success());
    assert!(world.run(&other, &["app"]).status.success());
}
