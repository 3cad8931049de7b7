//! A safe face for the raw inflater of `libz-rs-sys` (zlib's C interface, written in Rust).
//!
//! The safe Rust interfaces to zlib hide what random access into a deflate stream needs: stopping at block
//! boundaries (`Z_BLOCK`) and behind block headers (`Z_TREES`), telling whether a symbol has begun (`inflateMark`), starting
//! between two bits (`inflatePrime`) and starting with a given window (`inflateSetDictionary`). Everything here is raw deflate (RFC 1951): gzip's headers and trailers
//! are [`super::gzip`]'s. This is the one place of `decode` that needs `unsafe`.
#![expect(unsafe_code, reason = "zlib's interface is C's: raw pointers into buffers that we hold")]

use std::ffi::{CStr, c_int};
use std::fmt;

use libz_rs_sys as z;

use super::block::BlockHeader;
use crate::num::to_u64;

/// The most that zlib takes or gives in one call: its counters are 32 bits wide.
const MAX_STEP: usize = 1 << 30;

/// Where a call of [`Inflate::step`] may return early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nowhere: go on until input or output is used up.
    Never,
    /// At the end of each deflate block, before the next one's header.
    Block,
    /// At the end of each block, and behind each header. Not for stored blocks: zlib-rs 0.6 reads their header twice.
    Header,
}

/// What a call has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Input bytes taken. Some bits of the last ones may still be unused: see `boundary`.
    pub(super) consumed: usize,
    /// Output bytes written.
    pub(super) produced: usize,
    /// The deflate stream has ended; all of its bytes, and no more, have been taken.
    pub(super) ended: bool,
    /// Stopped between two blocks: how many bits of the bytes taken so far (over all calls) are unused. `None`
    /// elsewhere, and behind the stream's last block.
    pub(super) boundary: Option<u32>,
}

/// A raw inflater.
pub(super) struct Inflate {
    /// Boxed so that its address stays: zlib's C interface never promised that a stream may be moved.
    stream: Box<z::z_stream>,
}

// SAFETY: the stream owns its state on the heap and shares it with nobody; its pointers into the caller's buffers
// are only followed during `step`, which sets them anew. Nothing in zlib is bound to a thread.
unsafe impl Send for Inflate {}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflate").finish_non_exhaustive()
    }
}

impl Inflate {
    /// Window bits 15 (32 KiB, the most there is), negative: raw deflate without a wrapper.
    const RAW: c_int = -15;

