//! The quota, eviction, and the tally.

use std::time::SystemTime;

use super::*;

/// Gives a file the times of so many seconds ago.
fn age(path: &Path, seconds: u64) {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    let times = std::fs::FileTimes::new().set_accessed(then).set_modified(then);
    std::fs::File::open(path).unwrap().set_times(times).unwrap();
}

fn put(store: &Store, data: &[u8]) -> bool {
    store.put_object(&digest(data), data)
}

#[test]
fn it_holds_under_a_random_workload_with_pins() {
    const QUOTA: u64 = 1 << 20;
    for seed in 0..4 {
        let (_temp, dir) = cache();
        let store = open_with(&dir, QUOTA);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut pinned: Vec<(ObjectFile, Vec<u8>)> = Vec::new();
        let mut partials: Vec<(Partial, Vec<u8>)> = Vec::new();
        let mut stored = 0;
        for step in 0..600 {
            let data = bytes(rng.u64(0..300), rng.usize(1..60_000));
            match rng.u8(0..10) {
                0..6 => stored += u64::from(put(&store, &data)),
                6 => {
                    if let Some(object) = store.object(&digest(&data), num(data.len())) {
                        pinned.push((object, data));
                    }
                }
                7 => {
                    let partial = store.partial(&SCOPE, &digest(&data), num(data.len()), false);
                    partials.push((partial, data));
                }
                8 if !partials.is_empty() => {
                    let (partial, data) = &partials[rng.usize(0..partials.len())];
                    let offset = rng.usize(0..data.len());
                    partial.write(num(offset), &data[offset..(offset + 9000).min(data.len())]);
                    if let Some((at, bytes)) = partial.read(num(offset)) {
                        assert!(data[usize::try_from(at).unwrap()..].starts_with(&bytes));
                    }
                }
                _ => {
                    pinned.truncate(3);
                    partials.truncate(3);
                }
            }
            if let Some((_, data)) = pinned.last() {
                assert!(get(&store, data).is_some(), "pinned");
            }
            let used = on_disk(&dir);
            assert!(used <= QUOTA, "seed {seed}, step {step}: {used} bytes on disk");
        }
        assert!(stored > 300 && store.stats().evictions > 100);
        assert_eq!(store.stats().write_failures + store.stats().corrupt, 0);
    }
}

#[test]
fn the_least_recently_used_goes_first() {
    let (_temp, dir) = cache();
    let store = open_with(&dir, 100 * 4096);
    let contents: Vec<_> = (0..95).map(|n| bytes(n, 4096)).collect();
    for data in &contents {
        assert!(put(&store, data));
    }
    // In use by this process: the first ten, though their files are the oldest.
    for data in &contents[..10] {
        assert!(get(&store, data).is_some());
    }
    for n in 100..110 {
        assert!(put(&store, &bytes(n, 4096)));
    }
    assert!(store.stats().evictions >= 5);
    assert!(contents[..10].iter().all(|data| get(&store, data).is_some()), "used lately");
    assert_eq!(get(&store, &contents[10]), None, "used longest ago");
    assert!(get(&store, &contents[94]).is_some());
}

#[test]
fn recency_survives_a_restart() {
    let (_temp, dir) = cache();
    let contents: Vec<_> = (0..90).map(|n| bytes(n, 4096)).collect();
    {
        let store = open_with(&dir, 100 * 4096);
        assert!(contents.iter().all(|data| put(&store, data)));
    }
    for (n, data) in contents.iter().enumerate() {
        // The later half was used longer ago.
        age(&object_path(&dir, data), if n >= 45 { 20_000 } else { 10_000 });
    }
    let store = open_with(&dir, 100 * 4096);
    store.gc(Some(45 * 4096)).unwrap();
    let left = |range: &[Vec<u8>]| range.iter().filter(|data| object_path(&dir, data).exists()).count();
    assert_eq!((left(&contents[..45]), left(&contents[45..])), (45, 0));
}

#[test]
fn what_is_larger_than_the_quota_displaces_nothing() {
    let (_temp, dir) = cache();
    let store = open_with(&dir, 1 << 20);
    let small = bytes(1, 1000);
    assert!(put(&store, &small));
    assert!(!put(&store, &bytes(2, (1 << 20) + 1)));
    let partial = store.partial(&SCOPE, &[3; 32], 2 << 20, false);
    partial.write(0, &bytes(3, 2 << 20));
    assert_eq!(partial.read(0), None);
    assert!(get(&store, &small).is_some());
    assert_eq!((store.stats().evictions, store.stats().write_failures), (0, 0));
}

#[test]
fn when_all_is_in_use_nothing_is_stored_and_nothing_fails() {
    let (_temp, dir) = cache();
    let store = open_with(&dir, 10 * 4096);
    let contents: Vec<_> = (0..10).map(|n| bytes(n, 4096)).collect();
    let mut pins = Vec::new();
    for data in &contents {
        assert!(put(&store, data));
        pins.push(store.object(&digest(data), 4096).unwrap());
    }
    for n in 20..40 {
        assert!(!put(&store, &bytes(n, 4096)));
    }
    assert!(contents.iter().all(|data| get(&store, data).is_some()));
    assert_eq!((store.stats().evictions, store.stats().write_failures), (0, 0));
    drop(pins);
    rest();
    assert!(put(&store, &bytes(50, 4096)), "caching resumes");
}

