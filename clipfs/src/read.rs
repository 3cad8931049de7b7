//! File ranges to bytes: a pure plan of chunks, then memory, disk or registry; single flight, read-ahead.
//!
//! Joins [`crate::store`] and [`crate::registry`], which never see each other. Knows nothing of FUSE.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::decode::DecodeError;
use crate::index::{ClipIndex, ContentId};
use crate::registry::{ImageSource, RegistryError};
use crate::store::{ObjectFile, Store};

/// Why a range cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The registry cannot give the bytes.
    #[error("fetching {0}")]
    Registry(Arc<str>, #[source] Arc<RegistryError>),
    /// The bytes do not decode.
    #[error("decoding {0}")]
    Decode(Arc<str>, #[source] Arc<DecodeError>),
    /// They decode to something else than the index says, twice.
    #[error("{0} does not match its digest in the index")]
    Mismatch(Arc<str>),
    /// Not within the deadline.
    #[error("read deadline of {0:?} exceeded")]
    Deadline(Duration),
    /// The index refers to what it does not have.
    #[error("the clip index has no such content")]
    NoContent,
}

/// Tunables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// Hard deadline of every read.
    pub timeout: Duration,
    /// Files up to this size are fetched whole at open and then passed through.
    pub small_file: u64,
}

/// How a file is to be opened.
#[derive(Debug)]
pub enum Opened {
    /// Complete: hand it to the kernel.
    Object(ObjectFile),
    /// Read it through the daemon, in cached mode.
    Cached,
}

/// What a reader has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Bytes answered to readers, by where they came from.
    pub served_memory: u64,
    /// From partial objects on disk.
    pub served_disk: u64,
    /// Fetched for this very read.
    pub served_registry: u64,
    /// Chunks that failed verification.
    pub verify_failures: u64,
    /// Compressed bytes asked for by cause: demand, read-ahead.
    pub fetched_demand: u64,
    /// See `fetched_demand`.
    pub fetched_readahead: u64,
}

/// Reads contents of one image. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {}

impl Reader {
    /// `runtime` runs fetches and read-ahead; `None` for `source` = offline: only what the store has.
    #[must_use]
    pub fn new(
        index: Arc<ClipIndex>,
        source: Option<ImageSource>,
        store: Arc<Store>,
        options: ReadOptions,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let _ = (index, source, store, options, runtime);
        unimplemented!()
    }

    /// The bytes if all of them are in memory: never blocks, for use on a FUSE thread.
    #[must_use]
    pub fn try_read(&self, content: ContentId, offset: u64, len: u32) -> Option<Bytes> {
        let _ = (content, offset, len);
        unimplemented!()
    }

    /// `len` bytes at `offset` (fewer only at the end of the file), verified, within the deadline.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, content: ContentId, offset: u64, len: u32) -> Result<Bytes, ReadError> {
        let _ = (content, offset, len);
        unimplemented!()
    }

    /// Decides how to open a content: a complete object if there is one; a small file is fetched whole first; a large one
    /// is `Cached`, and its completion goes on in the background once it is read. Never an error: a file whose bytes cannot be
    /// had opens `Cached`, and its reads tell.
    pub async fn open(&self, content: ContentId) -> Opened {
        let _ = content;
        unimplemented!()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> ReadStats {
        unimplemented!()
    }

    /// The last read error, for `status`.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        unimplemented!()
    }
}
