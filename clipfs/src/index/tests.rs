//! A small index with everything in it, and what happens to it when bits flip, it is cut short, or somebody means harm.

use std::io::{Read as _, Seek as _, Write as _};

use super::format::{SECTIONS, Section};
use super::header::{HEADER_LEN, HEADER_SUM, Header};
use super::reader::ROOT;
use super::*;
use crate::decode::tar::{Entry, EntryKind, Extent, FileData, Timestamp};
use crate::decode::{Compression, Resume};
use crate::image::{LayerEntries, Merger, Tree};
use crate::num::{idx, to_u64, to_usize};
use crate::oci::Digest;

const WINDOWS: [&[u8]; 2] = [b"first window", b"second"];

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o4755,
        uid: 1,
        gid: u32::MAX,
        mtime: Timestamp { secs: -1, nanos: 999_999_999 },
        xattrs: Vec::new(),
    }
}

fn file(path: &str, size: u64, runs: &[(u64, u64, u64)]) -> Entry {
    let extents = runs
        .iter()
        .map(|&(file_offset, stream_offset, len)| Extent { file_offset, stream_offset, len })
        .collect();
    entry(path, EntryKind::File(FileData { size, extents, digest: [path.len().to_le_bytes()[0]; 32] }))
}

pub(super) fn tree() -> Tree {
    let mut capable = file("usr/capable", 10, &[(0, 600, 10)]);
    capable.xattrs = vec![(b"security.capability".to_vec(), vec![1; 20]), (b"user.x".to_vec(), Vec::new())];
    let base = vec![
        entry(".", EntryKind::Dir),
        entry("usr", EntryKind::Dir),
        capable,
        file("usr/a", 100, &[(0, 1000, 100)]),
        entry("usr/again", EntryKind::Hardlink(b"usr/a".to_vec())),
        entry("bin", EntryKind::Symlink(b"usr/bin".to_vec())),
        file("usr/empty", 0, &[]),
        entry("dev/null", EntryKind::Char { major: 1, minor: 3 }),
        entry("dev/sda", EntryKind::Block { major: 8, minor: 0 }),
        entry("run/fifo", EntryKind::Fifo),
    ];
    let top = vec![
        file("usr/sparse", 5000, &[(100, 2000, 50), (4000, 2050, 100)]),
        file("usr/all-hole", 1 << 40, &[]),
        file("usr/lib/b", 30, &[(0, 500, 30)]),
    ];
    let mut merger = Merger::default();
    for (n, layer) in [base, top].iter().enumerate() {
        let mut entries = LayerEntries::default();
        layer.iter().for_each(|e| entries.push(e).unwrap());
        merger.apply(u32::try_from(n).unwrap(), entries).unwrap();
    }
    merger.finish().unwrap()
}

fn chunk(plain_offset: u64, resume: Resume) -> ChunkRecord {
    ChunkRecord {
        plain_offset,
        plain_len: 1500,
        comp_offset: plain_offset / 2,
        comp_len: 750,
        bit: 0,
        resume,
        digest: [3; 32],
        window_offset: 0,
        window_len: 0,
    }
}

pub(super) fn layers() -> Vec<LayerIndex> {
    let mut windows = tempfile::tempfile().unwrap();
    windows.write_all(&WINDOWS.concat()).unwrap();
    let windowed = |n: u64, offset, len| ChunkRecord {
        bit: 5,
        window_offset: offset,
        window_len: len,
        ..chunk(n, Resume::Window)
    };
    let info = |n: u8, compression| LayerInfo {
        digest: Digest::of(&[n]),
        diff_id: Digest::of(&[n, n]),
        compression,
        size: 2250,
        plain_size: 4500,
    };
    let gzip = vec![chunk(0, Resume::Fresh), windowed(1500, 0, 12), windowed(3000, 12, 6)];
    let zstd = vec![chunk(0, Resume::Fresh), chunk(1500, Resume::Continue), chunk(3000, Resume::Fresh)];
    vec![
        LayerIndex { info: info(1, Compression::Gzip), chunks: gzip, windows, windows_len: 18 },
        LayerIndex {
            info: info(2, Compression::Zstd),
            chunks: zstd,
            windows: tempfile::tempfile().unwrap(),
            windows_len: 0,
        },
    ]
}

