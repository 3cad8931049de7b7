//! What the adapter counts: atomics only, so that a FUSE thread never waits for a reader of numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of [`Histogram`]: the last one takes everything from 2^23 µs (about 8 s) on.
pub const BUCKETS: usize = 24;

/// Latencies in buckets of powers of two: bucket *n* counts durations below 2^(n+1) µs that no lower one took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let log2 = crate::num::idx(micros.max(1).ilog2());
        self.buckets[log2.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The counts now, lowest bucket first.
    #[must_use]
    pub fn counts(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|n| self.buckets[n].load(Ordering::Relaxed))
    }

    /// Sum of all durations in microseconds.
    #[must_use]
    pub fn sum_micros(&self) -> u64 {
        self.sum_micros.load(Ordering::Relaxed)
    }

    /// Upper bound in microseconds of the bucket that holds the given quantile (0.0–1.0); `None` without samples.
    #[must_use]
    pub fn quantile(counts: &[u64; BUCKETS], q: f64) -> Option<u64> {
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        // Counting in per mille keeps the arithmetic in integers: buckets are coarser than that anyway.
        let per_mille =
            (0..=1000_u64).find(|n| f64::from(u32::try_from(*n).unwrap_or(1000)) >= q * 1000.0)?;
        let rank = total.saturating_mul(per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (n, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(1 << (n + 1));
            }
        }
        None
    }
}

/// Counters of one mount's adapter.
#[derive(Debug, Default)]
pub struct Stats {
    /// Bytes answered to `read` requests (what passes through is the kernel's own and is not seen here).
    pub read_bytes: AtomicU64,
    /// `read` requests answered with data.
    pub reads: AtomicU64,
    /// `read` requests answered with EIO.
    pub read_errors: AtomicU64,
    /// Time from a `read` request to its answer.
    pub read_latency: Histogram,
    /// Opens handed to the kernel as passthrough.
    pub opens_passthrough: AtomicU64,
    /// Opens in cached mode.
    pub opens_cached: AtomicU64,
}

impl Stats {
    /// Adds to a counter.
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Reads a counter.
    #[must_use]
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two_and_nothing_is_lost() {
        let histogram = Histogram::default();
        for micros in [0, 1, 2, 3, 4, 1023, 1024, u64::MAX] {
            histogram.record(Duration::from_micros(micros));
        }
        let counts = histogram.counts();
        assert_eq!((counts[0], counts[1], counts[2], counts[9], counts[10]), (2, 2, 1, 1, 1));
        assert_eq!(counts[BUCKETS - 1], 1);
        assert_eq!(counts.iter().sum::<u64>(), 8);
    }

    #[test]
    fn quantiles_name_the_bucket() {
        let mut counts = [0; BUCKETS];
        assert_eq!(Histogram::quantile(&counts, 0.5), None);
        counts[3] = 98;
        counts[20] = 2;
        assert_eq!(Histogram::quantile(&counts, 0.5), Some(16));
        assert_eq!(Histogram::quantile(&counts, 0.98), Some(16));
        assert_eq!(Histogram::quantile(&counts, 0.99), Some(1 << 21));
    }
}
