//! The node's store: complete objects and partial ones on disk, decoded chunks in memory.
//!
//! Synchronous (callers use a blocking pool for disk calls) and ignorant of registries. Objects are whole files by
//! content digest, immutable and verified: they can be served by themselves. A miss is a value, not an error; a corrupt
//! object is a miss and a counter; a full or failing disk never reaches a reader.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::decode::Blake3;

pub mod memory;

/// Where and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// Cache directory; created if missing.
    pub dir: PathBuf,
    /// Most bytes on disk.
    pub quota: u64,
    /// Most bytes of decoded chunks in memory.
    pub memory: u64,
}

/// Names a decoded chunk in memory: diff_id of the layer and chunk number, or any other 32 + 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkKey {
    /// The layer's diff_id.
    pub layer: [u8; 32],
    /// Chunk number in the layer.
    pub chunk: u32,
    /// Chunk size the index was built with: other indexes of the same layer cut differently.
    pub cut: u32,
}

/// Why the store cannot be used at all. (Trouble with single objects is a miss.)
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be created or opened.
    #[error("cannot use cache directory {dir}")]
    Open {
        /// Directory.
        dir: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A maintenance command failed.
    #[error("cache directory {dir}")]
    Io {
        /// Directory.
        dir: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
}

/// An opened store. Share it in an `Arc`; several processes may have the same directory open.
#[derive(Debug)]
pub struct Store {}

/// A complete, verified object, open for reading and pinned while this lives: not evicted by this process, and
/// harmless if another unlinks it.
#[derive(Debug)]
pub struct ObjectFile {
    /// The open file; exactly the content's bytes.
    pub file: File,
}

/// What the store holds and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreStats {
    /// Bytes on disk, objects and partials (allocated, as the quota counts).
    pub disk_bytes: u64,
    /// Complete objects on disk.
    pub objects: u64,
    /// Partial objects on disk.
    pub partials: u64,
    /// Bytes of decoded chunks in memory.
    pub memory_bytes: u64,
    /// Objects evicted by this process.
    pub evictions: u64,
    /// Corrupt objects and segments found by this process.
    pub corrupt: u64,
    /// Disk writes that failed (full disk and the like) since opening.
    pub write_failures: u64,
}

/// What `clipfs cache verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// Objects and partials checked.
    pub checked: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Names of corrupt ones, now removed.
    pub corrupt: Vec<String>,
}

impl Store {
    /// Opens (creating if needed) the cache directory; cleans leftovers of unclean stops.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let _ = options;
        unimplemented!()
    }

    /// The cache directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        unimplemented!()
    }

    /// A decoded chunk from memory. Never touches the disk.
    #[must_use]
    pub fn memory_get(&self, key: &ChunkKey) -> Option<Bytes> {
        let _ = key;
        unimplemented!()
    }

    /// Keeps a decoded, verified chunk in memory, evicting the least recently used beyond the budget.
    pub fn memory_put(&self, key: ChunkKey, chunk: Bytes) {
        let _ = (key, chunk);
        unimplemented!()
    }

    /// A complete object, verified. The first time this process opens it (or when its inode or ctime has changed since)
    /// its bytes are hashed; a mismatch removes it and is a miss. Blocking.
    #[must_use]
    pub fn object(&self, digest: &Blake3, size: u64) -> Option<ObjectFile> {
        let _ = (digest, size);
        unimplemented!()
    }

    /// Whether a complete object is known to be there and verified: memory only, may be stale by eviction.
    #[must_use]
    pub fn knows_object(&self, digest: &Blake3) -> bool {
        let _ = digest;
        unimplemented!()
    }

    /// Stores a whole object after checking that `data` hashes to `digest` (plain BLAKE3: never a sparse one). `false`: not stored
    /// (mismatch, no space, failing disk): go on without. Blocking.
    pub fn put_object(&self, digest: &Blake3, data: &[u8]) -> bool {
        let _ = (digest, data);
        unimplemented!()
    }

    /// The partial object of a large (or sparse) content. Nothing is created on disk before the first write. Blocking.
    #[must_use]
    pub fn partial(self: &Arc<Self>, digest: &Blake3, size: u64, sparse: bool) -> Partial {
        let _ = (digest, size, sparse);
        unimplemented!()
    }

    /// Counters and sizes.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        unimplemented!()
    }

    /// Evicts until at most `target` bytes (default: the quota) are on disk; removes leftovers. Blocking. Returns
    /// bytes freed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn gc(&self, target: Option<u64>) -> Result<u64, StoreError> {
        let _ = target;
        unimplemented!()
    }

    /// Reads and checks everything on disk; removes what is corrupt. Blocking, long; `progress` is told (bytes done, bytes in all).
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport, StoreError> {
        let _ = progress;
        unimplemented!()
    }

    /// Removes every object and partial (open ones stay readable for those who have them open). Blocking. Returns
    /// bytes freed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn clear(&self) -> Result<u64, StoreError> {
        unimplemented!()
    }
}

/// A content of which parts are on disk. Parts (*segments*) are written as chunks are decoded, each with its own digest,
/// and verified again on every read from disk.
#[derive(Debug)]
pub struct Partial {}

impl Partial {
    /// The recorded segment that contains `offset`, read and verified: its file offset and bytes. Blocking.
    #[must_use]
    pub fn read(&self, offset: u64) -> Option<(u64, Bytes)> {
        let _ = offset;
        unimplemented!()
    }

    /// Records verified bytes of the file at `offset`. Failure is counted and otherwise ignored. Blocking.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
        unimplemented!()
    }

    /// Ranges of the file that are not yet on disk, in order; memory only. For sparse contents holes count as missing:
    /// the caller knows them.
    #[must_use]
    pub fn missing(&self) -> Vec<Range<u64>> {
        unimplemented!()
    }

    /// If nothing is missing: checks the whole content against its digest and makes it an object. Sparse contents stay
    /// partial. `None`: not complete, or corrupt (then dropped). Blocking.
    #[must_use]
    pub fn complete(&self) -> Option<ObjectFile> {
        unimplemented!()
    }
}
