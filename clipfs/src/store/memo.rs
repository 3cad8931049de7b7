//! What this process knows of objects: which files it has verified, when it last used them, which are in use.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lru::LruCache;

use super::disk::Ident;
use super::lock;
use crate::decode::Blake3;

/// Most objects remembered, about 10 MB. Beyond it the least recently used is forgotten, and verified again when opened.
const MEMO_ENTRIES: usize = 65_536;

/// Nanoseconds since 1970: comparable with file times. Only ever orders evictions, so clock steps do no harm.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Debug, Clone, Copy)]
struct Known {
    ident: Ident,
    sound: bool,
    used: u64,
}

/// Outcomes of verification by digest, valid while the file's identity is the same. Bad ones too: a corrupt object that
/// cannot be removed (read-only file system) is not hashed at every open.
#[derive(Debug)]
pub(super) struct Memo {
    known: Mutex<LruCache<Blake3, Known>>,
    /// Being verified now: others wait instead of hashing the same bytes.
    busy: Mutex<HashSet<Blake3>>,
    done: Condvar,
}

impl Memo {
    pub(super) fn new() -> Self {
        Self {
            known: Mutex::new(LruCache::unbounded()),
            busy: Mutex::new(HashSet::new()),
            done: Condvar::new(),
        }
    }

    /// Whether the file of this identity was found sound. `None`: never looked at. Counts as a use.
    pub(super) fn check(&self, digest: &Blake3, ident: &Ident) -> Option<bool> {
        let mut known = lock(&self.known);
        let entry = known.get_mut(digest)?;
        if entry.ident != *ident {
            return None;
        }
        entry.used = now();
        Some(entry.sound)
    }

    /// Remembers an outcome.
    pub(super) fn insert(&self, digest: Blake3, ident: Ident, sound: bool) {
        let mut known = lock(&self.known);
        known.put(digest, Known { ident, sound, used: now() });
        if known.len() > MEMO_ENTRIES {
            known.pop_lru();
        }
    }

    /// Takes over a new ctime after a change of times that is known to be ours.
    pub(super) fn renew(&self, digest: &Blake3, old: &Ident, new: Ident) {
        if let Some(entry) = lock(&self.known).peek_mut(digest)
            && entry.ident == *old
        {
            entry.ident = new;
        }
    }

    pub(super) fn forget(&self, digest: &Blake3) {
        lock(&self.known).pop(digest);
    }

    pub(super) fn clear(&self) {
        lock(&self.known).clear();
    }

    /// Whether a sound object is remembered. May be stale: others evict too.
    pub(super) fn knows(&self, digest: &Blake3) -> bool {
        lock(&self.known).peek(digest).is_some_and(|entry| entry.sound)
    }

    /// When this process last used it (0: never).
    pub(super) fn last_used(&self, digest: &Blake3) -> u64 {
        lock(&self.known).peek(digest).map_or(0, |entry| entry.used)
    }

    /// Waits for one's turn to verify an object.
    pub(super) fn turn(&self, digest: Blake3) -> Turn<'_> {
        let mut busy = lock(&self.busy);
        while !busy.insert(digest) {
            busy = self.done.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { memo: self, digest }
    }
}

/// See [`Memo::turn`]; ends when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    memo: &'a Memo,
    digest: Blake3,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.memo.busy).remove(&self.digest);
        self.memo.done.notify_all();
    }
}

/// Names in use in this process, counted: eviction leaves them alone.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<Blake3, u32>>);

impl Pins {
    pub(super) fn pin(self: &Arc<Self>, name: Blake3) -> Pin {
        *lock(&self.0).entry(name).or_insert(0) += 1;
        Pin { pins: Arc::clone(self), name }
    }

    pub(super) fn is_pinned(&self, name: &Blake3) -> bool {
        lock(&self.0).contains_key(name)
    }
}

/// Holds a name against eviction while it lives.
#[derive(Debug)]
pub(super) struct Pin {
    pins: Arc<Pins>,
    name: Blake3,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = lock(&self.pins.0);
        if let Some(count) = pins.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ident = Ident { dev: 1, ino: 2, size: 3, ctime: (4, 5) };

    #[test]
    fn an_outcome_holds_for_one_identity() {
        let memo = Memo::new();
        memo.insert([1; 32], FILE, true);
        assert_eq!(memo.check(&[1; 32], &FILE), Some(true));
        for other in [
            Ident { dev: 9, ..FILE },
            Ident { ino: 9, ..FILE },
            Ident { size: 9, ..FILE },
            Ident { ctime: (4, 6), ..FILE },
        ] {
            assert_eq!(memo.check(&[1; 32], &other), None, "{other:?}");
        }
        memo.renew(&[1; 32], &FILE, Ident { ctime: (7, 7), ..FILE });
        assert_eq!(memo.check(&[1; 32], &FILE), None);
        memo.insert([2; 32], FILE, false);
        assert!(memo.knows(&[1; 32]) && !memo.knows(&[2; 32]) && !memo.knows(&[3; 32]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let memo = Memo::new();
        for n in 0..u32::try_from(MEMO_ENTRIES).unwrap() + 10 {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&n.to_le_bytes());
            memo.insert(digest, FILE, true);
        }
        assert_eq!(lock(&memo.known).len(), MEMO_ENTRIES);
        assert!(!memo.knows(&[0; 32]), "the oldest is forgotten");
    }

    #[test]
    fn pins_are_counted() {
        let pins = Arc::new(Pins::default());
        let first = pins.pin([1; 32]);
        let second = pins.pin([1; 32]);
        drop(first);
        assert!(pins.is_pinned(&[1; 32]));
        drop(second);
        assert!(!pins.is_pinned(&[1; 32]));
    }

    #[test]
    fn turns_exclude_each_other_per_digest() {
        let memo = Memo::new();
        let running = Mutex::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _turn = memo.turn([1; 32]);
                        *running.lock().unwrap() += 1;
                        std::thread::yield_now();
                        let mut running = running.lock().unwrap();
                        assert_eq!(*running, 1);
                        *running -= 1;
                    }
                });
            }
        });
    }
}