fn meta() -> ImageMeta {
    let manifest = b"{\"schemaVersion\":2}".to_vec();
    ImageMeta { manifest_digest: Digest::of(&manifest), manifest, config: b"{}".to_vec(), chunk: 1500 }
}

fn sample() -> Vec<u8> {
    let mut out = tempfile::tempfile().unwrap();
    let summary = write(&mut out, &meta(), &tree(), &mut layers()).unwrap();
    let mut bytes = Vec::new();
    out.rewind().unwrap();
    out.read_to_end(&mut bytes).unwrap();
    assert_eq!((summary.bytes, summary.window_bytes, summary.files), (to_u64(bytes.len()), 18, 15));
    bytes
}

/// [`sample`], made once.
fn sample_once() -> &'static [u8] {
    static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(sample)
}

/// Makes all checksums right, so that what is tested is what stands behind them.
fn reseal(bytes: &mut [u8]) {
    let Some(mut header) = bytes.first_chunk::<HEADER_LEN>().map(Header::decode) else { return };
    for entry in &mut header.table {
        let end = entry.offset.saturating_add(entry.len);
        if let Some(section) = bytes.get(to_usize(entry.offset)..to_usize(end)) {
            entry.sum = *blake3::hash(section).as_bytes();
        }
    }
    bytes[..HEADER_LEN].copy_from_slice(&header.encode());
}

/// Calls every accessor for everything, within bounds that a valid index keeps.
fn touch(index: &ClipIndex) -> u64 {
    const BOUND: u32 = 1000;
    let mut sum = to_u64(index.manifest().len() + index.config().len()) + u64::from(index.chunk_size());
    sum += index.content_bytes() & 1;
    for ino in 0..index.inode_count().min(u64::from(BOUND)) + 2 {
        let Some(inode) = index.inode(ino) else { continue };
        sum = sum.wrapping_add(inode.size).wrapping_add(inode.data_bytes);
        for n in 0..index.dir_len(ino).min(BOUND) + 1 {
            if let Some((name, child)) = index.dir_entry(ino, n) {
                assert!(!name.is_empty() && !name.contains(&b'/'));
                assert_eq!(index.lookup(ino, name), Some(child));
                assert!(index.inode(child).is_some());
            }
        }
        sum += to_u64(index.symlink(ino).map_or(0, <[u8]>::len));
        sum += to_u64(index.xattrs(ino).map(|(n, v)| n.len() + v.len()).sum());
        sum += u64::from(index.xattr(ino, b"user.x").is_some());
    }
    for id in (0..index.content_count().min(BOUND) + 1).map(ContentId) {
        let Some(content) = index.content(id) else { continue };
        assert!(index.layer(content.layer).is_some());
        for n in 0..index.extent_count(id).min(BOUND) + 1 {
            if let Some(extent) = index.extent(id, n) {
                assert!(index.chunk_at(content.layer, extent.stream_offset).is_some());
                assert!(index.chunk_at(content.layer, extent.stream_offset + extent.len - 1).is_some());
            }
        }
    }
    for layer in 0..index.layer_count().min(BOUND) + 1 {
        sum += to_u64(index.contents_in(layer, 0..u64::MAX).take(idx(BOUND)).count());
        for n in 0..index.chunk_count(layer).min(BOUND) + 1 {
            sum += u64::from(index.chunk(layer, n).map_or(0, |c| c.comp_len));
            sum += to_u64(index.encoded_window(layer, n).unwrap().map_or(0, <[u8]>::len));
        }
    }
    sum
}

