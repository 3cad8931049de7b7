//! The plan against a model that goes byte by byte, and on indexes that change under it.

use std::io::{Read as _, Seek as _};

use proptest::prelude::*;

use super::*;
use crate::decode::tar::{Entry, EntryKind, FileData, Timestamp};
use crate::decode::{Compression, Resume};
use crate::image::{LayerEntries, Merger};
use crate::index::{ChunkRecord, ImageMeta, LayerIndex, LayerInfo, write};
use crate::num::idx;
use crate::oci::Digest;

/// A file's extents and its size.
type Shape = (Vec<Extent>, u64);

/// Files one behind the other in a stream, which is cut into chunks anywhere.
#[derive(Debug, Clone)]
struct Layout {
    files: Vec<Shape>,
    /// Lengths of the chunks.
    chunks: Vec<u32>,
    plain: u64,
}

/// Hole before it, bytes of the stream before it that are nobody's, length.
type Run = (u64, u64, u64);

fn layout() -> impl Strategy<Value = Layout> {
    let dense = (Just(0), 0..4u64, 1..400u64).prop_map(|run| (vec![run], 0));
    let pieces = (prop::collection::vec((Just(0), Just(0), 1..80u64), 1..8), Just(0));
    let sparse = (prop::collection::vec((0..60u64, 0..3u64, 1..80u64), 0..12), 1..60u64);
    let file = prop_oneof![dense, pieces, sparse];
    let files = prop::collection::vec(file, 1..6);
    let cuts = prop_oneof![
        prop::collection::vec(1..120u32, 1..20),
        prop::collection::vec(1..4u32, 1..3),
        Just(vec![4000]),
    ];
    (files, cuts, 0..50u64).prop_map(|(files, cuts, rest)| {
        let mut stream = 0;
        let files = files.iter().map(|(runs, tail)| shape(runs, *tail, &mut stream)).collect();
        let plain = stream + rest + 1;
        let mut chunks = Vec::new();
        let mut at = 0;
        for cut in cuts.iter().cycle() {
            let len = u64::from(*cut).min(plain - at);
            chunks.push(u32::try_from(len).unwrap());
            at += len;
            if at == plain {
                break;
            }
        }
        Layout { files, chunks, plain }
    })
}

fn shape(runs: &[Run], tail: u64, stream: &mut u64) -> Shape {
    let mut extents = Vec::new();
    let mut size = 0;
    for &(hole, gap, len) in runs {
        let extent = Extent { file_offset: size + hole, stream_offset: *stream + gap, len };
        size = extent.file_offset + len;
        *stream = extent.stream_offset + len;
        extents.push(extent);
    }
    (extents, size + tail)
}

/// Numbers that break arithmetic.
fn poke() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(u64::MAX), Just(u64::MAX - 1), Just(u64::MAX / 2), 0..1000u64]
}

fn digest(n: usize) -> [u8; 32] {
    [u8::try_from(n + 1).unwrap(); 32]
}

fn index(layout: &Layout) -> Vec<u8> {
    let mut entries = LayerEntries::default();
    for (n, (extents, size)) in layout.files.iter().enumerate() {
        let data = FileData { size: *size, extents: extents.clone(), digest: digest(n) };
        let entry = Entry {
            path: format!("file{n}").into_bytes(),
            kind: EntryKind::File(data),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs: 0, nanos: 0 },
            xattrs: Vec::new(),
        };
        entries.push(&entry).unwrap();
    }
    let mut merger = Merger::default();
    merger.apply(0, entries).unwrap();
    let mut at = 0;
    let chunks = layout.chunks.iter().map(|&len| {
        let record = ChunkRecord {
            plain_offset: at,
            plain_len: len,
            comp_offset: at,
            comp_len: len,
            bit: 0,
            resume: Resume::Fresh,
            digest: [0; 32],
            window_offset: 0,
            window_len: 0,
        };
        at += u64::from(len);
        record
    });
    let mut layer = LayerIndex {
        chunks: chunks.collect(),
        info: LayerInfo {
            digest: Digest::of(b"blob"),
            diff_id: Digest::of(b"plain"),
            compression: Compression::None,
            size: layout.plain,
            plain_size: layout.plain,
        },
        windows: tempfile::tempfile().unwrap(),
        windows_len: 0,
    };
    let meta = ImageMeta {
        manifest_digest: Digest::of(b"{}"),
        manifest: b"{}".to_vec(),
        config: b"{}".to_vec(),
        chunk: 1000,
    };
    let mut file = tempfile::tempfile().unwrap();
    write(&mut file, &meta, &merger.finish().unwrap(), std::slice::from_mut(&mut layer)).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn find(index: &ClipIndex, n: usize) -> Option<ContentId> {
    (0..index.content_count()).map(ContentId).find(|&id| index.content(id).unwrap().digest == digest(n))
}

