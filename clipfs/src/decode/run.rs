//! Decoding chunks again, from where a checkpoint says: the read path's decoder.

use super::{Compression, DecodeError};

/// Decodes a *run*: consecutive chunks of one layer, the first of which is not `Resume::Continue`.
/// Push-style, so that it can decode while bytes arrive.
#[derive(Debug)]
pub struct RunDecoder {}

/// Receives each finished chunk of a run: its position in the run and its plain bytes (not yet verified).
pub type OnChunk<'a> = dyn FnMut(usize, Vec<u8>) -> Result<(), DecodeError> + 'a;

impl RunDecoder {
    /// `bit` and `window` (plain, as [`super::window::decode`] gives it) describe the first chunk; `lens` are
    /// the plain lengths of all chunks of the run, each at most [`super::MAX_CHUNK`].
    ///
    /// # Errors
    /// A window that is too long, a length out of bounds.
    pub fn new(
        compression: Compression,
        bit: u8,
        window: Option<&[u8]>,
        lens: Vec<u32>,
    ) -> Result<Self, DecodeError> {
        let _ = (compression, bit, window, lens);
        unimplemented!()
    }

    /// Feeds the next compressed bytes; hands over every chunk that they complete, in order. Never produces
    /// more than the run's lengths say; bytes behind the last chunk are ignored.
    ///
    /// # Errors
    /// Corrupt input, and what `on_chunk` fails with.
    pub fn push(&mut self, input: &[u8], on_chunk: &mut OnChunk<'_>) -> Result<(), DecodeError> {
        let _ = (input, on_chunk);
        unimplemented!()
    }

    /// Whether every chunk of the run has been handed over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        unimplemented!()
    }
}

/// Decodes one chunk from exactly its compressed bytes.
///
/// # Errors
/// As [`RunDecoder`]; [`DecodeError::Truncated`] if the bytes do not suffice.
pub fn decode_chunk(
    compression: Compression,
    bit: u8,
    window: Option<&[u8]>,
    input: &[u8],
    len: u32,
) -> Result<Vec<u8>, DecodeError> {
    let _ = (compression, bit, window, input, len);
    unimplemented!()
}
