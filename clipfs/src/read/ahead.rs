//! Read-ahead: tells sequential readers from random ones, and how far to run before them. Pure.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::index::ContentId;

/// How far off the expected offset a read may be and still count as sequential: the kernel's own read-ahead sends a few
/// requests at once and they arrive in any order.
const SLACK: u64 = 4 << 20;

/// Sequential reads in a row before read-ahead starts: reading one byte must not fetch a second chunk.
const STREAK: u32 = 2;

/// First and longest distance to run ahead, in plain bytes.
const FIRST: u64 = 4 << 20;
const LONGEST: u64 = 48 << 20;

/// Files whose readers are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(256).unwrap();

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Where the next sequential read would start.
    next: u64,
    streak: u32,
    /// File offset up to which read-ahead was asked for.
    until: u64,
    window: u64,
}

/// Watches reads and says what to fetch ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    streams: LruCache<ContentId, Stream>,
}

impl Default for Ahead {
    fn default() -> Self {
        Self { streams: LruCache::new(REMEMBERED) }
    }
}

impl Ahead {
    /// A read of `offset .. end` in a file of `size` bytes. Answers the file range to fetch ahead, if any; the caller
    /// says by [`Ahead::took`] how much of it was really begun.
    pub(super) fn note(
        &mut self,
        id: ContentId,
        offset: u64,
        end: u64,
        size: u64,
    ) -> Option<std::ops::Range<u64>> {
        let stream = self.streams.get_or_insert_mut(id, Stream::default);
        let near = stream.streak > 0
            && offset <= stream.next.saturating_add(SLACK)
            && end.saturating_add(SLACK) >= stream.next;
        if !near {
            *stream = Stream { next: end, streak: 1, until: end, window: 0 };
            return None;
        }
        if end <= stream.next {
            return None;
        }
        stream.next = end;
        stream.streak += 1;
        if stream.streak < STREAK {
            return None;
        }
        stream.until = stream.until.max(end);
        // Half the window is still ahead: let it run down, so that requests stay large.
        if stream.window > 0 && stream.until.saturating_sub(end) > stream.window / 2 {
            return None;
        }
        stream.window = if stream.window == 0 { FIRST } else { (stream.window * 2).min(LONGEST) };
        let to = end.saturating_add(stream.window).min(size);
        (to > stream.until).then_some(stream.until..to)
    }

    /// Read-ahead up to `until` has begun.
    pub(super) fn took(&mut self, id: ContentId, until: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.until = stream.until.max(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;
    const ID: ContentId = ContentId(3);

    #[test]
    fn one_read_and_random_reads_fetch_nothing_ahead() {
        let mut ahead = Ahead::default();
        for offset in [0, 500 << 20, 100 << 20, 900 << 20] {
            assert_eq!(ahead.note(ID, offset, offset + 4096, SIZE), None);
        }
    }

    #[test]
    fn sequential_reads_run_ahead_and_never_beyond_the_end() {
        let mut ahead = Ahead::default();
        let mut until = 0;
        for n in 0..SIZE >> 17 {
            let (offset, end) = (n << 17, (n + 1) << 17);
            if let Some(range) = ahead.note(ID, offset, end, SIZE) {
                assert!(range.start >= until && range.end <= SIZE && range.end <= end + LONGEST);
                ahead.took(ID, range.end);
                until = range.end;
            }
        }
        assert_eq!(until, SIZE);
    }

    #[test]
    fn requests_out_of_order_are_still_sequential() {
        let mut ahead = Ahead::default();
        let kib = |n: u64| n << 10;
        assert_eq!(ahead.note(ID, kib(128), kib(256), SIZE), None);
        assert_eq!(ahead.note(ID, 0, kib(128), SIZE), None);
        assert_eq!(ahead.note(ID, kib(256), kib(512), SIZE), Some(kib(512)..kib(512) + FIRST));
    }
}
