//! Windows: the 32 KiB before a gzip checkpoint, of which usually few bytes matter.
//!
//! A deflate block may copy from any of the 32 KiB before it (RFC 1951 section 3.2.1), but it does from few of
//! them: about 3 KiB in system libraries and Python trees. The others become zeros, which compress to almost nothing: 1.8 KiB
//! per checkpoint instead of 15, 0.18 % of a layer at 2 MiB chunks (measured).
//!
//! Encoded form: one byte that says what follows (0: nothing, no byte matters; 1: bytes; 2: a zstd frame of bytes); the
//! bytes are the window from the first one that matters to its end, where the checkpoint is. A list of runs with their
//! bytes, instead of a window with zeros in between, was measured to be as long.

use std::fmt;

use super::DecodeError;
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

/// Level 19 takes 35 times as long and gains 3 %.
const LEVEL: i32 = 7;

/// Encodes windows for the index, one after another: what that takes is kept, for allocating and clearing it takes a
/// quarter of the time.
pub struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
    inflate: Inflate,
    /// Probing windows: see [`position_bytes`].
    low: Vec<u8>,
    high: Vec<u8>,
    /// What they come out as.
    from_low: Vec<u8>,
    from_high: Vec<u8>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> Result<Self, DecodeError> {
        let (low, high) = (0..MAX_WINDOW).map(position_bytes).unzip();
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(LEVEL).map_err(|error| corrupt(&error.to_string()))?,
            inflate: Inflate::new().map_err(corrupt)?,
            low,
            high,
            from_low: vec![0; MAX_WINDOW],
            from_high: vec![0; MAX_WINDOW],
        })
    }

    /// Encodes a window: bytes that the 32 KiB behind the checkpoint never refer to are dropped. Deterministic: what
    /// was encoded before makes no difference.
    ///
    /// # Errors
    /// `following` does not decode, or there is more window than [`MAX_WINDOW`].
    pub fn encode(&mut self, raw: &RawWindow) -> Result<Vec<u8>, DecodeError> {
        if raw.window.len() > MAX_WINDOW {
            return Err(corrupt("window too long"));
        }
        let sparse = self.sparse(raw)?;
        if sparse.is_empty() {
            return Ok(vec![NOTHING]);
        }
        let frame = self.compressor.compress(&sparse).map_err(|error| corrupt(&error.to_string()))?;
        let (form, body) = if frame.len() < sparse.len() { (ZSTD, frame) } else { (RAW, sparse) };
        let mut encoded = Vec::with_capacity(1 + body.len());
        encoded.push(form);
        encoded.extend(body);
        Ok(encoded)
    }

    /// The window from the first byte that matters on, with zeros for the bytes that do not.
    ///
    /// To find out, inflate runs twice over the same bits, with windows that tell positions instead of content:
    /// what comes out differently the two times was copied from the window (through however many copies), and both
    /// bytes together say from where.
    fn sparse(&mut self, raw: &RawWindow) -> Result<Vec<u8>, DecodeError> {
        let len = raw.window.len();
        let low = probe(raw, &mut self.inflate, &self.low[..len], &mut self.from_low)?;
        let Some(low) = low else { return Ok(raw.window.clone()) };
        let high = probe(raw, &mut self.inflate, &self.high[..len], &mut self.from_high)?;
        let Some(high) = high else { return Ok(raw.window.clone()) };
        let mut sparse = vec![0; len];
        let mut first = len;
        for at in low.iter().zip(high).filter_map(|(low, high)| position(*low, *high)) {
            sparse[at] = raw.window[at];
            first = first.min(at);
        }
        sparse.drain(..first);
        Ok(sparse)
    }
}

