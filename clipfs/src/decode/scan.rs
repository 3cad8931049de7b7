//! One streaming pass over a compressed layer: plain bytes, and the places where decoding can resume.
//!
//! Called by the index builder on a thread of its own; hashing and tar scanning happen behind the
//! [`ScanSink`], usually on another thread.

use std::io::Read;

use super::block::BlockHeader;
use super::inflate::crc32;
use super::pass::Pass;
use super::{Compression, DecodeError, Resume, gzip, zstd};
use crate::num::to_usize;

/// A place in the compressed stream where a decoder can start: the beginning of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Offset in the plain stream.
    pub plain_offset: u64,
    /// Offset in the compressed stream of the first byte that the decoder must be given. With `bit` > 0
    /// that byte's low `bit` bits belong to the chunk before.
    pub comp_offset: u64,
    /// gzip: how many low bits of the first byte to skip, 0–7.
    pub bit: u8,
    /// What the decoder needs besides the bytes.
    pub resume: Resume,
}

/// A gzip checkpoint's window, with what is needed to tell which of its bytes matter:
/// see [`super::window::encode`].
#[derive(Debug, Clone)]
pub struct RawWindow {
    /// Which checkpoint it belongs to: the n-th that was handed to [`ScanSink::checkpoint`], from 0.
    pub chunk: u32,
    /// The plain bytes before the checkpoint, at most 32 KiB.
    pub window: Vec<u8>,
    /// As in [`Checkpoint::bit`].
    pub bit: u8,
    /// Of the block that the checkpoint lies in, if it lies in one and not between two.
    pub header: Option<BlockHeader>,
    /// Compressed bytes from the checkpoint's `comp_offset` on: enough to decode the first 32 KiB after it
    /// (fewer only where the deflate stream ends).
    pub following: Vec<u8>,
}

/// Least length of [`ScanSink::room`]: inflating into less is slow, and each time up to 32 KiB of history are copied.
pub const MIN_ROOM: usize = 64 << 10;

/// Where a gzip member's plain bytes start or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberMark {
    /// The next plain byte is the first one.
    Start,
    /// The last plain byte was the last one.
    End {
        /// What the member says is its CRC-32.
        crc32: u32,
        /// Compressed offset of the trailer.
        offset: u64,
    },
}

/// Compares the plain bytes of gzip members with their checksums.
#[derive(Debug, Default)]
pub struct Checksums {
    /// Of the present member, if there is one.
    crc: Option<u32>,
}

impl Checksums {
    /// The next plain bytes. Nothing is computed outside gzip members.
    pub fn update(&mut self, bytes: &[u8]) {
        self.crc = self.crc.map(|crc| crc32(crc, bytes));
    }

    /// A member starts or ends.
    ///
    /// # Errors
    /// Its bytes do not have the checksum that it says.
    pub fn mark(&mut self, mark: MemberMark) -> Result<(), DecodeError> {
        match mark {
            MemberMark::Start => self.crc = Some(0),
            MemberMark::End { crc32, offset } => {
                if self.crc.take() != Some(crc32) {
                    let reason = "checksum mismatch".into();
                    return Err(DecodeError::Corrupt { format: "gzip", offset, reason });
                }
            }
        }
        Ok(())
    }
}

/// Receives what [`scan`] finds, in stream order.
pub trait ScanSink {
    /// The next compressed bytes, every one of them exactly once (trailing garbage included).
    fn compressed(&mut self, bytes: &[u8]) -> Result<(), DecodeError>;
    /// A chunk starts here: called before the plain bytes that it describes, of which there is at least one; the first
    /// call is for plain offset 0. Offsets grow, so a chunk ends where the next one starts, in the plain stream as
    /// in the compressed one (there including the byte that a next chunk's `bit` shares).
    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), DecodeError>;
    /// The next plain bytes, never none.
    fn plain(&mut self, bytes: &[u8]) -> Result<(), DecodeError>;
    /// Where a decoder can write the next plain bytes itself instead of handing them to [`ScanSink::plain`], which saves a
    /// copy: at least [`MIN_ROOM`] bytes. Asking again without telling [`ScanSink::filled`] gives the same room.
    fn room(&mut self) -> Result<&mut [u8], DecodeError>;
    /// The first `n` bytes of the room, at least one, are the next plain bytes: as if they had been handed to `plain`.
    fn filled(&mut self, n: usize) -> Result<(), DecodeError>;
    /// A gzip member starts or ends behind the plain bytes so far. Its checksum is left to the sink, which has a thread
    /// to compute it on: see [`Checksums`].
    fn member(&mut self, mark: MemberMark) -> Result<(), DecodeError>;
    /// The window of an earlier `Resume::Window` checkpoint, in checkpoint order.
    fn window(&mut self, window: RawWindow) -> Result<(), DecodeError>;
}

/// Totals of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanSummary {
    /// How the layer was compressed, found from its first bytes.
    pub compression: Compression,
    /// Compressed bytes read.
    pub compressed: u64,
    /// Plain bytes produced.
    pub plain: u64,
    /// Compressed offset just behind the last byte that any chunk needs: the end of the last one's range.
    pub comp_end: u64,
}

/// Limits of a pass: an image is untrusted input.
#[derive(Debug, Clone, Copy)]
pub struct ScanLimits {
    /// Distance between checkpoints in plain bytes: a chunk ends at the first possible place after it.
    pub chunk: u32,
    /// Most plain bytes that a layer may have.
    pub max_plain: u64,
}

