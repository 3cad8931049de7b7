//! Partial objects.

use std::io::Write as _;
use std::ops::Range;

use super::*;

const SIZE: usize = 1_000_000;
const CUT: usize = 100_000;

fn paths(dir: &Path, name: &Blake3) -> (PathBuf, PathBuf) {
    let data = path_of(dir, "partial", name);
    let map = data.with_extension("map");
    (data, map)
}

/// One missing range.
fn only(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

/// What a partial says about a range, checked against the truth.
fn read(partial: &Partial, truth: &[u8], offset: usize) -> Option<usize> {
    let (start, bytes) = partial.read(num(offset))?;
    let start = usize::try_from(start).unwrap();
    assert!((start..start + bytes.len()).contains(&offset));
    assert!(bytes[..] == truth[start..start + bytes.len()], "wrong bytes served");
    Some(bytes.len())
}

fn write_all(partial: &Partial, data: &[u8]) {
    for (n, part) in data.chunks(CUT).enumerate() {
        partial.write(num(n * CUT), part);
    }
}

#[test]
fn a_life() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, SIZE);
    let partial = store.partial(&SCOPE, &digest(&data), num(SIZE), false);
    assert_eq!(partial.missing(), only(0..num(SIZE)));
    assert_eq!(read(&partial, &data, 0), None);
    assert!(partial.complete().is_none());
    assert!(files(&dir, &["partial"]).is_empty(), "nothing before the first write");

    partial.write(200_000, &data[200_000..300_000]);
    partial.write(0, &data[..100_000]);
    assert_eq!(partial.missing(), [100_000..200_000, 300_000..num(SIZE)]);
    assert_eq!(read(&partial, &data, 250_000), Some(CUT));
    assert_eq!(read(&partial, &data, 299_999), Some(CUT));
    assert_eq!(read(&partial, &data, 300_000), None);
    assert_eq!(read(&partial, &data, 150_000), None);
    assert!(partial.complete().is_none());
    let stats = store.stats();
    assert_eq!((stats.objects, stats.partials), (0, 1));
    assert!(stats.disk_bytes >= on_disk(&dir) && stats.disk_bytes < 2 * on_disk(&dir));

    let store = open(&dir);
    let partial = store.partial(&SCOPE, &digest(&data), num(SIZE), false);
    assert_eq!(partial.missing(), [100_000..200_000, 300_000..num(SIZE)], "after a restart");
    assert_eq!(read(&partial, &data, 0), Some(CUT));
    write_all(&partial, &data);
    assert!(partial.missing().is_empty());
    let object = partial.complete().expect("complete");
    assert_eq!(object.file.metadata().unwrap().len(), num(SIZE));
    assert!(get(&store, &data).is_some());
    assert!(files(&dir, &["partial"]).is_empty());
    assert_eq!(read(&partial, &data, 5), Some(CUT), "readers in the middle of it go on");
    assert!(partial.complete().is_some(), "again");
    assert!(partial.missing().is_empty());
    store.recount().unwrap();
    let stats = store.stats();
    assert_eq!((stats.objects, stats.partials, stats.corrupt), (1, 0, 0));
    assert_eq!(stats.disk_bytes, on_disk(&dir));
}

#[test]
fn an_empty_content_is_complete() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let partial = store.partial(&SCOPE, &digest(b""), 0, false);
    assert!(partial.missing().is_empty());
    assert!(partial.complete().is_some());
}

#[test]
fn writes_outside_of_the_file_are_ignored() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let partial = store.partial(&SCOPE, &[1; 32], 100, false);
    partial.write(0, &[]);
    partial.write(50, &[0; 51]);
    partial.write(u64::MAX, &[0; 2]);
    assert!(files(&dir, &["partial"]).is_empty());
    assert_eq!(partial.read(u64::MAX), None);
}

#[test]
fn sparse_contents_stay_partial() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, SIZE);
    let partial = store.partial(&SCOPE, &[7; 32], num(SIZE), true);
    write_all(&partial, &data);
    assert!(partial.missing().is_empty());
    assert!(partial.complete().is_none());
    assert_eq!(read(&open(&dir).partial(&SCOPE, &[7; 32], num(SIZE), true), &data, 123_456), Some(CUT));
    let other = open(&dir).partial(&SCOPE, &[7; 32], num(SIZE), false);
    assert_eq!(other.read(0), None, "another kind of content under the same digest is not this one");
}

#[test]
fn scopes_share_objects_but_no_parts() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, SIZE);
    let liar = store.partial(&[1; 32], &digest(&data), num(SIZE), false);
    liar.write(0, &vec![0x66; CUT]);
    let honest = store.partial(&[2; 32], &digest(&data), num(SIZE), false);
    assert_eq!(read(&honest, &data, 0), None);
    write_all(&honest, &data);
    assert!(honest.complete().is_some());
    assert!(get(&store, &data).is_some());
}