/// The inverse: a window of at most [`MAX_WINDOW`] bytes that ends at the checkpoint and in which every byte that matters
/// stands at its place. Input is untrusted.
///
/// # Errors
/// Anything that [`Encoder::encode`] cannot have written.
pub fn decode(encoded: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let window = match encoded.split_first() {
        Some((&NOTHING, [])) => return Ok(Vec::new()),
        Some((&RAW, bytes)) if bytes.len() <= MAX_WINDOW => bytes.to_vec(),
        // Allocates no more than the limit and fails beyond it.
        Some((&ZSTD, frame)) => {
            zstd::bulk::decompress(frame, MAX_WINDOW).map_err(|error| corrupt(&error.to_string()))?
        }
        _ => return Err(corrupt("no such form")),
    };
    if window.is_empty() { Err(corrupt("empty where it should say so")) } else { Ok(window) }
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

/// The first 32 KiB, or all there is of the deflate stream, behind the checkpoint, in `out`; `None` if `following` does
/// not go so far.
fn probe<'a>(
    raw: &RawWindow,
    inflate: &mut Inflate,
    window: &[u8],
    out: &'a mut [u8],
) -> Result<Option<&'a [u8]>, DecodeError> {
    inflate.reset();
    inflate.set_window(window);
    let mut input = &raw.following[..];
    if raw.bit > 0 {
        let Some((first, rest)) = input.split_first() else { return Ok(None) };
        let bits = 8_u8.checked_sub(raw.bit).ok_or_else(|| corrupt("no such bit"))?;
        inflate.prime(bits, first >> raw.bit);
        input = rest;
    }
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
    Ok(Some(&out[..made]))
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

    fn encode(raw: &RawWindow) -> Result<Vec<u8>, DecodeError> {
        Encoder::new().unwrap().encode(raw)
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
        let raw =
            RawWindow { chunk: 0, window: window.clone(), bit: 0, following: deflated(&window, &plain) };
        let encoded = encode(&raw).unwrap();
        assert!(encoded.len() < 200, "{}", encoded.len());
        let mut expected = vec![0; MAX_WINDOW];
        expected[20_000..20_050].copy_from_slice(&window[20_000..20_050]);
        expected[31_000..31_100].copy_from_slice(&window[31_000..31_100]);
        assert!(decode(&encoded).unwrap() == expected[20_000..]);
    }

    #[test]
    fn what_was_encoded_before_makes_no_difference() {
        let window = window();
        let raws = [0, 7, 20, 300, 31_000].map(|from| {
            let plain = [&window[from..from + 1000], b"new", &window[from / 2..from / 2 + 500]].concat();
            let following = deflated(&window, &plain);
            RawWindow { chunk: 0, window: window[from..].to_vec(), bit: 0, following }
        });
        let mut encoder = Encoder::new().unwrap();
        // The shorter windows do not hold what is copied from the whole one: some of these are errors.
        for raw in raws.iter().chain(&raws) {
            assert_eq!(encoder.encode(raw).ok(), encode(raw).ok());
        }
    }

    #[test]
    fn nothing_copied_is_one_byte() {
        let window = window();
        let following = deflated(&window, b"abc");
        let raw = RawWindow { chunk: 0, window, bit: 0, following };
        assert_eq!(encode(&raw).unwrap(), [NOTHING]);
        assert!(decode(&[NOTHING]).unwrap().is_empty());
    }

    #[test]
    fn keeps_everything_when_it_cannot_know() {
        let window = window();
        let mut following = deflated(&window, &window[..500]);
        following.truncate(3);
        let raw = RawWindow { chunk: 0, window: window.clone(), bit: 0, following };
        assert!(decode(&encode(&raw).unwrap()).unwrap() == window);
    }

    #[test]
    fn refuses_what_does_not_decode() {
        let raw = |window: Vec<u8>, bit, following: &[u8]| RawWindow {
            chunk: 0,
            window,
            bit,
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
        let cases: [&[u8]; 9] = [
            &[],
            &[NOTHING, 0],
            &[RAW],
            &[&[RAW][..], &vec![0; MAX_WINDOW + 1]].concat(),
            &[ZSTD],
            &[3, 0],
            &bomb,
            &blind,
            &flipped,
        ];
        for case in cases {
            assert!(decode(case).is_err(), "{:?}", &case[..case.len().min(10)]);
        }
    }
}
