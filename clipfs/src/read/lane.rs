//! Long zstd frames: no checkpoint inside, so one decoder walks along, and is parked between reads.
//!
//! A lane is a chunk that can be decoded by itself and all `Resume::Continue` chunks behind it. Reading chunk `k` decodes
//! everything from the lane's start, or from where a parked decoder stands, up to `k`; each chunk on the way is verified,
//! kept in memory and in the store, so that nothing is decoded twice if the store can hold it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lru::LruCache;

use super::fetch::{Cause, Wanted, comp_end};
use super::{Inner, ReadError, lock};
use crate::decode::run::RunDecoder;
use crate::decode::{DecodeError, Resume};
use crate::num::to_u64;

/// Parked decoders: each holds its frame's window, usually 8 MiB.
const PARKED: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Compressed bytes given to the decoder at a time.
const PORTION: usize = 1 << 20;

type Shared = Arc<tokio::sync::Mutex<Option<Parked>>>;

/// The lanes of an image that were read lately, by (layer, first chunk).
#[derive(Debug)]
pub(super) struct Lanes(Mutex<LruCache<(u32, u32), Shared>>);

impl Default for Lanes {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(PARKED)))
    }
}

#[derive(Debug)]
struct Parked {
    decoder: RunDecoder,
    /// The chunk it produces next.
    next: u32,
    /// The compressed offset it wants next.
    comp: u64,
}

impl Inner {
    /// Brings a chunk of a lane.
    pub(super) async fn fetch_lane(self: &Arc<Self>, layer: u32, wanted: Wanted, cause: Cause) {
        let Wanted { chunk, record, mut leader } = wanted;
        let first = self.lane_start(layer, chunk);
        let lane = Arc::clone(lock(&self.lanes.0).get_or_insert((layer, first), Shared::default));
        let mut parked = lane.lock().await;
        // Others had the decoder in the meantime: perhaps they passed this chunk, or its readers have given up.
        if leader.has_landed() || (cause == Cause::Demand && leader.give_up()) {
            return;
        }
        if let Some(bytes) = self.chunk_in_memory(&leader.key()) {
            leader.land(Ok(bytes));
            return;
        }
        let mut outcome = self.walk(layer, first, chunk, &mut parked, cause).await;
        if let Err(ReadError::Decode(..) | ReadError::Mismatch(_)) = &outcome {
            tracing::warn!(layer, chunk, "bad chunk, fetching its frame once more");
            self.distrust(layer);
            outcome = self.walk(layer, first, chunk, &mut parked, cause).await;
        }
        drop(parked);
        if let Ok(bytes) = &outcome {
            debug_assert_eq!(to_u64(bytes.len()), u64::from(record.plain_len));
        }
        leader.land(outcome);
    }

    /// Walks the lane's decoder up to and including chunk `to`. Parks it there, or where the registry failed; a decoder that
    /// met bad bytes is gone.
    async fn walk(
        self: &Arc<Self>,
        layer: u32,
        first: u32,
        to: u32,
        parked: &mut Option<Parked>,
        cause: Cause,
    ) -> Result<Bytes, ReadError> {
        let name = self.chunk_name(layer, to);
        let mut at = match parked.take() {
            Some(at) if at.next <= to => at,
            _ => self.enter_lane(layer, first)?,
        };
        let end = comp_end(&self.index.chunk(layer, to).ok_or(ReadError::NoContent)?);
        let mut stream = match self.request(layer, at.comp..end.max(at.comp + 1), cause, &name).await {
            Ok(stream) => stream,
            Err(error) => {
                *parked = Some(at);
                return Err(error);
            }
        };
        let mut last = None;
        loop {
            let mut portion = Vec::new();
            let mut len = 0;
            while len < PORTION {
                match stream.next().await {
                    Ok(Some(bytes)) => {
                        len += bytes.len();
                        portion.push(bytes);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        *parked = Some(at);
                        return Err(ReadError::Registry(name, Arc::new(error)));
                    }
                }
            }
            if portion.is_empty() {
                break;
            }
            let inner = Arc::clone(self);
            let step = self.blocking(move || inner.step(layer, first, to, at, &portion)).await;
            let (moved, found) = step.unwrap_or(Err(ReadError::Abandoned))?;
            at = moved;
            last = last.or(found);
        }
        let bytes = last.ok_or(ReadError::Mismatch(name))?;
        *parked = Some(at);
        Ok(bytes)
    }

