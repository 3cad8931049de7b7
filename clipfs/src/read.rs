//! File ranges to bytes: a pure plan of chunks, then memory, disk or registry; single flight, read-ahead.
//!
//! Joins [`crate::store`] and [`crate::registry`], which never see each other. Knows nothing of FUSE.
//!
//! A read goes through up to four places, cheapest first: chunks in memory, the complete object, segments of a partial
//! object, the registry. Whatever comes from the registry is verified by its chunk's digest before anyone sees it, handed
//! to all who wait, kept in memory, and then written behind to the store: not only the file that was asked for, but every
//! object that the chunk completes.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use tokio::sync::Semaphore;

use crate::decode::{DecodeError, MAX_CHUNK};
use crate::index::{ClipIndex, Content, ContentId};
use crate::num::to_u64;
use crate::registry::{ImageSource, RegistryError};
use crate::store::{MemoryKey, ObjectFile, Partial, Store};

mod ahead;
mod disk;
mod fetch;
mod flight;
mod keep;
mod lane;
mod plan;
mod pool;
mod prefetch;
mod stats;

pub use prefetch::PrefetchState;
pub use stats::ReadStats;

use flight::{Flights, Join};
use plan::Piece;

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
    /// There is no registry to ask, and the store does not have the bytes.
    #[error("{0} is not in the store and there is no registry to fetch it from")]
    Offline(Arc<str>),
    /// Whoever was fetching the chunk died of a bug.
    #[error("the fetch was abandoned")]
    Abandoned,
}

/// Tunables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// Hard deadline of every read.
    pub timeout: Duration,
    /// Files up to this size are fetched whole at open, even when they cross a chunk boundary; files within one chunk
    /// always are.
    pub small_file: u64,
}

impl Default for ReadOptions {
    /// 30 s; 128 KiB: the least that the kernel reads ahead anyway.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), small_file: 128 << 10 }
    }
}

/// How a file is to be opened.
#[derive(Debug)]
pub enum Opened {
    /// Complete: hand it to the kernel.
    Object(ObjectFile),
    /// Read it through the daemon, in cached mode.
    Cached,
}

/// Fetches for waiting readers under way at once: with a chunk each, what a thousand readers may cost in memory.
const DEMAND_SLOTS: usize = 16;

/// Read-ahead requests under way at once.
const AHEAD_SLOTS: usize = 4;

/// Chunks decoded but not yet written behind, in KiB: past this, fetching waits for the disk.
const KEEP_KIB: usize = 32 << 10;

/// Tasks that write behind at once.
const KEEP_TASKS: usize = 2;