#[test]
fn partials_are_evicted_unless_a_process_has_them_open() {
    let (_temp, dir) = cache();
    let other = open(&dir);
    let (idle, busy) = (bytes(1, 100_000), bytes(2, 100_000));
    other.partial(&SCOPE, &digest(&idle), 100_000, false).write(0, &idle[..50_000]);
    let held = other.partial(&SCOPE, &digest(&busy), 100_000, false);
    held.write(0, &busy[..50_000]);
    let store = open(&dir);
    store.gc(Some(0)).unwrap();
    assert_eq!(store.stats().evictions, 1);
    assert!(store.partial(&SCOPE, &digest(&idle), 100_000, false).read(0).is_none());
    assert!(held.read(0).is_some());
    assert!(store.partial(&SCOPE, &digest(&busy), 100_000, false).read(0).is_some());
    drop(held);
    rest();
    store.gc(Some(0)).unwrap();
    assert!(files(&dir, &["partial", "objects"]).is_empty());
    assert_eq!(store.stats().disk_bytes, 0);
}

#[test]
fn processes_share_one_quota() {
    const QUOTA: u64 = 4 << 20;
    let (_temp, dir) = cache();
    let stores: Vec<_> = (0..4).map(|_| open_with(&dir, QUOTA)).collect();
    std::thread::scope(|scope| {
        for (thread, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(num(thread));
                for _ in 0..200 {
                    let _ = put(store, &bytes(rng.u64(..), rng.usize(1..60_000)));
                }
            });
        }
    });
    let used = on_disk(&dir);
    // What each may write before it looks at what the others have written, and one object in flight.
    assert!(used <= QUOTA + 4 * (QUOTA / 256 + 65_536), "{used}");
    assert!(used > QUOTA / 2, "{used}");
    drop(stores);
    let store = open_with(&dir, QUOTA);
    let told = store.stats().disk_bytes;
    assert!(told.abs_diff(on_disk(&dir)) < QUOTA / 10, "the tally: {told}, the truth: {}", on_disk(&dir));
    store.recount().unwrap();
    assert_eq!(store.stats().disk_bytes, on_disk(&dir));
}

#[test]
fn a_lost_or_damaged_tally_is_made_again() {
    let (_temp, dir) = cache();
    let contents: Vec<_> = (0..30).map(|n| bytes(n, 4096)).collect();
    {
        let store = open(&dir);
        assert!(contents.iter().all(|data| put(&store, data)));
    }
    let usage = dir.join("usage");
    for damage in ["missing", "flipped", "empty", "foreign"] {
        match damage {
            "missing" => std::fs::remove_file(&usage).unwrap(),
            "flipped" => flip(&usage, 9),
            "empty" => std::fs::write(&usage, b"").unwrap(),
            _ => std::fs::write(&usage, bytes(1, 500)).unwrap(),
        }
        let stats = open(&dir).stats();
        assert_eq!((stats.objects, stats.disk_bytes), (30, 30 * 4096), "{damage}");
    }
}

#[test]
fn an_overfull_directory_is_brought_down_by_who_comes_next() {
    let (_temp, dir) = cache();
    {
        let store = open(&dir);
        assert!((0..100).all(|n| put(&store, &bytes(n, 4096))));
    }
    for known in [true, false] {
        if !known {
            std::fs::remove_file(dir.join("usage")).unwrap();
        }
        let store = open_with(&dir, if known { 50 * 4096 } else { 20 * 4096 });
        assert!(put(&store, &bytes(200 + u64::from(known), 4096)));
        assert!(put(&store, &bytes(300 + u64::from(known), 4096)));
        store.gc(None).unwrap();
        assert!(on_disk(&dir) <= if known { 50 * 4096 } else { 20 * 4096 });
    }
}

#[test]
fn gc_goes_to_its_target_and_removes_leftovers() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    assert!((0..50).all(|n| put(&store, &bytes(n, 4096))));
    store.partial(&SCOPE, &[1; 32], 100_000, false).write(0, &bytes(1, 50_000));
    assert_eq!(store.gc(None).unwrap(), 0);
    let freed = store.gc(Some(20 * 4096)).unwrap();
    let used = on_disk(&dir);
    assert!(used <= 20 * 4096 && used > 0 && freed >= 40 * 4096, "{used} left, {freed} freed");
    assert_eq!(store.stats().disk_bytes, used);

    std::fs::write(dir.join("tmp/0123456789abcdef"), bytes(1, 8192)).unwrap();
    let orphan = path_of(&dir, "partial", &[0x77; 32]);
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(orphan.with_extension("map"), bytes(1, 4096)).unwrap();
    assert_eq!(store.gc(None).unwrap(), 8192 + 4096);
    assert!(files(&dir, &["tmp"]).is_empty());
    assert!(store.clear().unwrap() >= used);
    assert_eq!((store.stats().disk_bytes, store.stats().objects, store.stats().partials), (0, 0, 0));
}

#[test]
fn foreign_files_are_left_alone() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    assert!(put(&store, &bytes(1, 4096)));
    let shard = object_path(&dir, &bytes(1, 4096)).parent().unwrap().to_owned();
    let foreign = [
        dir.join("objects/readme"),
        dir.join("notes.txt"),
        shard.join("x.map"),
        shard.join("00".repeat(32) + "0"),
    ];
    for path in &foreign {
        std::fs::write(path, b"mine").unwrap();
    }
    store.verify(&mut |_, _| {}).unwrap();
    store.gc(Some(0)).unwrap();
    store.clear().unwrap();
    assert!(foreign.iter().all(|path| path.exists()));
}