    /// Decodes a portion and hands out every chunk that it completes, one by one: a few compressed bytes may be very many
    /// plain ones. Answers chunk `to` if it was among them.
    fn step(
        self: &Arc<Self>,
        layer: u32,
        first: u32,
        to: u32,
        mut at: Parked,
        portion: &[Bytes],
    ) -> Result<(Parked, Option<Bytes>), ReadError> {
        let mut found = None;
        let mut refused = None;
        for bytes in portion {
            let next = &mut at.next;
            let pushed = at.decoder.push(bytes, &mut |n, plain| {
                let chunk = u32::try_from(n).ok().and_then(|n| first.checked_add(n));
                match chunk.ok_or(ReadError::NoContent).and_then(|chunk| {
                    *next = chunk.saturating_add(1);
                    Ok((chunk, self.pass_chunk(layer, chunk, plain)?))
                }) {
                    Ok((chunk, bytes)) if chunk == to => found = Some(bytes),
                    Ok(_) => {}
                    Err(error) => {
                        refused = Some(error);
                        let reason = "a chunk does not match the index".into();
                        return Err(DecodeError::Corrupt { format: "zstd", offset: 0, reason });
                    }
                }
                Ok(())
            });
            if let Some(error) = refused.take() {
                return Err(error);
            }
            pushed.map_err(|e| {
                self.counters.verify_failures.add(1);
                ReadError::Decode(self.chunk_name(layer, at.next), Arc::new(e))
            })?;
            at.comp += to_u64(bytes.len());
        }
        Ok((at, found))
    }

    /// Verifies a chunk on the decoder's way; gives it to memory, to its readers and to the disk.
    fn pass_chunk(self: &Arc<Self>, layer: u32, chunk: u32, plain: Vec<u8>) -> Result<Bytes, ReadError> {
        let record = self.index.chunk(layer, chunk).ok_or(ReadError::NoContent)?;
        let bytes = self.verify(layer, chunk, &record, plain)?;
        self.will_keep(layer, chunk);
        if let Some(key) = self.chunk_key(layer, chunk) {
            self.store.memory_put(key, bytes.clone());
            self.flights.pass(&key, &bytes);
        }
        self.keep_blocking(layer, chunk, record, bytes.clone());
        Ok(bytes)
    }

    fn enter_lane(&self, layer: u32, first: u32) -> Result<Parked, ReadError> {
        let info = self.index.layer(layer).ok_or(ReadError::NoContent)?;
        let start = self.index.chunk(layer, first).ok_or(ReadError::NoContent)?;
        let mut lens = vec![start.plain_len];
        let mut chunk = first + 1;
        while let Some(record) = self.index.chunk(layer, chunk).filter(|r| r.resume == Resume::Continue) {
            lens.push(record.plain_len);
            chunk += 1;
        }
        let decoder = RunDecoder::new(info.compression, start.bit, None, lens)
            .map_err(|e| ReadError::Decode(self.chunk_name(layer, first), Arc::new(e)))?;
        Ok(Parked { decoder, next: first, comp: start.comp_offset })
    }

    fn lane_start(&self, layer: u32, chunk: u32) -> u32 {
        let mut first = chunk;
        while first > 0 && self.index.chunk(layer, first).is_some_and(|r| r.resume == Resume::Continue) {
            first -= 1;
        }
        first
    }
}
