//! Width conversions that cannot fail on the targets clipfs supports (64-bit Linux).
//!
//! They exist so that a cast which *can* lose bits stands out: everything else goes through `try_from`.

const _: () = assert!(usize::BITS == 64, "clipfs supports 64-bit targets only");

/// `u64` as a length or index in memory.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide: asserted above")]
pub const fn to_usize(n: u64) -> usize {
    n as usize
}

/// A length or index in memory as `u64`.
#[must_use]
pub const fn to_u64(n: usize) -> u64 {
    n as u64
}

/// A `u32` index or count as `usize`.
#[must_use]
pub const fn idx(n: u32) -> usize {
    n as usize
}
