//! What container runtimes do with the mount: overlayfs above it, `runc` and `crun` inside it.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags};

use crate::debian::debian_layout;
use crate::support::{Sandbox, describe, tool};

/// An overlay of a lower directory with a writable upper, unmounted at the end.
struct Overlay<'a>(&'a Path);

impl<'a> Overlay<'a> {
    fn mount(lower: &Path, work: &Path, at: &'a Path) -> Self {
        let (upper, scratch) = (work.join("upper"), work.join("work"));
        for dir in [&upper, &scratch, &at.to_path_buf()] {
            fs::create_dir_all(dir).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            scratch.display()
        );
        nix::mount::mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .expect("overlayfs stacks on the mount");
        Self(at)
    }
}

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, MntFlags::empty());
    }
}

/// A small tmpfs, unmounted at the end, also of a test that fails.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(at: &'a Path) -> Self {
        fs::create_dir(at).unwrap();
        nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=256m")).unwrap();
        Self(at)
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn overlayfs_with_a_writable_upper_and_both_runtimes() {
    let mut sandbox = Sandbox::new();
    let layout = debian_layout(&sandbox);
    let mountpoint = sandbox.mount(&format!("oci:{}:debian", layout.display()), &[]);
    // The upper needs a file system that can hold overlay's xattrs: a tmpfs of its own.
    let scratch = sandbox.path("scratch");
    let tmpfs = Tmpfs::mount(&scratch);
    let rootfs = sandbox.path("bundle/rootfs");
    {
        let overlay = Overlay::mount(&mountpoint, &scratch, &rootfs);
        let passwd = fs::read_to_string(rootfs.join("etc/passwd")).unwrap();
        fs::write(rootfs.join("etc/passwd"), format!("{passwd}me:x:1:1::/:/bin/sh\n")).unwrap();
        fs::remove_dir_all(rootfs.join("usr/share/man")).unwrap_or(());
        fs::rename(rootfs.join("etc/motd"), rootfs.join("etc/motd.moved")).unwrap();
        assert_eq!(
            fs::read_to_string(mountpoint.join("etc/passwd")).unwrap(),
            passwd,
            "the lower is untouched"
        );
        assert!(fs::read_to_string(rootfs.join("etc/passwd")).unwrap().ends_with("me:x:1:1::/:/bin/sh\n"));

        for runtime in ["runc", "crun"] {
            let bundle = sandbox.path("bundle");
            write_config(&bundle);
            let id = format!("clipfs-test-{runtime}-{}", std::process::id());
            // crun refuses machines that have both versions of cgroups: it is shown version 1 only.
            let script =
                "umount /sys/fs/cgroup/unified 2>/dev/null || true; exec \"$0\" run --bundle \"$1\" \"$2\"";
            let output = Command::new("unshare")
                .args(["--mount", "sh", "-ec", script, runtime, bundle.to_str().unwrap(), &id])
                .output()
                .unwrap();
            assert!(output.status.success(), "{runtime}: {}", describe(&output));
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "hello from 42", "{runtime}");
            assert_eq!(fs::read_to_string(rootfs.join("written")).unwrap(), "by the container", "{runtime}");
            fs::remove_file(rootfs.join("written")).unwrap();
        }
        drop(overlay);
    }
    drop(tmpfs);
}

/// `runc spec`, with our program and no terminal.
fn write_config(bundle: &Path) {
    let _ = fs::remove_file(bundle.join("config.json"));
    tool("runc", ["spec", "--bundle", bundle.to_str().unwrap()]);
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!([
        "/usr/bin/python3",
        "-c",
        "open('/written', 'w').write('by the container'); print('hello from', 6 * 7)"
    ]);
    config["root"]["readonly"] = false.into();
    // Nested machines may offer no memory or pids controller.
    config["linux"]["resources"] = serde_json::json!({});
    fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
}

#[test]
fn writes_are_refused_even_to_root() {
    let mut sandbox = Sandbox::new();
    let image = crate::support::layout(&fixtures::images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.mount(&image, &[]);
    let erofs = Some(nix::libc::EROFS);
    assert_eq!(fs::write(mountpoint.join("new"), "x").unwrap_err().raw_os_error(), erofs);
    assert_eq!(fs::write(mountpoint.join("etc/hostname"), "x").unwrap_err().raw_os_error(), erofs);
    assert_eq!(fs::remove_file(mountpoint.join("etc/hostname")).unwrap_err().raw_os_error(), erofs);
    assert_eq!(fs::create_dir(mountpoint.join("d")).unwrap_err().raw_os_error(), erofs);
    assert_eq!(fs::rename(mountpoint.join("empty"), mountpoint.join("e")).unwrap_err().raw_os_error(), erofs);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    assert_eq!(fs::set_permissions(mountpoint.join("empty"), mode).unwrap_err().raw_os_error(), erofs);
}
