//! From the registry to verified chunks: ranged requests over runs of chunks, decoded in parallel while bytes arrive.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::flight::Leader;
use super::plan::{Piece, plan};
use super::{Inner, ReadError};
use crate::decode::run::RunDecoder;
use crate::decode::{DecodeError, Resume};
use crate::index::{ChunkRecord, ContentId};
use crate::num::to_u64;
use crate::oci::Descriptor;
use crate::registry::BlobStream;

/// Why bytes are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A reader waits.
    Demand,
    /// A sequential reader will want it.
    Ahead,
    /// The whole image was asked for.
    Prefetch,
}

/// Chunks asked for in one request: enough to make the round trip small beside the transfer, few enough that several
/// requests share the work.
pub(super) const RUN_CHUNKS: usize = 4;

/// A chunk that somebody leads.
pub(super) struct Wanted {
    pub(super) chunk: u32,
    pub(super) record: ChunkRecord,
    pub(super) leader: Leader,
}

impl Inner {
    /// Begins to fetch chunks that the caller leads: neighbours in one request. `slot` is a slot for read-ahead or prefetch
    /// already held; demand waits for its slot inside the task.
    pub(super) fn start(
        self: &Arc<Self>,
        leaders: Vec<(u32, u32, Leader)>,
        cause: Cause,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        let mut runs: Vec<(u32, Vec<Wanted>)> = Vec::new();
        for (layer, chunk, leader) in leaders {
            // The last leader may have landed between our look into memory and our leading.
            if let Some(bytes) = self.chunk_in_memory(&leader.key()) {
                self.keep_found(layer, chunk, &bytes);
                leader.land(Ok(bytes));
                continue;
            }
            let Some(record) = self.index.chunk(layer, chunk) else {
                leader.land(Err(ReadError::NoContent));
                continue;
            };
            let wanted = Wanted { chunk, record, leader };
            match runs.last_mut() {
                Some((of, run))
                    if *of == layer
                        && run.len() < RUN_CHUNKS
                        && run.last().is_some_and(|last| last.chunk + 1 == chunk) =>
                {
                    run.push(wanted);
                }
                _ => runs.push((layer, vec![wanted])),
            }
        }
        let slot = slot.map(Arc::new);
        for (layer, run) in runs {
            let inner = Arc::clone(self);
            let slot = slot.clone();
            let mut run = run;
            self.runtime.spawn(async move {
                let _ahead = slot;
                let _demand = match cause {
                    Cause::Demand => Arc::clone(&inner.demand_slots).acquire_owned().await.ok(),
                    Cause::Ahead | Cause::Prefetch => None,
                };
                if cause == Cause::Demand {
                    // After an outage, those who wait come before what was asked for in vain.
                    run.retain_mut(|wanted| !wanted.leader.give_up());
                }
                inner.fetch_run(layer, run, cause).await;
            });
        }
    }

    /// Begins read-ahead of a file range as far as slots are free; answers the file offset up to which it has begun.
    pub(super) fn fetch_ahead(self: &Arc<Self>, id: ContentId, range: std::ops::Range<u64>) -> u64 {
        let Ok(pieces) = plan(&self.index, id, range.start, range.end - range.start) else {
            return range.end;
        };
        let mut chunks: VecDeque<(u32, u32, u64)> = VecDeque::new();
        let missing = self.missing_on_disk(id);
        for piece in &pieces {
            if let Piece::Data { layer, chunk, len, file_offset, .. } = *piece {
                let end = file_offset + u64::from(len);
                let lacks = |gaps: &Vec<std::ops::Range<u64>>| {
                    gaps.iter().any(|gap| gap.start < end && file_offset < gap.end)
                };
                if missing.as_ref().is_none_or(lacks) {
                    chunks.push_back((layer, chunk, end));
                }
            }
        }
        let mut until = range.start;
        while !chunks.is_empty() {
            let Ok(slot) = Arc::clone(&self.ahead_slots).try_acquire_owned() else { return until };
            let mut leaders = Vec::new();
            while leaders.len() < RUN_CHUNKS {
                let Some((layer, chunk, end)) = chunks.pop_front() else { break };
                until = end;
                let Some(key) = self.chunk_key(layer, chunk) else { continue };
                if self.chunk_in_memory(&key).is_none()
                    && let Some(leader) = self.flights.try_lead(key)
                {
                    leaders.push((layer, chunk, leader));
                }
            }
            self.start(leaders, Cause::Ahead, Some(slot));
        }
        range.end
    }