/// Open objects, and partial objects, that are remembered between reads.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Reads contents of one image. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    index: Arc<ClipIndex>,
    source: OnceLock<ImageSource>,
    store: Arc<Store>,
    options: ReadOptions,
    runtime: tokio::runtime::Handle,
    flights: Arc<Flights>,
    pool: Arc<pool::Pool>,
    ahead: Mutex<ahead::Ahead>,
    lanes: lane::Lanes,
    objects: Mutex<LruCache<ContentId, Arc<ObjectFile>>>,
    partials: Mutex<LruCache<ContentId, Arc<Partial>>>,
    demand_slots: Arc<Semaphore>,
    ahead_slots: Arc<Semaphore>,
    decode_slots: Arc<Semaphore>,
    keep_budget: Arc<Semaphore>,
    keep_slots: Arc<Semaphore>,
    /// The disk has not taken a chunk for long: nobody waits for it until it takes one again.
    disk_stalled: AtomicBool,
    kept: keep::Kept,
    /// Chunks that wait to be written behind: within `keep_budget`.
    queued: Mutex<HashMap<MemoryKey, Bytes>>,
    counters: stats::Counters,
    prefetch: prefetch::Shared,
    last_error: Mutex<Option<String>>,
}

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
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        Self(Arc::new(Inner {
            kept: keep::Kept::new(&index),
            queued: Mutex::default(),
            index,
            source: source.map(OnceLock::from).unwrap_or_default(),
            store,
            options,
            runtime,
            flights: Arc::default(),
            pool: Arc::default(),
            ahead: Mutex::default(),
            lanes: lane::Lanes::default(),
            objects: Mutex::new(LruCache::new(OPEN_FILES)),
            partials: Mutex::new(LruCache::new(OPEN_FILES)),
            demand_slots: Arc::new(Semaphore::new(DEMAND_SLOTS)),
            ahead_slots: Arc::new(Semaphore::new(AHEAD_SLOTS)),
            decode_slots: Arc::new(Semaphore::new(cores)),
            keep_budget: Arc::new(Semaphore::new(KEEP_KIB)),
            keep_slots: Arc::new(Semaphore::new(KEEP_TASKS)),
            disk_stalled: AtomicBool::new(false),
            counters: stats::Counters::default(),
            prefetch: prefetch::Shared::default(),
            last_error: Mutex::default(),
        }))
    }

    /// The bytes if all of them are in memory: never blocks, for use on a FUSE thread.
    #[must_use]
    pub fn try_read(&self, content: ContentId, offset: u64, len: u32) -> Option<Bytes> {
        let pieces = plan::plan(&self.0.index, content, offset, u64::from(len)).ok()?;
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in &pieces {
            parts.push(self.0.memory_piece(content, piece)?);
        }
        let bytes = plan::join(&parts);
        self.0.counters.served_memory.add(to_u64(bytes.len()));
        self.0.read_ahead(content, offset, to_u64(bytes.len()));
        Some(bytes)
    }

    /// `len` bytes at `offset` (fewer only at the end of the file), verified, within the deadline.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, content: ContentId, offset: u64, len: u32) -> Result<Bytes, ReadError> {
        self.within_deadline(self.0.read(content, offset, len)).await
    }

    /// Decides how to open a content: a complete object if there is one; a small file is fetched whole first; a large one
    /// is `Cached`, and becomes an object once all of it has been read. Within the deadline.
    ///
    /// # Errors
    /// A small file cannot be had: said at once, rather than after a second deadline by its first read.
    pub async fn open(&self, content: ContentId) -> Result<Opened, ReadError> {
        self.within_deadline(self.0.open(content)).await
    }

    async fn within_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, ReadError>>,
    ) -> Result<T, ReadError> {
        let limit = self.0.options.timeout;
        let outcome = tokio::time::timeout(limit, work).await.unwrap_or(Err(ReadError::Deadline(limit)));
        if let Err(error) = &outcome {
            *lock(&self.0.last_error) = Some(sentence(error));
        }
        outcome
    }

    /// Where contents come from; `None` = nowhere (yet).
    #[must_use]
    pub fn source(&self) -> Option<&ImageSource> {
        self.0.source.get()
    }

    /// Ends being offline: reads ask this source from now on. The first one stays.
    pub fn set_source(&self, source: ImageSource) {
        self.0.source.get_or_init(|| source);
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> ReadStats {
        self.0.counters.snapshot()
    }

    /// The last read error, for `status`.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        lock(&self.0.last_error).clone()
    }
}

impl Inner {
    async fn read(self: &Arc<Self>, id: ContentId, offset: u64, len: u32) -> Result<Bytes, ReadError> {
        let content = self.index.content(id).ok_or(ReadError::NoContent)?;
        let pieces = plan::plan(&self.index, id, offset, u64::from(len)).map_err(|_| ReadError::NoContent)?;
        let mut parts: Vec<Option<Bytes>> = pieces.iter().map(|piece| self.memory_piece(id, piece)).collect();
        let hit: u64 = parts.iter().flatten().map(|part| to_u64(part.len())).sum();
        self.counters.served_memory.add(hit);
        if parts.iter().any(Option::is_none) {
            parts = self.disk_pieces(id, content, &pieces, parts).await;
        }
        if parts.iter().any(Option::is_none) {
            self.fetch_pieces(&pieces, &mut parts).await?;
        }
        let parts: Vec<Bytes> = parts.into_iter().flatten().collect();
        let bytes = plan::join(&parts);
        self.read_ahead(id, offset, to_u64(bytes.len()));
        Ok(bytes)
    }

    /// A piece from memory: from its chunk, or from its segment as it was read back from disk.
    fn memory_piece(self: &Arc<Self>, id: ContentId, piece: &Piece) -> Option<Bytes> {
        match *piece {
            Piece::Zeros { len } => Some(plan::zeros(len)),
            Piece::Data { layer, chunk, at, len, file_offset, segment } => {
                let (from, bytes) = match self.chunk_in_memory(&self.chunk_key(layer, chunk)?) {
                    Some(bytes) => {
                        self.keep_found(layer, chunk, &bytes);
                        (crate::num::idx(at), bytes)
                    }
                    None => {
                        let digest = self.index.content(id)?.digest;
                        let bytes = self.store.memory_get(&disk::segment_key(
                            self.index.identity(),
                            &digest,
                            segment,
                        ))?;
                        (usize::try_from(file_offset - segment).ok()?, bytes)
                    }
                };
                let to = from.checked_add(crate::num::idx(len))?;
                (to <= bytes.len()).then(|| bytes.slice(from..to))
            }
        }
    }

