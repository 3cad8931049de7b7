//! Reading a clip index in place.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use super::format::{
    self, Dirent, Fragments, Layer, Record, SPARSE, Section, XattrSet, count, kind, name_at, range, record,
};
use super::map::Bytes;
use super::validate::{self, Facts, Sections};
use super::{ChunkRecord, IndexError, LayerInfo};
use crate::decode::tar::{Extent, Timestamp};
use crate::decode::window::{self, Window};
use crate::decode::{Blake3, DecodeError};
use crate::image::xattr;
use crate::num::to_u64;
use crate::oci::Digest;

/// Inode number: position in the tree plus one, so the root is 1 as FUSE wants. The same in every process that
/// opens the same index.
pub type Ino = u64;

/// The root directory.
pub const ROOT: Ino = 1;

/// Number of a content (a distinct file body) in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub u32);

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file; `None` = empty.
    File(Option<ContentId>),
    /// Directory.
    Dir,
    /// Symbolic link: see [`ClipIndex::symlink`].
    Symlink,
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// FIFO.
    Fifo,
}

/// An inode's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Type.
    pub kind: Kind,
    /// `mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links: names for a file, 2 + subdirectories for a directory.
    pub nlink: u32,
    /// Size in bytes (symlink: length of the target; directories and others: 0).
    pub size: u64,
    /// Bytes of data, holes left out: what `st_blocks` is computed from.
    pub data_bytes: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Device number: (major, minor).
    pub rdev: (u32, u32),
    /// For directories: the parent (the root's is itself).
    pub parent: Ino,
}

/// A file body: where its bytes are, and their digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Identity: see [`crate::decode::tar::ContentHasher`].
    pub digest: Blake3,
    /// Logical size.
    pub size: u64,
    /// Layer that holds it.
    pub layer: u32,
    /// Whether it has holes (its digest is then of the sparse kind).
    pub sparse: bool,
}

/// An opened, validated index. Cheap to share in an `Arc`; every accessor is bounds-checked and never panics on a
/// file that has changed under the map.
#[derive(Debug)]
pub struct ClipIndex {
    bytes: Bytes,
    sections: Sections,
    facts: Facts,
    identity: Blake3,
}