#[test]
fn reads_what_was_written() {
    let bytes = sample();
    let index = ClipIndex::from_bytes(bytes.clone()).unwrap();
    index.verify_all().unwrap();
    assert_eq!(index.byte_sizes(), (to_u64(bytes.len()), 18));
    assert_eq!((index.manifest(), index.config()), (&meta().manifest[..], &b"{}"[..]));
    assert_eq!((index.manifest_digest(), index.chunk_size()), (meta().manifest_digest, 1500));
    assert_eq!(index.inode_count(), 15);
    assert_eq!(index.content_bytes(), 10 + 100 + 5000 + (1 << 40) + 30);
    assert_eq!((index.layer_count(), index.content_count()), (2, 5));
    for (n, layer) in (0..).zip(layers()) {
        assert_eq!(index.layer(n), Some(layer.info));
        assert_eq!(index.chunk_count(n), 3);
        for (c, chunk) in (0..).zip(layer.chunks) {
            assert_eq!(index.chunk(n, c), Some(chunk));
        }
        assert_eq!(
            (index.chunk(n, 3), index.chunk_at(n, 4500), index.chunk_at(n, 2999)),
            (None, None, Some(1))
        );
    }
    assert_eq!(index.encoded_window(0, 0).unwrap(), None);
    assert_eq!(index.encoded_window(0, 1).unwrap(), Some(WINDOWS[0]));
    assert_eq!(index.encoded_window(0, 2).unwrap(), Some(WINDOWS[1]));
    assert_eq!(index.window(1, 1).unwrap(), None);
    assert!(matches!((index.layer(2), index.chunk_count(2), index.inode(0)), (None, 0, None)));
    let usr = index.lookup(ROOT, b"usr").unwrap();
    let a = index.lookup(usr, b"a").unwrap();
    let inode = index.inode(a).unwrap();
    assert_eq!((inode.nlink, inode.size, inode.uid, inode.gid, inode.mode), (2, 100, 1, u32::MAX, 0o4755));
    assert_eq!(inode.mtime, Timestamp { secs: -1, nanos: 999_999_999 });
    assert_eq!(index.lookup(usr, b"again"), Some(a));
    let sparse = index.inode(index.lookup(usr, b"sparse").unwrap()).unwrap();
    assert_eq!((sparse.size, sparse.data_bytes), (5000, 150));
    let Kind::File(Some(id)) = sparse.kind else { panic!() };
    assert!(index.content(id).unwrap().sparse);
    assert_eq!(index.extent(id, 1), Some(Extent { file_offset: 4000, stream_offset: 2050, len: 100 }));
    let in_layer: Vec<_> = index.contents_in(1, 0..4500).map(|id| index.content(id).unwrap().size).collect();
    assert_eq!(in_layer, [30, 5000], "the hole starts nowhere");
    assert_eq!(index.contents_in(1, 501..2000).count(), 0);
    assert_eq!(index.contents_in(1, 500..2001).count(), 2);
    let null = index.inode(index.lookup(index.lookup(ROOT, b"dev").unwrap(), b"null").unwrap()).unwrap();
    assert_eq!((null.kind, null.rdev), (Kind::Char, (1, 3)));
    touch(&index);
}

#[test]
fn opens_a_file_as_it_opens_bytes() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&sample()).unwrap();
    let index = ClipIndex::open(file.path()).unwrap();
    index.verify_all().unwrap();
    assert_eq!(touch(&index), touch(&ClipIndex::from_bytes(sample()).unwrap()));
    let empty = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(ClipIndex::open(empty.path()), Err(IndexError::NotAnIndex)));
    assert!(matches!(ClipIndex::open(std::path::Path::new("/dev/null/x")), Err(IndexError::Io(_))));
}

#[test]
fn the_same_image_gives_the_same_bytes() {
    assert_eq!(sample(), sample());
}

