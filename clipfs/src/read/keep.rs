//! Write-behind: a decoded chunk is scattered into the objects that it overlaps.

use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use crate::index::{ChunkRecord, Content, ContentId};
use crate::num::{to_u64, to_usize};

impl Inner {
    /// Queues a verified chunk for the disk. Waits only when the queue is full: then fetching must not outrun the disk.
    pub(super) async fn keep(self: &Arc<Self>, layer: u32, record: ChunkRecord, bytes: Bytes) {
        let kib = u32::try_from(bytes.len() >> 10).unwrap_or(u32::MAX).clamp(1, 16 << 10);
        let Ok(budget) = Arc::clone(&self.keep_budget).acquire_many_owned(kib).await else { return };
        let inner = Arc::clone(self);
        self.runtime.spawn(async move {
            let _budget = budget;
            let Ok(_slot) = inner.keep_slots.acquire().await else { return };
            let scatter = Arc::clone(&inner);
            inner.blocking(move || scatter.scatter(layer, &record, &bytes)).await;
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
