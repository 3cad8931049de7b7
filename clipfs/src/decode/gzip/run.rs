//! Inflating from a checkpoint: the read path's side of gzip.

use super::{MAX_HEADER, TRAILER, header_len};
use crate::decode::DecodeError;
use crate::decode::inflate::{Inflate, Stop};
use crate::decode::window::Window;
use crate::num::to_u64;

/// Inflates a run of chunks. Checksums are not looked at: a chunk's digest covers its bytes.
#[derive(Debug)]
pub(in crate::decode) struct Run {
    inflate: Inflate,
    state: State,
    /// Compressed bytes taken so far.
    offset: u64,
}

#[derive(Debug)]
enum State {
    /// In a member header, of which these bytes have come.
    Header(Vec<u8>),
    /// Before a first byte whose low bits are not ours.
    Prime(u8),
    Body,
    /// In a trailer, of which so many bytes are to come.
    Trailer(usize),
}

impl Run {
    /// `window`: `None` at a member's start. `bit` is at most 7.
    pub(in crate::decode) fn new(bit: u8, window: Option<&Window>) -> Result<Self, DecodeError> {
        let mut inflate = Inflate::new().map_err(|reason| corrupt(0, reason))?;
        let state = match window {
            None => State::Header(Vec::new()),
            Some(window) => {
                inflate.set_window(&window.bytes);
                if let Some(header) = &window.header {
                    inflate.enter_block(header).map_err(|reason| corrupt(0, reason))?;
                }
                if bit > 0 { State::Prime(bit) } else { State::Body }
            }
        };
        Ok(Self { inflate, state, offset: 0 })
    }

    /// Decodes until `output` is full or `input` is used up. Returns how much was consumed and produced.
    pub(in crate::decode) fn decode(
        &mut self,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(usize, usize), DecodeError> {
        let (mut taken, mut made) = (0, 0);
        while made < output.len() {
            let rest = &input[taken..];
            let used = match &mut self.state {
                State::Header(held) => {
                    let whole = if held.is_empty() { header_len(rest) } else { Ok(None) };
                    let before = held.len();
                    if let Some(len) = whole.map_err(|reason| corrupt(self.offset, reason))? {
                        self.state = State::Body;
                        taken += len;
                        self.offset += to_u64(len);
                        continue;
                    }
                    held.extend_from_slice(&rest[..rest.len().min(MAX_HEADER - before)]);
                    match header_len(held).map_err(|reason| corrupt(self.offset, reason))? {
                        Some(len) => {
                            self.state = State::Body;
                            len - before
                        }
                        None => held.len() - before,
                    }
                }
                State::Prime(bit) => match rest.first() {
                    Some(byte) => {
                        self.inflate.prime(8 - *bit, byte >> *bit);
                        self.state = State::Body;
                        1
                    }
                    None => 0,
                },
                State::Body => {
                    let step = self
                        .inflate
                        .step(rest, &mut output[made..], Stop::Never)
                        .map_err(|reason| corrupt(self.offset, reason))?;
                    made += step.produced;
                    if step.ended {
                        self.inflate.reset();
                        self.state = State::Trailer(TRAILER);
                    } else if step.consumed == 0 && step.produced == 0 {
                        break;
                    }
                    taken += step.consumed;
                    self.offset += to_u64(step.consumed);
                    continue;
                }
                State::Trailer(left) => {
                    let n = rest.len().min(*left);
                    *left -= n;
                    if *left == 0 {
                        self.state = State::Header(Vec::new());
                    }
                    n
                }
            };
            if used == 0 {
                break;
            }
            taken += used;
            self.offset += to_u64(used);
        }
        Ok((taken, made))
    }
}

fn corrupt(offset: u64, reason: &str) -> DecodeError {
    DecodeError::Corrupt { format: "gzip", offset, reason: reason.into() }
}
