//! Zstandard: frames, skippable frames, and long frames that only decode from their start.
//!
//! A zstd file is a series of frames (RFC 8878 section 3.1), each of which decodes by itself, and skippable frames
//! (section 3.1.2) that hold no content. Inside a frame decoding needs everything the decoder has learned so far (window,
//! entropy tables, repeated offsets), so chunks inside a frame are [`Resume::Continue`]. libzstd verifies content
//! checksums (section 3.1.1) while it decodes, and refuses frames that need a dictionary.

use std::fmt;

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::pass::Pass;
use super::scan::ScanSummary;
use super::{Compression, DecodeError, Resume};
use crate::num::to_u64;

/// Largest window: 2^27 = 128 MiB, what zstd's own decoder accepts unasked (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`);
/// RFC 8878 section 3.1.1.1.2 asks for 8 MiB at least.
const MAX_WINDOW_LOG: u32 = 27;

/// Frame magic (RFC 8878 section 3.1.1).
const MAGIC: u32 = 0xfd2f_b528;

/// Skippable frames' magics: the low four bits are free (RFC 8878 section 3.1.2).
const SKIPPABLE: u32 = 0x184d_2a50;

/// Output buffer of a scan; also the least distance of chunks inside a frame: a block has at most 128 KiB (RFC 8878
/// section 3.1.1.2.3), so that each such chunk has compressed bytes of its own.
const OUTPUT: usize = 256 << 10;

/// Whether a stream starts with a frame or a skippable frame.
pub(super) fn is_magic(head: &[u8]) -> bool {
    head.first_chunk()
        .copied()
        .map(u32::from_le_bytes)
        .is_some_and(|magic| magic == MAGIC || magic & !0xf == SKIPPABLE)
}

/// Scans a zstd stream: see [`super::scan::scan`].
///
/// Frames shorter than a chunk share chunks. Inside a longer one, a chunk is cut when a chunk's length of it has come
/// since the frame, or the chunk before, started. So chunks have up to twice that length, and a block more at a long
/// frame's end.
pub(super) fn scan(pass: &mut Pass<'_>) -> Result<ScanSummary, DecodeError> {
    pass.set_format("zstd");
    let mut decoder = Decoder::new()?;
    let mut output = vec![0; OUTPUT];
    let inner_chunk = pass.chunk().max(to_u64(OUTPUT));
    // Plain bytes of the present frame in the present chunk.
    let mut in_frame = 0;
    let mut frame_start = true;
    // Plain bytes before the present frame.
    let mut frame_plain = 0;
    let mut comp_end = 0;
    loop {
        if pass.available().is_empty() && !pass.fill(1)? && frame_start {
            return pass.summary(Compression::Zstd, comp_end);
        }
        let room = match usize::try_from(inner_chunk.saturating_sub(in_frame)) {
            Ok(0) | Err(_) => OUTPUT,
            Ok(left) => left.min(OUTPUT),
        };
        let step =
            decoder.step(pass.available(), &mut output[..room]).map_err(|reason| pass.corrupt(reason))?;
        if step.consumed == 0 && step.produced == 0 && !step.frame_ended {
            return Err(if pass.available().is_empty() {
                pass.truncated()
            } else {
                pass.corrupt("no progress")
            });
        }
        pass.consume(step.consumed)?;
        pass.plain(&output[..step.produced])?;
        in_frame += to_u64(step.produced);
        frame_start = step.frame_ended;
        if step.frame_ended {
            if pass.is_pending() || pass.since() >= pass.chunk() {
                pass.mark(pass.offset(), 0, Resume::Fresh);
            }
            if pass.plain_total() > frame_plain {
                comp_end = pass.offset();
            }
            frame_plain = pass.plain_total();
            in_frame = 0;
        } else if in_frame >= inner_chunk && !step.almost_ended {
            pass.mark(pass.offset(), 0, Resume::Continue);
            in_frame = 0;
        }
    }
}

/// Decodes a run of chunks.
#[derive(Debug)]
pub(super) struct Run {
    decoder: Decoder,
    offset: u64,
}

impl Run {
    pub(super) fn new() -> Result<Self, DecodeError> {
        Ok(Self { decoder: Decoder::new()?, offset: 0 })
    }

    /// Decodes until `output` is full or `input` is used up. Returns how much was consumed and produced.
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), DecodeError> {
        let (mut taken, mut made) = (0, 0);
        while made < output.len() {
            let step = self.decoder.step(&input[taken..], &mut output[made..]).map_err(|reason| {
                DecodeError::Corrupt { format: "zstd", offset: self.offset, reason: reason.into() }
            })?;
            if step.consumed == 0 && step.produced == 0 && !step.frame_ended {
                break;
            }
            taken += step.consumed;
            made += step.produced;
            self.offset += to_u64(step.consumed);
        }
        Ok((taken, made))
    }
}

/// libzstd's streaming decoder, frame after frame.
struct Decoder(DCtx<'static>);

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// What a call has done.
struct Step {
    consumed: usize,
    produced: usize,
    /// A frame, skippable or not, has ended; the input is consumed exactly to its end.
    frame_ended: bool,
    /// Maybe the whole frame is decoded and only its last bytes are still to come out. libzstd keeps back one byte of
    /// input until they have: the input consumed does then not suffice to decode what was produced.
    almost_ended: bool,
}

impl Decoder {
    fn new() -> Result<Self, DecodeError> {
        let failed = |reason: &str| DecodeError::Corrupt { format: "zstd", offset: 0, reason: reason.into() };
        let mut context = DCtx::try_create().ok_or_else(|| failed("out of memory"))?;
        context
            .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
            .map_err(|code| failed(get_error_name(code)))?;
        Ok(Self(context))
    }

    /// Decodes from `input` to `output`; stops at the end of each frame. Neither consuming nor producing anything
    /// means: more input is needed.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, &'static str> {
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around(output);
        let hint = self.0.decompress_stream(&mut to, &mut from).map_err(get_error_name)?;
        Ok(Step { consumed: from.pos(), produced: to.pos(), frame_ended: hint == 0, almost_ended: hint == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_magics() {
        assert!(is_magic(&[0x28, 0xb5, 0x2f, 0xfd, 0]));
        assert!(is_magic(&[0x50, 0x2a, 0x4d, 0x18]) && is_magic(&[0x5f, 0x2a, 0x4d, 0x18]));
        assert!(!is_magic(&[0x60, 0x2a, 0x4d, 0x18]));
        assert!(!is_magic(&[0x28, 0xb5, 0x2f]) && !is_magic(&[]));
    }
}