#[test]
fn two_processes_write_the_same_partial() {
    for round in 0..10 {
        let (_temp, dir) = cache();
        let data = bytes(round, SIZE);
        let stores = [open(&dir), open(&dir)];
        let partials: Vec<_> =
            stores.iter().map(|store| store.partial(&SCOPE, &digest(&data), num(SIZE), false)).collect();
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (partial, data) = (&partials[thread % 2], &data);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(num(thread));
                    for _ in 0..40 {
                        // Cut differently, so that segments overlap.
                        let offset = rng.usize(0..SIZE);
                        let end = (offset + rng.usize(1..150_000)).min(SIZE);
                        partial.write(num(offset), &data[offset..end]);
                        let _ = read(partial, data, rng.usize(0..SIZE));
                    }
                });
            }
        });
        for partial in &partials {
            write_all(partial, &data);
            for at in (0..SIZE).step_by(33_333) {
                assert!(read(partial, &data, at).is_some(), "records of the other process are picked up");
            }
        }
        let complete = std::thread::scope(|scope| {
            let both: Vec<_> = partials.iter().map(|p| scope.spawn(|| p.complete().is_some())).collect();
            both.into_iter().map(|thread| thread.join().unwrap()).filter(|&done| done).count()
        });
        assert!(complete >= 1, "one of them does it; the other may find it busy");
        assert!(partials.iter().all(|partial| partial.complete().is_some()));
        assert!(stores.iter().all(|store| get(store, &data).is_some()));
        assert!(stores.iter().all(|store| store.stats().corrupt == 0));
        assert!(files(&dir, &["partial", "tmp"]).is_empty());
    }
}

#[test]
fn a_late_writer_does_not_write_into_the_object() {
    let (_temp, dir) = cache();
    let data = bytes(1, SIZE);
    let (one, two) = (open(&dir), open(&dir));
    let first = one.partial(&SCOPE, &digest(&data), num(SIZE), false);
    write_all(&first, &data);
    let late = two.partial(&SCOPE, &digest(&data), num(SIZE), false);
    // It has found a segment corrupt for a moment, so it would write it.
    let (file, _) = paths(&dir, &digest(&data));
    flip(&file, 5);
    assert_eq!(read(&late, &data, 0), None);
    flip(&file, 5);
    let object = first.complete().unwrap();
    late.write(0, &vec![0; CUT]);
    first.write(0, &vec![0; CUT]);
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut &object.file, &mut read).unwrap();
    assert!(read == data);
    assert!(get(&two, &data).is_some());
    assert_eq!(two.stats().corrupt + one.stats().corrupt, 1);
    assert!(two.knows_object(&digest(&data)));
    assert!(late.missing().is_empty());
}

#[test]
fn a_flipped_byte_of_data_is_a_miss_and_healed() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, SIZE);
    let partial = store.partial(&SCOPE, &digest(&data), num(SIZE), false);
    write_all(&partial, &data);
    let (file, _) = paths(&dir, &digest(&data));
    flip(&file, 250_000);
    assert_eq!(read(&partial, &data, 200_000), None);
    assert_eq!(store.stats().corrupt, 1);
    assert_eq!(partial.missing(), only(200_000..300_000));
    assert!(read(&partial, &data, 199_999).is_some());
    partial.write(200_000, &data[200_000..300_000]);
    assert!(read(&partial, &data, 200_000).is_some());
    assert!(partial.complete().is_some());
}

#[test]
fn completion_drops_only_what_is_corrupt() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, SIZE);
    let partial = store.partial(&SCOPE, &digest(&data), num(SIZE), false);
    write_all(&partial, &data);
    flip(&paths(&dir, &digest(&data)).0, 999_999);
    assert!(partial.complete().is_none());
    assert_eq!(partial.missing(), only(900_000..1_000_000));
    assert_eq!(get(&store, &data), None);
    partial.write(900_000, &data[900_000..]);
    assert!(partial.complete().is_some());
    assert!(get(&store, &data).is_some());
}

#[test]
fn a_content_that_is_not_what_its_digest_says_is_dropped() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, SIZE);
    let partial = store.partial(&SCOPE, &[9; 32], num(SIZE), false);
    write_all(&partial, &data);
    assert!(partial.complete().is_none());
    assert!(files(&dir, &["partial", "objects"]).is_empty());
    assert_eq!(partial.missing(), only(0..num(SIZE)));
    assert_eq!(store.stats().corrupt, 1);
    assert_eq!(store.stats().partials, 0);
}

