//! Decoding chunks again, from where a checkpoint says: the read path's decoder.

use std::collections::VecDeque;

use super::window::{MAX_WINDOW, Window};
use super::{Compression, DecodeError, MAX_CHUNK, gzip, zstd};
use crate::num::{idx, to_u64};

/// What is allocated for a chunk before its first bytes have come; more follows as they do. The lengths come from
/// an index that may lie.
const FIRST_ALLOCATION: usize = 8 << 20;

/// Decodes a *run*: consecutive chunks of one layer, the first of which is not `Resume::Continue`.
/// Push-style, so that it can decode while bytes arrive.
///
/// Offsets in its errors count from the run's first compressed byte.
#[derive(Debug)]
pub struct RunDecoder {
    engine: Engine,
    lens: VecDeque<u32>,
    /// Position in the run of the chunk in work.
    chunk: usize,
    /// Its bytes so far are the first `filled` ones.
    out: Vec<u8>,
    /// A buffer for the next chunk, with anything in it.
    spare: Vec<u8>,
    filled: usize,
}

#[derive(Debug)]
enum Engine {
    Plain,
    Gzip(Box<gzip::Run>),
    Zstd(zstd::Run),
}

/// Receives each finished chunk of a run: its position in the run and its plain bytes (not yet verified).
pub type OnChunk<'a> = dyn FnMut(usize, Vec<u8>) -> Result<(), DecodeError> + 'a;

impl RunDecoder {
    /// `bit` and `window` (as [`super::window::decode`] gives it) describe the first chunk; `window` is `Some`,
    /// if only of nothing, exactly when that chunk is `Resume::Window`. `lens` are the plain lengths of all chunks of
    /// the run, each 1 ..= [`MAX_CHUNK`].
    ///
    /// # Errors
    /// A window that is too long or where none belongs, a block header that is none, a `bit` or a length out of bounds.
    pub fn new(
        compression: Compression,
        bit: u8,
        window: Option<&Window>,
        lens: Vec<u32>,
    ) -> Result<Self, DecodeError> {
        let format = format_name(compression);
        let invalid = |reason: &str| DecodeError::Corrupt { format, offset: 0, reason: reason.into() };
        if lens.iter().any(|len| *len == 0 || *len > MAX_CHUNK) {
            return Err(invalid("chunk length out of bounds"));
        }
        if window.is_some_and(|window| window.bytes.len() > MAX_WINDOW) {
            return Err(invalid("window too long"));
        }
        if bit > 7 || (window.is_none() && bit > 0) || (window.is_some() && compression != Compression::Gzip)
        {
            return Err(invalid("no such checkpoint"));
        }
        let engine = match compression {
            Compression::None => Engine::Plain,
            Compression::Gzip => Engine::Gzip(Box::new(gzip::Run::new(bit, window)?)),
            Compression::Zstd => Engine::Zstd(zstd::Run::new()?),
        };
        Ok(Self { engine, lens: lens.into(), chunk: 0, out: Vec::new(), spare: Vec::new(), filled: 0 })
    }

    /// Gives a buffer to decode the next chunk into, so that no fresh memory is needed. What stands in it does not matter.
    pub fn give(&mut self, buffer: Vec<u8>) {
        self.spare = buffer;
    }

