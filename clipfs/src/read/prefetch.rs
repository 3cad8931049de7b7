//! Prefetch: brings the whole image into the store, layer after layer, while nobody waits for anything else.
//!
//! Fetches through the same flights as everybody, so that a reader who comes to want a chunk that is on its way waits for it
//! and nothing is fetched twice. Works in passes over the chunks: what a pass finds missing it fetches, and the pass that
//! finds nothing missing is the last. Dropped with the runtime when the mount ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fetch::{Cause, RUN_CHUNKS};
use super::{AHEAD_SLOTS, DEMAND_SLOTS, Inner, KEEP_KIB, ReadError, Reader};
use crate::index::{ChunkRecord, Content, ContentId};

/// Requests under way at once: enough that the next one's round trip hides behind the transfer of this one.
const SLOTS: usize = 2;

/// How often a prefetch that was pushed aside looks whether readers are still being served.
const LOOK: Duration = Duration::from_millis(5);

/// How long readers must have been quiet: one who reads file after file pauses between two of them.
const QUIET: Duration = Duration::from_millis(50);

/// Pause after a fault that may pass: the first, and the longest that it doubles to.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Passes that fetch something. The first should be enough; if even the third finds chunks missing, the store loses what it is
/// given (to other images, say), and going on would be an endless download.
const PASSES: u32 = 3;

/// Chunks looked at in one call on the blocking pool.
const SCAN: u32 = 256;

/// Disks count in blocks, and so does the quota.
const BLOCK: u64 = 4096;

/// How far a prefetch has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum PrefetchState {
    /// Not asked for.
    #[default]
    Off = 0,
    /// Under way, or waiting for readers or for the registry.
    Running = 1,
    /// Everything is in the store.
    Complete = 2,
    /// Given up: the image does not fit the quota, or a fault that will not pass. The log says which.
    Stopped = 3,
}

/// The state as tasks share it.
#[derive(Debug, Default)]
pub(super) struct Shared(AtomicU8);

impl Shared {
    fn set(&self, state: PrefetchState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }

    fn get(&self) -> PrefetchState {
        match self.0.load(Ordering::Relaxed) {
            0 => PrefetchState::Off,
            1 => PrefetchState::Running,
            2 => PrefetchState::Complete,
            _ => PrefetchState::Stopped,
        }
    }
}

/// What one pass has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pass {
    /// Chunks that were missing.
    fetched: u64,
    /// Why it ended before the last chunk.
    ended: Option<&'static str>,
}

/// Neighbouring chunks to fetch.
#[derive(Debug, Default)]
struct Found {
    run: Vec<u32>,
    /// Where the search goes on.
    next: u32,
    /// Bytes on disk of the contents that begin in the chunks looked at.
    bytes: u64,
    ended: Option<&'static str>,
}

