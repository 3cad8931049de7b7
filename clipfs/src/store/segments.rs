//! The map of a partial object: which parts (*segments*) are on disk, and their digests. Pure: bytes in, bytes out.
//!
//! A map file is a header and then records, appended and never changed, each [`SLOT`] bytes at a multiple of
//! [`SLOT`]. Integers are little-endian.
//!
//! ```text
//! header (2 slots): "clipmap\0" | version u32 | flags u32 (1 = sparse) | size u64 | digest 32 | scope 32 | 0 × 24 | check 16
//! record (1 slot):  offset u64 | length u32 | 0 u32 | BLAKE3 of the segment 32 | check 16
//! ```
//!
//! `check` is the start of BLAKE3 over what precedes it; a record's also covers the header's check, so that records of
//! another map prove nothing here. A record is a claim: its segment is verified on every read. A slot that fails
//! its check (torn by a crash, bits flipped) is skipped, and so a writer that finds a torn tail pads it to a whole slot.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::decode::{Blake3, MAX_CHUNK};
use crate::num::{idx, to_u64};

/// Bytes of a record.
pub(super) const SLOT: usize = 64;
/// Bytes of the header.
pub(super) const HEADER: usize = 2 * SLOT;
/// Longest segment.
pub(super) const MAX_SEGMENT: u32 = MAX_CHUNK;
/// Longest map that is read or appended to: a million records, 2 TiB of usual segments.
pub(super) const MAX_MAP: u64 = 64 << 20;

const MAGIC: &[u8; 8] = b"clipmap\0";
const VERSION: u32 = 1;
const CHECK: usize = 16;

/// Whose parts a map lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) digest: Blake3,
    pub(super) scope: Blake3,
    pub(super) size: u64,
    pub(super) sparse: bool,
}

/// A part that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) digest: Blake3,
}

fn check(parts: &[&[u8]]) -> [u8; CHECK] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut check = [0; CHECK];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK]);
    check
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl Identity {
    /// Name of the partial object. Without a scope the content's own digest.
    pub(super) fn name(&self) -> Blake3 {
        if self.scope == [0; 32] {
            return self.digest;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.scope).update(&self.digest);
        hasher.finalize().into()
    }

    /// The map's header.
    pub(super) fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&u32::from(self.sparse).to_le_bytes());
        header[16..24].copy_from_slice(&self.size.to_le_bytes());
        header[24..56].copy_from_slice(&self.digest);
        header[56..88].copy_from_slice(&self.scope);
        let check = check(&[&header[..HEADER - CHECK]]);
        header[HEADER - CHECK..].copy_from_slice(&check);
        header
    }

    /// Reads a header. `None`: not one, or damaged.
    pub(super) fn from_header(header: &[u8]) -> Option<Self> {
        let identity = Self {
            digest: array(header, 24)?,
            scope: array(header, 56)?,
            size: u64::from_le_bytes(array(header, 16)?),
            sparse: u32::from_le_bytes(array(header, 12)?) == 1,
        };
        (identity.header().as_slice() == header).then_some(identity)
    }

    fn record_check(&self, record: &[u8]) -> [u8; CHECK] {
        check(&[&self.header()[HEADER - CHECK..], record])
    }

    /// A record to append to a map of `map_len` bytes: preceded by zeros where the map ends inside a slot.
    pub(super) fn record(&self, segment: &Segment, map_len: u64) -> Vec<u8> {
        let torn = usize::try_from(map_len % to_u64(SLOT)).unwrap_or(0);
        let mut out = vec![0; (SLOT - torn) % SLOT];
        let start = out.len();
        out.extend_from_slice(&segment.offset.to_le_bytes());
        out.extend_from_slice(&segment.len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&segment.digest);
        let check = self.record_check(&out[start..]);
        out.extend_from_slice(&check);
        out
    }

    /// Reads one slot. `None`: torn, damaged, of another map, or out of the file's range.
    pub(super) fn parse(&self, slot: &[u8]) -> Option<Segment> {
        let (record, check) = slot.split_at_checked(SLOT - CHECK)?;
        if check != self.record_check(record) {
            return None;
        }
        let segment = Segment {
            offset: u64::from_le_bytes(array(record, 0)?),
            len: u32::from_le_bytes(array(record, 8)?),
            digest: array(record, 16)?,
        };
        self.admits(segment.offset, u64::from(segment.len)).then_some(segment)
    }

    /// Whether a segment of this place and length may exist.
    pub(super) fn admits(&self, offset: u64, len: u64) -> bool {
        (1..=u64::from(MAX_SEGMENT)).contains(&len)
            && offset.checked_add(len).is_some_and(|end| end <= self.size)
    }
}

/// The recorded segments of one content. They may overlap: other indexes of the same content cut differently.
#[derive(Debug, Default)]
pub(super) struct Segments(BTreeMap<u64, (u32, Blake3)>);

impl Segments {
    /// Adds a record; of two at one offset the longer stays, of two of one length the later.
    pub(super) fn insert(&mut self, segment: Segment) {
        let entry = self.0.entry(segment.offset).or_insert((0, [0; 32]));
        if segment.len >= entry.0 {
            *entry = (segment.len, segment.digest);
        }
    }

