//! From a layer's compressed bytes to its plain tar stream, whole ([`scan`]) or chunk by chunk ([`run`]),
//! and from the tar stream to entries ([`tar`]).
//!
//! Pure: bytes in, bytes out; no files, no network, no clocks, no async. The index builder drives [`scan`]
//! and [`tar`]; the read path drives [`run`].

mod block;
pub mod gzip;
mod inflate;
mod pass;
pub mod run;
pub mod scan;
pub mod tar;
pub mod window;
pub mod zstd;

#[cfg(test)]
mod tests;

use crate::oci::Digest;

/// How a layer blob is compressed. The discriminants are part of the clip index format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// A plain tar.
    None = 0,
    /// gzip, one or many members (RFC 1952).
    Gzip = 1,
    /// Zstandard, one or many frames (RFC 8878), skippable frames included.
    Zstd = 2,
}

/// What a decoder needs to start at a chunk. The discriminants are part of the clip index format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Resume {
    /// Nothing: the chunk starts at a gzip member, a zstd frame, or in a plain tar.
    Fresh = 0,
    /// gzip: inside a deflate stream, at a block boundary or between two symbols of a block: the 32 KiB window before
    /// it, and in the latter case the block's header.
    Window = 1,
    /// zstd: inside a long frame: only the decoder that has just produced the previous chunk can go on,
    /// so decoding starts at the nearest earlier chunk that is not `Continue`.
    Continue = 2,
}

/// Why a layer cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The compressed stream breaks its own format.
    #[error("corrupt {format} stream at byte {offset}: {reason}")]
    Corrupt {
        /// `gzip`, `zstd` or `tar`; `window` for a window of the index.
        format: &'static str,
        /// Compressed offset, as near as the decoder can tell: in the layer for a scan, in the run for a run.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The stream ends too early.
    #[error("truncated {format} stream after {offset} bytes")]
    Truncated {
        /// `gzip`, `zstd` or `tar`.
        format: &'static str,
        /// Compressed offset at which the input ended.
        offset: u64,
    },
    /// A single chunk would be longer than [`MAX_CHUNK`], or its compressed range longer than twice that.
    #[error("{format} stream has no place to resume within {MAX_CHUNK} bytes after plain offset {offset}")]
    ChunkTooLong {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Plain offset of the chunk.
        offset: u64,
    },
    /// More plain bytes than the caller allows.
    #[error("decompressed size exceeds the limit of {0} bytes")]
    TooLarge(u64),
    /// The bytes start like no compression known here.
    #[error("unknown compression (starts with {0})")]
    UnknownCompression(String),
    /// Reading the input failed.
    #[error("reading the layer")]
    Io(#[from] std::io::Error),
    /// The plain stream is not a tar, or one that readers of tar disagree about.
    #[error("bad tar at plain offset {offset}: {reason}")]
    Tar {
        /// Plain offset of the header.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

/// Default distance between checkpoints: a chunk holds about this many plain bytes.
pub const DEFAULT_CHUNK: u32 = 2 << 20;

/// Longest chunk that an index may hold: bounds what one read can make us allocate.
pub const MAX_CHUNK: u32 = 64 << 20;

/// BLAKE3 digest of a chunk's plain bytes, or of a file's content: see [`tar::FileData::digest`].
pub type Blake3 = [u8; 32];

/// Both digests that a layer must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerDigests {
    /// SHA-256 of the compressed blob.
    pub digest: Digest,
    /// SHA-256 of the plain tar stream.
    pub diff_id: Digest,
}
