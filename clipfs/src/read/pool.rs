//! Buffers that are used again: fresh memory costs a page fault for every 4 KiB, which is more than hashing it does.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::lock;

/// Bytes that idle buffers may hold: a few chunks, so that a quiet mount stays small.
const IDLE_BYTES: usize = 12 << 20;

/// Larger buffers are given back to the system.
const LARGEST: usize = 4 << 20;

/// Idle buffers.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// A buffer of `len` bytes. What stands in it is anything: whoever takes it overwrites all of it.
    pub(super) fn take(&self, len: usize) -> Vec<u8> {
        let mut buffer = {
            let mut idle = lock(&self.idle);
            let best = idle.iter().position(|buffer| buffer.len() >= len);
            let any = best.or_else(|| idle.iter().position(|buffer| buffer.capacity() >= len));
            any.map(|n| idle.swap_remove(n)).unwrap_or_default()
        };
        if buffer.capacity() == 0 {
            return vec![0; len];
        }
        buffer.resize(len, 0);
        buffer
    }

    /// The buffer as `Bytes`; it comes back when the last clone and slice has gone.
    pub(super) fn lend(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, pool: Arc::clone(self) })
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut idle = lock(&self.idle);
        let held: usize = idle.iter().map(Vec::capacity).sum();
        if buffer.capacity() <= LARGEST && held + buffer.capacity() <= IDLE_BYTES {
            idle.push(buffer);
        }
    }
}

struct Lent {
    buffer: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_when_the_last_slice_has_gone() {
        let pool = Arc::new(Pool::default());
        let bytes = pool.lend(vec![7; 1 << 20]);
        let slice = bytes.slice(5..10);
        drop(bytes);
        assert!(lock(&pool.idle).is_empty());
        assert_eq!(slice, [7; 5][..]);
        drop(slice);
        assert_eq!(lock(&pool.idle).len(), 1);
        assert_eq!(pool.take(4096).len(), 4096);
        assert!(lock(&pool.idle).is_empty(), "it was used again");
    }

    #[test]
    fn idle_buffers_are_few_and_none_is_huge() {
        let pool = Arc::new(Pool::default());
        drop((0..100).map(|_| pool.lend(vec![0; 1 << 20])).collect::<Vec<_>>());
        assert_eq!(lock(&pool.idle).len(), IDLE_BYTES >> 20);
        let pool = Arc::new(Pool::default());
        drop(pool.lend(vec![0; LARGEST + 1]));
        assert!(lock(&pool.idle).is_empty());
    }
}