/// Decodes `input` to its end, telling `sink` everything. The compression is told from the magic bytes,
/// never from a media type.
///
/// An empty plain stream has no chunks: `sink` then gets no checkpoint. Behind the last gzip member zeros are
/// accepted (tape and block padding, as gzip(1) does), anything else is refused (as Go's `compress/gzip`, and so
/// containerd, does).
///
/// # Errors
/// Corrupt, truncated or unknown input, a limit, and whatever `input` or `sink` fail with.
pub fn scan(
    input: &mut dyn Read,
    limits: ScanLimits,
    sink: &mut dyn ScanSink,
) -> Result<ScanSummary, DecodeError> {
    let mut pass = Pass::new(input, limits, sink);
    pass.fill(SNIFF)?;
    match sniff(pass.available())? {
        Compression::None => scan_plain(&mut pass),
        Compression::Gzip => gzip::scan(&mut pass),
        Compression::Zstd => zstd::scan(&mut pass),
    }
}

/// How many bytes [`sniff`] looks at: a tar header.
const SNIFF: usize = 512;

/// Magics of compressions that no runtime accepts in a layer; knowing their names makes a better error.
const UNSUPPORTED: &[(&[u8], &str)] = &[
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP", "lzip"),
    (b"\x5d\0\0", "lzma"),
    (b"PK\x03\x04", "zip"),
];

/// Tells the compression from a stream's first bytes, as containerd does; what is not compressed must be a tar.
fn sniff(head: &[u8]) -> Result<Compression, DecodeError> {
    if head.starts_with(&gzip::MAGIC) {
        return Ok(Compression::Gzip);
    }
    if zstd::is_magic(head) {
        return Ok(Compression::Zstd);
    }
    if head.is_empty() || is_tar(head) {
        return Ok(Compression::None);
    }
    let mut text = hex::encode(&head[..head.len().min(8)]);
    if let Some((_, name)) = UNSUPPORTED.iter().find(|(magic, _)| head.starts_with(magic)) {
        text.push_str(", ");
        text.push_str(name);
    }
    Err(DecodeError::UnknownCompression(text))
}

/// Whether a stream starts with a tar header: POSIX's or GNU's magic at byte 257, or a valid checksum (v7), or a block of
/// zeros (an empty archive).
fn is_tar(head: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(header) = head.get(..SNIFF) else { return false };
    if header[257..].starts_with(b"ustar") || header.iter().all(|byte| *byte == 0) {
        return true;
    }
    let field = header[CHECKSUM].trim_ascii().strip_suffix(b"\0").unwrap_or(&header[CHECKSUM]).trim_ascii();
    let stored = std::str::from_utf8(field.split(|byte| *byte == 0).next().unwrap_or_default())
        .ok()
        .and_then(|digits| u32::from_str_radix(digits.trim(), 8).ok());
    // The checksum counts its own field as spaces.
    let sum = header
        .iter()
        .enumerate()
        .map(|(at, byte)| if CHECKSUM.contains(&at) { u32::from(b' ') } else { u32::from(*byte) });
    stored == Some(sum.sum())
}

/// A plain tar: chunks of equal length, any of which can be read by itself.
fn scan_plain(pass: &mut Pass<'_>) -> Result<ScanSummary, DecodeError> {
    while pass.fill(1)? {
        if pass.since() >= pass.chunk() {
            pass.mark(pass.offset(), 0, Resume::Fresh);
        }
        let n = pass.available().len().min(to_usize(pass.chunk() - pass.since()));
        pass.plain_input(n)?;
    }
    pass.summary(Compression::None, pass.offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut block = vec![0; SNIFF];
        block[..5].copy_from_slice(b"hello");
        fill(&mut block);
        block
    }

    #[test]
    fn tells_compressions_apart() {
        let v7 = |sum: &[u8]| header(|block| block[148..148 + sum.len()].copy_from_slice(sum));
        // "hello" is 532, the field of eight spaces 256: 788 = 0o1424.
        let known = [
            (b"\x1f\x8b\x08".to_vec(), Compression::Gzip),
            (b"\x28\xb5\x2f\xfd".to_vec(), Compression::Zstd),
            (b"\x5e\x2a\x4d\x18".to_vec(), Compression::Zstd),
            (vec![], Compression::None),
            (vec![0; 1024], Compression::None),
            (header(|block| block[257..262].copy_from_slice(b"ustar")), Compression::None),
            (v7(b"001424\0 "), Compression::None),
            (v7(b"  1424 \0"), Compression::None),
        ];
        for (head, expected) in known {
            assert_eq!(sniff(&head).unwrap(), expected, "{:x?}", &head[..head.len().min(8)]);
        }
        let unknown: [(&[u8], &str); 5] = [
            (b"BZh91AY&SY", "425a683931415926, bzip2"),
            (b"\xfd7zXZ\0\0", "fd377a585a0000, xz"),
            (b"<html>", "3c68746d6c3e"),
            (b"\0", "00"),
            (&v7(b"001425\0 "), "68656c6c6f000000"),
        ];
        for (head, text) in unknown {
            match sniff(head) {
                Err(DecodeError::UnknownCompression(found)) => assert_eq!(found, text),
                other => panic!("{other:?}"),
            }
        }
    }
}