/// Where a byte of a file comes from: chunk, offset in it, segment. `None`: a hole.
fn byte_of(layout: &Layout, extents: &[Extent], offset: u64) -> Option<(u32, u64, u64)> {
    let extent = extents.iter().find(|e| (e.file_offset..e.file_offset + e.len).contains(&offset))?;
    let stream = extent.stream_offset + (offset - extent.file_offset);
    let mut start = 0;
    for (chunk, &len) in (0..).zip(&layout.chunks) {
        let end = start + u64::from(len);
        if stream < end {
            // Walk back, byte by byte, while still in the same extent and chunk.
            let mut segment = offset;
            let mut at = stream;
            while segment > extent.file_offset && at > start {
                segment -= 1;
                at -= 1;
            }
            return Some((chunk, stream - start, segment));
        }
        start = end;
    }
    panic!("a byte behind the last chunk")
}

fn check(layout: &Layout, index: &ClipIndex, n: usize, offset: u64, len: u64) -> Result<(), TestCaseError> {
    let (extents, size) = &layout.files[n];
    let pieces = plan(index, find(index, n).unwrap(), offset, len).unwrap();
    let mut at = offset;
    let mut hole_before = false;
    for piece in &pieces {
        match *piece {
            Piece::Zeros { len } => {
                prop_assert!(len > 0 && !hole_before, "{:?}", &pieces);
                hole_before = true;
                for byte in at..at + len {
                    prop_assert_eq!(byte_of(layout, extents, byte), None, "byte {}", byte);
                }
                at += len;
            }
            Piece::Data { layer, chunk, at: inside, len, file_offset, segment } => {
                hole_before = false;
                prop_assert!(len > 0);
                prop_assert_eq!((layer, file_offset), (0, at));
                for byte in 0..u64::from(len) {
                    let want = Some((chunk, u64::from(inside) + byte, segment));
                    prop_assert_eq!(byte_of(layout, extents, at + byte), want, "byte {}", at + byte);
                }
                at += u64::from(len);
            }
        }
    }
    prop_assert_eq!(at, offset.max(offset.saturating_add(len).min(*size)), "whole, and no more");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn equals_going_byte_by_byte(
        layout in layout(),
        ranges in prop::collection::vec((any::<prop::sample::Index>(), 0..700u64, 0..700u64), 30),
    ) {
        let index = ClipIndex::from_bytes(index(&layout)).unwrap();
        for (n, (_, size)) in layout.files.iter().enumerate() {
            check(&layout, &index, n, 0, *size)?;
            check(&layout, &index, n, 0, u64::MAX)?;
            check(&layout, &index, n, *size, 1)?;
            check(&layout, &index, n, u64::MAX, u64::MAX)?;
            check(&layout, &index, n, size / 2, 0)?;
        }
        for (file, offset, len) in &ranges {
            check(&layout, &index, file.index(layout.files.len()), *offset, *len)?;
        }
    }

    /// The index is mapped, and a file may change under its map: then the plan may be wrong, or refuse, but it ends, and
    /// asks for no more than the range.
    #[test]
    fn a_changing_index_does_no_harm(
        layout in layout(),
        pokes in prop::collection::vec((any::<prop::sample::Index>(), poke(), 1..9usize), 1..40),
        offset in prop_oneof![0..700u64, any::<u64>()],
        len in 0..4_000_000u64,
    ) {
        let mut index = ClipIndex::from_bytes(index(&layout)).unwrap();
        index.tamper(|bytes| {
            for (at, value, width) in &pokes {
                // Records are made of numbers of 8 and 4 bytes.
                let at = at.index(bytes.len() / 8) * 8;
                bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..*width]);
            }
        });
        for id in 0..8 {
            let Ok(pieces) = plan(&index, ContentId(id), offset, len) else { continue };
            let planned: u64 = pieces
                .iter()
                .map(|piece| match *piece {
                    Piece::Zeros { len } => len,
                    Piece::Data { len, .. } => u64::from(len),
                })
                .sum();
            prop_assert!(planned <= len);
        }
    }
}

#[test]
fn joining_and_zeros() {
    assert_eq!(join(&[]), "");
    let one = bytes::Bytes::from_static(b"one");
    assert_eq!(join(std::slice::from_ref(&one)).as_ptr(), one.as_ptr(), "not copied");
    assert_eq!(join(&[one.clone(), bytes::Bytes::new(), one]), "oneone");
    for len in [0, 1, 128 << 10, (128 << 10) + 1] {
        let zeros = zeros(len);
        assert!(zeros.len() == idx(u32::try_from(len).unwrap()) && zeros.iter().all(|&b| b == 0));
    }
}
