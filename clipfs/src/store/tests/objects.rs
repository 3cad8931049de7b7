//! Complete objects.

use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;

use super::*;

#[test]
fn what_is_put_is_found_by_everybody() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, 10_000);
    assert_eq!(get(&store, &data), None);
    assert!(!store.knows_object(&digest(&data)));
    assert!(store.put_object(&digest(&data), &data));
    assert!(store.knows_object(&digest(&data)));
    assert!(get(&store, &data).is_some());
    assert!(get(&open(&dir), &data).is_some(), "another process, or a restart");
    assert!(store.put_object(&digest(&data), &data), "again is no error");
    assert_eq!(store.dir(), dir);
    assert_eq!(std::fs::read(object_path(&dir, &data)).unwrap(), data, "servable by itself");
    assert!(files(&dir, &["tmp"]).is_empty());
    let stats = store.stats();
    assert_eq!((stats.objects, stats.partials, stats.corrupt, stats.write_failures), (1, 0, 0, 0));
    assert_eq!(stats.disk_bytes, on_disk(&dir));
}

#[test]
fn nobody_else_may_look() {
    let (_temp, dir) = cache();
    let data = bytes(1, 100);
    assert!(open(&dir).put_object(&digest(&data), &data));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let object = object_path(&dir, &data);
    assert_eq!(mode(&object), 0o600);
    for sub in [&dir, &dir.join("objects"), &dir.join("partial"), &dir.join("tmp"), object.parent().unwrap()]
    {
        assert_eq!(mode(sub), 0o700, "{}", sub.display());
    }
    let tag = std::fs::read_to_string(dir.join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    assert!(dir.join("version").exists());
}

#[test]
fn sizes_from_nothing_to_several_reads() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    for len in [0, 1, 4095, 4096, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 3 << 20] {
        let data = bytes(num(len), len);
        assert!(store.put_object(&digest(&data), &data), "{len}");
        assert!(get(&store, &data).is_some(), "{len}");
        assert!(get(&open(&dir), &data).is_some(), "{len}");
    }
}

#[test]
fn wrong_bytes_are_not_stored() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    assert!(!store.put_object(&digest(b"one"), b"two"));
    assert!(files(&dir, &["objects", "tmp"]).is_empty());
    assert_eq!(store.stats().write_failures, 0);
}

/// Damages an object; a miss must follow, in this process and in a new one, and the object must be gone.
fn check_damage(what: &str, damage: impl Fn(&Path)) {
    for restart in [false, true] {
        let (_temp, dir) = cache();
        let mut store = open(&dir);
        let data = bytes(1, 300_000);
        assert!(store.put_object(&digest(&data), &data));
        if restart {
            store = open(&dir);
        } else {
            assert!(get(&store, &data).is_some());
        }
        let path = object_path(&dir, &data);
        damage(&path);
        assert_eq!(get(&store, &data), None, "{what}, restart {restart}");
        assert!(path.symlink_metadata().is_err(), "{what}: removed");
        assert_eq!(store.stats().corrupt, 1, "{what}");
        assert!(!store.knows_object(&digest(&data)));
        assert!(store.put_object(&digest(&data), &data), "{what}: and stored anew");
        assert!(get(&store, &data).is_some());
        assert_eq!(store.stats().objects, 1, "{what}");
    }
}

#[test]
fn damaged_objects_are_misses() {
    check_damage("first byte", |path| flip(path, 0));
    check_damage("last byte", |path| flip(path, 299_999));
    check_damage("truncated", |path| {
        std::fs::File::options().write(true).open(path).unwrap().set_len(299_999).unwrap();
    });
    check_damage("extended", |path| {
        std::fs::File::options().write(true).open(path).unwrap().set_len(300_001).unwrap();
    });
    check_damage("emptied", |path| std::fs::write(path, b"").unwrap());
    check_damage("zeros, as after a power cut", |path| std::fs::write(path, vec![0; 300_000]).unwrap());
    check_damage("replaced", |path| {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes(2, 300_000)).unwrap();
    });
    check_damage("a link to the right bytes", |path| {
        let aside = path.parent().unwrap().join("aside");
        std::fs::rename(path, &aside).unwrap();
        std::os::unix::fs::symlink(aside, path).unwrap();
    });
    check_damage("a FIFO", |path| {
        std::fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    });
    check_damage("old times put back", |path| {
        let old = path.metadata().unwrap();
        flip(path, 1000);
        let times = std::fs::FileTimes::new()
            .set_accessed(old.accessed().unwrap())
            .set_modified(old.modified().unwrap());
        std::fs::File::open(path).unwrap().set_times(times).unwrap();
    });
}

#[test]
fn putting_replaces_a_corrupt_object() {
    let (_temp, dir) = cache();
    let data = bytes(1, 5000);
    assert!(open(&dir).put_object(&digest(&data), &data));
    flip(&object_path(&dir, &data), 7);
    let store = open(&dir);
    assert!(store.put_object(&digest(&data), &data));
    assert_eq!(store.stats().corrupt, 1);
    assert!(get(&store, &data).is_some());
}

