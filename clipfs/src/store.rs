//! The node's store: complete objects and partial ones on disk, decoded chunks in memory.
//!
//! Synchronous (callers use a blocking pool for disk calls) and ignorant of registries. Objects are whole files by
//! content digest, immutable and verified: they can be served by themselves. A miss is a value, not an error; a corrupt
//! object is a miss and a counter; a full or failing disk never reaches a reader.
//!
//! | module | |
//! | --- | --- |
//! | [`memory`] | decoded chunks |
//! | `disk` | the directory: layout, held descriptors, temporary files |
//! | `object`, `memo` | complete objects; what this process has verified and has in use |
//! | `partial`, `segments` | partial objects; the format of their maps |
//! | `usage`, `evict`, `scan` | the quota: the tally shared by all processes, eviction, the walk over everything |
//! | `maintain` | gc, verify, clear |
//! | `health` | trouble with writing |

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::decode::Blake3;

mod disk;
mod evict;
mod health;
mod maintain;
mod memo;
pub mod memory;
mod object;
mod partial;
mod scan;
mod segments;
mod usage;

#[cfg(test)]
mod tests;

pub use partial::Partial;

/// How long [`Store::stats`] waits for the first count of a directory.
const COUNT_PATIENCE: Duration = Duration::from_secs(10);

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

/// Names verified bytes in memory by what they are, not by who asked: whatever index claims them, they are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemoryKey {
    /// A chunk's digest; or a digest of what a segment of a partial object is part of.
    pub digest: Blake3,
    /// 0 for a chunk; the file offset of a segment.
    pub part: u64,
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
pub struct Store {
    inner: Arc<Inner>,
}

/// What the store, its partials and its background thread share.
#[derive(Debug)]
struct Inner {
    quota: u64,
    disk: disk::Disk,
    memory: memory::MemoryLru,
    memo: memo::Memo,
    pins: Arc<memo::Pins>,
    usage: usage::Usage,
    health: health::Health,
    counters: Counters,
    /// One scan or eviction at a time in this process.
    scanning: Mutex<()>,
    /// Until when no eviction is tried, the last having found too little.
    stuck_until: Mutex<Option<Instant>>,
    /// A background thread is running.
    background: AtomicBool,
    /// The store is closing: background scans end.
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Counters {
    evictions: AtomicU64,
    /// Bytes that evictions have freed.
    freed: AtomicU64,
    corrupt: AtomicU64,
}

/// Locks a mutex whose data no panic can leave half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A complete, verified object, open for reading and pinned while this lives: not evicted by this process, and
/// harmless if another unlinks it.
#[derive(Debug)]
pub struct ObjectFile {
    /// The open file; exactly the content's bytes.
    pub file: File,
    verified: disk::Ident,
    _pin: memo::Pin,
}

impl ObjectFile {
    /// Whether the file is still what was verified: who keeps it open for long looks after each read.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        disk::stat(&self.file).is_ok_and(|now| now.ident == self.verified)
    }
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

impl Inner {
    /// The directory, opened again if it could not be before. `None`: still not, and counted.
    fn dirs_for_writing(&self) -> Option<Arc<disk::Dirs>> {
        self.disk.dirs().or_else(|| self.reopen(None))
    }

    /// Opens the directory afresh after it was found removed.
    fn reopen(&self, seen: Option<&Arc<disk::Dirs>>) -> Option<Arc<disk::Dirs>> {
        match self.disk.reopen(seen) {
            Ok((dirs, anew)) => {
                if anew {
                    tracing::warn!(dir = %self.disk.path().display(), "made the cache directory again");
                    self.memo.clear();
                    self.usage.attach(&dirs);
                }
                Some(dirs)
            }
            Err(error) => {
                self.health.failed(self.disk.path(), "directory", &error);
                None
            }
        }
    }

    fn io_error(&self, source: std::io::Error) -> StoreError {
        StoreError::Io { dir: self.disk.path().to_owned(), source }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(dirs) = self.disk.dirs() {
            self.usage.flush(&dirs);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
    }
}

impl Store {
    /// Opens (creating if needed) the cache directory; cleans leftovers of unclean stops. Takes no longer when
    /// the cache is large: if nobody has counted it lately, a background thread does.
    ///
    /// The directory must not be a symbolic link, belong to another user or be writable by others. A directory on a full
    /// disk opens; nothing is cached until there is room.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let dir = &options.dir;
        let disk = disk::Disk::open(dir).map_err(|source| StoreError::Open { dir: dir.clone(), source })?;
        Ok(Self::of(disk, &options))
    }

    /// A store whose directory cannot be used now: holds chunks in memory, and begins to use the directory when a write
    /// finds that it can.
    #[must_use]
    pub fn without_disk(options: &StoreOptions) -> Self {
        Self::of(disk::Disk::unopened(options.dir.clone()), options)
    }