    /// An inflater at the start of a raw deflate stream.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn new() -> Result<Self, &'static str> {
        let mut stream = Box::<z::z_stream>::default();
        let size = c_int::try_from(size_of::<z::z_stream>()).map_err(|_| "zlib stream too large")?;
        // SAFETY: the stream is initialised (default allocators, no buffers), version and size are those of the
        // library that we were compiled against.
        let code = unsafe { z::inflateInit2_(&mut *stream, Self::RAW, z::zlibVersion(), size) };
        if code == z::Z_OK { Ok(Self { stream }) } else { Err("out of memory") }
    }

    /// Forgets everything: the start of another raw deflate stream.
    pub(super) fn reset(&mut self) {
        // SAFETY: the stream was initialised by `new` and is ended only in `drop`.
        let code = unsafe { z::inflateReset2(&mut *self.stream, Self::RAW) };
        debug_assert_eq!(code, z::Z_OK, "a stream that `new` made can be reset");
    }

    /// Puts the low `bits` bits of `value`, at most 8, in front of the input: directly after `new`, `reset` or `enter_block`, or where
    /// a step without input has stopped for want of it.
    pub(super) fn prime(&mut self, bits: u8, value: u8) {
        debug_assert!(bits <= 8, "a byte has no more");
        // SAFETY: the stream was initialised by `new` and is ended only in `drop`.
        let code = unsafe { z::inflatePrime(&mut *self.stream, c_int::from(bits), c_int::from(value)) };
        debug_assert_eq!(
            code,
            z::Z_OK,
            "there is room for eight bits: no symbol part waits for more than fifteen"
        );
    }

    /// Makes the stream go on as if it had produced `window` before.
    pub(super) fn set_window(&mut self, window: &[u8]) {
        let window = &window[window.len().saturating_sub(super::window::MAX_WINDOW)..];
        let len = u32::try_from(window.len()).unwrap_or(0);
        // SAFETY: the stream was initialised by `new` and is ended only in `drop`; `window` is readable for `len`
        // bytes and is copied.
        let code = unsafe { z::inflateSetDictionary(&mut *self.stream, window.as_ptr(), len) };
        debug_assert_eq!(code, z::Z_OK, "a raw stream takes any dictionary");
    }

    /// The last bytes produced since `new` or `reset`, at most 32 KiB.
    pub(super) fn window(&self) -> Vec<u8> {
        let mut window = vec![0; super::window::MAX_WINDOW];
        let mut len = 0;
        // SAFETY: the stream was initialised by `new` and is ended only in `drop`; `window` is writable for 32 KiB, the
        // most that zlib keeps of a raw stream (window bits 15), and does not overlap with it.
        let code = unsafe { z::inflateGetDictionary(&*self.stream, window.as_mut_ptr(), &mut len) };
        debug_assert_eq!(code, z::Z_OK, "a stream that `new` made has a window");
        window.truncate(crate::num::idx(len));
        window
    }

    /// Makes the stream go on as if it had just read `header`: with the block's first symbol, or with any later one.
    /// Only directly after `new`, `reset` or `set_window`; `prime` may follow.
    ///
    /// # Errors
    /// It is no header, or not only that.
    pub(super) fn enter_block(&mut self, header: &BlockHeader) -> Result<(), &'static str> {
        let end = self.read_header(header.bytes())?;
        if end != Some(header.bits()) {
            return Err("not exactly one block header");
        }
        // Negative: the unused bits of the last byte are dropped.
        // SAFETY: the stream was initialised by `new` and is ended only in `drop`.
        let code = unsafe { z::inflatePrime(&mut *self.stream, -1, 0) };
        debug_assert_eq!(code, z::Z_OK, "bits can always be dropped");
        Ok(())
    }

    /// Reads the header of a block that is not stored, with which `input` starts; returns how many bits of `input` it took.
    /// `None`: it is not complete. Bits that were primed before count as negative ones: what is returned is where it ends.
    ///
    /// # Errors
    /// It is no header.
    pub(super) fn read_header(&mut self, input: &[u8]) -> Result<Option<u64>, &'static str> {
        let step = self.step(input, &mut [], Stop::Header)?;
        let state = self.state();
        // zlib.h: plus 256 right behind a header.
        if step.ended || state & 256 == 0 {
            return Ok(None);
        }
        Ok((to_u64(step.consumed) * 8).checked_sub(u64::from(state & 63)))
    }

    /// How many bits of the input that was taken (over all calls) are unused, if the decoder stands between two symbols of a block.
    /// Only inside a block that is not stored, after a step without input that left room in the output.
    pub(super) fn between_symbols(&self) -> Option<u32> {
        // SAFETY: the stream was initialised by `new` and is ended only in `drop`; nothing is read through its pointers.
        let mark = unsafe { z::inflateMark(&*self.stream) };
        // zlib.h: above 16 bits, how far back the symbol starts that is being processed; below, how many of its bytes have been
        // produced. How far cannot be relied on: zlib-rs 0.6 does not count the distance's code. But bits are taken symbol
        // part by symbol part, each when there are enough: 0 says that there were too few for the first.
        (mark == 0).then_some(self.state() & 63)
    }

    /// zlib.h: the number of unused bits of what was taken, plus 64 in the last block, plus 128 right behind a block, plus 256
    /// right behind a header.
    fn state(&self) -> u32 {
        u32::try_from(self.stream.data_type).unwrap_or(0)
    }

    /// Inflates from `input` to `output`. Neither consuming nor producing anything, without an end or a boundary,
    /// means: more input is needed (or `output` is empty).
    ///
    /// # Errors
    /// What is wrong with the stream. The inflater is then good for nothing but [`Inflate::reset`].
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8], stop: Stop) -> Result<Step, &'static str> {
        let input = &input[..input.len().min(MAX_STEP)];
        let room = output.len().min(MAX_STEP);
        let output = &mut output[..room];
        let stream = &mut *self.stream;
        // zlib takes a mutable pointer and never writes through it.
        stream.next_in = input.as_ptr().cast_mut();
        stream.avail_in = u32::try_from(input.len()).unwrap_or(0);
        stream.next_out = output.as_mut_ptr();
        stream.avail_out = u32::try_from(output.len()).unwrap_or(0);
        let flush = match stop {
            Stop::Never => z::Z_NO_FLUSH,
            Stop::Block => z::Z_BLOCK,
            Stop::Header => z::Z_TREES,
        };
        // SAFETY: the stream was initialised by `new` and is ended only in `drop`; `next_in` and `next_out` are
        // valid for `avail_in` and `avail_out` bytes until this call returns, and do not overlap.
        let code = unsafe { z::inflate(stream, flush) };
        let consumed = input.len() - crate::num::idx(stream.avail_in);
        let produced = output.len() - crate::num::idx(stream.avail_out);
        match code {
            z::Z_OK | z::Z_BUF_ERROR => {
                let state = self.state();
                let boundary = (state & 0b1100_0000 == 128).then_some(state & 63);
                Ok(Step { consumed, produced, ended: false, boundary })
            }
            z::Z_STREAM_END => Ok(Step { consumed, produced, ended: true, boundary: None }),
            z::Z_MEM_ERROR => Err("out of memory"),
            _ if stream.msg.is_null() => Err("invalid deflate data"),
            // SAFETY: zlib's messages are static strings that end in NUL.
            _ => Err(unsafe { CStr::from_ptr(stream.msg) }.to_str().unwrap_or("invalid deflate data")),
        }
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: the stream was initialised by `new`, and nobody can use it after this.
        unsafe { z::inflateEnd(&mut *self.stream) };
    }
}