    async fn fetch_run(self: Arc<Self>, layer: u32, run: Vec<Wanted>, cause: Cause) {
        // Chunks inside a long zstd frame need the decoder that made the chunk before.
        let mut alone = Vec::new();
        for wanted in run {
            if self.is_laned(layer, &wanted) {
                self.fetch_lane(layer, wanted, cause).await;
            } else {
                alone.push(wanted);
            }
        }
        let mut decoding = JoinSet::new();
        let mut rest = VecDeque::from(alone);
        // What was taken out of the run is not asked for.
        while let Some(wanted) = rest.pop_front() {
            let mut queue = VecDeque::from([wanted]);
            while let (Some(last), Some(next)) = (queue.back(), rest.front())
                && next.chunk == last.chunk + 1
                && let Some(next) = rest.pop_front()
            {
                queue.push_back(next);
            }
            if let Err(error) = self.stream_run(layer, &mut queue, cause, &mut decoding).await {
                for wanted in queue {
                    wanted.leader.land(Err(error.clone()));
                }
            }
        }
        while decoding.join_next().await.is_some() {}
    }

    /// One ranged request over the whole run; each chunk goes to a decoding task as soon as its bytes are there.
    async fn stream_run(
        self: &Arc<Self>,
        layer: u32,
        queue: &mut VecDeque<Wanted>,
        cause: Cause,
        decoding: &mut JoinSet<()>,
    ) -> Result<(), ReadError> {
        let (Some(first), Some(last)) = (queue.front(), queue.back()) else { return Ok(()) };
        let name = self.chunk_name(layer, first.chunk);
        let range = first.record.comp_offset..comp_end(&last.record);
        let mut received = Received::new(range.start);
        let mut stream = self.request(layer, range, cause, &name).await?;
        while let Some(next) = queue.front() {
            let wanted = next.record.comp_offset..comp_end(&next.record);
            while received.end() < wanted.end {
                match stream.next().await.map_err(|e| ReadError::Registry(Arc::clone(&name), Arc::new(e)))? {
                    Some(bytes) => received.push(bytes),
                    None => break,
                }
            }
            let parts = received.take(wanted);
            let slot = Arc::clone(&self.decode_slots).acquire_owned().await.ok();
            if let Some(wanted) = queue.pop_front() {
                let inner = Arc::clone(self);
                decoding.spawn_on(
                    async move { inner.finish_chunk(layer, wanted, parts, cause, slot).await },
                    &self.runtime,
                );
            }
        }
        Ok(())
    }

    /// Decodes and verifies a chunk, hands it to its waiters and to the store. Bad bytes are fetched once more, on
    /// another connection.
    async fn finish_chunk(
        self: &Arc<Self>,
        layer: u32,
        wanted: Wanted,
        parts: Vec<Bytes>,
        cause: Cause,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        let Wanted { chunk, record, leader } = wanted;
        let mut outcome = self.decode(layer, chunk, record, parts).await;
        drop(slot);
        if let Err(error) = &outcome {
            tracing::warn!(%error, layer, chunk, "bad chunk, fetching it once more");
            self.distrust(layer);
            outcome = match self.refetch(layer, chunk, &record, cause).await {
                Ok(parts) => self.decode(layer, chunk, record, parts).await,
                Err(error) => Err(error),
            };
        }
        match outcome {
            Ok(bytes) => {
                self.will_keep(layer, chunk);
                self.store.memory_put(leader.key(), bytes.clone());
                leader.land(Ok(bytes.clone()));
                self.keep(layer, chunk, record, bytes).await;
            }
            Err(error) => leader.land(Err(error)),
        }
    }

    async fn refetch(
        &self,
        layer: u32,
        chunk: u32,
        record: &ChunkRecord,
        cause: Cause,
    ) -> Result<Vec<Bytes>, ReadError> {
        let name = self.chunk_name(layer, chunk);
        let range = record.comp_offset..comp_end(record);
        let stream = self.request(layer, range, cause, &name).await?;
        let bytes = stream.collect().await.map_err(|e| ReadError::Registry(name, Arc::new(e)))?;
        Ok(vec![bytes])
    }

    /// Asks the registry for a range of a layer.
    pub(super) async fn request(
        &self,
        layer: u32,
        range: std::ops::Range<u64>,
        cause: Cause,
        name: &Arc<str>,
    ) -> Result<BlobStream, ReadError> {
        let source = self.source.get().ok_or_else(|| ReadError::Offline(Arc::clone(name)))?;
        let blob = self.descriptor(layer).ok_or(ReadError::NoContent)?;
        match cause {
            Cause::Demand => self.counters.fetched_demand.add(range.end - range.start),
            Cause::Ahead => self.counters.fetched_ahead.add(range.end - range.start),
            Cause::Prefetch => self.counters.fetched_prefetch.add(range.end - range.start),
        }
        source.blob_range(&blob, range).await.map_err(|e| ReadError::Registry(Arc::clone(name), Arc::new(e)))
    }