#[test]
fn an_index_of_nothing_works() {
    let mut out = tempfile::NamedTempFile::new().unwrap();
    let tree = Merger::default().finish().unwrap();
    write(out.as_file_mut(), &meta(), &tree, &mut []).unwrap();
    let index = ClipIndex::open(out.path()).unwrap();
    assert_eq!((index.inode_count(), index.layer_count(), index.content_count()), (1, 0, 0));
    assert_eq!((index.dir_len(ROOT), index.lookup(ROOT, b"x")), (0, None));
}

#[test]
fn writing_fails_when_windows_or_layers_are_missing() {
    let mut out = tempfile::tempfile().unwrap();
    let mut short = layers();
    short[0].windows_len = 19;
    assert!(write(&mut out, &meta(), &tree(), &mut short).is_err());
    let mut few = layers();
    few.pop();
    assert!(write(&mut out, &meta(), &tree(), &mut few).is_err());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = sample();
    let windows = Header::decode(good.first_chunk().unwrap()).table[Section::Windows as usize].offset;
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let opened = ClipIndex::from_bytes(bad);
            if to_u64(at) < windows {
                assert!(opened.is_err(), "byte {at}, bit {bit}");
            } else {
                let verified = opened.unwrap().verify_all();
                assert!(matches!(verified, Err(IndexError::Checksum("windows"))));
            }
        }
    }
}

#[test]
fn every_cut_and_every_extra_byte_is_noticed() {
    let good = sample();
    for len in 0..good.len() {
        let error = ClipIndex::from_bytes(good[..len].to_vec()).unwrap_err();
        match len {
            0..8 => assert!(matches!(error, IndexError::NotAnIndex), "{len}"),
            _ => assert!(matches!(error, IndexError::Length { .. }), "{len}: {error}"),
        }
    }
    let padded = [good.as_slice(), &[0]].concat();
    assert!(matches!(ClipIndex::from_bytes(padded), Err(IndexError::Length { .. })));
}

#[test]
fn other_versions_are_named() {
    let mut other = sample();
    other[8] = 2;
    let Err(IndexError::Version { found: 2, supported: 1 }) = ClipIndex::from_bytes(other) else {
        panic!("not refused as another version")
    };
}

/// Values that break arithmetic, written over a field.
fn nasty(value: u64, width: usize) -> Vec<u64> {
    let max = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
    let mut all =
        vec![0, 1, max, max - 1, max / 2, max / 2 + 1, value.wrapping_add(1), value.wrapping_sub(1)];
    all.extend((0..8 * width).map(|bit| value ^ (1 << bit)));
    all.iter_mut().for_each(|v| *v &= max);
    all
}

