//! One streaming pass over a compressed layer: plain bytes, and the places where decoding can resume.
//!
//! Called by the index builder on a thread of its own; hashing and tar scanning happen behind the
//! [`ScanSink`], usually on another thread.

use std::io::Read;

use super::{Compression, DecodeError, Resume};

/// A place in the compressed stream where a decoder can start: the beginning of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Offset in the plain stream.
    pub plain_offset: u64,
    /// Offset in the compressed stream of the first byte that the decoder must be given. With `bit` > 0
    /// that byte's low `bit` bits belong to the chunk before.
    pub comp_offset: u64,
    /// gzip: how many low bits of the first byte to skip, 0–7.
    pub bit: u8,
    /// What the decoder needs besides the bytes.
    pub resume: Resume,
}

/// A gzip checkpoint's window, with what is needed to tell which of its bytes matter:
/// see [`super::window::encode`].
#[derive(Debug, Clone)]
pub struct RawWindow {
    /// Which checkpoint it belongs to: the n-th that was handed to [`ScanSink::checkpoint`], from 0.
    pub chunk: u32,
    /// The plain bytes before the checkpoint, at most 32 KiB.
    pub window: Vec<u8>,
    /// As in [`Checkpoint::bit`].
    pub bit: u8,
    /// Compressed bytes from the checkpoint's `comp_offset` on: enough to decode the first 32 KiB after it
    /// (fewer only where the deflate stream ends).
    pub following: Vec<u8>,
}

/// Receives what [`scan`] finds, in stream order.
pub trait ScanSink {
    /// The next compressed bytes, every one of them exactly once (trailing garbage included).
    fn compressed(&mut self, bytes: &[u8]) -> Result<(), DecodeError>;
    /// A chunk starts here: called before the plain bytes that it describes; the first call is for offset 0.
    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), DecodeError>;
    /// The next plain bytes.
    fn plain(&mut self, bytes: &[u8]) -> Result<(), DecodeError>;
    /// The window of an earlier `Resume::Window` checkpoint, in checkpoint order.
    fn window(&mut self, window: RawWindow) -> Result<(), DecodeError>;
}

/// Totals of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanSummary {
    /// How the layer was compressed, found from its first bytes.
    pub compression: Compression,
    /// Compressed bytes read.
    pub compressed: u64,
    /// Plain bytes produced.
    pub plain: u64,
    /// Compressed offset just behind the last byte that any chunk needs.
    pub comp_end: u64,
}

/// Limits of a pass: an image is untrusted input.
#[derive(Debug, Clone, Copy)]
pub struct ScanLimits {
    /// Distance between checkpoints in plain bytes: a chunk ends at the first possible place after it.
    pub chunk: u32,
    /// Most plain bytes that a layer may have.
    pub max_plain: u64,
}

/// Decodes `input` to its end, telling `sink` everything. The compression is told from the magic bytes,
/// never from a media type.
///
/// # Errors
/// Corrupt, truncated or unknown input, a limit, and whatever `input` or `sink` fail with.
pub fn scan(
    input: &mut dyn Read,
    limits: ScanLimits,
    sink: &mut dyn ScanSink,
) -> Result<ScanSummary, DecodeError> {
    let _ = (input, limits, sink);
    unimplemented!()
}
