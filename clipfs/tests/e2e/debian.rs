//! A Debian root with Python from a real `docker-registry`, against `umoci unpack` of the same image.

use std::path::{Path, PathBuf};

use fixtures::docker_registry::{Access, DockerRegistry};

use crate::support::{Sandbox, assert_same_random_reads, assert_same_trees, regular_files, tool, walk};

/// Where `make test` puts the Debian root.
fn debian_tar() -> PathBuf {
    let dir = std::env::var_os("CLIPFS_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fixtures"), PathBuf::from);
    let tar = dir.join("debian.tar");
    assert!(
        tar.exists(),
        "{} is missing: run fixtures/scripts/debian-root.sh (make test does)",
        tar.display()
    );
    tar
}

/// An OCI layout of the Debian root and two layers of changes, made by umoci.
pub(crate) fn debian_layout(sandbox: &Sandbox) -> PathBuf {
    let layout = sandbox.path("layout");
    let bundle = sandbox.path("make");
    let image = format!("{}:debian", layout.display());
    tool("umoci", ["init", "--layout", layout.to_str().unwrap()]);
    tool("umoci", ["new", "--image", &image]);
    let rootfs = bundle.join("rootfs");
    tool("umoci", ["unpack", "--image", &image, bundle.to_str().unwrap()]);
    tool(
        "tar",
        [
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "-xpf",
            debian_tar().to_str().unwrap(),
            "-C",
            rootfs.to_str().unwrap(),
        ],
    );
    tool("umoci", ["repack", "--image", &image, bundle.to_str().unwrap()]);
    // Changes that need whiteouts, and links across layers.
    let change = |script: &str| {
        tool("sh", ["-ec", &format!("cd {}; {script}", rootfs.display())]);
        tool("umoci", ["repack", "--refresh-bundle", "--image", &image, bundle.to_str().unwrap()]);
    };
    change(
        "rm -rf usr/share/doc usr/share/locale; echo changed > etc/motd; ln etc/motd etc/motd.link; mkfifo run/pipe; \
         mknod dev/clip-test c 1 3 || true; touch -d @-1.5 etc/before-the-epoch; setfattr -n user.test -v value etc/motd; chmod 4755 etc/motd",
    );
    change(
        "rm etc/motd.link; mkdir -p usr/share/doc; echo new > usr/share/doc/new; head -c 5000000 /dev/urandom > opt/random; chown 70000:80000 opt/random",
    );
    layout
}

#[test]
fn the_mount_equals_what_umoci_unpacks() {
    let mut sandbox = Sandbox::new();
    let layout = debian_layout(&sandbox);
    let source = format!("oci:{}:debian", layout.display());
    let registry = DockerRegistry::start(&sandbox.path("registry"), Access::Open);
    let image = format!("{}/team/debian:1", registry.address());
    tool("skopeo", ["copy", "--quiet", "--dest-tls-verify=false", &source, &format!("docker://{image}")]);
    let unpacked = sandbox.path("unpacked");
    tool("umoci", ["unpack", "--image", &format!("{}:debian", layout.display()), unpacked.to_str().unwrap()]);
    let theirs_root = unpacked.join("rootfs");

    let mountpoint = sandbox.mount(&image, &[]);
    let indexed = registry.blob_bytes();
    let theirs = walk(&theirs_root);
    let files = regular_files(&theirs);
    assert!(files.len() > 2000, "a Debian root has thousands of files, not {}", files.len());

    assert_same_random_reads(&mountpoint, &theirs_root, &files, 1);
    assert_same_trees(&walk(&mountpoint), &theirs);
    // Once more from the store, through fresh kernel caches.
    let fetched = registry.blob_bytes();
    assert!(fetched > indexed, "reading fetched nothing: was the whole image cached by indexing it?");
    Sandbox::drop_caches();
    assert_same_trees(&walk(&mountpoint), &theirs);
    assert_eq!(registry.blob_bytes(), fetched, "what was read once is not fetched again");
    assert_eq!(sandbox.status(&mountpoint)["state"], "ok");
    sandbox.umount(&mountpoint);
}

#[test]
fn python_runs_from_the_mount_and_fetches_a_fraction() {
    let mut sandbox = Sandbox::new();
    let layout = debian_layout(&sandbox);
    let image = format!("oci:{}:debian", layout.display());
    let mountpoint = sandbox.mount(&image, &[]);
    let out = tool(
        "chroot",
        [
            mountpoint.to_str().unwrap(),
            "/usr/bin/python3",
            "-S",
            "-c",
            "import json; print(json.dumps({'ok': 6 * 7}))",
        ],
    );
    assert_eq!(String::from_utf8(out).unwrap().trim(), r#"{"ok": 42}"#);
    let status = sandbox.status(&mountpoint);
    let fetched = status["fetched_bytes"].as_u64().unwrap();
    let size = sandbox.json(["inspect", "--json", &image])["image_bytes"].as_u64().unwrap();
    assert!(fetched > 0 && fetched < size / 2, "fetched {fetched} of {size}");
}
