//! gzip: finding checkpoints, and inflating from them.
//!
//! A gzip file is a series of *members* (RFC 1952 section 2.2), each a header (section 2.3), a deflate stream and
//! a trailer: CRC-32 and length of its plain bytes. A deflate stream is a series of blocks (RFC 1951
//! section 3.2.3) that start at any bit; a block's matches reach back up to 32 KiB (section 3.2.1) into earlier
//! blocks of the same member, never into another member. So decoding can start at a member with nothing, and at a block
//! with the 32 KiB before it.

use std::collections::VecDeque;

use super::inflate::{Inflate, Stop, crc32};
use super::pass::Pass;
use super::scan::{RawWindow, ScanSummary};
use super::window::MAX_WINDOW;
use super::{Compression, DecodeError, Resume};
use crate::num::{to_u64, to_usize};

/// ID1, ID2, and CM = 8 for deflate, the only method there is (RFC 1952 section 2.3.1).
pub(super) const MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];

/// Header flags (RFC 1952 section 2.3.1); FTEXT (1) says nothing to a decoder.
const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// Longest name or comment with its NUL: Go's reader refuses more.
const MAX_NAME: usize = 512;

/// Longest header that [`header_len`] accepts.
const MAX_HEADER: usize = 10 + (2 + 0xffff) + 2 * MAX_NAME + 2;

/// CRC-32 and ISIZE (RFC 1952 section 2.3.1).
const TRAILER: usize = 8;

/// Most compressed bytes that are kept with a window. 32 KiB of output take at most 61 KiB of 15-bit literals and their
/// block headers; only a stream padded with empty blocks takes more.
const MAX_FOLLOWING: usize = 128 << 10;

/// Length of the member header that `bytes` start with; `None`: it is not complete yet.
///
/// # Errors
/// Says why this is no header: wherever Go's `compress/gzip` refuses one, and when reserved flags are set, as RFC 1952
/// section 2.3.1.2 demands.
fn header_len(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    if bytes.iter().zip(MAGIC).any(|(byte, magic)| *byte != magic) {
        return Err("no gzip member where one should start");
    }
    let Some(fixed) = bytes.first_chunk::<10>() else { return Ok(None) };
    let flags = fixed[3];
    if flags & RESERVED != 0 {
        return Err("reserved header flags are set");
    }
    let mut at = fixed.len();
    if flags & FEXTRA != 0 {
        let Some(len) = bytes[at..].first_chunk::<2>() else { return Ok(None) };
        at += 2 + usize::from(u16::from_le_bytes(*len));
        if bytes.len() < at {
            return Ok(None);
        }
    }
    for flag in [FNAME, FCOMMENT] {
        if flags & flag != 0 {
            let text = &bytes[at..bytes.len().min(at + MAX_NAME)];
            match text.iter().position(|byte| *byte == 0) {
                Some(len) => at += len + 1,
                None if text.len() == MAX_NAME => return Err("name or comment in the header is too long"),
                None => return Ok(None),
            }
        }
    }
    if flags & FHCRC != 0 {
        let Some(stored) = bytes[at..].first_chunk::<2>() else { return Ok(None) };
        if u32::from(u16::from_le_bytes(*stored)) != crc32(0, &bytes[..at]) & 0xffff {
            return Err("header checksum mismatch");
        }
        at += 2;
    }
    Ok(Some(at))
}

/// Scans a gzip stream: see [`super::scan::scan`].
pub(super) fn scan(pass: &mut Pass<'_>) -> Result<ScanSummary, DecodeError> {
    pass.set_format("gzip");
    let mut inflate = Inflate::new().map_err(|reason| pass.corrupt(reason))?;
    let mut comp_end = 0;
    while pass.fill(1)? {
        if pass.available()[0] == 0 {
            if pass.rest_is_zero()? {
                break;
            }
            return Err(pass.corrupt("garbage after the last member"));
        }
        if pass.is_pending() || pass.since() >= pass.chunk() {
            pass.mark(pass.offset(), 0, Resume::Fresh);
        }
        skip_header(pass)?;
        inflate.reset();
        let plain_before = pass.plain_total();
        let crc = scan_body(pass, &mut inflate)?;
        let plain = pass.plain_total() - plain_before;
        check_trailer(pass, crc, plain)?;
        if plain > 0 {
            comp_end = pass.offset();
        }
    }
    pass.summary(Compression::Gzip, comp_end)
}

