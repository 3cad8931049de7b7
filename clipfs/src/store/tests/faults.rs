//! Rows 21 to 25 of the fault table: trouble with the disk never reaches a reader.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;

/// A small file system of its own, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn new(options: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        mount(Some("clipfs-test"), temp.path(), Some("tmpfs"), MsFlags::empty(), Some(options))
            .expect("this test mounts a tmpfs: it needs root (CAP_SYS_ADMIN)");
        Self(temp)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, flags: MsFlags) {
        mount(None::<&str>, self.path(), None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

fn put(store: &Store, data: &[u8]) -> bool {
    store.put_object(&digest(data), data)
}

#[test]
fn a_disk_filled_by_us_is_relieved_by_evicting() {
    let disk = Small::new("size=4m");
    let dir = disk.path().join("cache");
    let store = open(&dir);
    for n in 0..200 {
        let data = bytes(n, 60_000);
        assert!(put(&store, &data), "{n}");
        assert!(get(&store, &data).is_some(), "{n}");
    }
    let stats = store.stats();
    assert!(stats.evictions >= 100 && stats.write_failures == 0, "{stats:?}");
    let data = bytes(1000, 1_500_000);
    let partial = store.partial(&SCOPE, &digest(&data), num(data.len()), false);
    partial.write(0, &data);
    assert!(partial.complete().is_some());
}

#[test]
fn a_disk_filled_by_others_costs_a_try_a_second() {
    let disk = Small::new("size=4m");
    let store = open(&disk.path().join("cache"));
    let (kept, partly) = (bytes(1, 60_000), bytes(2, 60_000));
    assert!(put(&store, &kept));
    let kept_open = store.object(&digest(&kept), 60_000).unwrap();
    let partial = store.partial(&SCOPE, &digest(&partly), 60_000, false);
    partial.write(0, &partly[..30_000]);
    let hog = disk.path().join("hog");
    let _ = std::fs::write(&hog, vec![1; 8 << 20]).unwrap_err();

    for n in 10..30 {
        assert!(!put(&store, &bytes(n, 60_000)));
        partial.write(30_000, &partly[30_000..]);
    }
    let failures = store.stats().write_failures;
    assert!((1..5).contains(&failures), "{failures} tries");
    assert!(get(&store, &kept).is_some(), "in use: not evicted");
    assert!(partial.read(0).is_some());
    assert_eq!(partial.missing(), std::iter::once(30_000..60_000).collect::<Vec<_>>());

    std::fs::remove_file(&hog).unwrap();
    rest();
    assert!(put(&store, &bytes(50, 60_000)), "caching resumes");
    partial.write(30_000, &partly[30_000..]);
    assert!(partial.complete().is_some());
    assert_eq!(store.stats().corrupt, 0);
    drop(kept_open);
}

#[test]
fn no_inodes_is_a_full_disk_too() {
    let disk = Small::new("size=4m,nr_inodes=300");
    let store = open(&disk.path().join("cache"));
    for n in 0..400 {
        let _ = put(&store, &bytes(n, 100));
        if n % 100 == 99 {
            rest();
        }
    }
    assert!(store.stats().evictions > 0);
    assert!(put(&store, &bytes(1000, 100)));
}

#[test]
fn a_directory_on_a_full_disk_opens_and_recovers() {
    let disk = Small::new("size=1m,nr_inodes=4");
    let dir = disk.path().join("cache");
    let hogs = ["a", "b"].map(|name| disk.path().join(name));
    for hog in &hogs {
        std::fs::write(hog, b"").unwrap();
    }
    let store = open(&dir);
    assert!(!put(&store, b"data"));
    assert_eq!(get(&store, b"data"), None);
    let partial = store.partial(&SCOPE, &[1; 32], 100, false);
    partial.write(0, b"data");
    assert_eq!(partial.read(0), None);
    assert!(store.stats().write_failures > 0);
    assert!(store.gc(None).is_err());
    mount(None::<&str>, disk.path(), None::<&str>, MsFlags::MS_REMOUNT, Some("nr_inodes=1000")).unwrap();
    rest();
    assert!(put(&store, b"data"));
    assert!(get(&store, b"data").is_some());
}

#[test]
fn a_read_only_disk_still_serves() {
    let disk = Small::new("size=4m");
    let dir = disk.path().join("cache");
    let (data, partly, bad) = (bytes(1, 50_000), bytes(2, 50_000), bytes(3, 50_000));
    {
        let store = open(&dir);
        assert!(put(&store, &data) && put(&store, &bad));
        store.partial(&SCOPE, &digest(&partly), 50_000, false).write(0, &partly[..20_000]);
    }
    flip(&object_path(&dir, &bad), 1);
    disk.remount(MsFlags::MS_RDONLY);
    let store = open(&dir);
    assert!(get(&store, &data).is_some());
    let partial = store.partial(&SCOPE, &digest(&partly), 50_000, false);
    assert!(partial.read(0).is_some());
    partial.write(20_000, &partly[20_000..]);
    rest();
    assert!(!put(&store, &bytes(9, 100)));
    assert_eq!(store.stats().write_failures, 2);
    for _ in 0..3 {
        assert_eq!(get(&store, &bad), None, "corrupt, though it cannot be removed");
    }
    disk.remount(MsFlags::empty());
    rest();
    assert!(put(&store, &bad));
    assert!(get(&store, &bad).is_some());
}

/// Run by the test below, in a process of its own: descriptors are limited per process.
#[test]
#[ignore = "only as a child of without_descriptors_it_goes_on"]
fn without_descriptors_child() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_temp, dir) = cache();
    let store = open(&dir);
    let (data, other) = (bytes(1, 50_000), bytes(2, 50_000));
    assert!(put(&store, &data));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 128.min(soft), hard).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    let seen = (get(&store, &data), put(&store, &other), store.partial(&SCOPE, &[1; 32], 10, false).read(0));
    let failures = store.stats().write_failures;
    drop(taken);
    assert_eq!(seen, (None, false, None), "misses");
    assert_eq!(failures, 1);
    rest();
    assert!(put(&store, &other) && get(&store, &other).is_some());
    assert!(get(&store, &data).is_some(), "was not taken for corrupt");
}

