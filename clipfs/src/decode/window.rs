//! Windows: the 32 KiB before a gzip checkpoint, of which usually few bytes matter.
//!
//! A deflate block may copy from any of the 32 KiB before it (RFC 1951 section 3.2.1), but it does from few of
//! them: about 3 KiB in system libraries and Python trees. The others become zeros, which compress to almost nothing: 1.8 KiB
//! per checkpoint instead of 15, 0.18 % of a layer at 2 MiB chunks (measured).
//!
//! Encoded form: one byte that says what follows (0: nothing, no byte matters; 1: bytes; 2: a zstd frame of bytes); the
//! bytes are the window from the first one that matters to its end, where the checkpoint is. A list of runs with their
//! bytes, instead of a window with zeros in between, was measured to be as long. Plus 4: the block's header comes first.

use super::DecodeError;
use super::block::BlockHeader;
use super::inflate::{Inflate, Stop};
use super::scan::RawWindow;

/// A window's longest form: deflate's farthest distance.
pub const MAX_WINDOW: usize = 32 << 10;

/// No byte matters: nothing follows.
const NOTHING: u8 = 0;
/// The bytes themselves follow: for windows too short to compress.
const RAW: u8 = 1;
/// A zstd frame follows.
const ZSTD: u8 = 2;
/// Added to the above: the checkpoint lies inside a block, whose header comes first.
const INSIDE: u8 = 4;

/// Level 19 takes 35 times as long and gains 3 %.
const LEVEL: i32 = 7;

/// What decoding needs to start at a `Resume::Window` checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The plain bytes before the checkpoint, at most [`MAX_WINDOW`], those that matter at their places.
    pub bytes: Vec<u8>,
    /// Of the block that the checkpoint lies in; `None` between two blocks.
    pub header: Option<BlockHeader>,
}

/// Encodes a window for the index: bytes that the 32 KiB behind the checkpoint never refer to are dropped.
/// Deterministic.
///
/// # Errors
/// `following` does not decode, or there is more window than [`MAX_WINDOW`].
pub fn encode(raw: &RawWindow) -> Result<Vec<u8>, DecodeError> {
    if raw.window.len() > MAX_WINDOW {
        return Err(corrupt("window too long"));
    }
    let sparse = sparse(raw)?;
    let mut encoded = vec![NOTHING];
    if let Some(header) = &raw.header {
        encoded[0] = INSIDE;
        header.encode(&mut encoded);
    }
    if sparse.is_empty() {
        return Ok(encoded);
    }
    let frame = zstd::bulk::compress(&sparse, LEVEL).map_err(|error| corrupt(&error.to_string()))?;
    let (form, body) = if frame.len() < sparse.len() { (ZSTD, frame) } else { (RAW, sparse) };
    encoded[0] |= form;
    encoded.extend(body);
    Ok(encoded)
}

/// The inverse. Input is untrusted: what comes back holds nothing longer than it may be, but need not fit to any stream.
///
/// # Errors
/// Anything that [`encode`] cannot have written.
pub fn decode(encoded: &[u8]) -> Result<Window, DecodeError> {
    let (&form, mut rest) = encoded.split_first().ok_or_else(|| corrupt("empty"))?;
    let mut header = None;
    if form & INSIDE != 0 {
        let (found, behind) = BlockHeader::decode(rest).ok_or_else(|| corrupt("no block header"))?;
        header = Some(found);
        rest = behind;
    }
    let bytes = match (form & !INSIDE, rest) {
        (NOTHING, []) => return Ok(Window { bytes: Vec::new(), header }),
        (RAW, bytes) if bytes.len() <= MAX_WINDOW => bytes.to_vec(),
        // Allocates no more than the limit and fails beyond it.
        (ZSTD, frame) => {
            zstd::bulk::decompress(frame, MAX_WINDOW).map_err(|error| corrupt(&error.to_string()))?
        }
        _ => return Err(corrupt("no such form")),
    };
    if bytes.is_empty() { Err(corrupt("empty where it should say so")) } else { Ok(Window { bytes, header }) }
}

