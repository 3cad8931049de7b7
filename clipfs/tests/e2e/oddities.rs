//! Everything that tar and layers are odd about, mounted: against `umoci unpack` where umoci takes it, against what the
//! fixture says where it does not.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use fixtures::content::Content;
use fixtures::image::{Image, ImageBuilder};
use fixtures::images;
use fixtures::layer::{Compress, Entry};

use crate::support::{Sandbox, assert_same_trees, describe, layout, tool, walk};

fn mount_image(sandbox: &mut Sandbox, image: &Image) -> std::path::PathBuf {
    let image = layout(image, &sandbox.path("layout"));
    sandbox.mount(&image, &[])
}

#[test]
fn the_mount_of_oddities_equals_what_umoci_unpacks() {
    let mut sandbox = Sandbox::new();
    let mountpoint = mount_image(&mut sandbox, &images::oddities());
    let unpacked = sandbox.path("unpacked");
    images::oddities().write_layout_as(&sandbox.path("for-umoci"), "odd").unwrap();
    let image = format!("{}:odd", sandbox.path("for-umoci").display());
    tool("umoci", ["unpack", "--image", &image, unpacked.to_str().unwrap()]);
    let (ours, mut theirs) = (walk(&mountpoint), walk(&unpacked.join("rootfs")));
    assert!(theirs.len() > 100, "the oddities are many: {}", theirs.len());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (name, seen) in &mut theirs {
        let Some(our) = ours.get(name) else { continue };
        // umoci leaves the time of unpacking on directories that it writes into once more.
        if u64::try_from(seen.mtime.0).is_ok_and(|secs| secs.abs_diff(now) < 3600) {
            assert!(fs::symlink_metadata(mountpoint.join(name)).unwrap().is_dir(), "{}", name.display());
            seen.mtime = our.mtime;
        }
        // It drops attributes without a value.
        if our.xattrs.iter().any(|(_, value)| value.is_empty()) {
            assert_eq!(our.xattrs.iter().filter(|(_, value)| !value.is_empty()).count(), seen.xattrs.len());
            seen.xattrs.clone_from(&our.xattrs);
        }
        // It ignores what a hard link's own header says; containerd applies it, and so do we.
        if name.starts_with("links") && seen.nlink > 1 {
            assert_eq!((our.uid, our.gid), (0, 0), "{}", name.display());
            (seen.uid, seen.gid) = (our.uid, our.gid);
        }
    }
    assert_same_trees(&ours, &theirs);
}

/// Differs of overlay file systems write a directory in place of a symlink as an opaque one.
#[test]
fn whiteouts_below_a_replaced_symlink_do_what_umoci_does() {
    let lower = [
        Entry::dir("usr/"),
        Entry::dir("usr/lib64/"),
        Entry::file("usr/lib64/ld.so", "ld\n"),
        Entry::file("usr/lib64/libc", "libc\n"),
        Entry::symlink("opaque", "usr/lib64"),
        Entry::symlink("plain", "usr/lib64"),
        Entry::symlink("gone", "usr/lib64"),
        Entry::dir("other/"),
        Entry::file("other/libc", "another\n"),
        Entry::file("other/left", "left\n"),
        Entry::symlink("moved", "usr/lib64"),
        Entry::dir("early-target/"),
        Entry::file("early-target/lost", "lost\n"),
        Entry::symlink("early", "early-target"),
    ];
    let upper = [
        Entry::dir("opaque/"),
        Entry::file("opaque/.wh..wh..opq", ""),
        Entry::file("opaque/new", "new\n"),
        Entry::dir("plain/"),
        Entry::file("plain/.wh.libc", ""),
        Entry::file(".wh.gone", ""),
        Entry::file("gone/.wh.libc", ""),
        Entry::symlink("moved", "other"),
        Entry::file("moved/.wh.libc", ""),
        Entry::file("early/.wh..wh..opq", ""),
        Entry::dir("early/"),
    ];
    let how = Compress::Gzip { level: 6 };
    let image = ImageBuilder::new().layer(lower, how).layer(upper, how).build();
    let mut sandbox = Sandbox::new();
    let mountpoint = mount_image(&mut sandbox, &image);
    let unpacked = sandbox.path("unpacked");
    image.write_layout_as(&sandbox.path("for-umoci"), "links").unwrap();
    let from = format!("{}:links", sandbox.path("for-umoci").display());
    tool("umoci", ["unpack", "--image", &from, unpacked.to_str().unwrap()]);
    let rootfs = unpacked.join("rootfs");
    let names = |root: &Path| walk(root).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&mountpoint), names(&rootfs));
    for (file, content) in [
        ("usr/lib64/ld.so", "ld\n"),
        ("usr/lib64/libc", "libc\n"),
        ("opaque/new", "new\n"),
        ("moved/left", "left\n"),
    ] {
        assert_eq!(fs::read_to_string(mountpoint.join(file)).unwrap(), content, "{file}");
    }
}

#[test]
fn hard_links_before_their_targets() {
    let mut sandbox = Sandbox::new();
    let mountpoint = mount_image(&mut sandbox, &images::forward_links());
    let inodes: Vec<_> = ["before", "chain", "target"]
        .iter()
        .map(|name| {
            let meta = fs::metadata(mountpoint.join("d").join(name)).unwrap();
            assert_eq!(meta.nlink(), 3);
            assert_eq!(fs::read(mountpoint.join("d").join(name)).unwrap(), b"came last\n");
            meta.ino()
        })
        .collect();
    assert!(inodes.iter().all(|ino| *ino == inodes[0]), "{inodes:?}");
}