fn skip_header(pass: &mut Pass<'_>) -> Result<(), DecodeError> {
    let len = header_len(pass.available()).map_err(|reason| pass.corrupt(reason))?;
    if let Some(len) = len {
        return pass.consume(len);
    }
    // Once more with all there can be.
    pass.fill(MAX_HEADER)?;
    match header_len(pass.available()).map_err(|reason| pass.corrupt(reason))? {
        Some(len) => pass.consume(len),
        None => Err(pass.truncated()),
    }
}

fn check_trailer(pass: &mut Pass<'_>, crc: u32, plain: u64) -> Result<(), DecodeError> {
    if !pass.fill(TRAILER)? {
        return Err(pass.truncated());
    }
    let word = |at: usize| pass.available()[at..].first_chunk().copied().map(u32::from_le_bytes);
    if word(0) != Some(crc) {
        return Err(pass.corrupt("checksum mismatch"));
    }
    // ISIZE is the length modulo 2^32.
    if word(4).map(u64::from) != Some(plain & 0xffff_ffff) {
        return Err(pass.corrupt("length mismatch"));
    }
    pass.consume(TRAILER)
}

/// Inflates one member's deflate stream and returns its CRC-32.
///
/// Stopping at every block would cost time, so inflate runs freely until the chunk is one byte short of its
/// length, and stops at blocks from there on. Boundaries before that point pass unseen, the ones that matter
/// do not: the same stream gives the same checkpoints however it arrives.
fn scan_body(pass: &mut Pass<'_>, inflate: &mut Inflate) -> Result<u32, DecodeError> {
    let mut windows = Windows::default();
    let mut crc = 0;
    loop {
        let free = (pass.chunk() - 1).saturating_sub(pass.since());
        let stop = if free > 0 { Stop::Never } else { Stop::Block };
        let most = if free > 0 { to_usize(free) } else { usize::MAX };
        let (input, room) = pass.buffers()?;
        let len = room.len().min(most).min(windows.wanted());
        let step = match inflate.step(input, &mut room[..len], stop) {
            Ok(step) => step,
            Err(reason) => return Err(pass.corrupt(reason)),
        };
        crc = crc32(crc, &room[..step.produced]);
        windows.feed(&pass.available()[..step.consumed]);
        pass.consume(step.consumed)?;
        if let Some(chunk) = pass.filled(step.produced)? {
            windows.begin(chunk);
        }
        windows.progress(step.produced, pass)?;
        if step.ended {
            windows.end(pass)?;
            return Ok(crc);
        }
        match step.boundary {
            Some(unused) if !pass.is_pending() && pass.since() >= pass.chunk() => {
                let bit = pass.offset() * 8 - u64::from(unused);
                let in_byte = u8::try_from(bit % 8).unwrap_or(0);
                let shared = to_usize(pass.offset() - bit / 8);
                windows.candidate(inflate.window(), in_byte, pass.consumed_tail(shared));
                pass.mark(bit / 8, in_byte, Resume::Window);
            }
            None if step.consumed == 0 && step.produced == 0 => {
                if !pass.available().is_empty() {
                    return Err(pass.corrupt("no progress"));
                }
                if !pass.fill(1)? {
                    return Err(pass.truncated());
                }
            }
            _ => {}
        }
    }
}

/// Windows whose following bytes are still being collected.
#[derive(Default)]
struct Windows {
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
    fn candidate(&mut self, window: Vec<u8>, bit: u8, shared: &[u8]) {
        let raw = RawWindow { chunk: 0, window, bit, following: shared.to_vec() };
        self.candidate = Some(Collecting { raw, missing: MAX_WINDOW });
    }