#[test]
fn swapped_objects_are_both_found_out() {
    for restart in [false, true] {
        let (_temp, dir) = cache();
        let mut store = open(&dir);
        let (one, two) = (bytes(1, 5000), bytes(2, 5000));
        for data in [&one, &two] {
            assert!(store.put_object(&digest(data), data));
            assert!(get(&store, data).is_some());
        }
        if restart {
            store = open(&dir);
        }
        let (a, b, c) = (object_path(&dir, &one), object_path(&dir, &two), dir.join("swap"));
        std::fs::rename(&a, &c).unwrap();
        std::fs::rename(&b, &a).unwrap();
        std::fs::rename(&c, &b).unwrap();
        assert_eq!(get(&store, &one), None);
        assert_eq!(get(&store, &two), None);
        assert_eq!(store.stats().corrupt, 2);
    }
}

#[test]
fn a_caller_with_the_wrong_size_spoils_nothing() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, 5000);
    assert!(store.put_object(&digest(&data), &data));
    for size in [0, 4999, 5001, u64::MAX] {
        assert!(store.object(&digest(&data), size).is_none());
        assert!(open(&dir).object(&digest(&data), size).is_none());
    }
    assert!(get(&store, &data).is_some());
    assert_eq!(store.stats().corrupt, 0);
}

#[test]
fn an_open_object_outlives_its_name() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, 5000);
    assert!(store.put_object(&digest(&data), &data));
    let object = store.object(&digest(&data), 5000).unwrap();
    assert!(store.clear().unwrap() > 0);
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut &object.file, &mut read).unwrap();
    assert_eq!(read, data);
    assert_eq!(get(&store, &data), None);
    assert_eq!(store.stats().objects, 0);
}

#[test]
fn opening_renews_old_times_without_verifying_again() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, 5000);
    assert!(store.put_object(&digest(&data), &data));
    let path = object_path(&dir, &data);
    let old = SystemTime::now() - Duration::from_secs(48 * 3600);
    let times = std::fs::FileTimes::new().set_accessed(old).set_modified(old);
    std::fs::File::open(&path).unwrap().set_times(times).unwrap();
    let object = store.object(&digest(&data), 5000).unwrap();
    let age = path.metadata().unwrap().accessed().unwrap().duration_since(old).unwrap();
    assert!(age > Duration::from_secs(47 * 3600), "the access time is of now");
    assert_eq!(path.metadata().unwrap().modified().unwrap(), old, "the modification time stays");
    let ident = disk::stat(&object.file).unwrap().ident;
    assert_eq!(store.inner.memo.check(&digest(&data), &ident), Some(true));
}

#[test]
fn many_threads_put_and_open_the_same_objects() {
    let (_temp, dir) = cache();
    let stores = [open(&dir), open(&dir)];
    let contents: Vec<_> = (0..20).map(|n| bytes(n, 20_000)).collect();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (store, contents) = (&stores[n % 2], &contents);
            scope.spawn(move || {
                for data in contents {
                    assert!(store.put_object(&digest(data), data));
                    assert!(get(store, data).is_some());
                }
            });
        }
    });
    assert_eq!(files(&dir, &["objects"]).len(), 20);
    assert!(files(&dir, &["tmp"]).is_empty());
    stores[0].recount().unwrap();
    let stats = stores[0].stats();
    assert_eq!((stats.objects, stats.disk_bytes, stats.corrupt), (20, on_disk(&dir), 0));
}

#[test]
fn an_object_is_hashed_once_by_many_threads() {
    let (_temp, dir) = cache();
    let data = bytes(1, 3 << 20);
    assert!(open(&dir).put_object(&digest(&data), &data));
    flip(&object_path(&dir, &data), 5);
    // A corrupt one shows it: only who hashes (or finds out that it was) counts it, and then it is gone.
    let store = open(&dir);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(get(&store, &data), None));
        }
    });
    assert!(store.stats().corrupt >= 1);
    assert_eq!(store.stats().objects, 0);
    assert!(!object_path(&dir, &data).exists());
}

#[test]
fn verify_finds_and_removes_what_is_corrupt() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let contents: Vec<_> = (0..10).map(|n| bytes(n, 5000 + usize::try_from(n).unwrap())).collect();
    for data in &contents {
        assert!(store.put_object(&digest(data), data));
    }
    let partial = bytes(50, 40_000);
    store.partial(&SCOPE, &digest(&partial), 40_000, false).write(0, &partial[..20_000]);
    let mut last = (0, 0);
    let mut progress = |done, all| last = (done, all);
    let report = store.verify(&mut progress).unwrap();
    assert_eq!((report.checked, report.corrupt.len()), (11, 0));
    assert_eq!(report.bytes, contents.iter().map(|data| num(data.len())).sum::<u64>() + 20_000);
    assert_eq!(last.0, last.1);
    flip(&object_path(&dir, &contents[3]), 9);
    flip(&path_of(&dir, "partial", &digest(&partial)), 9);
    let report = open(&dir).verify(&mut |_, _| {}).unwrap();
    let name = hex::encode(digest(&contents[3]));
    let mut expected = vec![format!("objects/{}/{name}", &name[..2])];
    let name = hex::encode(digest(&partial));
    expected.push(format!("partial/{}/{name}", &name[..2]));
    assert_eq!(report.corrupt, expected);
    assert_eq!(files(&dir, &["objects", "partial"]).len(), 9);
    store.recount().unwrap();
    let stats = store.stats();
    assert_eq!((stats.objects, stats.partials, stats.disk_bytes), (9, 0, on_disk(&dir)));
}

#[test]
fn memory_is_counted() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let key = MemoryKey { digest: [1; 32], part: 1 };
    store.memory_put(key, Bytes::from_static(b"abc"));
    assert_eq!(store.memory_get(&key).as_deref(), Some(&b"abc"[..]));
    assert_eq!(store.stats().memory_bytes, 3);
}
