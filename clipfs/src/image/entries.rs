//! One layer's entries, kept compactly until every layer below has been merged.
//!
//! A log of bytes: each entry is written with variable-length integers, and its path as what differs from the path
//! before it (archives list neighbours after each other). A file costs about 80 bytes, name and digest included, so
//! a million files are 80 MB. The log is cut into segments which are freed while the last pass goes over them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::decode::Blake3;
use crate::decode::tar::{Entry, EntryKind, Extent, Timestamp};
use crate::num::{to_u64, to_usize};

use super::MergeError;
use super::xattr;

/// Bytes of log per allocation: small enough that freeing follows merging closely.
const SEGMENT: usize = 1 << 20;

/// Most bytes of distinct attribute sets in one layer: they are the one thing that an archive could blow up without
/// limit in memory.
const MAX_XATTR_BYTES: usize = 64 << 20;

/// Type tags of the log.
mod tag {
    pub(super) const FILE: u8 = 0;
    pub(super) const DIR: u8 = 1;
    pub(super) const SYMLINK: u8 = 2;
    pub(super) const HARDLINK: u8 = 3;
    pub(super) const CHAR: u8 = 4;
    pub(super) const BLOCK: u8 = 5;
    pub(super) const FIFO: u8 = 6;
}

/// The entries of a layer in archive order. Compact: an image may have a million.
#[derive(Debug, Clone, Default)]
pub struct LayerEntries {
    segments: VecDeque<Vec<u8>>,
    len: usize,
    last_path: Vec<u8>,
    xattrs: HashMap<Arc<[u8]>, u32>,
    xattr_sets: Vec<Arc<[u8]>>,
    xattr_bytes: usize,
}

impl LayerEntries {
    /// Appends the next entry of the archive.
    ///
    /// # Errors
    /// [`MergeError::TooLarge`]: more extended attributes than an index may have.
    pub fn push(&mut self, entry: &Entry) -> Result<(), MergeError> {
        let set = self.intern_xattrs(entry)?;
        let shared = self.last_path.iter().zip(&entry.path).take_while(|(a, b)| a == b).count();
        let suffix = entry.path.get(shared..).unwrap_or_default();
        let mut out = Vec::with_capacity(128);
        put(&mut out, to_u64(shared));
        put_bytes(&mut out, suffix);
        self.last_path.truncate(shared);
        self.last_path.extend_from_slice(suffix);
        put(&mut out, u64::from(entry.mode));
        put(&mut out, u64::from(entry.uid));
        put(&mut out, u64::from(entry.gid));
        put(&mut out, zigzag(entry.mtime.secs));
        put(&mut out, u64::from(entry.mtime.nanos));
        put(&mut out, u64::from(set));
        match &entry.kind {
            EntryKind::File(data) => {
                out.push(tag::FILE);
                put(&mut out, data.size);
                out.extend_from_slice(&data.digest);
                put(&mut out, to_u64(data.extents.len()));
                for extent in &data.extents {
                    put(&mut out, extent.file_offset);
                    put(&mut out, extent.stream_offset);
                    put(&mut out, extent.len);
                }
            }
            EntryKind::Dir => out.push(tag::DIR),
            EntryKind::Symlink(target) => {
                out.push(tag::SYMLINK);
                put_bytes(&mut out, target);
            }
            EntryKind::Hardlink(target) => {
                out.push(tag::HARDLINK);
                put_bytes(&mut out, target);
            }
            EntryKind::Char { major, minor } => put_device(&mut out, tag::CHAR, *major, *minor),
            EntryKind::Block { major, minor } => put_device(&mut out, tag::BLOCK, *major, *minor),
            EntryKind::Fifo => out.push(tag::FIFO),
        }
        match self.segments.back_mut() {
            Some(segment) if segment.len() + out.len() <= SEGMENT => segment.extend_from_slice(&out),
            _ => {
                // The log before is final: give back what its last doubling took too much.
                if let Some(full) = self.segments.back_mut() {
                    full.shrink_to_fit();
                }
                self.segments.push_back(out);
            }
        }
        self.len += 1;
        Ok(())
    }

    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// No entries at all: an empty layer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the entries occupy, for accounting.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(Vec::capacity).sum::<usize>() + self.xattr_bytes
    }

    /// Passes over the entries and frees them on the way. The attribute sets stay.
    pub(super) fn drain(&mut self) -> Cursor<'_> {
        Cursor { segments: &mut self.segments, pos: 0, path: Vec::new(), extents: Vec::new() }
    }

    /// Takes the distinct attribute sets, encoded as [`xattr::encode`] does; an [`Item`] names its by number.
    pub(super) fn take_xattr_sets(&mut self) -> Vec<Arc<[u8]>> {
        self.xattrs = HashMap::new();
        std::mem::take(&mut self.xattr_sets)
    }

    fn intern_xattrs(&mut self, entry: &Entry) -> Result<u32, MergeError> {
        let encoded = xattr::encode(entry.xattrs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())));
        if let Some(&id) = self.xattrs.get(encoded.as_slice()) {
            return Ok(id);
        }
        self.xattr_bytes += encoded.len();
        let id = u32::try_from(self.xattr_sets.len()).unwrap_or(u32::MAX);
        if self.xattr_bytes > MAX_XATTR_BYTES || id == u32::MAX {
            return Err(MergeError::TooLarge("extended attributes"));
        }
        let encoded: Arc<[u8]> = encoded.into();
        self.xattrs.insert(encoded.clone(), id);
        self.xattr_sets.push(encoded);
        Ok(id)
    }
}