/// Continues the CRC-32 of RFC 1952 section 8; it starts from 0.
pub(super) fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(MAX_STEP).fold(crc, |crc, part| {
        let len = u32::try_from(part.len()).unwrap_or(0);
        // SAFETY: `part` is readable for `len` bytes.
        let next = unsafe { z::crc32(crc.into(), part.as_ptr(), len) };
        u32::try_from(next & 0xffff_ffff).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_one_of_the_rfc() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(crc32(0, b""), 0);
    }

    /// Two stored blocks (RFC 1951 section 3.2.4): `ab`, and `c` as the last.
    const STORED: &[u8] = b"\x00\x02\x00\xfd\xffab\x01\x01\x00\xfe\xffc";

    #[test]
    fn stops_between_blocks_and_at_the_end() {
        let mut inflate = Inflate::new().unwrap();
        let mut out = [0; 16];
        let step = inflate.step(STORED, &mut out, Stop::Block).unwrap();
        assert_eq!(step, Step { consumed: 7, produced: 2, ended: false, boundary: Some(0) });
        let step = inflate.step(&STORED[7..], &mut out[2..], Stop::Block).unwrap();
        assert_eq!((step.produced, step.boundary), (1, None));
        let end = inflate.step(&STORED[7 + step.consumed..], &mut out[3..], Stop::Block).unwrap();
        assert!(end.ended);
        assert_eq!(&out[..3], b"abc");
    }

    #[test]
    fn says_what_is_wrong_and_can_be_reset() {
        let mut inflate = Inflate::new().unwrap();
        let mut out = [0; 16];
        let error = inflate.step(b"\x00\x02\x00\x00\x00ab", &mut out, Stop::Never).unwrap_err();
        assert_eq!(error, "invalid stored block lengths");
        inflate.reset();
        assert!(inflate.step(STORED, &mut out, Stop::Never).unwrap().ended);
    }
}