/// The window from the first byte that matters on, with zeros for the bytes that do not.
///
/// To find out, inflate runs twice over the same bits, with windows that tell positions instead of content:
/// what comes out differently the two times was copied from the window (through however many copies), and both
/// bytes together say from where.
fn sparse(raw: &RawWindow) -> Result<Vec<u8>, DecodeError> {
    let len = raw.window.len();
    let (low, high): (Vec<u8>, Vec<u8>) = (0..len).map(position_bytes).unzip();
    let mut inflate = Inflate::new().map_err(corrupt)?;
    let Some(low) = probe(raw, &mut inflate, &low)? else { return Ok(raw.window.clone()) };
    inflate.reset();
    let Some(high) = probe(raw, &mut inflate, &high)? else { return Ok(raw.window.clone()) };
    let mut sparse = vec![0; len];
    let mut first = len;
    for at in low.iter().zip(&high).filter_map(|(low, high)| position(*low, *high)) {
        sparse[at] = raw.window[at];
        first = first.min(at);
    }
    sparse.drain(..first);
    Ok(sparse)
}

/// What the two probing windows hold at a position below [`MAX_WINDOW`]: its low byte; its high seven bits and, above them,
/// the opposite of the low byte's highest bit, so that the two are never equal.
fn position_bytes(at: usize) -> (u8, u8) {
    let [low, high, ..] = at.to_le_bytes();
    (low, high | (!low & 0x80))
}

/// The inverse of [`position_bytes`]; `None` for a byte that was no copy from the window.
fn position(low: u8, high: u8) -> Option<usize> {
    (low != high).then(|| usize::from(low) | usize::from(high & 0x7f) << 8)
}

/// The first 32 KiB, or all there is of the deflate stream, behind the checkpoint; `None` if `following` does not
/// go so far.
fn probe(raw: &RawWindow, inflate: &mut Inflate, window: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
    inflate.set_window(window);
    if let Some(header) = &raw.header {
        inflate.enter_block(header).map_err(corrupt)?;
    }
    let mut input = &raw.following[..];
    if raw.bit > 0 {
        let Some((first, rest)) = input.split_first() else { return Ok(None) };
        let bits = 8_u8.checked_sub(raw.bit).ok_or_else(|| corrupt("no such bit"))?;
        inflate.prime(bits, first >> raw.bit);
        input = rest;
    }
    let mut out = vec![0; MAX_WINDOW];
    let mut made = 0;
    while made < out.len() {
        let step = inflate.step(input, &mut out[made..], Stop::Never).map_err(corrupt)?;
        made += step.produced;
        input = &input[step.consumed..];
        if step.ended {
            break;
        }
        if step.consumed == 0 && step.produced == 0 {
            return Ok(None);
        }
    }
    out.truncate(made);
    Ok(Some(out))
}

