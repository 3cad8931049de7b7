//! Write-behind: a decoded chunk is scattered into the objects that it overlaps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{Inner, lock};
use crate::index::{ChunkRecord, ClipIndex, Content, ContentId};
use crate::num::{idx, to_u64, to_usize};
use crate::store::MemoryKey;

/// How long fetching waits for a full queue: longer than a disk under load takes for one chunk, far less than a read's
/// deadline.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which chunks were written behind, one bit each. Memory names chunks by what they hold: it has those that another image,
/// or a twin in the same one, brought there, and the disk has not.
#[derive(Debug)]
pub(super) struct Kept(Vec<Box<[AtomicU64]>>);

impl Kept {
    pub(super) fn new(index: &ClipIndex) -> Self {
        let words = |layer| (0..index.chunk_count(layer).div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self((0..index.layer_count()).map(words).collect())
    }

    /// Whether the chunk was written behind before; from now on it counts as such.
    fn mark(&self, layer: u32, chunk: u32) -> bool {
        let bit = 1 << (chunk % 64);
        self.word(layer, chunk).is_none_or(|word| word.fetch_or(bit, Relaxed) & bit != 0)
    }

    fn unmark(&self, layer: u32, chunk: u32) {
        if let Some(word) = self.word(layer, chunk) {
            word.fetch_and(!(1 << (chunk % 64)), Relaxed);
        }
    }

    fn is_marked(&self, layer: u32, chunk: u32) -> bool {
        self.word(layer, chunk).is_none_or(|word| word.load(Relaxed) & (1 << (chunk % 64)) != 0)
    }

    fn word(&self, layer: u32, chunk: u32) -> Option<&AtomicU64> {
        self.0.get(idx(layer))?.get(idx(chunk / 64))
    }
}

/// What a chunk takes of the budget.
fn kib(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len() >> 10).unwrap_or(u32::MAX).clamp(1, 16 << 10)
}

impl Inner {
    /// A chunk from memory: kept there, or on its way to the disk. Memory may be smaller than what read-ahead brings.
    pub(super) fn chunk_in_memory(&self, key: &MemoryKey) -> Option<Bytes> {
        self.store.memory_get(key).or_else(|| lock(&self.queued).get(key).cloned())
    }

    /// To be called before a fetched chunk is handed out: whoever gets it need not look after the disk.
    pub(super) fn will_keep(&self, layer: u32, chunk: u32) {
        self.kept.mark(layer, chunk);
    }

    /// Looks after the disk for a chunk that was found in memory. Never waits: while the queue is full nothing is kept, and
    /// the next to find it there tries again.
    pub(super) fn keep_found(self: &Arc<Self>, layer: u32, chunk: u32, bytes: &Bytes) {
        if self.kept.is_marked(layer, chunk) {
            return;
        }
        let Some(record) = self.index.chunk(layer, chunk) else { return };
        if let Ok(budget) = Arc::clone(&self.keep_budget).try_acquire_many_owned(kib(bytes))
            && !self.kept.mark(layer, chunk)
        {
            self.write_behind(layer, record, bytes.clone(), budget);
        }
    }

    /// As [`Inner::keep`], on a thread that may block.
    pub(super) fn keep_blocking(self: &Arc<Self>, layer: u32, chunk: u32, record: ChunkRecord, bytes: Bytes) {
        let start = Instant::now();
        loop {
            if let Ok(budget) = Arc::clone(&self.keep_budget).try_acquire_many_owned(kib(&bytes)) {
                return self.write_behind(layer, record, bytes, budget);
            }
            if self.disk_stalled.load(Relaxed) || start.elapsed() > PATIENCE {
                return self.do_without(layer, chunk);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Queues a verified chunk for the disk. Waits when the queue is full, since fetching must not outrun the disk; but not
    /// for a disk that has stopped: a reader never waits for that.
    pub(super) async fn keep(self: &Arc<Self>, layer: u32, chunk: u32, record: ChunkRecord, bytes: Bytes) {
        let budget = Arc::clone(&self.keep_budget).acquire_many_owned(kib(&bytes));
        let patience = if self.disk_stalled.load(Relaxed) { Duration::ZERO } else { PATIENCE };
        match tokio::time::timeout(patience, budget).await {
            Ok(Ok(budget)) => self.write_behind(layer, record, bytes, budget),
            Ok(Err(_)) | Err(_) => self.do_without(layer, chunk),
        }
    }

    /// The disk is not taking the chunk: it is served without, and whoever finds it in memory later tries again.
    fn do_without(&self, layer: u32, chunk: u32) {
        if !self.disk_stalled.swap(true, Relaxed) {
            tracing::warn!("the cache's disk takes nothing: serving without it until it does");
        }
        self.kept.unmark(layer, chunk);
    }

    fn write_behind(
        self: &Arc<Self>,
        layer: u32,
        record: ChunkRecord,
        bytes: Bytes,
        budget: OwnedSemaphorePermit,
    ) {
        let inner = Arc::clone(self);
        let key = MemoryKey { digest: record.digest, part: 0 };
        lock(&self.queued).insert(key, bytes.clone());
        self.runtime.spawn(async move {
            let _budget = budget;
            let Ok(_slot) = inner.keep_slots.acquire().await else { return };
            let scatter = Arc::clone(&inner);
            inner.blocking(move || scatter.scatter(layer, &record, &bytes)).await;
            inner.disk_stalled.store(false, Relaxed);
            let written = lock(&inner.queued).remove(&key);
            drop(written);
        });
    }

    fn scatter(&self, layer: u32, record: &ChunkRecord, bytes: &[u8]) {
        let plain = record.plain_offset..record.plain_offset + u64::from(record.plain_len);
        let reaching_in = self.index.contents_in(layer, 0..plain.start).next_back();
        for id in reaching_in.into_iter().chain(self.index.contents_in(layer, plain.clone())) {
            if let Some(content) = self.content(id) {
                self.scatter_content(id, &content, record, bytes);
            }
        }
    }

    fn scatter_content(&self, id: ContentId, content: &Content, record: &ChunkRecord, bytes: &[u8]) {
        if !content.sparse && self.store.knows_object(&content.digest) {
            return;
        }
        let start = record.plain_offset;
        let end = start + u64::from(record.plain_len);
        let mut partial = None;
        for n in 0..self.index.extent_count(id) {
            let Some(extent) = self.index.extent(id, n) else { break };
            let (from, to) =
                (extent.stream_offset.max(start), extent.stream_offset.saturating_add(extent.len).min(end));
            if from >= to {
                continue;
            }
            let Some(data) = bytes.get(to_usize(from - start)..to_usize(to - start)) else { break };
            if !content.sparse && to_u64(data.len()) == content.size {
                self.store.put_object(&content.digest, data);
                return;
            }
            let offset = extent.file_offset + (from - extent.stream_offset);
            partial.get_or_insert_with(|| self.partial(id, content)).write(offset, data);
        }
        if let Some(partial) = partial
            && !content.sparse
            && partial.missing().is_empty()
        {
            drop(partial.complete());
        }
    }
}
