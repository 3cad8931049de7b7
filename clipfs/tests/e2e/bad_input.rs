//! Bad input of each kind: its own one-sentence error, the contract's exit code, nothing left behind.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use fixtures::image::ImageBuilder;
use fixtures::images;
use fixtures::layer::{Compress, Entry};
use fixtures::registry::{Fault, Registry, Rule};

use crate::support::{Sandbox, describe, is_mounted, layout};

/// Runs and expects a code and words in a one-sentence error on standard error.
fn refused(sandbox: &Sandbox, args: &[&str], code: i32, words: &str) {
    let output = sandbox.run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", describe(&output));
    assert!(stderr.contains(words), "{args:?}: expected {words:?} in: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", describe(&output));
    let sentences = stderr.lines().filter(|line| !line.starts_with("hint:") && !line.is_empty()).count();
    assert_eq!(sentences, 1, "one sentence, then hints: {stderr}");
}

fn nothing_left(sandbox: &Sandbox) {
    for dir in ["run", "cache/index", "cache/tmp"] {
        let left: Vec<OsString> = fs::read_dir(sandbox.path(dir))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "{dir}: {left:?}");
    }
    let fuse = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = sandbox.path("").display().to_string();
    assert!(!fuse.lines().any(|l| l.contains(&dir) && l.contains("fuse")), "a mount was left behind");
}

#[test]
fn images_that_cannot_be_had() {
    let sandbox = Sandbox::new();
    let mountpoint = sandbox.path("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let at = mountpoint.to_str().unwrap();
    let registry = Registry::plain();
    registry.push(&images::small(), "team/app", "1");

    refused(&sandbox, &["mount", &registry.reference("team/app", "nope"), at], 66, "not found");
    refused(&sandbox, &["mount", &registry.reference("team/nope", "1"), at], 66, "not found");
    refused(&sandbox, &["mount", "oci:/does/not/exist", at], 66, "/does/not/exist");
    refused(&sandbox, &["mount", "UPPER/Case:tag:tag", at], 64, "UPPER/Case:tag:tag");
    refused(&sandbox, &["mount", "no-such-host.invalid/team/app:1", at], 68, "no-such-host.invalid");
    refused(&sandbox, &["index", "127.0.0.1:1/team/app:1"], 69, "127.0.0.1:1");
    let rule = registry.faults().set(Rule::new(Fault::status(403)));
    refused(&sandbox, &["mount", &registry.reference("team/app", "1"), at], 77, "denied");
    registry.faults().remove(&rule);
    registry.faults().set(Rule::new(Fault::status(401)));
    refused(&sandbox, &["mount", &registry.reference("team/app", "1"), at], 77, "denied");
    nothing_left(&sandbox);
}

#[test]
fn images_that_are_none() {
    let sandbox = Sandbox::new();
    let registry = Registry::plain();
    let reference = registry.reference("team/bad", "1");
    let artifact = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
    registry.put_manifest("team/bad", "1", "application/vnd.oci.image.manifest.v1+json", &artifact[..]);
    refused(&sandbox, &["index", &reference], 65, "not a usable image");
    registry.put_manifest(
        "team/bad",
        "1",
        "application/vnd.oci.image.manifest.v1+json",
        &b"{\"broken\": "[..],
    );
    refused(&sandbox, &["index", &reference], 65, "not a usable image");

    let gzip = fixtures::layer::compress::compress(&vec![b'x'; 3 << 20], Compress::Gzip { level: 6 });
    let tar = fixtures::layer::tar([Entry::file("f", vec![7_u8; 300_000])]);
    let (blob, summary) = fixtures::layer::compress::layer(&tar, Compress::Gzip { level: 6 });
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("truncated", blob[..blob.len() / 2].to_vec(), "truncated"),
        ("xz", b"\xfd7zXZ\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "unknown compression"),
        ("not a tar", gzip.to_vec(), "tar"),
        (
            "other diff_id",
            fixtures::layer::compress::compress(b"", Compress::Gzip { level: 6 }).to_vec(),
            "sha256",
        ),
    ];
    for (what, bytes, words) in cases {
        let image = ImageBuilder::new()
            .layer_raw(bytes, "application/vnd.oci.image.layer.v1.tar+gzip", &summary.diff_id)
            .build();
        let dir = sandbox.path(&what.replace(' ', "-"));
        refused(&sandbox, &["index", &layout(&image, &dir)], 65, words);
    }
    nothing_left(&sandbox);
}

#[test]
fn mountpoints_that_cannot_be() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let missing = sandbox.path("missing");
    refused(&sandbox, &["mount", &image, missing.to_str().unwrap()], 66, "does not exist");
    let file = sandbox.path("file");
    fs::write(&file, "").unwrap();
    refused(&sandbox, &["mount", &image, file.to_str().unwrap()], 73, "not a directory");
    nothing_left(&sandbox);
    let mountpoint = sandbox.mount(&image, &[]);
    refused(&sandbox, &["mount", &image, mountpoint.to_str().unwrap()], 73, "already");
    refused(&sandbox, &["umount", sandbox.path("layout").to_str().unwrap()], 66, "not");
    assert!(is_mounted(&mountpoint), "a refused mount leaves the mounted one alone");
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
}

#[test]
fn an_index_that_is_none() {
    let sandbox = Sandbox::new();
    let mountpoint = sandbox.path("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let index = sandbox.path("bad.clip");
    fs::write(&index, "not an index at all, just some text that is long enough to be read as a header")
        .unwrap();
    let args = ["mount", &image, mountpoint.to_str().unwrap(), "--index", index.to_str().unwrap()];
    refused(&sandbox, &args, 65, "not a clip index");
    let other = layout(&images::layers(2), &sandbox.path("other"));
    sandbox.ok(["index", &other, "--force", "-o", index.to_str().unwrap()]);
    refused(&sandbox, &args, 65, "another image");
}

#[test]
fn no_root_and_no_fuse() {
    let sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.path("mnt");
    fs::create_dir(&mountpoint).unwrap();
    make_reachable(&sandbox.path(""));
    let mut command = sandbox.clipfs(["mount", &image, mountpoint.to_str().unwrap()]);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", describe(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("root"), "{}", describe(&output));

    // A mount namespace in which /dev/fuse is hidden.
    let script = "mount -t tmpfs none /dev && exec \"$0\" \"$@\"";
    let plain = sandbox.clipfs(["mount", &image, mountpoint.to_str().unwrap()]);
    let mut hidden = std::process::Command::new("unshare");
    hidden.args(["--mount", "sh", "-ec", script]).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        hidden.env(name, value.unwrap_or_default());
    }
    let output = hidden.output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", describe(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/fuse"), "{}", describe(&output));
}

/// The other user must be able to reach the sandbox and the binary, so that it fails for the right reason.
fn make_reachable(dir: &Path) {
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir, open).unwrap();
}