    /// Fetches what is still missing: leads where nobody does, waits for all.
    async fn fetch_pieces(
        self: &Arc<Self>,
        pieces: &[Piece],
        parts: &mut [Option<Bytes>],
    ) -> Result<(), ReadError> {
        let mut waits = Vec::new();
        let mut leaders = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            let Piece::Data { layer, chunk, .. } = *piece else { continue };
            if parts[n].is_some() {
                continue;
            }
            let key = self.chunk_key(layer, chunk).ok_or(ReadError::NoContent)?;
            let mut leads = false;
            let waiter = match self.flights.join(key) {
                Join::Wait(waiter) => waiter,
                Join::Lead(leader) => {
                    let waiter = leader.waiter();
                    leaders.push((layer, chunk, leader));
                    leads = true;
                    waiter
                }
            };
            waits.push((n, waiter, leads));
        }
        self.start(leaders, fetch::Cause::Demand, None);
        for (n, waiter, leads) in waits {
            let Piece::Data { layer, chunk, at, len, .. } = pieces[n] else { continue };
            let bytes = match waiter.wait().await {
                // It began before this read did, and so may have what it failed of: that is not this read's answer.
                Err(error) if !leads => {
                    tracing::debug!(%error, layer, chunk, "somebody else's fetch failed, trying once more");
                    self.fetch_afresh(layer, chunk).await?
                }
                outcome => outcome?,
            };
            // The flight may have been another chunk's of the same bytes.
            self.keep_found(layer, chunk, &bytes);
            let from = crate::num::idx(at);
            let to = from + crate::num::idx(len);
            if to > bytes.len() {
                return Err(ReadError::NoContent);
            }
            self.counters.served_registry.add(u64::from(len));
            parts[n] = Some(bytes.slice(from..to));
        }
        Ok(())
    }

    /// One chunk, by a flight that begins now (or by another that began after the last one failed).
    async fn fetch_afresh(self: &Arc<Self>, layer: u32, chunk: u32) -> Result<Bytes, ReadError> {
        let key = self.chunk_key(layer, chunk).ok_or(ReadError::NoContent)?;
        match self.flights.join(key) {
            Join::Wait(waiter) => waiter.wait().await,
            Join::Lead(leader) => {
                let waiter = leader.waiter();
                self.start(vec![(layer, chunk, leader)], fetch::Cause::Demand, None);
                waiter.wait().await
            }
        }
    }

    /// Tells read-ahead of a read; begins fetching what it asks for. Never waits.
    fn read_ahead(self: &Arc<Self>, id: ContentId, offset: u64, len: u64) {
        let Some(content) = self.index.content(id) else { return };
        let Some(range) = lock(&self.ahead).note(id, offset, offset + len, content.size) else { return };
        if self.source.get().is_none() || self.store.knows_object(&content.digest) {
            return;
        }
        let until = self.fetch_ahead(id, range);
        lock(&self.ahead).took(id, until);
    }

    async fn open(self: &Arc<Self>, id: ContentId) -> Result<Opened, ReadError> {
        let content = self.index.content(id).ok_or(ReadError::NoContent)?;
        if content.sparse {
            return Ok(Opened::Cached);
        }
        if let Some(object) = self.complete_object(id, content).await {
            return Ok(Opened::Object(object));
        }
        if content.size > self.options.small_file.max(u64::from(MAX_CHUNK)) {
            return Ok(Opened::Cached); // No need to plan a terabyte to see that it is no chunk.
        }
        let pieces = plan::plan(&self.index, id, 0, content.size).map_err(|_| ReadError::NoContent)?;
        let len = u32::try_from(content.size).unwrap_or(u32::MAX);
        if pieces.len() > 1 && content.size > self.options.small_file || len == u32::MAX {
            return Ok(Opened::Cached);
        }
        let bytes = self.read(id, 0, len).await?;
        let inner = Arc::clone(self);
        let object = self.blocking(move || {
            inner.store.put_object(&content.digest, &bytes);
            inner.store.object(&content.digest, content.size)
        });
        Ok(object.await.flatten().map_or(Opened::Cached, Opened::Object))
    }

    fn chunk_key(&self, layer: u32, chunk: u32) -> Option<MemoryKey> {
        Some(MemoryKey { digest: self.index.chunk(layer, chunk)?.digest, part: 0 })
    }

    /// Runs a disk call on the blocking pool; `None` if it panicked or the runtime is going down.
    async fn blocking<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.runtime.spawn_blocking(call).await.ok()
    }

    /// What a chunk is called in messages.
    fn chunk_name(&self, layer: u32, chunk: u32) -> Arc<str> {
        match self.index.layer(layer) {
            Some(info) => format!("chunk {chunk} of layer {}", info.digest).into(),
            None => format!("chunk {chunk} of layer {layer}").into(),
        }
    }

    fn content(&self, id: ContentId) -> Option<Content> {
        self.index.content(id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error and its causes in one sentence.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Transparent wrappers say the same twice.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
