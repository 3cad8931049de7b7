//! The clip index (`.clip`): an image's merged tree, its layers' chunks and windows, in one file that is mapped,
//! validated once and then used in place. The format is documented in `docs/INDEX.md`.
//!
//! (An "image index" in OCI's words is a manifest list; ours is always the *clip index*.)

mod format;
mod header;
pub mod layer;
mod map;
pub mod reader;
mod validate;
pub mod writer;

pub use layer::{ChunkRecord, LayerIndex, LayerInfo};
pub use reader::{ClipIndex, Content, ContentId, Ino, Inode, Kind};
pub use writer::{ImageMeta, WriteSummary, write};

/// Why an index was refused. Every variant means: not one byte of it is used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Reading the file failed.
    #[error("reading the clip index")]
    Io(#[from] std::io::Error),
    /// The file does not start like a clip index.
    #[error("not a clip index")]
    NotAnIndex,
    /// Made by a version of the format that this build does not read.
    #[error("clip index version {found} is not supported (this build reads {supported}); build it again")]
    Version {
        /// Version in the file.
        found: u32,
        /// Version this build reads.
        supported: u32,
    },
    /// The file is shorter or longer than its header says.
    #[error("clip index is truncated or padded: {found} bytes, header says {expected}")]
    Length {
        /// Length of the file.
        found: u64,
        /// Length in the header.
        expected: u64,
    },
    /// A checksum does not match: bits have flipped.
    #[error("clip index is damaged: checksum of its {0} section does not match")]
    Checksum(&'static str),
    /// Checksums match but the content makes no sense: a bug or a malicious index.
    #[error("invalid clip index: {0}")]
    Invalid(String),
}

#[cfg(test)]
mod tests;