#[test]
fn no_field_with_right_checksums_does_harm() {
    let good = sample();
    let mut accepted = 0;
    let mut tried = 0;
    for width in [1, 2, 4, 8] {
        for at in (0..good.len() - width).step_by(width).filter(|&at| !(HEADER_SUM..HEADER_LEN).contains(&at))
        {
            let mut field = [0; 8];
            field[..width].copy_from_slice(&good[at..at + width]);
            for value in nasty(u64::from_le_bytes(field), width) {
                let mut bad = good.clone();
                bad[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                if bad == good {
                    continue;
                }
                reseal(&mut bad);
                tried += 1;
                if let Ok(index) = ClipIndex::from_bytes(bad) {
                    accepted += 1;
                    touch(&index);
                }
            }
        }
    }
    // Owners, times, digests, names may be anything; if nothing at all were accepted, nothing would have been tested.
    assert!(accepted > 1000 && accepted < tried, "{accepted} of {tried}");
}

#[test]
fn a_file_that_changes_under_the_map_makes_no_accessor_panic() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..3000 {
        let mut index = ClipIndex::from_bytes(sample_once().to_vec()).unwrap();
        index.tamper(|bytes| {
            for _ in 0..rng.usize(1..200) {
                let at = rng.usize(HEADER_LEN..bytes.len() - 8);
                let value = if rng.bool() { rng.u64(..).to_le_bytes() } else { [0xff; 8] };
                let width = rng.usize(1..8);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
        });
        wander(&index);
    }
}

/// Calls the accessors without asking for sense.
fn wander(index: &ClipIndex) {
    for n in 0..20 {
        let ino = u64::from(n);
        std::hint::black_box((index.inode(ino), index.symlink(ino), index.xattrs(ino).take(50).count()));
        for k in 0..index.dir_len(ino).min(20) {
            std::hint::black_box(index.dir_entry(ino, k).and_then(|(name, _)| index.lookup(ino, name)));
        }
        let id = ContentId(n);
        std::hint::black_box(index.content(id));
        for k in 0..index.extent_count(id).min(20) {
            std::hint::black_box(index.extent(id, k));
        }
        std::hint::black_box((index.layer(n), index.contents_in(n, 0..u64::MAX).take(50).count()));
        for k in 0..index.chunk_count(n).min(20) {
            std::hint::black_box((index.chunk(n, k), index.chunk_at(n, u64::from(k) * 700)));
            std::hint::black_box(index.encoded_window(n, k).is_ok());
        }
    }
}

#[test]
fn sections_of_other_lengths_do_no_harm() {
    let good = sample();
    for n in 0..SECTIONS {
        for (offset, len) in [(8, 0), (-8, 0), (0, 8), (0, -8), (0, 1), (i64::MAX, 0), (0, i64::MAX)] {
            let mut bad = good.clone();
            let mut header = Header::decode(bad.first_chunk().unwrap());
            let entry = &mut header.table[n];
            entry.offset = entry.offset.wrapping_add_signed(offset);
            entry.len = entry.len.wrapping_add_signed(len);
            bad[..HEADER_LEN].copy_from_slice(&header.encode());
            reseal(&mut bad);
            if let Ok(index) = ClipIndex::from_bytes(bad) {
                touch(&index);
            }
        }
    }
}

/// Changes one field of a record. `None`: it was refused for what is wrong.
fn refused(section: Section, record: usize, at: usize, bytes: &[u8], want: &str) -> Option<String> {
    let mut bad = sample();
    let offset = Header::decode(bad.first_chunk().unwrap()).table[section as usize].offset;
    let at = to_usize(offset) + record * section.record() + at;
    bad[at..at + bytes.len()].copy_from_slice(bytes);
    reseal(&mut bad);
    match ClipIndex::from_bytes(bad) {
        Err(IndexError::Invalid(why)) if why.contains(want) => None,
        other => Some(format!("{section:?} {record} {at}: {:?} instead of {want:?}", other.err())),
    }
}

#[test]
fn each_lie_is_called_by_its_name() {
    use Section::{
        Chunks, Contents, Dirents, Extents, Fragments, Inodes, Layers, Meta, Names, XattrSets, Xattrs,
    };
    // Inodes: 0 root, 1 bin, 2 dev, 3 run, 4 usr, 5 dev/null, 6 dev/sda, 7 run/fifo, 8 usr/a, …, 14 usr/lib/b.
    let lies = [
        (Meta, 0, 0, &[0; 4][..], "chunk size"),
        (Meta, 0, 8, &[3], "do not fill the meta section"),
        (Meta, 0, 16, &[0; 32], "does not match its digest"),
        (Inodes, 0, 0, &[5], "the root is not a directory"),
        (Inodes, 1, 0, &[6], "unknown type"),
        (Inodes, 4, 32, &[0], "directories do not follow"),
        (Inodes, 5, 1, &[1], "unknown flags"),
        (Inodes, 5, 2, &[0xff, 0xff], "impossible mode"),
        (Inodes, 5, 24, &[0xff; 4], "impossible time"),
        (Inodes, 5, 28, &[9], "attributes that are not there"),
        (Inodes, 1, 36, &[0xff; 4], "impossible symlink"),
        (Inodes, 1, 32, &[9], "impossible symlink target"),
        (Inodes, 8, 12, &[3], "another number of names"),
        (Inodes, 4, 12, &[9], "another number of links"),
        (Inodes, 4, 40, &[2], "not where it says"),
        (Inodes, 8, 32, &[0xff; 4], "content that is not there"),
        (Inodes, 8, 40, &[1], "contradicts its content"),
        (Inodes, 8, 1, &[1], "contradicts its content"),
        (Inodes, 4, 36, &[0xff], "names that are not there"),
        (Dirents, 0, 0, &[0xff; 4], "outside of its section"),
        (Dirents, 0, 4, &[0], "breadth first"),
        (Dirents, 0, 4, &[2], "breadth first"),
        (Dirents, 4, 4, &[6], "not numbered breadth first"),
        (Dirents, 8, 4, &[4], "not where it says"),
        (Dirents, 8, 4, &[1], "another number of names"),
        (Names, 0, 1, b"zzz", "not sorted"),
        (Names, 0, 2, b"/", "a name with"),
        (Names, 0, 2, b"\0", "a name with"),
        (Names, 0, 0, &[0], "not sorted"),
        (Names, 0, 0, b"\x01.", "a name with"),
        (Names, 0, 0, b"\x02..", "a name with"),
        (XattrSets, 0, 0, &[1], "do not follow each other"),
        (XattrSets, 0, 4, &[1], "malformed"),
        (Xattrs, 0, 0, &[1], "malformed"),
        (Contents, 0, 32, &[0; 8], "an empty content"),
        (Contents, 0, 40, &[0xff; 8], "lies behind its layer"),
        (Contents, 1, 40, &[0; 8], "not sorted"),
        (Contents, 0, 48, &[1], "another layer"),
        (Contents, 3, 52, &[2], "fragments do not follow"),
        (Contents, 3, 52, &[0], "lies behind its layer"),
        (Fragments, 0, 0, &[1], "extents do not follow"),
        (Fragments, 0, 4, &[1], "contradicts its extents"),
        (Fragments, 0, 4, &[0xff; 4], "extents that are not there"),
        (Fragments, 0, 8, &[1], "contradicts its extents"),
        (Extents, 0, 16, &[0; 8], "overlap or are empty"),
        (Extents, 1, 0, &[0; 8], "overlap or are empty"),
        (Extents, 1, 0, &[0xff; 8], "behind its file"),
        (Extents, 1, 8, &[0xff; 8], "behind its layer"),
        (Layers, 0, 112, &[3], "unknown compression"),
        (Layers, 0, 72, &[1], "do not cover"),
        (Layers, 1, 80, &[0], "do not follow those of the layer before"),
        (Layers, 1, 84, &[9], "chunks that are not there"),
        (Layers, 1, 92, &[9], "contents of no layer"),
        (Layers, 1, 104, &[1], "windows of no layer"),
        (Layers, 0, 64, &[0; 8], "a chunk lies behind its layer"),
        (Chunks, 1, 32, &[0; 8], "chunks do not follow"),
        (Chunks, 1, 56, &[0; 4], "impossible chunk length"),
        (Chunks, 1, 56, &[0xff; 4], "impossible chunk length"),
        (Chunks, 1, 60, &[0xff; 4], "behind its layer"),
        (Chunks, 1, 68, &[8], "bit offset"),
        (Chunks, 1, 69, &[3], "unknown way"),
        (Chunks, 0, 69, &[1], "does not allow"),
        (Chunks, 1, 69, &[2], "does not allow"),
        (Chunks, 1, 64, &[19], "outside of its layer's"),
        (Chunks, 1, 64, &[0], "impossible length of a window"),
        (Chunks, 0, 64, &[1], "that no one needs"),
    ];
    let wrong: Vec<_> = lies
        .iter()
        .filter_map(|&(section, record, at, bytes, want)| refused(section, record, at, bytes, want))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