impl Reader {
    /// Brings the whole image into the store, in layer order, as far as `quota` (the store's) allows; readers go first. Returns
    /// when all is there or there is no point in going on. Cancel safe: what has arrived stays.
    pub async fn prefetch_all(&self, quota: u64) {
        let inner = &self.0;
        if inner.source.get().is_none() {
            return;
        }
        inner.prefetch.set(PrefetchState::Running);
        // Eviction begins just below the quota: what it would take away again is not fetched.
        let budget = quota - quota / 10;
        let (mut pause, mut passes) = (PAUSES.0, 0);
        let state = loop {
            match inner.pass(budget).await {
                Ok(Pass { ended: Some(why), .. }) => {
                    tracing::warn!("prefetch ends early: {why}");
                    break PrefetchState::Stopped;
                }
                Ok(Pass { fetched: 0, .. }) => {
                    tracing::info!("prefetch is complete");
                    break PrefetchState::Complete;
                }
                Ok(_) => {
                    (pause, passes) = (PAUSES.0, passes + 1);
                    if passes == PASSES {
                        tracing::warn!("prefetch ends early: the store does not keep what is fetched");
                        break PrefetchState::Stopped;
                    }
                }
                Err(error) if is_lasting(&error) => {
                    tracing::warn!("prefetch ends early: {}", super::sentence(&error));
                    break PrefetchState::Stopped;
                }
                Err(error) => {
                    tracing::debug!(?pause, "prefetch pauses: {}", super::sentence(&error));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        };
        inner.prefetch.set(state);
    }

    /// How far a prefetch has come.
    #[must_use]
    pub fn prefetch_state(&self) -> PrefetchState {
        self.0.prefetch.get()
    }
}

/// Whether a fault says that going on is pointless.
fn is_lasting(error: &ReadError) -> bool {
    match error {
        ReadError::Registry(_, error) => error.is_permanent(),
        ReadError::Decode(..) | ReadError::Mismatch(_) | ReadError::NoContent | ReadError::Offline(_) => true,
        ReadError::Deadline(_) | ReadError::Abandoned => false,
    }
}

impl Inner {
    /// Fetches every chunk of which the store lacks something; returns when all that was fetched is written.
    async fn pass(self: &Arc<Self>, budget: u64) -> Result<Pass, ReadError> {
        let slots = Arc::new(Semaphore::new(SLOTS));
        let mut flying = JoinSet::new();
        let mut pass = Pass::default();
        let failures = self.write_failures().await;
        let mut left = budget;
        'layers: for layer in 0..self.index.layer_count() {
            let mut chunk = 0;
            while chunk < self.index.chunk_count(layer) {
                self.let_readers_pass().await;
                let inner = Arc::clone(self);
                let found = self.blocking(move || inner.next_run(layer, chunk, left)).await;
                let found = found.ok_or(ReadError::Abandoned)?;
                left = left.saturating_sub(found.bytes);
                pass.fetched += crate::num::to_u64(found.run.len());
                self.fetch_found(layer, &found.run, &slots, &mut flying).await;
                while let Some(outcome) = flying.try_join_next() {
                    outcome.unwrap_or(Err(ReadError::Abandoned))?;
                }
                pass.ended = found.ended;
                if !found.run.is_empty() && self.write_failures().await > failures {
                    pass.ended = Some("the cache directory cannot be written to");
                }
                if pass.ended.is_some() {
                    break 'layers;
                }
                chunk = found.next;
            }
        }
        while let Some(outcome) = flying.join_next().await {
            outcome.unwrap_or(Err(ReadError::Abandoned))?;
        }
        // Slots are given back when a run's chunks are queued for the disk, budget when they are written: who gets all of
        // both knows that nothing is under way.
        let _ = slots.acquire_many(num(SLOTS)).await;
        let _ = self.keep_budget.acquire_many(num(KEEP_KIB)).await;
        Ok(pass)
    }

    /// Begins to fetch neighbouring chunks in one request, once a slot is free.
    async fn fetch_found(
        self: &Arc<Self>,
        layer: u32,
        run: &[u32],
        slots: &Arc<Semaphore>,
        flying: &mut JoinSet<Result<(), ReadError>>,
    ) {
        if run.is_empty() {
            return;
        }
        let slot = Arc::clone(slots).acquire_owned().await.ok();
        let (mut leaders, mut waiters) = (Vec::new(), Vec::new());
        for &chunk in run {
            let (Some(key), Some(record)) = (self.chunk_key(layer, chunk), self.index.chunk(layer, chunk))
            else {
                continue;
            };
            if let Some(bytes) = self.store.memory_get(&key) {
                self.keep(layer, chunk, record, bytes).await;
            } else if let Some(leader) = self.flights.try_lead(key) {
                waiters.push(leader.waiter());
                leaders.push((layer, chunk, leader));
            }
        }
        self.start(leaders, Cause::Prefetch, slot);
        flying.spawn_on(
            async move {
                for waiter in waiters {
                    waiter.wait().await?;
                }
                Ok(())
            },
            &self.runtime,
        );
    }

    /// Waits while readers wait for the registry, or are being read ahead of.
    async fn let_readers_pass(&self) {
        until_quiet(|| {
            self.demand_slots.available_permits() < DEMAND_SLOTS
                || self.ahead_slots.available_permits() < AHEAD_SLOTS
        })
        .await;
    }

    async fn write_failures(self: &Arc<Self>) -> u64 {
        let inner = Arc::clone(self);
        self.blocking(move || inner.store.stats().write_failures).await.unwrap_or(0)
    }

    /// The next neighbouring chunks at or behind `from` that are missing. Blocking.
    fn next_run(&self, layer: u32, from: u32, left: u64) -> Found {
        let mut found = Found { next: from, ..Found::default() };
        let until = self.index.chunk_count(layer).min(from.saturating_add(SCAN));
        while found.next < until && found.run.len() < RUN_CHUNKS {
            let Some(record) = self.index.chunk(layer, found.next) else { break };
            let begins: u64 = self
                .index
                .contents_in(layer, plain(&record))
                .filter_map(|id| self.content(id))
                .map(|content| content.size.div_ceil(BLOCK).saturating_mul(BLOCK))
                .fold(0, u64::saturating_add);
            if found.bytes.saturating_add(begins) > left {
                found.ended = Some("the image does not fit into the cache's quota");
                return found;
            }
            if self.lacks(layer, &record) {
                found.run.push(found.next);
            } else if !found.run.is_empty() {
                // Looked at again as the first of the next call.
                return found;
            }
            found.bytes += begins;
            found.next += 1;
        }
        // A record that is not there ends the layer: the index was validated, so this is its end.
        if found.next == from && found.run.is_empty() {
            found.next = u32::MAX;
        }
        found
    }

    /// Whether the store lacks something that this chunk holds. Objects that this process has not used yet are verified on
    /// the way, which makes their first open fast.
    fn lacks(&self, layer: u32, record: &ChunkRecord) -> bool {
        let range = plain(record);
        let reaching_in = self.index.contents_in(layer, 0..range.start).next_back();
        reaching_in
            .into_iter()
            .chain(self.index.contents_in(layer, range))
            .any(|id| self.content(id).is_some_and(|content| self.lacks_of(id, &content, record)))
    }

    fn lacks_of(&self, id: ContentId, content: &Content, record: &ChunkRecord) -> bool {
        let range = plain(record);
        let extents = (0..self.index.extent_count(id)).filter_map(|n| self.index.extent(id, n));
        let mut inside = extents.filter_map(|extent| {
            let end = extent.stream_offset.saturating_add(extent.len);
            let (from, to) = (extent.stream_offset.max(range.start), end.min(range.end));
            let offset = extent.file_offset + from.saturating_sub(extent.stream_offset);
            (from < to).then(|| offset..offset + (to - from))
        });
        let Some(first) = inside.next() else { return false };
        if !content.sparse
            && (self.store.knows_object(&content.digest)
                || self.store.object(&content.digest, content.size).is_some())
        {
            return false;
        }
        if !content.sparse && first == (0..content.size) {
            return true;
        }
        let missing = self.partial(id, content).missing();
        std::iter::once(first)
            .chain(inside)
            .any(|part| missing.iter().any(|gap| gap.start < part.end && part.start < gap.end))
    }
}

/// Returns at once if nobody is busy, else when nobody has been for [`QUIET`].
async fn until_quiet(busy: impl Fn() -> bool) {
    if !busy() {
        return;
    }
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        tokio::time::sleep(LOOK).await;
        if busy() {
            since = Instant::now();
        }
    }
}

