//! What every format's scan shares: input in large blocks, limits, and telling the sink in the right order.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};

use super::scan::{Checkpoint, ScanLimits, ScanSink, ScanSummary};
use super::{Compression, DecodeError, MAX_CHUNK, Resume};
use crate::num::{to_u64, to_usize};

/// Input is read in pieces of this size, always filled: a decoder that stops at the end of its input then stops
/// at the same places whatever the sizes of network reads are, which keeps indexes reproducible.
const BLOCK: usize = 256 << 10;

/// How many consumed bytes stay in front of the input: a deflate block may begin in a byte that was
/// consumed already (a bit buffer holds at most 63 bits).
const LOOKBEHIND: usize = 8;

/// How many bytes may be kept besides twice a chunk's length: deflate makes hardly anything longer.
const KEEP_SLACK: u64 = 1 << 20;

/// Longest compressed range of a chunk: bounds what one read must fetch. Nothing but padding (empty blocks,
/// empty members, skippable frames) makes a chunk longer than its plain bytes.
const MAX_COMPRESSED: u64 = 2 * MAX_CHUNK as u64;

/// Smallest distance of checkpoints: bounds how many windows are collected at the same time.
const MIN_CHUNK: u64 = 4 << 10;

/// A running [`super::scan::scan`].
pub(super) struct Pass<'a> {
    input: &'a mut dyn Read,
    sink: &'a mut dyn ScanSink,
    format: &'static str,
    chunk: u64,
    max_plain: u64,
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    /// Consumed buffers that must stay: see [`Pass::keep`].
    kept: VecDeque<Kept>,
    keeping: bool,
    spare: Vec<Box<[u8]>>,
    /// Compressed offset of `buf[start]`.
    offset: u64,
    plain: u64,
    /// Where the present chunk starts.
    current: Checkpoint,
    /// A chunk that starts with the next plain byte, if there is one.
    pending: Option<Checkpoint>,
    chunks: u32,
}

/// A buffer whose bytes were consumed.
struct Kept {
    /// Its last byte is the last one that was consumed.
    bytes: Box<[u8]>,
    len: usize,
    /// Compressed offset just behind it.
    end: u64,
}

impl<'a> Pass<'a> {
    pub(super) fn new(input: &'a mut dyn Read, limits: ScanLimits, sink: &'a mut dyn ScanSink) -> Self {
        let first = Checkpoint { plain_offset: 0, comp_offset: 0, bit: 0, resume: Resume::Fresh };
        Self {
            input,
            sink,
            format: "tar",
            // Far from the longest: a chunk ends at the first possible place after its length, and chunks of zstd
            // frames may be more than twice as long (see `zstd::scan`).
            chunk: u64::from(limits.chunk).clamp(MIN_CHUNK, u64::from(MAX_CHUNK / 4)),
            max_plain: limits.max_plain,
            buf: vec![0; LOOKBEHIND + BLOCK].into_boxed_slice(),
            start: LOOKBEHIND,
            end: LOOKBEHIND,
            kept: VecDeque::new(),
            keeping: false,
            spare: Vec::new(),
            offset: 0,
            plain: 0,
            current: first,
            pending: Some(first),
            chunks: 0,
        }
    }

    /// Names the format, for errors.
    pub(super) fn set_format(&mut self, format: &'static str) {
        self.format = format;
    }

    /// Least plain bytes between checkpoints.
    pub(super) fn chunk(&self) -> u64 {
        self.chunk
    }

