//! What the store's disk has of a content.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;

use super::plan::Piece;
use super::{Inner, lock};
use crate::decode::Blake3;
use crate::index::{Content, ContentId};
use crate::num::to_u64;
use crate::store::{MemoryKey, ObjectFile, Partial};

/// Names a segment of a partial object in memory, once it was read back. Like the partial object itself it belongs to one
/// index: segments are only as true as the index of their writer.
pub(super) fn segment_key(scope: &Blake3, digest: &Blake3, segment: u64) -> MemoryKey {
    MemoryKey { digest: *blake3::keyed_hash(scope, digest).as_bytes(), part: segment }
}

impl Inner {
    /// Fills in the pieces that a complete or partial object has. Corrupt ones are misses.
    pub(super) async fn disk_pieces(
        self: &Arc<Self>,
        id: ContentId,
        content: Content,
        pieces: &[Piece],
        parts: Vec<Option<Bytes>>,
    ) -> Vec<Option<Bytes>> {
        let fallback = parts.clone();
        let inner = Arc::clone(self);
        let pieces = pieces.to_vec();
        self.blocking(move || inner.fill(id, &content, &pieces, parts)).await.unwrap_or(fallback)
    }

    fn fill(
        &self,
        id: ContentId,
        content: &Content,
        pieces: &[Piece],
        mut parts: Vec<Option<Bytes>>,
    ) -> Vec<Option<Bytes>> {
        let mut object = if content.sparse { None } else { self.open_object(id, content) };
        let mut partial = None;
        for (piece, part) in pieces.iter().zip(&mut parts) {
            let Piece::Data { len, file_offset, .. } = *piece else { continue };
            if part.is_some() {
                continue;
            }
            let len = crate::num::idx(len);
            *part = object.as_ref().and_then(|object| self.read_object(object, file_offset, len));
            if part.is_none() && object.is_some() {
                // It changed since it was verified: looked at afresh, and verified afresh if it is still there.
                lock(&self.objects).pop(&id);
                object = self.open_object(id, content);
                *part = object.as_ref().and_then(|object| self.read_object(object, file_offset, len));
            }
            if part.is_none() && object.is_none() {
                let partial = partial.get_or_insert_with(|| self.partial(id, content));
                *part = self.read_segment(partial, content, file_offset, len);
            }
            if part.is_some() {
                self.counters.served_disk.add(to_u64(len));
            }
        }
        parts
    }

    /// The content's object, kept open between reads.
    fn open_object(&self, id: ContentId, content: &Content) -> Option<Arc<ObjectFile>> {
        if let Some(object) = lock(&self.objects).get(&id) {
            return Some(Arc::clone(object));
        }
        let object = Arc::new(self.store.object(&content.digest, content.size)?);
        lock(&self.objects).put(id, Arc::clone(&object));
        Some(object)
    }

    /// The content's partial object, kept open between reads.
    pub(super) fn partial(&self, id: ContentId, content: &Content) -> Arc<Partial> {
        if let Some(partial) = lock(&self.partials).get(&id) {
            return Arc::clone(partial);
        }
        let partial = Arc::new(self.store.partial(
            self.index.identity(),
            &content.digest,
            content.size,
            content.sparse,
        ));
        // Somebody may have been faster: then theirs is used, so that both see the same map.
        Arc::clone(lock(&self.partials).get_or_insert(id, || partial))
    }

    /// Ranges of a content that its partial object does not have. Memory only: `None` if that is not open.
    pub(super) fn missing_on_disk(&self, id: ContentId) -> Option<Vec<std::ops::Range<u64>>> {
        let partial = lock(&self.partials).get(&id).map(Arc::clone);
        partial.map(|partial| partial.missing())
    }

    /// A range from a partial object; the segment that holds it stays in memory.
    fn read_segment(&self, partial: &Partial, content: &Content, offset: u64, len: usize) -> Option<Bytes> {
        let (start, bytes) = partial.read(offset)?;
        self.store.memory_put(segment_key(self.index.identity(), &content.digest, start), bytes.clone());
        let from = usize::try_from(offset.checked_sub(start)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= bytes.len()).then(|| bytes.slice(from..to))
    }

    /// The complete object to hand to the kernel, if there is one or everything is there to make one.
    pub(super) async fn complete_object(
        self: &Arc<Self>,
        id: ContentId,
        content: Content,
    ) -> Option<ObjectFile> {
        let inner = Arc::clone(self);
        self.blocking(move || {
            if let Some(object) = inner.store.object(&content.digest, content.size) {
                return Some(object);
            }
            let partial = lock(&inner.partials).get(&id).map(Arc::clone)?;
            if partial.missing().is_empty() { partial.complete() } else { None }
        })
        .await
        .flatten()
    }

    /// A range of an object. `None` if it is not what was verified any more: looked at after the read, so that no change
    /// can hide before it.
    fn read_object(&self, object: &ObjectFile, offset: u64, len: usize) -> Option<Bytes> {
        let mut bytes = self.pool.take(len);
        object.file.read_exact_at(&mut bytes, offset).ok()?;
        object.is_unchanged().then(|| self.pool.lend(bytes))
    }
}