fn corrupt(reason: &str) -> DecodeError {
    DecodeError::Corrupt { format: "window", offset: 0, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn every_position_is_told_from_literals_and_from_the_others() {
        for at in 0..MAX_WINDOW {
            let (low, high) = position_bytes(at);
            assert_eq!(position(low, high), Some(at));
        }
        assert!((0..=255).all(|byte| position(byte, byte).is_none()));
    }

    /// A raw deflate block that was compressed with `window` before it.
    fn deflated(window: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut deflate = flate2::Compress::new(flate2::Compression::new(6), false);
        deflate.set_dictionary(window).unwrap();
        let mut out = Vec::with_capacity(plain.len() + 1000);
        deflate.compress_vec(plain, &mut out, flate2::FlushCompress::Finish).unwrap();
        out
    }

    fn window() -> Vec<u8> {
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
        noise.take(MAX_WINDOW).collect()
    }

    #[test]
    fn keeps_what_is_copied_and_nothing_else() {
        let window = window();
        let plain = [&window[20_000..20_050], b"something new", &window[31_000..31_100]].concat();
        let raw = RawWindow {
            chunk: 0,
            window: window.clone(),
            bit: 0,
            header: None,
            following: deflated(&window, &plain),
        };
        let encoded = encode(&raw).unwrap();
        assert!(encoded.len() < 200, "{}", encoded.len());
        let mut expected = vec![0; MAX_WINDOW];
        expected[20_000..20_050].copy_from_slice(&window[20_000..20_050]);
        expected[31_000..31_100].copy_from_slice(&window[31_000..31_100]);
        assert!(decode(&encoded).unwrap().bytes == expected[20_000..]);
    }

    #[test]
    fn nothing_copied_is_one_byte() {
        let window = window();
        let following = deflated(&window, b"abc");
        let raw = RawWindow { chunk: 0, window, bit: 0, header: None, following };
        assert_eq!(encode(&raw).unwrap(), [NOTHING]);
        assert_eq!(decode(&[NOTHING]).unwrap(), Window { bytes: Vec::new(), header: None });
    }

    #[test]
    fn keeps_everything_when_it_cannot_know() {
        let window = window();
        let mut following = deflated(&window, &window[..500]);
        following.truncate(3);
        let raw = RawWindow { chunk: 0, window: window.clone(), bit: 0, header: None, following };
        assert!(decode(&encode(&raw).unwrap()).unwrap().bytes == window);
    }

    #[test]
    fn refuses_what_does_not_decode() {
        let raw = |window: Vec<u8>, bit, following: &[u8]| RawWindow {
            chunk: 0,
            window,
            bit,
            header: None,
            following: following.to_vec(),
        };
        assert!(encode(&raw(vec![0; MAX_WINDOW + 1], 0, b"")).is_err());
        assert!(encode(&raw(vec![0; 10], 0, b"\x07\xff\xff\xff")).is_err());
        assert!(encode(&raw(vec![0; 10], 9, b"\x01\x00")).is_err());
    }

    #[test]
    fn refuses_hostile_encodings() {
        let mut bomb = vec![ZSTD];
        bomb.extend(zstd::bulk::compress(&vec![0; MAX_WINDOW + 1], 3).unwrap());
        // The same without its size in the header.
        let mut blind = vec![ZSTD];
        let mut writer = zstd::Encoder::new(&mut blind, 3).unwrap();
        writer.write_all(&vec![0; 100 << 20]).unwrap();
        writer.finish().unwrap();
        let mut flipped = bomb.clone();
        flipped[3] ^= 1;
        let dynamic =
            |bits: u16, len: usize| [&[INSIDE][..], &bits.to_le_bytes(), &vec![0b101; len]].concat();
        let cases: [&[u8]; 22] = [
            &[],
            &[NOTHING, 0],
            &[RAW],
            &[&[RAW][..], &vec![0; MAX_WINDOW + 1]].concat(),
            &[ZSTD],
            &[3, 0],
            &[8],
            &[0x84, 3, 0, 0b010],
            &[INSIDE],
            &[INSIDE, 3],
            &[INSIDE, 3, 0],
            // A stored block's header, one with bits behind its end, a short one; a body where there is to be none.
            &[INSIDE, 3, 0, 0b001],
            &[INSIDE, 3, 0, 0b1010],
            &[INSIDE, 2, 0, 0b010],
            &[INSIDE, 3, 0, 0b010, 0],
            &[INSIDE | RAW, 3, 0, 0b010],
            &dynamic(80, 9),
            &dynamic(2288, 286),
            &dynamic(u16::MAX, 8192),
            &bomb,
            &blind,
            &flipped,
        ];
        for case in cases {
            assert!(decode(case).is_err(), "{:?}", &case[..case.len().min(10)]);
        }
    }
}