    /// The input at hand.
    pub(super) fn available(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Compressed offset of the first available byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The last `n` consumed bytes; fewer than asked for if so many are not kept.
    pub(super) fn consumed_tail(&self, n: usize) -> &[u8] {
        &self.buf[self.start.saturating_sub(n)..self.start]
    }

    /// Makes at least `min` bytes available, `min` being at most half a block. `false`: the input ends before.
    pub(super) fn fill(&mut self, min: usize) -> Result<bool, DecodeError> {
        if self.available().len() >= min {
            return Ok(true);
        }
        self.make_room();
        while self.end < self.buf.len() {
            match self.input.read(&mut self.buf[self.end..]) {
                Ok(0) => break,
                Ok(n) => {
                    let new = &self.buf[self.end..self.end + n];
                    self.sink.compressed(new)?;
                    self.end += n;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.available().len() >= min)
    }

    /// Moves what is available, and what must stay before it, to the front of a buffer.
    fn make_room(&mut self) {
        let stays = self.start - LOOKBEHIND..self.end;
        let len = stays.len();
        let most = 2 * self.chunk + KEEP_SLACK;
        if self.keeping && to_u64((self.kept.len() + 1) * BLOCK) > most {
            self.forget();
        }
        if self.keeping {
            let mut next = self.spare.pop().unwrap_or_else(|| vec![0; self.buf.len()].into_boxed_slice());
            next[..len].copy_from_slice(&self.buf[stays]);
            let bytes = std::mem::replace(&mut self.buf, next);
            self.kept.push_back(Kept { bytes, len: self.start, end: self.offset });
        } else {
            self.buf.copy_within(stays, 0);
        }
        self.start = LOOKBEHIND;
        self.end = len;
    }

    /// From here on, and `LOOKBEHIND` bytes before, consumed bytes stay readable through [`Pass::kept`]: until the next call,
    /// or until there are more of them than any decent chunk has.
    pub(super) fn keep(&mut self) {
        self.forget();
        self.keeping = true;
    }

    fn forget(&mut self) {
        self.spare.extend(self.kept.drain(..).map(|kept| kept.bytes));
        self.keeping = false;
    }

    /// The consumed bytes from `offset` on, which must be kept ones, in pieces. `None`: they are not.
    pub(super) fn kept(&self, offset: u64) -> Option<impl Iterator<Item = &[u8]>> {
        let here = Some((&self.buf[..self.start], self.offset));
        let mut at = offset;
        let pieces = self.kept.iter().map(|kept| (&kept.bytes[..kept.len], kept.end)).chain(here);
        let pieces = pieces.map(move |(bytes, end)| {
            let new = to_usize(end.saturating_sub(at));
            at = at.max(end);
            &bytes[bytes.len().saturating_sub(new)..]
        });
        self.keeping.then_some(pieces)
    }

    /// Moves past the first `n` available bytes.
    pub(super) fn consume(&mut self, n: usize) -> Result<(), DecodeError> {
        debug_assert!(n <= self.available().len(), "only what is there can be consumed");
        self.start += n;
        self.offset += to_u64(n);
        // While a checkpoint is pending, the present chunk's end is not yet known.
        if self.pending.is_none() { self.check_compressed(self.offset) } else { Ok(()) }
    }

    /// Plain bytes of the present chunk; 0 while a checkpoint is pending.
    pub(super) fn since(&self) -> u64 {
        if self.pending.is_some() { 0 } else { self.plain - self.current.plain_offset }
    }

    /// Plain bytes so far.
    pub(super) fn plain_total(&self) -> u64 {
        self.plain
    }

    /// Whether a chunk begins with the next plain byte.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// A chunk may start here; it does when plain bytes follow. Replaces a pending one: of several places with the same
    /// plain offset the last one counts.
    pub(super) fn mark(&mut self, comp_offset: u64, bit: u8, resume: Resume) {
        self.pending = Some(Checkpoint { plain_offset: self.plain, comp_offset, bit, resume });
    }

    /// Passes plain bytes on, after the checkpoint that is due before them.
    pub(super) fn plain(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.admit(bytes.len())?;
        self.sink.plain(bytes)
    }

    /// The input at hand, and where plain bytes may be written.
    pub(super) fn buffers(&mut self) -> Result<(&[u8], &mut [u8]), DecodeError> {
        Ok((&self.buf[self.start..self.end], self.sink.room()?))
    }

    /// `n` plain bytes have been written to the room: passes them on like [`Self::plain`]. Returns the number of the
    /// checkpoint before them if there was one.
    pub(super) fn filled(&mut self, n: usize) -> Result<Option<u32>, DecodeError> {
        if n == 0 {
            return Ok(None);
        }
        let begun = self.admit(n)?;
        self.sink.filled(n)?;
        Ok(begun)
    }

    /// Counts the next `n` plain bytes and tells the checkpoint that is due before them.
    fn admit(&mut self, n: usize) -> Result<Option<u32>, DecodeError> {
        let mut begun = None;
        if let Some(checkpoint) = self.pending.take() {
            if self.chunks > 0 {
                self.check_compressed(checkpoint.comp_offset)?;
            }
            begun = Some(self.chunks);
            self.chunks = self.chunks.checked_add(1).ok_or(DecodeError::TooLarge(self.max_plain))?;
            self.current = checkpoint;
            self.sink.checkpoint(checkpoint)?;
        }
        self.plain += to_u64(n);
        if self.plain > self.max_plain {
            return Err(DecodeError::TooLarge(self.max_plain));
        }
        if self.plain - self.current.plain_offset > u64::from(MAX_CHUNK) {
            return Err(self.too_long());
        }
        Ok(begun)
    }

    /// Passes the first `n` available bytes on as plain ones: nothing to decode.
    pub(super) fn plain_input(&mut self, n: usize) -> Result<(), DecodeError> {
        let bytes = self.start..self.start + n;
        // Taken out for the call, which borrows all of `self`; no copy.
        let buf = std::mem::take(&mut self.buf);
        let told = self.plain(&buf[bytes]);
        self.buf = buf;
        told?;
        self.consume(n)
    }

    /// The sink, for windows and members.
    pub(super) fn sink(&mut self) -> &mut dyn ScanSink {
        self.sink
    }

    /// Passes the rest of the input over; says whether all of it was zeros.
    pub(super) fn rest_is_zero(&mut self) -> Result<bool, DecodeError> {
        while self.fill(1)? {
            if self.available().iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            self.offset += to_u64(self.available().len());
            self.start = self.end;
        }
        Ok(true)
    }

    /// The totals at the end of the input; `comp_end` is where the last chunk ends.
    pub(super) fn summary(
        &self,
        compression: Compression,
        comp_end: u64,
    ) -> Result<ScanSummary, DecodeError> {
        self.check_compressed(comp_end)?;
        Ok(ScanSummary { compression, compressed: self.offset, plain: self.plain, comp_end })
    }

    pub(super) fn corrupt(&self, reason: impl Into<String>) -> DecodeError {
        DecodeError::Corrupt { format: self.format, offset: self.offset, reason: reason.into() }
    }

    /// The input has ended, and should not have.
    pub(super) fn truncated(&self) -> DecodeError {
        DecodeError::Truncated { format: self.format, offset: self.offset + to_u64(self.available().len()) }
    }

    /// Refuses a present chunk whose compressed range would reach to `end`.
    fn check_compressed(&self, end: u64) -> Result<(), DecodeError> {
        let long = end.saturating_sub(self.current.comp_offset) > MAX_COMPRESSED;
        if long { Err(self.too_long()) } else { Ok(()) }
    }

    fn too_long(&self) -> DecodeError {
        DecodeError::ChunkTooLong { format: self.format, offset: self.current.plain_offset }
    }
}
