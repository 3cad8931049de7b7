//! The file system calls on a small image. (Random images are compared in `tests/layer_stacks`.)

use std::io::{Read as _, Seek as _};

use super::*;
use crate::decode::tar::{Entry, EntryKind, Timestamp};
use crate::image::{LayerEntries, Merger};
use crate::index::{ImageMeta, write};
use crate::oci::Digest;

fn sample() -> Vfs {
    let dir = |path: &str| (path.to_owned(), EntryKind::Dir);
    let symlink = |path: &str, target: &str| (path.to_owned(), EntryKind::Symlink(target.into()));
    let mut entries = LayerEntries::default();
    for (path, kind) in [
        dir("."),
        dir("usr/lib"),
        ("usr/lib/fifo".to_owned(), EntryKind::Fifo),
        symlink("lib", "usr/lib"),
        symlink("abs", "/usr/./lib//fifo"),
        symlink("up", "../../usr/.."),
        symlink("loop", "./loop"),
        symlink("slash", "usr/lib/fifo/"),
    ] {
        let xattrs = if path == "." {
            vec![(IMAGE_XATTR.to_vec(), b"a lie".to_vec()), (b"user.z".to_vec(), b"1".to_vec())]
        } else {
            Vec::new()
        };
        let entry = Entry {
            path: path.into(),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs,
        };
        entries.push(&entry).unwrap();
    }
    let mut merger = Merger::default();
    merger.apply(0, entries).unwrap();
    let meta = ImageMeta { manifest_digest: Digest::of(b""), manifest: vec![], config: vec![], chunk: 1 };
    let mut file = tempfile::tempfile().unwrap();
    write(&mut file, &meta, &merger.finish().unwrap(), &mut []).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    Vfs::new(Arc::new(ClipIndex::from_bytes(bytes).unwrap()), "example/image@sha256:0")
}

fn names(vfs: &Vfs, dir: Ino, offset: u64) -> Vec<(String, u64)> {
    let entries = vfs.readdir(dir, offset).unwrap();
    entries.map(|e| (String::from_utf8(e.name.to_vec()).unwrap(), e.next)).collect()
}

#[test]
fn reads_directories_from_any_offset() {
    let vfs = sample();
    let all = names(&vfs, ROOT, 0);
    let only: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(only, [".", "..", "abs", "lib", "loop", "slash", "up", "usr"]);
    let nexts: Vec<_> = all.iter().map(|&(_, next)| next).collect();
    assert_eq!(nexts, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(names(&vfs, ROOT, 6), all[6..]);
    for beyond in [8, 9, u64::from(u32::MAX) + 3, u64::MAX] {
        assert_eq!(names(&vfs, ROOT, beyond), []);
    }
    let lib = vfs.resolve(b"/usr/lib", false).unwrap();
    let usr = vfs.resolve(b"usr", false).unwrap();
    let dots: Vec<_> = vfs.readdir(lib, 0).unwrap().take(2).map(|e| e.ino).collect();
    assert_eq!(dots, [lib, usr]);
}

#[test]
fn says_what_is_wrong() {
    let vfs = sample();
    let fifo = vfs.resolve(b"usr/lib/fifo", false).unwrap();
    assert_eq!(vfs.attr(0), Err(VfsError::NotFound));
    assert_eq!(vfs.attr(99), Err(VfsError::NotFound));
    assert_eq!(vfs.lookup(99, b"x"), Err(VfsError::NotFound));
    assert_eq!(vfs.lookup(ROOT, b"x"), Err(VfsError::NotFound));
    assert_eq!(vfs.lookup(ROOT, b""), Err(VfsError::NotFound));
    assert_eq!(vfs.lookup(ROOT, &[b'n'; 255]), Err(VfsError::NotFound));
    assert_eq!(vfs.lookup(ROOT, &[b'n'; 256]), Err(VfsError::NameTooLong));
    assert_eq!(vfs.lookup(fifo, b"x"), Err(VfsError::NotADirectory));
    assert_eq!(vfs.readdir(fifo, 0).err(), Some(VfsError::NotADirectory));
    assert_eq!(vfs.readdir(99, 0).err(), Some(VfsError::NotFound));
    assert_eq!(vfs.readlink(ROOT), Err(VfsError::NotASymlink));
    assert_eq!(vfs.readlink(99), Err(VfsError::NotFound));
    assert_eq!(vfs.getxattr(fifo, IMAGE_XATTR), Err(VfsError::NoAttribute));
    assert_eq!(vfs.getxattr(99, b"user.z"), Err(VfsError::NotFound));
    assert_eq!(vfs.listxattr(99), Err(VfsError::NotFound));
}

#[test]
fn the_root_tells_the_image_whatever_the_image_says() {
    let vfs = sample();
    assert_eq!(vfs.getxattr(ROOT, IMAGE_XATTR), Ok(&b"example/image@sha256:0"[..]));
    assert_eq!(vfs.getxattr(ROOT, b"user.z"), Ok(&b"1"[..]));
    assert_eq!(vfs.listxattr(ROOT).unwrap(), b"user.clipfs.image\0user.z\0");
    assert_eq!(vfs.listxattr(2).unwrap(), b"");
}

#[test]
fn resolves_paths_like_the_kernel() {
    let vfs = sample();
    let ino = |path: &str| vfs.resolve(path.as_bytes(), false).unwrap();
    let (lib, fifo) = (ino("usr/lib"), ino("usr/lib/fifo"));
    for (path, follow, want) in [
        ("", false, Ok(ROOT)),
        ("/", true, Ok(ROOT)),
        ("//usr/./lib/", false, Ok(lib)),
        ("usr/lib/../../../..", false, Ok(ROOT)),
        ("lib", true, Ok(lib)),
        ("lib/", false, Ok(lib)),
        ("lib/fifo", false, Ok(fifo)),
        ("lib/..", false, Ok(ino("usr"))),
        ("abs", true, Ok(fifo)),
        ("up", true, Ok(ROOT)),
        ("up/abs", true, Ok(fifo)),
        ("abs/x", true, Err(VfsError::NotADirectory)),
        ("abs/", true, Err(VfsError::NotADirectory)),
        ("slash", true, Err(VfsError::NotADirectory)),
        ("usr/lib/fifo/..", true, Err(VfsError::NotADirectory)),
        ("loop", true, Err(VfsError::NotFound)),
        ("usr/none", true, Err(VfsError::NotFound)),
    ] {
        assert_eq!(vfs.resolve(path.as_bytes(), follow), want, "{path}");
    }
    assert_eq!(vfs.attr(ino("lib")).unwrap().kind, Kind::Symlink);
    assert_eq!(vfs.readlink(ino("lib")), Ok(&b"usr/lib"[..]));
    assert_eq!(vfs.totals(), Totals { bytes: 0, files: 9 });
}
