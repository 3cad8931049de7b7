//! Decoded chunks in memory: an LRU with a byte budget.
//!
//! One mutex: a `get` is a hash, a list splice and a reference count, so FUSE threads may call it. Evicted chunks are
//! freed outside the lock, because giving megabytes back to the kernel takes longer than everything else here.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;

use super::MemoryKey;
use crate::num::to_u64;

/// The chunks. Knows nothing of disks.
#[derive(Debug)]
pub struct MemoryLru {
    budget: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    chunks: LruCache<MemoryKey, Bytes>,
    bytes: u64,
}

impl MemoryLru {
    /// Holds at most `budget` bytes of chunks (keys and bookkeeping, some 150 bytes a chunk, are not counted).
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self { budget, state: Mutex::new(State { chunks: LruCache::unbounded(), bytes: 0 }) }
    }

    /// The chunk, which becomes the most recently used. `None`: not here.
    #[must_use]
    pub fn get(&self, key: &MemoryKey) -> Option<Bytes> {
        self.lock().chunks.get(key).cloned()
    }

    /// Keeps a chunk and drops the least recently used ones beyond the budget. A chunk larger than the budget, or
    /// empty, is not kept. The same key again replaces.
    pub fn put(&self, key: MemoryKey, chunk: Bytes) {
        let len = to_u64(chunk.len());
        if len > self.budget || len == 0 {
            return;
        }
        let mut dropped = Vec::new();
        let mut state = self.lock();
        if let Some(old) = state.chunks.put(key, chunk) {
            state.bytes -= to_u64(old.len());
            dropped.push(old);
        }
        state.bytes += len;
        while state.bytes > self.budget {
            let Some((_, old)) = state.chunks.pop_lru() else { break };
            state.bytes -= to_u64(old.len());
            dropped.push(old);
        }
        drop(state);
        drop(dropped);
    }

    /// Bytes of chunks held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No panic can happen between two changes that belong together: a poisoned state is a sound one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(part: u64) -> MemoryKey {
        MemoryKey { digest: [7; 32], part }
    }

    fn chunk(len: usize) -> Bytes {
        vec![1; len].into()
    }

    #[test]
    fn evicts_the_least_recently_used() {
        let memory = MemoryLru::new(300);
        for n in 0..3 {
            memory.put(key(n), chunk(100));
        }
        assert!(memory.get(&key(0)).is_some());
        memory.put(key(3), chunk(100));
        assert_eq!(memory.get(&key(1)), None, "1 was the oldest after 0 was read");
        assert!(memory.get(&key(0)).is_some());
        assert!(memory.get(&key(2)).is_some());
        assert_eq!(memory.bytes(), 300);
    }

    #[test]
    fn one_large_chunk_displaces_several() {
        let memory = MemoryLru::new(300);
        for n in 0..3 {
            memory.put(key(n), chunk(100));
        }
        memory.put(key(9), chunk(250));
        assert_eq!(memory.bytes(), 250);
        assert!((0..3).all(|n| memory.get(&key(n)).is_none()));
    }

    #[test]
    fn replacing_counts_once() {
        let memory = MemoryLru::new(300);
        memory.put(key(1), chunk(200));
        memory.put(key(1), chunk(120));
        assert_eq!(memory.bytes(), 120);
        assert_eq!(memory.get(&key(1)).map(|c| c.len()), Some(120));
    }

    #[test]
    fn too_large_is_not_kept_and_displaces_nothing() {
        let memory = MemoryLru::new(300);
        memory.put(key(1), chunk(300));
        memory.put(key(2), chunk(301));
        assert!(memory.get(&key(1)).is_some());
        assert_eq!(memory.get(&key(2)), None);
        let none = MemoryLru::new(0);
        none.put(key(1), chunk(1));
        assert_eq!(none.get(&key(1)), None);
    }

    #[test]
    fn keys_differ_by_cut() {
        let memory = MemoryLru::new(300);
        memory.put(key(1), chunk(10));
        assert_eq!(memory.get(&MemoryKey { digest: [8; 32], ..key(1) }), None);
    }

    #[test]
    fn the_budget_holds_under_a_random_workload() {
        let memory = MemoryLru::new(10_000);
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..20_000 {
            let k = key(rng.u64(0..200));
            if rng.bool() {
                memory.put(k, chunk(rng.usize(0..3_000)));
            } else {
                let _ = memory.get(&k);
            }
            assert!(memory.bytes() <= 10_000);
        }
        let held: u64 = (0..200).filter_map(|n| memory.get(&key(n))).map(|c| to_u64(c.len())).sum();
        assert_eq!(held, memory.bytes());
    }
}
