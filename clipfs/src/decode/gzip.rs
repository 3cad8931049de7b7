//! gzip: finding checkpoints, and inflating from them.
//!
//! A gzip file is a series of *members* (RFC 1952 section 2.2), each a header (section 2.3), a deflate stream and
//! a trailer: CRC-32 and length of its plain bytes. A deflate stream is a series of blocks (RFC 1951
//! section 3.2.3) that start at any bit; a block's matches reach back up to 32 KiB (section 3.2.1) into earlier
//! blocks of the same member, never into another member. So decoding can start at a member with nothing, and at a block
//! with the 32 KiB before it; and, given the block's header, between any two symbols of a block, which is what blocks that
//! are longer than a chunk need: see `blocks.rs`.

mod blocks;
mod run;
mod windows;

use super::block::BlockHeader;
use super::inflate::{Inflate, Stop, crc32};
use super::pass::Pass;
use super::scan::{MemberMark, ScanSummary};
use super::{Compression, DecodeError, Resume};
use crate::num::to_usize;
use blocks::Blocks;
pub(super) use run::Run;
use windows::Windows;

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
        pass.sink().member(MemberMark::Start)?;
        let plain_before = pass.plain_total();
        scan_body(pass, &mut inflate)?;
        let plain = pass.plain_total() - plain_before;
        check_trailer(pass, plain)?;
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

fn check_trailer(pass: &mut Pass<'_>, plain: u64) -> Result<(), DecodeError> {
    if !pass.fill(TRAILER)? {
        return Err(pass.truncated());
    }
    let word = |at: usize| pass.available()[at..].first_chunk().copied().map_or(0, u32::from_le_bytes);
    let (crc32, len) = (word(0), word(4));
    let offset = pass.offset();
    pass.sink().member(MemberMark::End { crc32, offset })?;
    // ISIZE is the length modulo 2^32.
    if u64::from(len) != plain & 0xffff_ffff {
        return Err(pass.corrupt("length mismatch"));
    }
    pass.consume(TRAILER)
}

/// Inflates one member's deflate stream.
///
/// Stopping at every block would cost time, so inflate runs freely until the chunk is one byte short of its
/// length, and stops at blocks from there on. Boundaries before that point pass unseen, the ones that matter
/// do not: the same stream gives the same checkpoints however it arrives. When no boundary comes for long, inflate is given bit
/// after bit until it stands between two symbols, and the chunk ends there.
fn scan_body(pass: &mut Pass<'_>, inflate: &mut Inflate) -> Result<(), DecodeError> {
    let mut body = Body { windows: Windows::default(), blocks: Blocks::start(pass), fed: 0 };
    loop {
        let free = if body.blocks.watched() { 0 } else { (pass.chunk() - 1).saturating_sub(pass.since()) };
        let until_due = body.blocks.due(pass.chunk()).map(|due| due.saturating_sub(pass.since()));
        let due = until_due == Some(0);
        let (stop, most) = match until_due {
            _ if free > 0 => (Stop::Never, to_usize(free)),
            Some(1..) => (Stop::Block, until_due.map_or(0, to_usize)),
            _ => (Stop::Block, usize::MAX),
        };
        let (input, room) = pass.buffers()?;
        let len = room.len().min(most).min(body.windows.wanted());
        let input = if due { &[] } else { input };
        let step = inflate.step(input, &mut room[..len], stop).map_err(|reason| pass.corrupt(reason))?;
        body.consume(step.consumed, pass)?;
        if let Some(chunk) = pass.filled(step.produced)? {
            body.windows.begin(chunk);
        }
        body.windows.progress(step.produced, pass)?;
        if step.ended {
            body.windows.end(pass)?;
            return Ok(());
        }
        if let Some(unused) = step.boundary {
            let at = body.finish_byte(unused, inflate, pass)?;
            body.blocks.boundary();
            if !pass.is_pending() && pass.since() >= pass.chunk() {
                body.mark(at, None, inflate, pass);
            }
        } else if due && step.produced < len {
            if let Some(unused) = inflate.between_symbols() {
                let at = body.finish_byte(unused, inflate, pass)?;
                if let Some(header) = body.blocks.header(pass) {
                    body.mark(at, Some(header), inflate, pass);
                }
            } else {
                body.feed_bit(inflate, pass)?;
            }
        } else if step.consumed == 0 && step.produced == 0 {
            if !pass.available().is_empty() {
                return Err(pass.corrupt("no progress"));
            }
            if !pass.fill(1)? {
                return Err(pass.truncated());
            }
        }
    }
}

/// What the scan of a deflate stream knows besides the bytes.
struct Body {
    windows: Windows,
    blocks: Blocks,
    /// So many bits of the first available byte were given to inflate already.
    fed: u8,
}

impl Body {
    fn consume(&mut self, n: usize, pass: &mut Pass<'_>) -> Result<(), DecodeError> {
        self.windows.feed(&pass.available()[..n]);
        pass.consume(n)
    }

    /// Gives inflate one more bit.
    fn feed_bit(&mut self, inflate: &mut Inflate, pass: &mut Pass<'_>) -> Result<(), DecodeError> {
        if !pass.fill(1)? {
            return Err(pass.truncated());
        }
        inflate.prime(1, pass.available()[0] >> self.fed);
        self.fed += 1;
        if self.fed == 8 {
            self.fed = 0;
            self.consume(1, pass)?;
        }
        Ok(())
    }

    /// Gives inflate the rest of a byte of which it has had bits: it counts on whole ones where a block or the stream ends. Returns
    /// the place in the compressed stream, in bits, that lies `unused` bits before what it had until now.
    fn finish_byte(
        &mut self,
        unused: u32,
        inflate: &mut Inflate,
        pass: &mut Pass<'_>,
    ) -> Result<u64, DecodeError> {
        let at = pass.offset() * 8 + u64::from(self.fed) - u64::from(unused);
        if self.fed > 0 {
            inflate.prime(8 - self.fed, pass.available()[0] >> self.fed);
            self.fed = 0;
            self.consume(1, pass)?;
        }
        Ok(at)
    }

    /// A chunk may start at bit `at` of the compressed stream; inside a block if there is a header.
    fn mark(&mut self, at: u64, header: Option<BlockHeader>, inflate: &Inflate, pass: &mut Pass<'_>) {
        let bit = u8::try_from(at % 8).unwrap_or(0);
        let shared = to_usize(pass.offset() - at / 8);
        let window = inflate.window();
        self.windows.candidate(&window, bit, header.clone(), pass.consumed_tail(shared));
        pass.mark(at / 8, bit, Resume::Window);
        self.blocks.mark(pass, at, &window, header);
    }
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