    /// Feeds the next compressed bytes; hands over every chunk that they complete, in order. Never produces
    /// more than the run's lengths say; bytes behind the last chunk are ignored.
    ///
    /// # Errors
    /// Corrupt input, and what `on_chunk` fails with. The decoder is of no use afterwards.
    pub fn push(&mut self, input: &[u8], on_chunk: &mut OnChunk<'_>) -> Result<(), DecodeError> {
        let mut input = input;
        if input.is_empty() {
            return Ok(()); // Each call uses its input up: nothing can be left to hand over.
        }
        while let Some(len) = self.lens.front().copied().map(idx) {
            if self.filled == self.out.len() {
                // All of what is allocated has been filled: an honest index, so far.
                let more = self.out.len().max(FIRST_ALLOCATION).min(len - self.filled);
                if self.out.is_empty() && !self.spare.is_empty() {
                    self.out = std::mem::take(&mut self.spare);
                    self.out.truncate(len);
                } else if self.out.is_empty() {
                    self.out = vec![0; more];
                } else {
                    self.out.reserve_exact(more);
                    self.out.resize(self.filled + more, 0);
                }
            }
            let (consumed, produced) = self.decode(input)?;
            self.filled += produced;
            input = &input[consumed..];
            if self.filled == len {
                let plain = std::mem::take(&mut self.out);
                self.lens.pop_front();
                self.chunk += 1;
                self.filled = 0;
                on_chunk(self.chunk - 1, plain)?;
            } else if self.filled < self.out.len() {
                // The decoder wants more input.
                break;
            }
        }
        Ok(())
    }

    /// Whether every chunk of the run has been handed over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.lens.is_empty()
    }

    fn decode(&mut self, input: &[u8]) -> Result<(usize, usize), DecodeError> {
        let output = &mut self.out[self.filled..];
        match &mut self.engine {
            Engine::Plain => {
                let n = input.len().min(output.len());
                output[..n].copy_from_slice(&input[..n]);
                Ok((n, n))
            }
            Engine::Gzip(run) => run.decode(input, output),
            Engine::Zstd(run) => run.decode(input, output),
        }
    }
}

/// Decodes one chunk from exactly its compressed bytes.
///
/// # Errors
/// As [`RunDecoder`]; [`DecodeError::Truncated`] if the bytes do not suffice.
pub fn decode_chunk(
    compression: Compression,
    bit: u8,
    window: Option<&Window>,
    input: &[u8],
    len: u32,
) -> Result<Vec<u8>, DecodeError> {
    let mut chunk = None;
    RunDecoder::new(compression, bit, window, vec![len])?.push(input, &mut |_, plain| {
        chunk = Some(plain);
        Ok(())
    })?;
    chunk.ok_or(DecodeError::Truncated { format: format_name(compression), offset: to_u64(input.len()) })
}

fn format_name(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "tar",
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_impossible_checkpoints() {
        let long = Window { bytes: vec![0; MAX_WINDOW + 1], header: None };
        let empty = Window { bytes: Vec::new(), header: None };
        let cases: [(Compression, u8, Option<&Window>, u32); 8] = [
            (Compression::Gzip, 0, None, 0),
            (Compression::Gzip, 0, None, MAX_CHUNK + 1),
            (Compression::Gzip, 0, Some(&long), 1),
            (Compression::Gzip, 8, Some(&empty), 1),
            (Compression::Gzip, 1, None, 1),
            (Compression::Zstd, 0, Some(&empty), 1),
            (Compression::Zstd, 1, None, 1),
            (Compression::None, 0, Some(&empty), 1),
        ];
        for (compression, bit, window, len) in cases {
            let refused = RunDecoder::new(compression, bit, window, vec![len]);
            assert!(refused.is_err(), "{compression:?} {bit} {len}");
        }
    }

    #[test]
    fn a_lying_length_allocates_little() {
        let mut run = RunDecoder::new(Compression::None, 0, None, vec![MAX_CHUNK]).unwrap();
        run.push(&[1; 1000], &mut |_, _| panic!("no chunk can be complete")).unwrap();
        assert!(run.out.capacity() <= FIRST_ALLOCATION && !run.is_done());
    }

    #[test]
    fn long_chunks_grow() {
        let len = FIRST_ALLOCATION * 2 + 5;
        let plain: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let chunk = decode_chunk(Compression::None, 0, None, &plain, u32::try_from(len).unwrap()).unwrap();
        assert!(chunk == plain && chunk.capacity() == len);
    }

    #[test]
    fn too_little_input_is_truncated() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let error = decode_chunk(compression, 0, None, &[], 1).unwrap_err();
            assert!(matches!(error, DecodeError::Truncated { offset: 0, .. }), "{error:?}");
        }
    }
}