/// An entry, borrowed from the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item<'a> {
    /// As in [`Entry::path`].
    pub(super) path: &'a [u8],
    /// Type and type-specific data.
    pub(super) kind: ItemKind<'a>,
    /// As in [`Entry::mode`].
    pub(super) mode: u32,
    /// Owner.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Modification time.
    pub(super) mtime: Timestamp,
    /// Number of its attribute set.
    pub(super) xattrs: u32,
}

/// What a borrowed entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ItemKind<'a> {
    /// Regular file.
    File {
        /// Logical size.
        size: u64,
        /// Content digest.
        digest: Blake3,
        /// Where the data is.
        extents: &'a [Extent],
    },
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink(&'a [u8]),
    /// Hard link.
    Hardlink(&'a [u8]),
    /// Character device: major, minor.
    Char(u32, u32),
    /// Block device: major, minor.
    Block(u32, u32),
    /// FIFO.
    Fifo,
}

/// Reads the log from its start. Lends each entry until the next is asked for.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    segments: &'a mut VecDeque<Vec<u8>>,
    pos: usize,
    path: Vec<u8>,
    extents: Vec<Extent>,
}

impl Cursor<'_> {
    /// The next entry.
    pub(super) fn next(&mut self) -> Option<Item<'_>> {
        while self.segments.front()?.len() <= self.pos {
            self.segments.pop_front();
            self.pos = 0;
        }
        let segment = self.segments.front()?;
        let mut r = Reader { bytes: segment, pos: self.pos };
        let shared = to_usize(r.int()?);
        self.path.truncate(shared);
        self.path.extend_from_slice(r.bytes()?);
        let mode = r.int32()?;
        let (uid, gid) = (r.int32()?, r.int32()?);
        let mtime = Timestamp { secs: unzigzag(r.int()?), nanos: r.int32()? };
        let xattrs = r.int32()?;
        let kind = match r.byte()? {
            tag::FILE => {
                let size = r.int()?;
                let digest = *r.take(32)?.first_chunk()?;
                self.extents.clear();
                for _ in 0..r.int()? {
                    self.extents.push(Extent {
                        file_offset: r.int()?,
                        stream_offset: r.int()?,
                        len: r.int()?,
                    });
                }
                ItemKind::File { size, digest, extents: &self.extents }
            }
            tag::DIR => ItemKind::Dir,
            tag::SYMLINK => ItemKind::Symlink(r.bytes()?),
            tag::HARDLINK => ItemKind::Hardlink(r.bytes()?),
            tag::CHAR => ItemKind::Char(r.int32()?, r.int32()?),
            tag::BLOCK => ItemKind::Block(r.int32()?, r.int32()?),
            _ => ItemKind::Fifo,
        };
        self.pos = r.pos;
        Some(Item { path: &self.path, kind, mode, uid, gid, mtime, xattrs })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let b = *self.bytes.get(self.pos)?;
        self.pos += 1;
        Some(b)
    }

    fn int(&mut self) -> Option<u64> {
        let mut value = 0;
        let mut shift = 0;
        loop {
            let b = self.byte()?;
            value |= u64::from(b & 0x7f).checked_shl(shift)?;
            if b & 0x80 == 0 {
                return Some(value);
            }
            shift += 7;
        }
    }

    fn int32(&mut self) -> Option<u32> {
        u32::try_from(self.int()?).ok()
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.pos..)?.get(..n)?;
        self.pos += n;
        Some(taken)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = to_usize(self.int()?);
        self.take(n)
    }
}

