//! The header: magic, version, length, and a table that says where each section is and what its checksum is.

use super::format::{SECTIONS, array_at, put, u32_at, u64_at};
use crate::decode::Blake3;

/// First bytes of every index. The high bit and the line ends show damage by transfers that take it for text.
pub(super) const MAGIC: [u8; 8] = *b"\x89CLIP\r\n\x1a";

/// Version of the format that this build writes and reads.
pub(super) const VERSION: u32 = 1;

/// Length of the fixed head before the section table.
const HEAD: usize = 32;
/// Length of a section table entry.
const TABLE_ENTRY: usize = 56;
/// Where the header's own checksum stands.
pub(super) const HEADER_SUM: usize = HEAD + SECTIONS * TABLE_ENTRY;
/// Length of the header: the first section starts here.
pub(super) const HEADER_LEN: usize = HEADER_SUM + 32;

/// A section table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TableEntry {
    pub(super) kind: u32,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) sum: Blake3,
}

/// The header, as far as it is not constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) sections: u32,
    pub(super) length: u64,
    pub(super) flags: u64,
    pub(super) table: [TableEntry; SECTIONS],
}

impl Header {
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut table = [TableEntry::default(); SECTIONS];
        for (n, entry) in table.iter_mut().enumerate() {
            let at = HEAD + n * TABLE_ENTRY;
            *entry = TableEntry {
                kind: u32_at(bytes, at),
                offset: u64_at(bytes, at + 8),
                len: u64_at(bytes, at + 16),
                sum: array_at(bytes, at + 24),
            };
        }
        Self {
            version: u32_at(bytes, 8),
            sections: u32_at(bytes, 12),
            length: u64_at(bytes, 16),
            flags: u64_at(bytes, 24),
            table,
        }
    }

    /// The header with its checksum.
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        put(&mut out, 0, MAGIC);
        put(&mut out, 8, self.version.to_le_bytes());
        put(&mut out, 12, self.sections.to_le_bytes());
        put(&mut out, 16, self.length.to_le_bytes());
        put(&mut out, 24, self.flags.to_le_bytes());
        for (n, entry) in self.table.iter().enumerate() {
            let at = HEAD + n * TABLE_ENTRY;
            put(&mut out, at, entry.kind.to_le_bytes());
            put(&mut out, at + 8, entry.offset.to_le_bytes());
            put(&mut out, at + 16, entry.len.to_le_bytes());
            put(&mut out, at + 24, entry.sum);
        }
        let sum = *blake3::hash(&out[..HEADER_SUM]).as_bytes();
        put(&mut out, HEADER_SUM, sum);
        out
    }
}
