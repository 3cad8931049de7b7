//! From checkpoints and plain bytes to chunk records.

use crate::decode::scan::Checkpoint;
use crate::decode::{DecodeError, MAX_CHUNK};
use crate::index::ChunkRecord;
use crate::num::{idx, to_u64};

/// Gathers a layer's chunks while its plain stream passes.
#[derive(Debug, Default)]
pub(super) struct ChunkTable {
    records: Vec<ChunkRecord>,
    hasher: blake3::Hasher,
    open_len: u64,
}

impl ChunkTable {
    /// A chunk starts here; the one before ends.
    ///
    /// # Errors
    /// The one before is longer than an index may hold.
    pub(super) fn start(&mut self, at: &Checkpoint) -> Result<(), DecodeError> {
        // The boundary may lie inside a byte: then both chunks need it.
        self.close(at.comp_offset + u64::from(at.bit > 0))?;
        self.records.push(ChunkRecord {
            plain_offset: at.plain_offset,
            plain_len: 0,
            comp_offset: at.comp_offset,
            comp_len: 0,
            bit: at.bit,
            resume: at.resume,
            digest: [0; 32],
            window_offset: 0,
            window_len: 0,
        });
        Ok(())
    }

    /// The next plain bytes of the open chunk.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.open_len += to_u64(bytes.len());
    }

    /// Where the encoded window of the n-th checkpoint has been put. Windows of unknown checkpoints are ignored.
    pub(super) fn window(&mut self, checkpoint: u32, offset: u64, len: u32) {
        if let Some(record) = self.records.get_mut(idx(checkpoint)) {
            (record.window_offset, record.window_len) = (offset, len);
        }
    }

    /// The stream has ended, its last useful byte before `comp_end`.
    ///
    /// # Errors
    /// The last chunk is longer than an index may hold.
    pub(super) fn finish(mut self, comp_end: u64) -> Result<Vec<ChunkRecord>, DecodeError> {
        self.close(comp_end)?;
        // A checkpoint at the very end, or two at one place, describe no bytes.
        self.records.retain(|chunk| chunk.plain_len > 0);
        Ok(self.records)
    }

    fn close(&mut self, comp_end: u64) -> Result<(), DecodeError> {
        let Some(chunk) = self.records.last_mut() else { return Ok(()) };
        let too_long = DecodeError::ChunkTooLong { format: "layer", offset: chunk.plain_offset };
        // Compressed data longer than the longest plain chunk by more than deflate's and zstd's overhead carries
        // empty blocks or skippable frames without end: reading one byte of it must not cost gigabytes.
        let comp_len = comp_end.saturating_sub(chunk.comp_offset);
        if self.open_len > u64::from(MAX_CHUNK) || comp_len > 2 * u64::from(MAX_CHUNK) {
            return Err(too_long);
        }
        let (Ok(plain_len), Ok(comp_len)) = (u32::try_from(self.open_len), u32::try_from(comp_len)) else {
            return Err(too_long);
        };
        (chunk.plain_len, chunk.comp_len) = (plain_len, comp_len);
        chunk.digest = *self.hasher.finalize().as_bytes();
        self.hasher.reset();
        self.open_len = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Resume;

    fn checkpoint(plain_offset: u64, comp_offset: u64, bit: u8) -> Checkpoint {
        let resume = if bit > 0 { Resume::Window } else { Resume::Fresh };
        Checkpoint { plain_offset, comp_offset, bit, resume }
    }

    #[test]
    fn neighbours_share_the_byte_in_which_they_meet() {
        let mut table = ChunkTable::default();
        table.start(&checkpoint(0, 10, 0)).expect("first");
        table.update(b"hello");
        table.start(&checkpoint(5, 17, 3)).expect("second");
        table.window(1, 0, 99);
        table.update(b"wo");
        table.update(b"rld");
        table.start(&checkpoint(10, 30, 0)).expect("third, which stays empty");
        let chunks = table.finish(30).expect("short chunks");
        let ranges: Vec<_> =
            chunks.iter().map(|c| (c.plain_offset, c.plain_len, c.comp_offset, c.comp_len)).collect();
        assert_eq!(ranges, [(0, 5, 10, 8), (5, 5, 17, 13)]);
        assert_eq!(chunks[0].digest, *blake3::hash(b"hello").as_bytes());
        assert_eq!(chunks[1].digest, *blake3::hash(b"world").as_bytes());
        assert_eq!((chunks[0].window_len, chunks[1].window_len), (0, 99));
    }

    #[test]
    fn endless_compressed_bytes_are_refused() {
        let mut table = ChunkTable::default();
        table.start(&checkpoint(0, 0, 0)).expect("first");
        table.update(b"x");
        let refused = table.start(&checkpoint(1, 1 << 40, 0));
        assert!(matches!(refused, Err(DecodeError::ChunkTooLong { offset: 0, .. })));
    }

    #[test]
    fn no_checkpoint_no_chunks() {
        assert_eq!(ChunkTable::default().finish(0).expect("empty"), []);
    }
}
