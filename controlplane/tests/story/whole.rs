//! From an image's creation to a program's output.

use fixtures::secret::{secret, sweep_dir, sweep_pids};
use sqlx::Row as _;

use crate::world::{World, succeeded, until};

fn tell(mut world: World) {
    let token = world.workspace("team");
    let password = secret("registry 1");
    let worker = world.start_worker("node-1");

    let refused = world.create_image(&token, "app", &secret("wrong"));
    assert_eq!(refused.status.code(), Some(65), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(world.json(&token, &["image", "ls"]).as_array().unwrap().is_empty(), "nothing is kept");
    assert!(world.json(&token, &["secret", "ls"]).as_array().unwrap().is_empty(), "nothing is kept");

    let made = world.create_image(&token, "app", &password);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let output = world
        .run(&token, &["app", "--", "/bin/sh", "-c", "id -u; echo $FROM_IMAGE; echo to stderr >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\nyes\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("to stderr"), "{output:?}");
    let output = world.run(&token, &["app"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"hello from the image\n"[..]));

    let ran = world.json(&token, &["ps", "-a"]);
    let cost = &ran.as_array().unwrap().iter().find(|container| container["exit_code"] == 7).unwrap()["cost"];
    let (fetched, image) = (cost["fetched_bytes"].as_u64().unwrap(), cost["image_bytes"].as_u64().unwrap());
    assert!(fetched > 0 && fetched < image / 4, "a lazy start: {cost}");

    let (name, id) = link(world.url(), "app");
    assert!(name.starts_with("oci-registry-127-0-0-1-"), "{name}");
    let listed = world.json(&token, &["secret", "ls"]);
    assert_eq!(listed[0]["secret_id"], id.as_str(), "{listed}");

    let log = world.logged("node-1.log");
    assert!(log.contains("using credential provider from request"), "{log}");
    until("nothing is mounted any more", || world.leftovers().is_empty());
    let pids: Vec<u32> = world.server_pids().into_iter().chain([world.worker_pid(worker)]).collect();
    sweep_pids(&pids).assert_clean();
    // Tokens of the tests themselves carry no mark; the request of a running container would lie in `/run`.
    sweep_dir(world.dir.path(), &[]).assert_clean();
    until("nothing is in the worker's run directory", || walk(&world.run_dir("node-1")).is_empty());
    let listed = succeeded(&mut world.client(&token, &["ps", "-a"]));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("exited"), "{listed:?}");
}

/// Files below a directory.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            files.extend(walk(&entry.path()))
        } else {
            files.push(entry.path())
        }
    }
    files
}

/// What the image's row says.
fn link(url: &str, image: &str) -> (String, String) {
    sqlx::any::install_default_drivers();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let pool = sqlx::any::AnyPoolOptions::new().max_connections(1).connect(url).await.unwrap();
        let row =
            sqlx::query("SELECT credential_secret_name, credential_secret_id FROM image WHERE image_id = $1")
                .bind(image)
                .fetch_one(&pool)
                .await
                .unwrap();
        (row.get(0), row.get(1))
    })
}

#[test]
fn on_sqlite() {
    tell(World::sqlite());
}

#[test]
fn on_postgresql() {
    tell(World::postgres(1));
}
