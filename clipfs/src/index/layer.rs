//! A layer's part of the index: identity and chunks.

use crate::decode::{Blake3, Compression, Resume};
use crate::oci::Digest;

/// Identity and sizes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInfo {
    /// Digest of the compressed blob: what is asked of the registry.
    pub digest: Digest,
    /// Digest of the plain tar stream.
    pub diff_id: Digest,
    /// How the blob is compressed.
    pub compression: Compression,
    /// Compressed size in bytes.
    pub size: u64,
    /// Plain size in bytes.
    pub plain_size: u64,
}

/// A chunk: the unit of fetch, decoding and verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Offset in the plain stream; chunks follow each other without gaps.
    pub plain_offset: u64,
    /// Plain length, 1 ..= [`crate::decode::MAX_CHUNK`].
    pub plain_len: u32,
    /// Offset of the first compressed byte to fetch.
    pub comp_offset: u64,
    /// Compressed bytes to fetch (its first and last byte may be shared with the neighbours). For
    /// `Resume::Continue` they alone do not suffice: decoding starts at an earlier chunk.
    pub comp_len: u32,
    /// gzip: low bits of the first byte to skip.
    pub bit: u8,
    /// What the decoder needs to start here.
    pub resume: Resume,
    /// BLAKE3 of the plain bytes.
    pub digest: Blake3,
    /// `Resume::Window`: where the encoded window lies within the layer's windows, else 0.
    pub window_offset: u64,
    /// Its encoded length, else 0.
    pub window_len: u32,
}

/// A layer, ready to be written into an index.
#[derive(Debug)]
pub struct LayerIndex {
    /// Identity and sizes.
    pub info: LayerInfo,
    /// Chunks in stream order.
    pub chunks: Vec<ChunkRecord>,
    /// Encoded windows, one after the other, as `window_offset` addresses them. A file, not memory: the windows
    /// of a 100 GB image are larger than what a builder may hold.
    pub windows: std::fs::File,
    /// Length of `windows` in bytes.
    pub windows_len: u64,
}