#[test]
fn without_descriptors_it_goes_on() {
    // Not by path: a build that goes on may have replaced the file.
    let child = std::process::Command::new("/proc/self/exe")
        .args(["--exact", "store::tests::faults::without_descriptors_child", "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_removed_directory_is_made_again() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, 300_000);
    assert!(put(&store, &data));
    let kept_open = store.object(&digest(&data), 300_000).unwrap();
    let partial = store.partial(&SCOPE, &[2; 32], 300_000, true);
    partial.write(0, &data[..100_000]);
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(get(&store, &data), None);
    assert_eq!(kept_open.file.metadata().unwrap().len(), 300_000);
    assert!(partial.read(0).is_some(), "what is open stays");
    assert!(put(&store, &data), "made again");
    assert!(get(&store, &data).is_some());
    partial.write(100_000, &data[100_000..200_000]);
    assert!(partial.read(100_000).is_some());
    assert!(path_of(&dir, "partial", &[2; 32]).exists());
    assert_eq!(store.stats().write_failures, 0);
    assert_eq!(store.stats().objects, 1);
    std::fs::remove_dir_all(dir.join("objects")).unwrap();
    assert!(put(&store, &bytes(5, 100)), "objects alone, likewise");
    std::fs::remove_dir_all(dir.join("tmp")).unwrap();
    assert!(put(&store, &bytes(6, 100)), "tmp alone, likewise");
}

#[test]
fn a_renamed_directory_is_kept_by_its_descriptor() {
    let (temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, 1000);
    assert!(put(&store, &data));
    let moved = temp.path().join("moved");
    std::fs::rename(&dir, &moved).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), &dir).unwrap();
    assert!(get(&store, &data).is_some());
    assert!(put(&store, &bytes(2, 1000)));
    assert_eq!(files(&moved, &["objects"]).len(), 2);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_replaced_by_a_link_is_bypassed() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, 1000);
    assert!(put(&store, &data));
    let partial = store.partial(&SCOPE, &[2; 32], 1000, true);
    partial.write(0, &data[..500]);
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    symlink(elsewhere.path(), &dir).unwrap();
    assert_eq!(get(&store, &data), None);
    assert!(!put(&store, &data));
    partial.write(500, &data[500..]);
    rest();
    assert!(!put(&store, &data));
    partial.write(500, &data[500..]);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0, "the link was not followed");
    std::fs::remove_file(&dir).unwrap();
    rest();
    assert!(put(&store, &data), "caching resumes");
}