    fn of(disk: disk::Disk, options: &StoreOptions) -> Self {
        let StoreOptions { quota, memory, .. } = *options;
        let inner = Arc::new(Inner {
            quota,
            disk,
            memory: memory::MemoryLru::new(memory),
            memo: memo::Memo::new(),
            pins: Arc::default(),
            usage: usage::Usage::new(quota),
            health: health::Health::new(),
            counters: Counters::default(),
            scanning: Mutex::new(()),
            stuck_until: Mutex::new(None),
            background: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        if let Some(dirs) = inner.disk.dirs() {
            inner.usage.attach(&dirs);
            if let Err(error) = dirs.remove_leftovers() {
                tracing::debug!(%error, "cannot look for leftovers in the cache");
            }
            if inner.usage.is_stale() {
                inner.in_background(evict::Job::Count);
            }
        }
        Self { inner }
    }

    /// The cache directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.inner.disk.path()
    }

    /// A decoded chunk from memory. Never touches the disk.
    #[must_use]
    pub fn memory_get(&self, key: &MemoryKey) -> Option<Bytes> {
        self.inner.memory.get(key)
    }

    /// Keeps a decoded, verified chunk in memory, evicting the least recently used beyond the budget.
    pub fn memory_put(&self, key: MemoryKey, chunk: Bytes) {
        self.inner.memory.put(key, chunk);
    }

    /// A complete object, verified. The first time this process opens it (or when its inode or ctime has changed since)
    /// its bytes are hashed; a mismatch removes it and is a miss. `size` other than the object's is a miss and
    /// removes nothing. Blocking.
    #[must_use]
    pub fn object(&self, digest: &Blake3, size: u64) -> Option<ObjectFile> {
        self.inner.object(digest, size)
    }

    /// Whether a complete object is known to be there and verified: memory only, may be stale by eviction.
    #[must_use]
    pub fn knows_object(&self, digest: &Blake3) -> bool {
        self.inner.memo.knows(digest)
    }

    /// Stores a whole object after checking that `data` hashes to `digest` (plain BLAKE3: never a sparse one). `false`: not stored
    /// (mismatch, no space, failing disk): go on without. Blocking.
    pub fn put_object(&self, digest: &Blake3, data: &[u8]) -> bool {
        self.inner.put_object(digest, data)
    }

    /// The partial object of a content as one clip index describes it; `scope` is a cryptographic digest of that index.
    ///
    /// Segments are verified against what their writer said they are, and he has it from his index; only a complete
    /// object is proved by its own digest. So that a lying index can spoil the reads of nobody but its own image, partials
    /// are shared between mounts of one index, not between indexes. Blocking.
    #[must_use]
    pub fn partial(self: &Arc<Self>, scope: &Blake3, digest: &Blake3, size: u64, sparse: bool) -> Partial {
        let identity = segments::Identity { digest: *digest, scope: *scope, size, sparse };
        Partial::open(&self.inner, identity)
    }

    /// Counters and sizes, from the tally that all processes share: no scan, except that the first call may wait for the
    /// first count. What others removed by hand shows after [`Store::recount`], or ten minutes.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let inner = &self.inner;
        let dirs = inner.disk.dirs();
        if let Some(dirs) = &dirs {
            let start = Instant::now();
            while !inner.usage.is_known(dirs) && start.elapsed() < COUNT_PATIENCE {
                if !inner.in_background(evict::Job::Count) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.stats_so_far()
    }

    /// As [`Store::stats`], but never waits for a count: sizes are 0 until there is one. Blocking, as little as a file lock that is
    /// not waited for.
    #[must_use]
    pub fn stats_so_far(&self) -> StoreStats {
        let inner = &self.inner;
        let dirs = inner.disk.dirs();
        let usage::Tally { bytes, objects, partials } = inner.usage.tally(dirs.as_deref());
        StoreStats {
            disk_bytes: bytes,
            objects,
            partials,
            memory_bytes: inner.memory.bytes(),
            evictions: inner.counters.evictions.load(Ordering::Relaxed),
            corrupt: inner.counters.corrupt.load(Ordering::Relaxed),
            write_failures: inner.health.failures(),
        }
    }

    /// Counts what is on disk now, so that [`Store::stats`] is exact. Blocking.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn recount(&self) -> Result<(), StoreError> {
        self.inner.recount().map_err(|e| self.inner.io_error(e))
    }

    /// Evicts until at most `target` bytes (default: the quota) are on disk; removes leftovers. Blocking. Returns
    /// bytes freed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn gc(&self, target: Option<u64>) -> Result<u64, StoreError> {
        self.inner.gc(target).map_err(|e| self.inner.io_error(e))
    }

    /// Reads and checks everything on disk; removes what is corrupt. Blocking, long; `progress` is told (bytes done, bytes in all).
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport, StoreError> {
        self.inner.verify(progress).map_err(|e| self.inner.io_error(e))
    }

    /// Removes every object and partial (open ones stay readable for those who have them open). Blocking. Returns
    /// bytes freed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn clear(&self) -> Result<u64, StoreError> {
        self.inner.clear().map_err(|e| self.inner.io_error(e))
    }
}