    async fn decode(
        self: &Arc<Self>,
        layer: u32,
        chunk: u32,
        record: ChunkRecord,
        parts: Vec<Bytes>,
    ) -> Result<Bytes, ReadError> {
        let inner = Arc::clone(self);
        let outcome = self.blocking(move || inner.decode_now(layer, chunk, &record, &parts)).await;
        outcome.unwrap_or(Err(ReadError::Abandoned))
    }

    fn decode_now(
        &self,
        layer: u32,
        chunk: u32,
        record: &ChunkRecord,
        parts: &[Bytes],
    ) -> Result<Bytes, ReadError> {
        let failed = |error: DecodeError| {
            self.counters.verify_failures.add(1);
            ReadError::Decode(self.chunk_name(layer, chunk), Arc::new(error))
        };
        let info = self.index.layer(layer).ok_or(ReadError::NoContent)?;
        let window = self.index.window(layer, chunk).map_err(failed)?;
        let mut plain = None;
        let mut decoder =
            RunDecoder::new(info.compression, record.bit, window.as_ref(), vec![record.plain_len])
                .map_err(failed)?;
        decoder.give(self.pool.take(crate::num::idx(record.plain_len)));
        for part in parts {
            decoder
                .push(part, &mut |_, bytes| {
                    plain = Some(bytes);
                    Ok(())
                })
                .map_err(failed)?;
        }
        let plain = plain
            .ok_or_else(|| failed(DecodeError::Truncated { format: "layer", offset: comp_end(record) }))?;
        self.verify(layer, chunk, record, plain)
    }

    /// The one gate through which every fetched byte passes.
    pub(super) fn verify(
        &self,
        layer: u32,
        chunk: u32,
        record: &ChunkRecord,
        plain: Vec<u8>,
    ) -> Result<Bytes, ReadError> {
        if *blake3::hash(&plain).as_bytes() != record.digest {
            self.counters.verify_failures.add(1);
            return Err(ReadError::Mismatch(self.chunk_name(layer, chunk)));
        }
        Ok(self.pool.lend(plain))
    }

    /// Tells the registry client that it brought bad bytes.
    pub(super) fn distrust(&self, layer: u32) {
        if let (Some(source), Some(blob)) = (self.source.get(), self.descriptor(layer)) {
            source.distrust(&blob);
        }
    }

    fn descriptor(&self, layer: u32) -> Option<Descriptor> {
        let info = self.index.layer(layer)?;
        Some(Descriptor { media_type: String::new(), digest: info.digest, size: info.size })
    }

    fn is_laned(&self, layer: u32, wanted: &Wanted) -> bool {
        wanted.record.resume == Resume::Continue
            || self.index.chunk(layer, wanted.chunk + 1).is_some_and(|next| next.resume == Resume::Continue)
    }
}

/// Compressed offset behind a chunk's last byte.
pub(super) fn comp_end(record: &ChunkRecord) -> u64 {
    record.comp_offset + u64::from(record.comp_len)
}

/// What has arrived of a request and is still needed: slices of the connection's own buffers, never copied.
struct Received {
    start: u64,
    parts: VecDeque<Bytes>,
    end: u64,
}

impl Received {
    fn new(start: u64) -> Self {
        Self { start, parts: VecDeque::new(), end: start }
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn push(&mut self, bytes: Bytes) {
        self.end += to_u64(bytes.len());
        self.parts.push_back(bytes);
    }

    /// The bytes of `range` that are there; lets go of everything before its last byte, which the next chunk may share.
    fn take(&mut self, range: std::ops::Range<u64>) -> Vec<Bytes> {
        let mut taken = Vec::with_capacity(self.parts.len());
        let mut at = self.start;
        for part in &self.parts {
            let (from, to) = (range.start.max(at), range.end.min(at + to_u64(part.len())));
            if from < to {
                taken.push(part.slice(crate::num::to_usize(from - at)..crate::num::to_usize(to - at)));
            }
            at += to_u64(part.len());
        }
        let keep_from = range.end.saturating_sub(1);
        while let Some(part) = self.parts.front() {
            if self.start + to_u64(part.len()) > keep_from {
                break;
            }
            self.start += to_u64(part.len());
            self.parts.pop_front();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_may_share_a_byte_and_arrive_in_any_portions() {
        let data: Vec<u8> = (0..100).collect();
        for portion in 1..=100 {
            let mut received = Received::new(1000);
            let mut arriving = data.chunks(portion);
            for range in [1000..1031, 1030..1031, 1030..1077, 1077..1100] {
                while received.end() < range.end {
                    received.push(Bytes::copy_from_slice(arriving.next().unwrap()));
                }
                let taken: Vec<u8> = received.take(range.clone()).concat();
                let want: Vec<u8> = range.map(|n| u8::try_from(n - 1000).unwrap()).collect();
                assert_eq!(taken, want, "portions of {portion}");
            }
        }
    }
}
