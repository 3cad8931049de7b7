//! The registry goes away.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use fixtures::images;
use fixtures::registry::Registry;

use crate::support::{Sandbox, walk};

#[test]
fn what_was_read_still_reads_and_the_rest_is_eio_in_time() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    // Enough layers that some are never touched.
    let image = images::layers(6);
    registry.push(&image, "team/app", "1");
    let reference = registry.reference("team/app", "1");
    let mountpoint = sandbox.mount(&reference, &["--read-timeout", "3s"]);
    let read = fs::read(mountpoint.join("layer-5")).unwrap();
    registry.down();

    Sandbox::drop_caches();
    assert_eq!(fs::read(mountpoint.join("layer-5")).unwrap(), read);
    let names: Vec<_> = fs::read_dir(&mountpoint).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in &names {
        assert!(fs::symlink_metadata(mountpoint.join(name)).unwrap().len() > 0, "metadata needs no network");
    }
    let start = Instant::now();
    let error = fs::read(mountpoint.join("layer-4")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    assert!(start.elapsed() < Duration::from_secs(6), "the deadline is 3 s: {:?}", start.elapsed());
    assert!(sandbox.status(&mountpoint)["last_error"].is_string());

    // A fault is not cached.
    registry.up();
    assert_eq!(fs::read(mountpoint.join("layer-4")).unwrap(), b"layer 4\n");
    assert_eq!(walk(&mountpoint).len(), 4);
}

#[test]
fn an_index_at_hand_mounts_without_the_registry() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::small(), "team/app", "1");
    let reference = registry.reference("team/app", "1");
    let index = sandbox.path("small.clip");
    sandbox.ok(["index", &reference, "-o", index.to_str().unwrap()]);
    registry.down();
    let mountpoint = sandbox.mount(&reference, &["--index", index.to_str().unwrap(), "--read-timeout", "2s"]);
    assert_eq!(sandbox.status(&mountpoint)["state"], "degraded");
    assert_eq!(fs::symlink_metadata(mountpoint.join("etc/hostname")).unwrap().len(), 6);
    assert_eq!(
        fs::read(mountpoint.join("etc/hostname")).unwrap_err().kind(),
        io::Error::from_raw_os_error(nix::libc::EIO).kind()
    );
    registry.up();
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
}