    /// Takes back exactly this record.
    pub(super) fn remove(&mut self, segment: &Segment) {
        if self.0.get(&segment.offset) == Some(&(segment.len, segment.digest)) {
            self.0.remove(&segment.offset);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Segment> + '_ {
        self.0.iter().map(|(&offset, &(len, digest))| Segment { offset, len, digest })
    }

    /// A segment that contains `offset`.
    pub(super) fn find(&self, offset: u64) -> Option<Segment> {
        // Where segments overlap, the nearest start need not be the one that reaches far enough: look back a little.
        let mut before = self.0.range(..=offset).rev().take(8);
        let hit = before.find(|&(&start, &(len, _))| offset - start < u64::from(len));
        hit.map(|(&offset, &(len, digest))| Segment { offset, len, digest })
    }

    /// Whether every byte of a range is recorded.
    pub(super) fn covers(&self, offset: u64, len: usize) -> bool {
        let end = offset.saturating_add(to_u64(len));
        let mut at = offset;
        while at < end {
            let Some(segment) = self.find(at) else { return false };
            at = segment.offset + u64::from(segment.len);
        }
        true
    }

    /// What is not recorded of a content of `size` bytes, in order.
    pub(super) fn missing(&self, size: u64) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = 0;
        for (&offset, &(len, _)) in &self.0 {
            if offset > at {
                missing.push(at..offset);
            }
            at = at.max(offset + u64::from(len));
        }
        if at < size {
            missing.push(at..size);
        }
        missing
    }
}

impl Segment {
    /// Whether `data` is this segment.
    pub(super) fn matches(&self, data: &[u8]) -> bool {
        data.len() == idx(self.len) && *blake3::hash(data).as_bytes() == self.digest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: Identity = Identity { digest: [1; 32], scope: [2; 32], size: 1000, sparse: false };

    fn segment(offset: u64, len: u32) -> Segment {
        Segment { offset, len, digest: [9; 32] }
    }

    #[test]
    fn headers_are_read_back_and_bound() {
        for sparse in [false, true] {
            let id = Identity { sparse, ..ID };
            assert_eq!(Identity::from_header(&id.header()), Some(id));
        }
        for n in 0..HEADER {
            let mut header = ID.header();
            header[n] ^= 4;
            assert_eq!(Identity::from_header(&header), None, "byte {n}");
        }
        assert_eq!(Identity::from_header(&ID.header()[..HEADER - 1]), None);
        assert_eq!(Identity::from_header(&[]), None);
    }

    #[test]
    fn names_keep_scopes_apart() {
        let unscoped = Identity { scope: [0; 32], ..ID };
        assert_eq!(unscoped.name(), ID.digest);
        assert_ne!(ID.name(), ID.digest);
        assert_ne!(ID.name(), Identity { scope: [3; 32], ..ID }.name());
    }

    #[test]
    fn any_flipped_bit_voids_a_record() {
        let record = ID.record(&segment(10, 20), 128);
        assert_eq!(ID.parse(&record), Some(segment(10, 20)));
        for bit in 0..SLOT * 8 {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ID.parse(&bad), None, "bit {bit}");
        }
        assert_eq!(Identity { digest: [7; 32], ..ID }.parse(&record), None, "another map's record");
        assert_eq!(ID.parse(&record[..63]), None);
        assert_eq!(ID.parse(&[0; SLOT]), None);
    }

    #[test]
    fn records_out_of_range_are_refused() {
        for (offset, len) in [(0, 0), (981, 20), (u64::MAX, 2), (1000, 1), (0, MAX_SEGMENT + 1)] {
            let record = ID.record(&segment(offset, len), 0);
            assert_eq!(ID.parse(&record), None, "{offset}+{len}");
        }
    }

    #[test]
    fn a_torn_tail_is_padded() {
        for torn in 0..64 {
            let mut map = ID.record(&segment(0, 10), 0);
            map.extend(std::iter::repeat_n(0xff, torn));
            let record = ID.record(&segment(10, 10), to_u64(map.len()));
            map.extend(record);
            let found: Vec<_> = map.chunks(SLOT).filter_map(|slot| ID.parse(slot)).collect();
            assert_eq!(found, [segment(0, 10), segment(10, 10)], "{torn} torn bytes");
        }
    }

    #[test]
    fn overlapping_segments_are_found() {
        let mut segments = Segments::default();
        segments.insert(segment(0, 100));
        segments.insert(segment(40, 10));
        segments.insert(segment(40, 5));
        assert_eq!(segments.find(45), Some(segment(40, 10)), "the longer of two stays");
        assert_eq!(segments.find(60), Some(segment(0, 100)));
        assert_eq!(segments.find(100), None);
        assert!(segments.covers(10, 90) && !segments.covers(10, 91));
        segments.remove(&segment(40, 5));
        assert_eq!(segments.find(45), Some(segment(40, 10)), "another record is not taken back");
        segments.remove(&segment(40, 10));
        assert_eq!(segments.find(45), Some(segment(0, 100)));
    }

    proptest! {
        #[test]
        fn missing_is_what_no_segment_covers(parts in prop::collection::vec((0_u64..200, 1_u32..40), 0..12)) {
            let size = 200;
            let id = Identity { size, ..ID };
            let mut segments = Segments::default();
            let mut have = [false; 200];
            for (offset, len) in parts {
                if id.admits(offset, u64::from(len)) {
                    segments.insert(segment(offset, len));
                    have[crate::num::to_usize(offset)..][..idx(len)].fill(true);
                }
            }
            let mut missing = [false; 200];
            let mut last = None;
            for range in segments.missing(size) {
                prop_assert!(range.start < range.end && last.is_none_or(|last| last < range.start));
                last = Some(range.end);
                missing[crate::num::to_usize(range.start)..crate::num::to_usize(range.end)].fill(true);
            }
            for (n, (have, missing)) in have.iter().zip(missing).enumerate() {
                prop_assert_ne!(*have, missing, "byte {}", n);
            }
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Identity::from_header(&bytes);
            for slot in bytes.chunks(SLOT) {
                prop_assert_eq!(ID.parse(slot), None);
            }
        }
    }
}
