//! Windows: the 32 KiB before a gzip checkpoint, of which usually few bytes matter.

use super::{DecodeError, scan::RawWindow};

/// A window's longest form: deflate's farthest distance.
pub const MAX_WINDOW: usize = 32 << 10;

/// Encodes a window for the index: bytes that the chunk never refers to are dropped.
/// Deterministic.
///
/// # Errors
/// `following` does not decode.
pub fn encode(raw: &RawWindow) -> Result<Vec<u8>, DecodeError> {
    let _ = raw;
    unimplemented!()
}

/// The inverse: a window of at most [`MAX_WINDOW`] bytes in which every byte that matters stands at its place.
/// Input is untrusted.
///
/// # Errors
/// Anything that [`encode`] cannot have written.
pub fn decode(encoded: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let _ = encoded;
    unimplemented!()
}