    /// The pending checkpoint has become the start of `chunk`.
    fn begin(&mut self, chunk: u32) {
        if let Some(mut collecting) = self.candidate.take() {
            collecting.raw.chunk = chunk;
            self.begun.push_back(collecting);
        }
    }

    /// How many plain bytes to produce at most before looking at the windows again.
    fn wanted(&self) -> usize {
        self.begun.front().or(self.candidate.as_ref()).map_or(usize::MAX, |oldest| oldest.missing)
    }

    /// More compressed bytes.
    fn feed(&mut self, bytes: &[u8]) {
        for collecting in self.begun.iter_mut().chain(&mut self.candidate) {
            let following = &mut collecting.raw.following;
            let room = MAX_FOLLOWING.saturating_sub(following.len());
            following.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// They produced so many plain bytes. Hands complete windows over.
    fn progress(&mut self, produced: usize, pass: &mut Pass<'_>) -> Result<(), DecodeError> {
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
    fn end(&mut self, pass: &mut Pass<'_>) -> Result<(), DecodeError> {
        self.candidate = None;
        self.begun.drain(..).try_for_each(|collecting| pass.sink().window(collecting.raw))
    }
}

/// Inflates a run of chunks. Checksums are not looked at: a chunk's digest covers its bytes.
#[derive(Debug)]
pub(super) struct Run {
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
    pub(super) fn new(bit: u8, window: Option<&[u8]>) -> Result<Self, DecodeError> {
        let mut inflate = Inflate::new().map_err(|reason| corrupt(0, reason))?;
        let state = match window {
            None => State::Header(Vec::new()),
            Some(window) => {
                inflate.set_window(window);
                if bit > 0 { State::Prime(bit) } else { State::Body }
            }
        };
        Ok(Self { inflate, state, offset: 0 })
    }

    /// Decodes until `output` is full or `input` is used up. Returns how much was consumed and produced.
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), DecodeError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with these flags and `tail`.
    fn header(flags: u8, tail: &[u8]) -> Vec<u8> {
        [&MAGIC[..], &[flags, 1, 2, 3, 4, 0, 255], tail].concat()
    }

    #[test]
    fn header_fields_are_skipped() {
        let crc = |bytes: Vec<u8>| {
            let sum = crc32(0, &bytes).to_le_bytes();
            [&bytes[..], &sum[..2]].concat()
        };
        let all = header(FEXTRA | FNAME | FCOMMENT | FHCRC | 1, b"\x03\0abcname\0comment\0");
        let valid = [
            header(0, b""),
            header(1, b""),
            header(FEXTRA, b"\0\0"),
            header(FEXTRA, &[&[0xff, 0xff][..], &[0; 0xffff]].concat()),
            header(FNAME, b"layer.tar\0"),
            header(FNAME, &[&[b'n'; MAX_NAME - 1][..], b"\0"].concat()),
            header(FCOMMENT, b"\0"),
            crc(header(FHCRC, b"")),
            crc(all),
        ];
        for bytes in valid {
            let longer = [&bytes[..], b"more"].concat();
            assert_eq!(header_len(&longer), Ok(Some(bytes.len())));
            for len in [0, 1, 9, bytes.len() - 1] {
                assert_eq!(header_len(&bytes[..len]), Ok(None), "{len} of {:x?}", &bytes[..10]);
            }
            assert!(bytes.len() <= MAX_HEADER);
        }
    }

    #[test]
    fn bad_headers_are_refused() {
        let bad = [
            b"\x1f\x8c".to_vec(),
            b"\x1f\x8b\x07".to_vec(),
            header(0x20, b""),
            header(0x80, b""),
            header(FNAME, &[b'n'; MAX_NAME]),
            header(FHCRC, b"\0\0"),
        ];
        for bytes in bad {
            assert!(header_len(&bytes).is_err(), "{:x?}", &bytes[..bytes.len().min(10)]);
        }
    }
}
