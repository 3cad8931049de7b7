//! A flipped byte, wherever it is, is never served.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fixtures::content::Content;
use fixtures::images::{self, BIG_SEED};
use fixtures::layer::Compress;
use fixtures::registry::{Fault, Registry, Rule};

use crate::support::{Sandbox, describe, wait_until};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn in_a_blob_on_the_wire() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::one_big_file(8 << 20, Compress::Gzip { level: 6 }), "team/big", "1");
    let reference = registry.reference("team/big", "1");
    let mountpoint = sandbox.mount(&reference, &["--read-timeout", "5s"]);
    let want = Content::bytes(BIG_SEED, 8 << 20);

    // Once: fetched again, and nobody notices.
    let once = registry.faults().set(Rule::new(Fault::FlipBodyByte { offset: 1000 }).blobs().times(1));
    assert!(fs::read(mountpoint.join("big")).unwrap() == want);
    assert_eq!(once.hits(), 1);
    sandbox.umount(&mountpoint);

    // Always: EIO, never a wrong byte.
    sandbox.ok(["cache", "clear"]);
    let mountpoint = sandbox.mount(&reference, &["--read-timeout", "5s"]);
    let always = registry.faults().set(Rule::new(Fault::FlipBodyByte { offset: 1000 }).blobs());
    match fs::read(mountpoint.join("big")) {
        Ok(_) => panic!("every answer has a flipped byte: reading must fail"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::EIO)),
    }
    assert!(always.hits() > 1, "bad bytes are fetched once more");
    registry.faults().clear();
    assert!(fs::read(mountpoint.join("big")).unwrap() == want, "a fault is not cached");
}

#[test]
fn in_the_index() {
    let sandbox = Sandbox::new();
    let image = crate::support::layout(&images::small(), &sandbox.path("layout"));
    let index = sandbox.path("small.clip");
    sandbox.ok(["index", &image, "-o", index.to_str().unwrap()]);
    sandbox.ok(["verify", index.to_str().unwrap(), "--image", &image]);
    let good = fs::read(&index).unwrap();
    for offset in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[offset] ^= 0x10;
        fs::write(&index, &bad).unwrap();
        let output = sandbox.run(["verify", index.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(65), "byte {offset}: {}", describe(&output));
    }
    fs::write(&index, &good[..good.len() - 1]).unwrap();
    assert_eq!(sandbox.run(["ls", index.to_str().unwrap()]).status.code(), Some(65));
}

#[test]
fn in_a_stored_object() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::one_big_file(5 << 20, Compress::Gzip { level: 6 }), "team/big", "1");
    let reference = registry.reference("team/big", "1");
    let want = Content::bytes(BIG_SEED, 5 << 20);
    let mountpoint = sandbox.mount(&reference, &[]);
    assert!(fs::read(mountpoint.join("big")).unwrap() == want);
    let objects = sandbox.cache().join("objects");
    let find = || {
        // Files come and go while others are written.
        let is_big = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.len() == 5 << 20);
        files_below(&objects).into_iter().find(is_big)
    };
    // Written behind the reader's back, and an unmount does not wait for it.
    wait_until("a file that was read whole to be an object", || find().is_some());
    sandbox.umount(&mountpoint);
    let big = find().unwrap();

    flip(&big, 3_000_000);
    Sandbox::drop_caches();
    registry.reset_log();
    let mountpoint = sandbox.mount(&reference, &[]);
    assert!(fs::read(mountpoint.join("big")).unwrap() == want, "a corrupt object was served");
    assert!(registry.log().iter().any(|r| r.path.contains("/blobs/")), "it was fetched again");
    sandbox.umount(&mountpoint);

    let objects = files_below(&sandbox.cache().join("objects"));
    let big = objects.iter().find(|path| fs::metadata(path).unwrap().len() == 5 << 20).unwrap();
    flip(big, 0);
    let report = sandbox.json(["cache", "verify", "--json"]);
    assert_eq!(report["corrupt"].as_array().unwrap().len(), 1, "{report}");
    assert!(!big.exists(), "cache verify removes what is corrupt");
}

#[test]
fn while_mounted_the_next_open_notices() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::small(), "team/app", "1");
    let mountpoint = sandbox.mount(&registry.reference("team/app", "1"), &[]);
    let want = fs::read(mountpoint.join("usr/bin/tool")).unwrap();
    let objects = files_below(&sandbox.cache().join("objects"));
    let tool = objects.iter().find(|path| fs::metadata(path).unwrap().len() == 100_000).unwrap();
    flip(tool, 50_000);
    Sandbox::drop_caches();
    assert!(fs::read(mountpoint.join("usr/bin/tool")).unwrap() == want);
}

/// Files that are read through the daemon keep their object open between reads: a flipped byte must be seen all the same.
#[test]
fn under_an_object_that_the_daemon_has_open() {
    for passthrough in ["off", "auto"] {
        let mut sandbox = Sandbox::new();
        let registry = Registry::plain();
        registry.push(&images::one_big_file(9 << 20, Compress::Gzip { level: 6 }), "team/big", "1");
        let reference = registry.reference("team/big", "1");
        let mountpoint = sandbox.mount(&reference, &["--passthrough", passthrough]);
        let want = Content::bytes(BIG_SEED, 9 << 20);
        assert!(fs::read(mountpoint.join("big")).unwrap() == want);
        let is_big = |path: &PathBuf| fs::metadata(path).unwrap().len() == 9 << 20;
        wait_until("the object to be complete", || {
            files_below(&sandbox.cache().join("objects")).iter().any(is_big)
        });
        // Once more through the object, so that it is open.
        let file = fs::File::open(mountpoint.join("big")).unwrap();
        Sandbox::drop_caches();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1_000_000).unwrap();
        drop(file);
        let objects = files_below(&sandbox.cache().join("objects"));
        flip(objects.iter().find(|path| is_big(path)).unwrap(), 5_000_000);
        Sandbox::drop_caches();
        assert!(fs::read(mountpoint.join("big")).unwrap() == want, "passthrough {passthrough}");
    }
}
