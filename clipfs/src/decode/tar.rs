//! The tar stream of a layer, as Go's `archive/tar` reads it (what containerd and Docker use).
//!
//! Formats v7, ustar, star, GNU and pax, sparse files in all spellings. What Go refuses is refused here. Beyond
//! that, with containerd's way of unpacking in view:
//!
//! * Refused because containerd or the kernel would: unknown types (`V`, `M`, `N`, `D`, …), ids and device numbers that
//!   Linux does not have, names and targets over 4095 bytes or with a NUL, links without a target, extended
//!   attributes without a name or over the kernel's limits.
//! * Left out because containerd does: what global headers say; members that are the root by name and no directory;
//!   extended attributes outside `user.`, `security.` and `system.`, and `user.` ones of what is neither file nor directory.
//! * Taken where containerd is stricter: types `7` (contiguous) and `S` (GNU sparse) are regular files, times before 1970
//!   are what they are.
//!
//! Not here: what names mean (`..`, whiteouts, link targets); that is [`crate::image`]'s.

use super::{Blake3, DecodeError};

mod fault;
mod header;
mod member;
mod number;
mod pax;
mod scanner;
mod sparse;
#[cfg(test)]
mod tests;

pub use scanner::TarScanner;

/// Seconds and nanoseconds since the epoch; seconds may be negative, nanoseconds are 0–999,999,999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// Nanoseconds on top.
    pub nanos: u32,
}

/// One member of the archive, after extended headers were applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name as the archive has it: bytes, not normalised, no NUL.
    pub path: Vec<u8>,
    /// Type and type-specific data.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes (`SCHILY.xattr.*`) that a reader would set, sorted by name, names unique.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file.
    File(FileData),
    /// Directory.
    Dir,
    /// Symbolic link with its target as written.
    Symlink(Vec<u8>),
    /// Hard link to the member of that name.
    Hardlink(Vec<u8>),
    /// Character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// FIFO.
    Fifo,
}

/// A run of a file's bytes in the layer's plain stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file.
    pub file_offset: u64,
    /// Offset in the plain stream.
    pub stream_offset: u64,
    /// Length in bytes, never 0.
    pub len: u64,
}

/// A regular file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileData {
    /// Logical size in bytes, holes included.
    pub size: u64,
    /// Where the data is, sorted by file offset, not overlapping, adjacent runs merged; what they do not
    /// cover is a hole of zeros. Empty for an empty file.
    pub extents: Vec<Extent>,
    /// Identity of the content: see [`ContentHasher`].
    pub digest: Blake3,
}

/// Computes a file's content digest: plain BLAKE3 of its bytes when it has no holes; for sparse files
/// BLAKE3 in key-derivation mode (context [`SPARSE_CONTEXT`]) over size (u64 LE), number of extents (u64 LE), each
/// extent's file offset and length (u64 LE each), and then the data bytes in order: hashing a hole of a terabyte
/// would take minutes.
#[derive(Debug)]
pub struct ContentHasher(blake3::Hasher);

/// Context string of sparse content digests.
pub const SPARSE_CONTEXT: &str = "clipfs 2026-11 sparse file content v1";

impl ContentHasher {
    /// `extents` = (file offset, length) of each run of data, in order.
    #[must_use]
    pub fn new(size: u64, extents: impl ExactSizeIterator<Item = (u64, u64)> + Clone) -> Self {
        let mut at = 0;
        let dense = extents.clone().all(|(offset, len)| {
            let follows = offset == at;
            at = offset.saturating_add(len);
            follows
        }) && at == size;
        if dense {
            return Self(blake3::Hasher::new());
        }
        let mut hasher = blake3::Hasher::new_derive_key(SPARSE_CONTEXT);
        hasher.update(&size.to_le_bytes());
        hasher.update(&crate::num::to_u64(extents.len()).to_le_bytes());
        for (offset, len) in extents {
            hasher.update(&offset.to_le_bytes());
            hasher.update(&len.to_le_bytes());
        }
        Self(hasher)
    }

    /// The next data bytes, holes left out.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest.
    #[must_use]
    pub fn finish(&self) -> Blake3 {
        *self.0.finalize().as_bytes()
    }
}

/// Limits: a tar is untrusted input.
#[derive(Debug, Clone, Copy)]
pub struct TarLimits {
    /// Most entries.
    pub max_entries: u64,
    /// Longest PAX header, GNU long name or sparse map, in bytes (Go: 1 MiB).
    pub max_header: u64,
}

impl Default for TarLimits {
    fn default() -> Self {
        Self { max_entries: 20_000_000, max_header: 1 << 20 }
    }
}

/// Receives each entry when its data has passed.
pub type OnEntry<'a> = dyn FnMut(Entry) -> Result<(), DecodeError> + 'a;

/// Scans a whole archive at once.
///
/// # Errors
/// As [`TarScanner::push`] and [`TarScanner::finish`].
pub fn scan_all(bytes: &[u8], limits: TarLimits) -> Result<Vec<Entry>, DecodeError> {
    let mut entries = Vec::new();
    let mut scanner = TarScanner::new(limits);
    scanner.push(bytes, &mut |entry| {
        entries.push(entry);
        Ok(())
    })?;
    scanner.finish()?;
    Ok(entries)
}