#[test]
fn links_inside_are_not_followed() {
    let (_temp, dir) = cache();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("precious");
    std::fs::write(&target, b"precious").unwrap();
    let store = open(&dir);
    let data = bytes(1, 1000);
    let shard = object_path(&dir, &data).parent().unwrap().to_owned();
    symlink(elsewhere.path(), &shard).unwrap();
    assert_eq!(get(&store, &data), None);
    assert!(put(&store, &data), "the link goes, a directory comes");
    assert!(get(&store, &data).is_some());

    let name = [3; 32];
    let partial_data = path_of(&dir, "partial", &name);
    std::fs::create_dir(partial_data.parent().unwrap()).unwrap();
    symlink(&target, &partial_data).unwrap();
    symlink(&target, partial_data.with_extension("map")).unwrap();
    let partial = store.partial(&SCOPE, &name, 1000, true);
    assert_eq!(partial.read(0), None);
    partial.write(0, &data);
    assert!(partial.read(0).is_some());

    symlink(&target, dir.join("tmp/0123")).unwrap();
    symlink(&target, object_path(&dir, b"x").parent().unwrap().join(hex::encode(digest(b"x"))))
        .unwrap_or_default();
    drop(partial);
    store.gc(Some(0)).unwrap();
    store.clear().unwrap();
    drop(open(&dir));
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[test]
fn directories_that_cannot_be_trusted_are_refused() {
    let open = |dir: &Path| {
        let options = StoreOptions { dir: dir.to_owned(), quota: LARGE, memory: 0 };
        Store::open(options).map(drop).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            assert_eq!(error.to_string(), format!("cannot use cache directory {}", dir.display()));
            source
        })
    };
    let (temp, dir) = cache();
    assert_eq!(open(&dir.join("a/b")), Ok(()), "parents are made");
    let link = temp.path().join("link");
    symlink(&dir, &link).unwrap();
    assert!(open(&link).unwrap_err().contains("symbolic link"));
    let file = temp.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(open(&file).unwrap_err().contains("ot a directory"));
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(open(&dir).unwrap_err().contains("other users may write"));
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(open(&dir), Ok(()));
    std::os::unix::fs::chown(dir.join("objects"), Some(12345), None).unwrap();
    assert!(open(&dir).unwrap_err().contains("another user"));
    std::os::unix::fs::chown(dir.join("objects"), Some(0), None).unwrap();
    std::fs::write(dir.join("version"), b"").unwrap();
    assert_eq!(open(&dir), Ok(()), "left empty by a power cut");
    std::fs::write(dir.join("version"), b"clipfs store 2").unwrap();
    assert!(open(&dir).unwrap_err().contains("another version"));
}

#[test]
fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let dirs = store.inner.disk.dirs().unwrap();
    let living = dirs.temp().unwrap();
    let dead = dir.join("tmp/0123456789abcdef");
    std::fs::write(&dead, b"half an object").unwrap();
    drop(open(&dir));
    assert!(!dead.exists());
    assert_eq!(files(&dir, &["tmp"]).len(), 1);
    drop(living);
    assert!(files(&dir, &["tmp"]).is_empty());
}

#[test]
fn whatever_happens_to_the_files_no_wrong_byte_is_served() {
    let mut rng = fastrand::Rng::with_seed(11);
    for seed in 0..6 {
        let (_temp, dir) = cache();
        let contents: Vec<_> = (0..12).map(|n| bytes(seed * 100 + n, 30_000)).collect();
        let mut stores = [open(&dir), open(&dir)];
        for _ in 0..250 {
            let store = &stores[rng.usize(0..2)];
            let data = &contents[rng.usize(0..contents.len())];
            match rng.u8(0..8) {
                0 => drop(put(store, data)),
                1 => drop(get(store, data)),
                2 | 3 => {
                    let partial = store.partial(&SCOPE, &digest(data), 30_000, false);
                    let at = rng.usize(0..30_000);
                    partial.write(num(at), &data[at..(at + 10_000).min(30_000)]);
                    if let Some((start, found)) = partial.read(num(rng.usize(0..30_000))) {
                        assert!(data[usize::try_from(start).unwrap()..].starts_with(&found));
                    }
                    if partial.complete().is_some() {
                        drop(get(store, data));
                    }
                }
                4 => stores[rng.usize(0..2)] = open(&dir),
                _ => harm(&dir, &mut rng),
            }
        }
        for data in &contents {
            for store in &stores {
                let _ = get(store, data);
                assert!(put(store, data) && get(store, data).is_some());
            }
        }
        assert_eq!(stores[0].stats().write_failures + stores[1].stats().write_failures, 0);
    }
}

/// Does one bad thing to the cache.
fn harm(dir: &Path, rng: &mut fastrand::Rng) {
    let files = files(dir, &["objects", "partial"]);
    let (Some(one), Some(two)) = (rng.choice(&files), rng.choice(&files)) else { return };
    let len = one.metadata().map_or(0, |m| m.len());
    match rng.u8(0..6) {
        0 | 1 if len > 0 => flip(one, rng.u64(0..len)),
        2 => std::fs::File::options().write(true).open(one).unwrap().set_len(rng.u64(0..=len)).unwrap(),
        3 if one != two => {
            let aside = dir.join("aside");
            std::fs::rename(one, &aside).unwrap();
            std::fs::rename(two, one).unwrap();
            std::fs::rename(&aside, two).unwrap();
        }
        4 => std::fs::remove_file(one).unwrap(),
        _ => drop(std::fs::write(dir.join("usage"), bytes(rng.u64(..), 40))),
    }
}