/// A chunk's place in the layer's plain stream.
fn plain(record: &ChunkRecord) -> std::ops::Range<u64> {
    record.plain_offset..record.plain_offset + u64::from(record.plain_len)
}

/// Permits of a semaphore, as it wants them.
fn num(permits: usize) -> u32 {
    u32::try_from(permits).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::sync::Arc;

    use super::*;
    use crate::decode::DecodeError;
    use crate::registry::RegistryError;

    #[tokio::test]
    async fn readers_go_first() {
        // Each look finds a reader until there have been twenty: the prefetch comes after the last of them.
        let looks = Cell::new(0);
        until_quiet(|| {
            looks.set(looks.get() + 1);
            looks.get() <= 20
        })
        .await;
        assert!(looks.get() > 20, "{}", looks.get());

        let mut idle = pin!(until_quiet(|| false));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(idle.as_mut().poll(&mut context).is_ready(), "nobody waits: no pause");
    }

    #[test]
    fn only_what_may_pass_is_waited_for() {
        let name = || Arc::from("a chunk");
        let registry = |error| ReadError::Registry(name(), Arc::new(error));
        let text = String::new;
        let decode = Arc::new(DecodeError::Truncated { format: "gzip", offset: 1 });
        for (error, lasting) in [
            (registry(RegistryError::Unavailable { host: text(), reason: text() }), false),
            (registry(RegistryError::TooManyRequests { host: text(), retry_after: None }), false),
            (registry(RegistryError::Denied { host: text(), what: text(), reason: text() }), true),
            (registry(RegistryError::NotFound(text())), true),
            (ReadError::Decode(name(), decode), true),
            (ReadError::Mismatch(name()), true),
            (ReadError::Abandoned, false),
        ] {
            assert_eq!(is_lasting(&error), lasting, "{error}");
        }
    }

    #[test]
    fn states_survive_their_cell() {
        let shared = Shared::default();
        assert_eq!(shared.get(), PrefetchState::Off);
        for state in [PrefetchState::Running, PrefetchState::Complete, PrefetchState::Stopped] {
            shared.set(state);
            assert_eq!(shared.get(), state);
        }
    }
}
