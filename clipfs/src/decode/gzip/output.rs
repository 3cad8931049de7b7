//! What a scan of gzip produces: plain bytes, with enough of them behind to cut windows from, and the windows.

use std::collections::VecDeque;

use crate::decode::DecodeError;
use crate::decode::block::BlockHeader;
use crate::decode::pass::Pass;
use crate::decode::scan::RawWindow;
use crate::decode::window::MAX_WINDOW;

/// Output buffer of a scan behind its 32 KiB of history: stays in a level 2 cache together with the input.
const OUTPUT: usize = 256 << 10;

/// With less room than this, history is moved to the front first.
const MIN_ROOM: usize = 64 << 10;

/// Most compressed bytes that are kept with a window. 32 KiB of output take at most 61 KiB of 15-bit literals and their
/// block headers; only a stream padded with empty blocks takes more.
const MAX_FOLLOWING: usize = 128 << 10;

/// Output buffer with the history that windows are cut from.
pub(super) struct Output {
    buf: Box<[u8]>,
    /// Where this member's bytes begin; what is before belongs to others.
    floor: usize,
    at: usize,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { buf: vec![0; MAX_WINDOW + OUTPUT].into_boxed_slice(), floor: 0, at: 0 }
    }

    /// Another member: it cannot refer to what was before.
    pub(super) fn reset(&mut self) {
        self.floor = self.at;
    }

    /// Where the next bytes go; never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.buf.len() - self.at < MIN_ROOM {
            let from = self.at - MAX_WINDOW;
            self.buf.copy_within(from..self.at, 0);
            self.at = MAX_WINDOW;
            self.floor = self.floor.saturating_sub(from);
        }
        &mut self.buf[self.at..]
    }

    /// `n` bytes were written; returns them.
    pub(super) fn advance(&mut self, n: usize) -> &[u8] {
        self.at += n;
        &self.buf[self.at - n..self.at]
    }

    /// The last 32 KiB of the member, or all of it.
    pub(super) fn window(&self) -> &[u8] {
        &self.buf[self.floor.max(self.at.saturating_sub(MAX_WINDOW))..self.at]
    }
}

/// Windows whose following bytes are still being collected.
#[derive(Default)]
pub(super) struct Windows {
    /// Of the pending checkpoint.
    candidate: Option<Collecting>,
    /// In checkpoint order; older ones are complete first.
    begun: VecDeque<Collecting>,
}

struct Collecting {
    raw: RawWindow,
    /// Plain bytes that `following` does not yet produce.
    missing: usize,
}

impl Windows {
    pub(super) fn candidate(&mut self, window: &[u8], bit: u8, header: Option<BlockHeader>, shared: &[u8]) {
        let raw = RawWindow { chunk: 0, window: window.to_vec(), bit, header, following: shared.to_vec() };
        self.candidate = Some(Collecting { raw, missing: MAX_WINDOW });
    }

    /// The pending checkpoint has become the start of `chunk`.
    pub(super) fn begin(&mut self, chunk: u32) {
        if let Some(mut collecting) = self.candidate.take() {
            collecting.raw.chunk = chunk;
            self.begun.push_back(collecting);
        }
    }

    /// How many plain bytes to produce at most before looking at the windows again.
    pub(super) fn wanted(&self) -> usize {
        self.begun.front().or(self.candidate.as_ref()).map_or(usize::MAX, |oldest| oldest.missing)
    }

    /// More compressed bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for collecting in self.begun.iter_mut().chain(&mut self.candidate) {
            let following = &mut collecting.raw.following;
            let room = MAX_FOLLOWING.saturating_sub(following.len());
            following.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// They produced so many plain bytes. Hands complete windows over.
    pub(super) fn progress(&mut self, produced: usize, pass: &mut Pass<'_>) -> Result<(), DecodeError> {
        for collecting in &mut self.begun {
            collecting.missing = collecting.missing.saturating_sub(produced);
        }
        let complete = |c: &Collecting| c.missing == 0 || c.raw.following.len() >= MAX_FOLLOWING;
        while self.begun.front().is_some_and(complete) {
            self.begun.pop_front().map_or(Ok(()), |collecting| pass.sink().window(collecting.raw))?;
        }
        Ok(())
    }

    /// The deflate stream has ended.
    pub(super) fn end(&mut self, pass: &mut Pass<'_>) -> Result<(), DecodeError> {
        self.candidate = None;
        self.begun.drain(..).try_for_each(|collecting| pass.sink().window(collecting.raw))
    }
}