#[test]
fn sparse_files_of_the_old_gnu_form_equal_those_of_pax() {
    let mut sandbox = Sandbox::new();
    let old = mount_image(&mut sandbox, &images::old_gnu_sparse());
    let image = layout(&images::oddities(), &sandbox.path("pax"));
    let pax = sandbox.mount(&image, &[]);
    let mut compared = 0;
    for entry in fs::read_dir(old.join("sparse")).unwrap() {
        let name = entry.unwrap().file_name();
        let twin = name.to_str().unwrap().replacen("gnu", "pax10", 1);
        let twin = pax.join("sparse").join(twin);
        if twin.exists() {
            assert!(
                fs::read(old.join("sparse").join(&name)).unwrap() == fs::read(&twin).unwrap(),
                "{name:?}"
            );
            compared += 1;
        }
    }
    assert!(compared > 2, "only {compared} of the old files have a twin");
}

#[test]
fn a_terabyte_of_hole_costs_nothing() {
    let mut sandbox = Sandbox::new();
    let mountpoint = mount_image(&mut sandbox, &images::terabyte());
    let file = fs::File::open(mountpoint.join("terabyte")).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.len(), meta.blocks()), (1 << 40, 8));
    let mut piece = vec![0; 12288];
    file.read_exact_at(&mut piece, (1 << 39) - 4096).unwrap();
    assert!(piece[..4096].iter().chain(&piece[8192..]).all(|b| *b == 0));
    assert!(piece[4096..8192] == Content::bytes(11, 4096));
    assert_eq!(fs::read(mountpoint.join("after")).unwrap(), b"after\n");
}

#[test]
fn names_that_try_to_leave_stay_inside() {
    let mut sandbox = Sandbox::new();
    let mountpoint = mount_image(&mut sandbox, &images::hostile());
    for (name, content) in [
        ("above", "names above the root are names in the root\n"),
        ("b", "also\n"),
        ("c", "also\n"),
        ("hard", "also\n"),
        ("through-absolute-link", "in the root\n"),
        ("through-relative-link", "in the root\n"),
        ("e/inside", "in e\n"),
    ] {
        assert_eq!(fs::read_to_string(mountpoint.join(name)).unwrap(), content, "{name}");
    }
    assert_eq!(fs::read_link(mountpoint.join("out")).unwrap(), Path::new("/"));
}

#[test]
fn links_to_nothing_and_unknown_types_are_refused() {
    let sandbox = Sandbox::new();
    for (image, dir, words) in [
        (images::dangling_links(), "dangling", "hard link"),
        (images::strange_types(), "strange", "tar header type"),
    ] {
        let output = sandbox.run(["index", &layout(&image, &sandbox.path(dir))]);
        assert_eq!(output.status.code(), Some(65), "{}", describe(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{}", describe(&output));
    }
}

#[test]
fn every_compression_reads_the_same() {
    let mut sandbox = Sandbox::new();
    let mountpoint = mount_image(&mut sandbox, &images::compressions());
    let mut dirs = 0;
    for entry in fs::read_dir(&mountpoint).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        for file in 0..20 {
            let want = Content::bytes(20 + file, 30_000);
            assert!(fs::read(dir.join(format!("f{file}"))).unwrap() == want, "{} {file}", dir.display());
        }
        assert!(fs::read(dir.join("large")).unwrap() == Content::bytes(19, 3_000_000), "{}", dir.display());
        dirs += 1;
    }
    assert_eq!(dirs, fixtures::layer::Compress::ALL.len());
}

#[test]
fn the_same_image_gives_the_same_index_from_everywhere() {
    let sandbox = Sandbox::new();
    let image = images::oddities();
    let oci = layout(&image, &sandbox.path("layout"));
    let archive = sandbox.path("image.tar");
    image.write_oci_archive(&archive).unwrap();
    let registry = fixtures::registry::Registry::plain();
    let remote = registry.push(&image, "team/odd", "1");
    let mut indexes = Vec::new();
    for (n, from) in [oci, format!("oci-archive:{}", archive.display()), remote].iter().enumerate() {
        let index = sandbox.path(&format!("{n}.clip"));
        sandbox.ok(["index", from, "-o", index.to_str().unwrap()]);
        indexes.push(fs::read(index).unwrap());
    }
    assert!(indexes.windows(2).all(|pair| pair[0] == pair[1]), "an index depends on the image alone");

    let docker = sandbox.path("docker.tar");
    images::small().write_docker_archive(&docker, "small:1").unwrap();
    let out = sandbox.ok(["cat", &format!("docker-archive:{}", docker.display()), "/etc/hostname"]);
    assert_eq!(out, b"small\n");
}

#[test]
fn mount_8_finds_its_helper() {
    let mut sandbox = Sandbox::new();
    let image = layout(&images::small(), &sandbox.path("layout"));
    let mountpoint = sandbox.path("by-mount");
    fs::create_dir(&mountpoint).unwrap();
    let helper = sandbox.path("mount.clipfs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_clipfs"), &helper).unwrap();
    let options = format!("ro,noauto,_netdev,cache_dir={},memory=64MiB", sandbox.cache().display());
    // mount(8) looks for its helpers in /sbin only: it is called as mount(8) calls it.
    let run = sandbox.clipfs([""; 0]);
    let mut command = Command::new(&helper);
    command.args([image.as_str(), mountpoint.to_str().unwrap(), "-o", &options]);
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
    sandbox.umount(&mountpoint);
    let output = command.args(["-o", "no_such_option"]).output().unwrap();
    assert_eq!(output.status.code(), Some(32), "{}", describe(&output));
}
