//! The windows that a scan of gzip collects.

use std::collections::VecDeque;

use crate::decode::DecodeError;
use crate::decode::block::BlockHeader;
use crate::decode::pass::Pass;
use crate::decode::scan::RawWindow;
use crate::decode::window::MAX_WINDOW;

/// Most compressed bytes that are kept with a window. 32 KiB of output take at most 61 KiB of 15-bit literals and their
/// block headers; only a stream padded with empty blocks takes more.
const MAX_FOLLOWING: usize = 128 << 10;

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