impl ClipIndex {
    /// Maps and validates an index file.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::new(Bytes::map(&File::open(path)?)?)
    }

    /// An index in memory, validated as [`ClipIndex::open`] does. For tests and fuzzing.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, IndexError> {
        Self::new(Bytes::Owned(bytes))
    }

    fn new(bytes: Bytes) -> Result<Self, IndexError> {
        let (header, sections) = validate::header(&bytes)?;
        let facts = validate::all(&bytes, &header, &sections, false)?;
        bytes.release();
        let identity = *blake3::hash(&header.encode()).as_bytes();
        Ok(Self { bytes, sections, facts, identity })
    }

    /// A cryptographic digest of the whole index: two indexes that differ in one byte have different identities.
    #[must_use]
    pub fn identity(&self) -> &Blake3 {
        &self.identity
    }

    /// Also checks the sections that opening leaves alone (windows): `clipfs verify`.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn verify_all(&self) -> Result<(), IndexError> {
        let (header, sections) = validate::header(&self.bytes)?;
        validate::all(&self.bytes, &header, &sections, true)?;
        self.bytes.release();
        Ok(())
    }

    /// Digest of the manifest that the index is bound to.
    #[must_use]
    pub fn manifest_digest(&self) -> Digest {
        self.facts.meta.manifest_digest
    }

    /// The raw manifest.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        self.section(Section::Meta).get(self.facts.meta.ranges().0).unwrap_or_default()
    }

    /// The raw image config.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        self.section(Section::Meta).get(self.facts.meta.ranges().1).unwrap_or_default()
    }

    /// Plain bytes between checkpoints that the index was built with.
    #[must_use]
    pub fn chunk_size(&self) -> u32 {
        self.facts.meta.chunk
    }

    /// Length of the index in bytes, and how many of them are windows.
    #[must_use]
    pub fn byte_sizes(&self) -> (u64, u64) {
        (to_u64(self.bytes.len()), to_u64(self.section(Section::Windows).len()))
    }

    /// Number of inodes.
    #[must_use]
    pub fn inode_count(&self) -> u64 {
        count(self.section(Section::Inodes), Section::Inodes)
    }

    /// Sum of the sizes of all distinct contents, in bytes (for `statfs`).
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.facts.content_bytes
    }

    /// Attributes; `None` for a number that the tree does not have.
    #[must_use]
    pub fn inode(&self, ino: Ino) -> Option<Inode> {
        let r = self.inode_record(ino)?;
        let mut inode = Inode {
            kind: Kind::Fifo,
            mode: u32::from(r.mode),
            uid: r.uid,
            gid: r.gid,
            nlink: r.nlink,
            size: 0,
            data_bytes: 0,
            mtime: Timestamp { secs: r.secs, nanos: r.nanos },
            rdev: (0, 0),
            parent: 0,
        };
        match r.kind {
            kind::FILE => {
                let content = r.a.checked_sub(1).map(ContentId);
                inode.kind = Kind::File(content);
                inode.size = r.c;
                inode.data_bytes = r.c;
                if r.flags & SPARSE != 0 {
                    inode.data_bytes = self.fragments(&self.content_record(content?)?)?.data;
                }
            }
            kind::DIR => {
                inode.kind = Kind::Dir;
                inode.parent = r.c.checked_add(1)?;
            }
            kind::SYMLINK => {
                inode.kind = Kind::Symlink;
                inode.size = u64::from(r.b);
            }
            kind::CHAR => {
                inode.kind = Kind::Char;
                inode.rdev = (r.a, r.b);
            }
            kind::BLOCK => {
                inode.kind = Kind::Block;
                inode.rdev = (r.a, r.b);
            }
            _ => {}
        }
        Some(inode)
    }

    /// Looks a name up in a directory: a binary search. `None`: no such name, or `dir` is no directory.
    #[must_use]
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        let dir = self.dir_record(dir)?;
        let (dirents, names) = (self.section(Section::Dirents), self.section(Section::Names));
        let (mut low, mut high) = (dir.a, dir.a.checked_add(dir.b)?);
        while low < high {
            let middle = low + (high - low) / 2;
            let dirent: Dirent = record(dirents, middle)?;
            match name_at(names, dirent.name)?.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(Ino::from(dirent.inode) + 1),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Number of names in a directory (without `.` and `..`); 0 if it is none.
    #[must_use]
    pub fn dir_len(&self, dir: Ino) -> u32 {
        self.dir_record(dir).map_or(0, |dir| dir.b)
    }

    /// The n-th name of a directory, in byte order, and its inode.
    #[must_use]
    pub fn dir_entry(&self, dir: Ino, n: u32) -> Option<(&[u8], Ino)> {
        let dir = self.dir_record(dir).filter(|dir| n < dir.b)?;
        let dirent: Dirent = record(self.section(Section::Dirents), dir.a.checked_add(n)?)?;
        Some((name_at(self.section(Section::Names), dirent.name)?, Ino::from(dirent.inode) + 1))
    }

    /// Target of a symlink.
    #[must_use]
    pub fn symlink(&self, ino: Ino) -> Option<&[u8]> {
        let r = self.inode_record(ino).filter(|r| r.kind == kind::SYMLINK)?;
        range(self.section(Section::Targets), u64::from(r.a), u64::from(r.b))
    }

    /// Extended attributes, sorted by name.
    pub fn xattrs(&self, ino: Ino) -> impl Iterator<Item = (&[u8], &[u8])> {
        xattr::iter(self.xattr_set(ino).unwrap_or_default())
    }

    /// One extended attribute.
    #[must_use]
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Option<&[u8]> {
        self.xattrs(ino).find(|&(n, _)| n == name).map(|(_, value)| value)
    }

    /// Number of distinct contents.
    #[must_use]
    pub fn content_count(&self) -> u32 {
        clamp(count(self.section(Section::Contents), Section::Contents))
    }

    /// A content.
    #[must_use]
    pub fn content(&self, id: ContentId) -> Option<Content> {
        let r = self.content_record(id)?;
        let sparse = r.fragments != 0 && self.fragments(&r)?.data != r.size;
        Some(Content { digest: r.digest, size: r.size, layer: r.layer, sparse })
    }

    /// Number of extents of a content.
    #[must_use]
    pub fn extent_count(&self, id: ContentId) -> u32 {
        match self.content_record(id) {
            Some(r) if r.fragments == 0 => 1,
            Some(r) => self.fragments(&r).map_or(0, |f| f.count),
            None => 0,
        }
    }

    /// The n-th extent of a content, in file order (indexable, so that a plan finds its place by binary search).
    #[must_use]
    pub fn extent(&self, id: ContentId, n: u32) -> Option<Extent> {
        let r = self.content_record(id)?;
        if r.fragments == 0 {
            return (n == 0).then_some(Extent { file_offset: 0, stream_offset: r.stream, len: r.size });
        }
        let f = self.fragments(&r).filter(|f| n < f.count)?;
        record(self.section(Section::Extents), f.first.checked_add(n)?)
    }

    /// Contents whose first extent starts in the plain range of a layer: neighbours that a decoded chunk completes,
    /// in stream order.
    pub fn contents_in(&self, layer: u32, plain: Range<u64>) -> impl DoubleEndedIterator<Item = ContentId> {
        let contents = self.layer_record(layer).map_or(0..0, |l| {
            let end = l.first_content.saturating_add(l.contents);
            let stream = |n: u32| self.content_record(ContentId(n)).map_or(u64::MAX, |c| c.stream);
            let at = |offset| partition_point(l.first_content..end, |n| stream(n) < offset);
            at(plain.start)..at(plain.end)
        });
        contents.map(ContentId)
    }

    /// Number of layers, base first.
    #[must_use]
    pub fn layer_count(&self) -> u32 {
        clamp(count(self.section(Section::Layers), Section::Layers))
    }

    /// A layer.
    #[must_use]
    pub fn layer(&self, layer: u32) -> Option<LayerInfo> {
        self.layer_record(layer).map(|l| l.info)
    }

    /// Number of chunks of a layer.
    #[must_use]
    pub fn chunk_count(&self, layer: u32) -> u32 {
        self.layer_record(layer).map_or(0, |l| l.chunks)
    }

    /// A chunk of a layer.
    #[must_use]
    pub fn chunk(&self, layer: u32, n: u32) -> Option<ChunkRecord> {
        let l = self.layer_record(layer).filter(|l| n < l.chunks)?;
        record(self.section(Section::Chunks), l.first_chunk.checked_add(n)?)
    }

    /// The chunk that holds a plain offset of a layer: a binary search.
    #[must_use]
    pub fn chunk_at(&self, layer: u32, plain_offset: u64) -> Option<u32> {
        let l = self.layer_record(layer).filter(|l| plain_offset < l.info.plain_size)?;
        let starts_after = |n| self.chunk(layer, n).is_none_or(|c| c.plain_offset > plain_offset);
        partition_point(0..l.chunks, |n| !starts_after(n)).checked_sub(1)
    }

    /// The decoded window of a chunk; `None` if it needs none.
    ///
    /// # Errors
    /// A damaged window: the chunk cannot be had.
    pub fn window(&self, layer: u32, n: u32) -> Result<Option<Window>, DecodeError> {
        self.encoded_window(layer, n)?.map(window::decode).transpose()
    }

    /// A chunk's window as the index has it.
    pub(super) fn encoded_window(&self, layer: u32, n: u32) -> Result<Option<&[u8]>, DecodeError> {
        let Some(chunk) = self.chunk(layer, n).filter(|c| c.resume == crate::decode::Resume::Window) else {
            return Ok(None);
        };
        let bytes = self.layer_record(layer).and_then(|l| {
            let windows = range(self.section(Section::Windows), l.windows, l.windows_len)?;
            range(windows, chunk.window_offset, u64::from(chunk.window_len))
        });
        let lost = || DecodeError::Corrupt {
            format: "gzip",
            offset: chunk.comp_offset,
            reason: "its window is not in the clip index".into(),
        };
        bytes.map(Some).ok_or_else(lost)
    }

    /// Changes the bytes behind the back of validation, as a file changes under its map.
    #[cfg(test)]
    pub(crate) fn tamper(&mut self, change: impl FnOnce(&mut [u8])) {
        if let Bytes::Owned(bytes) = &mut self.bytes {
            change(bytes);
        }
    }

    #[inline]
    fn section(&self, section: Section) -> &[u8] {
        self.bytes.get(self.sections[section as usize].clone()).unwrap_or_default()
    }

    #[inline]
    fn records<const N: usize, R: Record<N>>(&self, section: Section, n: u32) -> Option<R> {
        record(self.section(section), n)
    }

    #[inline]
    fn inode_record(&self, ino: Ino) -> Option<format::Inode> {
        self.records(Section::Inodes, u32::try_from(ino.checked_sub(1)?).ok()?)
    }

    fn dir_record(&self, ino: Ino) -> Option<format::Inode> {
        self.inode_record(ino).filter(|r| r.kind == kind::DIR)
    }

    fn content_record(&self, id: ContentId) -> Option<format::Content> {
        self.records(Section::Contents, id.0)
    }

    fn fragments(&self, content: &format::Content) -> Option<Fragments> {
        self.records(Section::Fragments, content.fragments.checked_sub(1)?)
    }

    fn layer_record(&self, layer: u32) -> Option<Layer> {
        self.records(Section::Layers, layer)
    }

    fn xattr_set(&self, ino: Ino) -> Option<&[u8]> {
        let number = self.inode_record(ino)?.xattrs.checked_sub(1)?;
        let set: XattrSet = self.records(Section::XattrSets, number)?;
        range(self.section(Section::Xattrs), u64::from(set.offset), u64::from(set.len))
    }
}

/// The first number of `range` for which `before` does not hold; it must hold for all before that and none after.
fn partition_point(range: Range<u32>, before: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Validation has made sure that counts fit.
fn clamp(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