/// LEB128.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, to_u64(bytes.len()));
    out.extend_from_slice(bytes);
}

fn put_device(out: &mut Vec<u8>, tag: u8, major: u32, minor: u32) {
    out.push(tag);
    put(out, u64::from(major));
    put(out, u64::from(minor));
}

/// Small negative numbers become small unsigned ones.
fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -(n & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::tar::FileData;

    fn entry(path: &[u8], kind: EntryKind) -> Entry {
        Entry {
            path: path.to_vec(),
            kind,
            mode: 0o7644,
            uid: u32::MAX,
            gid: 5,
            mtime: Timestamp { secs: -3, nanos: 999_999_999 },
            xattrs: vec![(b"user.a".to_vec(), b"1".to_vec())],
        }
    }

    fn samples() -> Vec<Entry> {
        let extent = Extent { file_offset: 7, stream_offset: 1 << 40, len: 300 };
        let file = FileData { size: 1 << 50, extents: vec![extent, extent], digest: [9; 32] };
        vec![
            entry(b"usr/lib/a", EntryKind::File(file)),
            entry(b"usr/lib/ab", EntryKind::Dir),
            entry(b"", EntryKind::Fifo),
            entry(b"x", EntryKind::Symlink(b"usr".to_vec())),
            entry(b"x", EntryKind::Hardlink(vec![b'y'; 300])),
            entry(b"dev/c", EntryKind::Char { major: 1, minor: u32::MAX }),
            entry(&vec![b'l'; SEGMENT + 1], EntryKind::Block { major: 8, minor: 1 }),
            entry(b"last", EntryKind::Dir),
        ]
    }

    fn check(item: &Item<'_>, want: &Entry) {
        assert_eq!(item.path, want.path);
        assert_eq!((item.mode, item.uid, item.gid, item.mtime), (want.mode, want.uid, want.gid, want.mtime));
        let want = match &want.kind {
            EntryKind::File(f) => ItemKind::File { size: f.size, digest: f.digest, extents: &f.extents },
            EntryKind::Dir => ItemKind::Dir,
            EntryKind::Symlink(t) => ItemKind::Symlink(t),
            EntryKind::Hardlink(t) => ItemKind::Hardlink(t),
            EntryKind::Char { major, minor } => ItemKind::Char(*major, *minor),
            EntryKind::Block { major, minor } => ItemKind::Block(*major, *minor),
            EntryKind::Fifo => ItemKind::Fifo,
        };
        assert_eq!(item.kind, want);
    }

    #[test]
    fn gives_back_what_was_pushed_and_frees_it() {
        let samples = samples();
        let mut entries = LayerEntries::default();
        for e in &samples {
            entries.push(e).unwrap();
        }
        assert_eq!(entries.len(), samples.len());
        let mut cursor = entries.drain();
        for e in &samples {
            check(&cursor.next().unwrap(), e);
        }
        assert!(cursor.next().is_none());
        assert!(entries.segments.is_empty());
        assert_eq!(entries.take_xattr_sets().len(), 1);
    }

    #[test]
    fn a_file_costs_less_than_120_bytes() {
        let mut entries = LayerEntries::default();
        for n in 0..50_000u64 {
            let extents = vec![Extent { file_offset: 0, stream_offset: n << 14, len: 9000 }];
            let file = FileData { size: 9000, extents, digest: [7; 32] };
            let mut e = entry(format!("usr/share/doc/{}/f{n}", n / 20).as_bytes(), EntryKind::File(file));
            e.mtime = Timestamp { secs: 1_700_000_000, nanos: 0 };
            entries.push(&e).unwrap();
        }
        assert!(entries.bytes() < 50_000 * 120, "{}", entries.bytes() / 50_000);
    }
}