#[test]
fn no_flipped_byte_of_a_map_gives_wrong_bytes() {
    let (_temp, dir) = cache();
    let data = bytes(1, 3000);
    let name = digest(&data);
    {
        let store = open(&dir);
        let partial = store.partial(&SCOPE, &name, 3000, false);
        for n in 0..3 {
            partial.write(num(n) * 1000, &data[n * 1000..(n + 1) * 1000]);
        }
    }
    let (_, map) = paths(&dir, &name);
    for at in 0..map.metadata().unwrap().len() {
        flip(&map, at);
        let store = open(&dir);
        let partial = store.partial(&SCOPE, &name, 3000, false);
        let have = (0..3).filter(|n| read(&partial, &data, n * 1000).is_some()).count();
        assert_eq!(have, if at < 128 { 0 } else { 2 }, "byte {at}");
        drop(partial);
        flip(&map, at);
    }
}

#[test]
fn truncated_files_give_misses_and_grow_again() {
    let data = bytes(1, SIZE);
    let name = digest(&data);
    for (data_len, map_len) in [
        (None, Some(0)),
        (None, Some(100)),
        (None, Some(200)),
        (Some(0), None),
        (Some(555_555), None),
        (Some(5), Some(300)),
    ] {
        let (_temp, dir) = cache();
        write_all(&open(&dir).partial(&SCOPE, &name, num(SIZE), false), &data);
        let (file, map) = paths(&dir, &name);
        for (path, len) in [(&file, data_len), (&map, map_len)] {
            if let Some(len) = len {
                std::fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
            }
        }
        let store = open(&dir);
        let partial = store.partial(&SCOPE, &name, num(SIZE), false);
        for at in (0..SIZE).step_by(CUT) {
            let _ = read(&partial, &data, at);
        }
        write_all(&partial, &data);
        for at in (0..SIZE).step_by(CUT) {
            assert!(read(&partial, &data, at).is_some(), "{data_len:?} {map_len:?} {at}");
        }
        assert!(partial.complete().is_some(), "{data_len:?} {map_len:?}");
    }
}

#[test]
fn torn_records_are_skipped_and_padded() {
    let (_temp, dir) = cache();
    let data = bytes(1, SIZE);
    let name = digest(&data);
    let store = open(&dir);
    let partial = store.partial(&SCOPE, &name, num(SIZE), false);
    let (_, map) = paths(&dir, &name);
    for (n, part) in data.chunks(CUT).enumerate() {
        partial.write(num(n * CUT), part);
        let mut file = std::fs::File::options().append(true).open(&map).unwrap();
        file.write_all(&bytes(num(n), 7 * n)).unwrap();
    }
    let again = open(&dir).partial(&SCOPE, &name, num(SIZE), false);
    assert!(again.missing().is_empty() && partial.missing().is_empty());
    assert!(again.complete().is_some());
}

#[test]
fn swapped_partials_give_misses() {
    let (_temp, dir) = cache();
    let (one, two) = (bytes(1, SIZE), bytes(2, SIZE));
    for data in [&one, &two] {
        open(&dir).partial(&SCOPE, &digest(data), num(SIZE), false).write(0, &data[..CUT]);
    }
    let ((a, a_map), (b, b_map)) = (paths(&dir, &digest(&one)), paths(&dir, &digest(&two)));
    let swap = |a: &Path, b: &Path| {
        std::fs::rename(a, dir.join("swap")).unwrap();
        std::fs::rename(b, a).unwrap();
        std::fs::rename(dir.join("swap"), b).unwrap();
    };
    swap(&a, &b);
    let look = || {
        let store = open(&dir);
        [&one, &two].map(|data| read(&store.partial(&SCOPE, &digest(data), num(SIZE), false), data, 0))
    };
    assert_eq!(look(), [None, None], "data");
    swap(&a_map, &b_map);
    assert_eq!(look(), [None, None], "data and maps");
    swap(&a, &b);
    assert_eq!(look(), [None, None], "maps");
    swap(&a_map, &b_map);
    assert_eq!(look(), [Some(CUT), Some(CUT)], "as before");
}

#[test]
fn cleared_and_evicted_under_a_writer() {
    let (_temp, dir) = cache();
    let store = open(&dir);
    let data = bytes(1, SIZE);
    let partial = store.partial(&SCOPE, &digest(&data), num(SIZE), false);
    partial.write(0, &data[..CUT]);
    open(&dir).clear().unwrap();
    partial.write(100_000, &data[100_000..200_000]);
    assert_eq!(partial.missing(), [0..100_000, 200_000..num(SIZE)], "starts over");
    write_all(&partial, &data);
    assert!(partial.complete().is_some());
    open(&dir).clear().unwrap();
    assert!(partial.complete().is_none(), "the object is gone as well");
    write_all(&partial, &data);
    assert!(partial.complete().is_some());
    assert_eq!(store.stats().write_failures, 0);
}
