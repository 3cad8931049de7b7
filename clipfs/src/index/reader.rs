//! Reading a clip index in place.

use std::path::Path;

use super::{ChunkRecord, IndexError, LayerInfo};
use crate::decode::tar::{Extent, Timestamp};
use crate::decode::{Blake3, DecodeError};
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
pub struct ClipIndex {}

impl ClipIndex {
    /// Maps and validates an index file.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let _ = path;
        unimplemented!()
    }

    /// An index in memory, validated as [`ClipIndex::open`] does. For tests and fuzzing.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, IndexError> {
        let _ = bytes;
        unimplemented!()
    }

    /// Also checks the sections that opening leaves alone (windows): `clipfs verify`.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn verify_all(&self) -> Result<(), IndexError> {
        unimplemented!()
    }

    /// Digest of the manifest that the index is bound to.
    #[must_use]
    pub fn manifest_digest(&self) -> Digest {
        unimplemented!()
    }

    /// The raw manifest.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        unimplemented!()
    }

    /// The raw image config.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        unimplemented!()
    }

    /// Plain bytes between checkpoints that the index was built with.
    #[must_use]
    pub fn chunk_size(&self) -> u32 {
        unimplemented!()
    }

    /// Length of the index in bytes, and how many of them are windows.
    #[must_use]
    pub fn byte_sizes(&self) -> (u64, u64) {
        unimplemented!()
    }

    /// Number of inodes.
    #[must_use]
    pub fn inode_count(&self) -> u64 {
        unimplemented!()
    }

    /// Sum of the sizes of all distinct contents, in bytes (for `statfs`).
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// Attributes; `None` for a number that the tree does not have.
    #[must_use]
    pub fn inode(&self, ino: Ino) -> Option<Inode> {
        let _ = ino;
        unimplemented!()
    }

    /// Looks a name up in a directory: a binary search. `None`: no such name, or `dir` is no directory.
    #[must_use]
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        let _ = (dir, name);
        unimplemented!()
    }

    /// Number of names in a directory (without `.` and `..`); 0 if it is none.
    #[must_use]
    pub fn dir_len(&self, dir: Ino) -> u32 {
        let _ = dir;
        unimplemented!()
    }

    /// The n-th name of a directory, in byte order, and its inode.
    #[must_use]
    pub fn dir_entry(&self, dir: Ino, n: u32) -> Option<(&[u8], Ino)> {
        let _ = (dir, n);
        unimplemented!()
    }

    /// Target of a symlink.
    #[must_use]
    pub fn symlink(&self, ino: Ino) -> Option<&[u8]> {
        let _ = ino;
        unimplemented!()
    }

    /// Extended attributes, sorted by name.
    pub fn xattrs(&self, ino: Ino) -> impl Iterator<Item = (&[u8], &[u8])> {
        let _ = ino;
        std::iter::empty()
    }

    /// One extended attribute.
    #[must_use]
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Option<&[u8]> {
        let _ = (ino, name);
        unimplemented!()
    }

    /// Number of distinct contents.
    #[must_use]
    pub fn content_count(&self) -> u32 {
        unimplemented!()
    }

    /// A content.
    #[must_use]
    pub fn content(&self, id: ContentId) -> Option<Content> {
        let _ = id;
        unimplemented!()
    }

    /// Number of extents of a content.
    #[must_use]
    pub fn extent_count(&self, id: ContentId) -> u32 {
        let _ = id;
        unimplemented!()
    }

    /// The n-th extent of a content, in file order (indexable, so that a plan finds its place by binary search).
    #[must_use]
    pub fn extent(&self, id: ContentId, n: u32) -> Option<Extent> {
        let _ = (id, n);
        unimplemented!()
    }

    /// Contents whose first extent starts in the plain range of a layer: neighbours that a decoded chunk completes,
    /// in stream order.
    pub fn contents_in(
        &self,
        layer: u32,
        plain: std::ops::Range<u64>,
    ) -> impl Iterator<Item = ContentId> {
        let _ = (layer, plain);
        std::iter::empty()
    }

    /// Number of layers, base first.
    #[must_use]
    pub fn layer_count(&self) -> u32 {
        unimplemented!()
    }

    /// A layer.
    #[must_use]
    pub fn layer(&self, layer: u32) -> Option<LayerInfo> {
        let _ = layer;
        unimplemented!()
    }

    /// Number of chunks of a layer.
    #[must_use]
    pub fn chunk_count(&self, layer: u32) -> u32 {
        let _ = layer;
        unimplemented!()
    }

    /// A chunk of a layer.
    #[must_use]
    pub fn chunk(&self, layer: u32, n: u32) -> Option<ChunkRecord> {
        let _ = (layer, n);
        unimplemented!()
    }

    /// The chunk that holds a plain offset of a layer: a binary search.
    #[must_use]
    pub fn chunk_at(&self, layer: u32, plain_offset: u64) -> Option<u32> {
        let _ = (layer, plain_offset);
        unimplemented!()
    }

    /// The decoded window of a chunk; `None` if it needs none.
    ///
    /// # Errors
    /// A damaged window: the chunk cannot be had.
    pub fn window(&self, layer: u32, n: u32) -> Result<Option<Vec<u8>>, DecodeError> {
        let _ = (layer, n);
        unimplemented!()
    }
}
