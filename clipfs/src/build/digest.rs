//! The digest thread: hashes, tar scan and windows of one layer, from what the decode thread sends.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};

use super::batch::{Batch, Inbox, Work};
use super::chunks::ChunkTable;
use super::twin::Twin;
use crate::decode::scan::{Checksums, RawWindow};
use crate::decode::tar::{TarLimits, TarScanner};
use crate::decode::{DecodeError, window};
use crate::image::{LayerEntries, MergeError};
use crate::oci::Digest;

/// What a layer turned out to hold. Its identity is known even if its content is refused.
#[derive(Debug)]
pub(super) struct Digested {
    /// SHA-256 of the compressed bytes that arrived.
    pub(super) digest: Digest,
    /// How many they were.
    pub(super) size: u64,
    /// The content, or why it is refused.
    pub(super) content: Result<LayerContent, Fault>,
}

/// A layer's content.
#[derive(Debug)]
pub(super) struct LayerContent {
    /// SHA-256 of the plain bytes.
    pub(super) diff_id: Digest,
    /// Chunks, the last one still open: its end is known by the decoder.
    pub(super) chunks: ChunkTable,
    /// Encoded windows.
    pub(super) windows: File,
    /// Their length.
    pub(super) windows_len: u64,
    /// Entries of the archive.
    pub(super) entries: LayerEntries,
}

/// Why a layer's content is refused.
#[derive(Debug)]
pub(super) enum Fault {
    /// Archive or windows make no sense.
    Decode(DecodeError),
    /// More entries than can be held.
    Merge(MergeError),
    /// Windows cannot be written.
    Spill(io::Error),
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// Digests a layer until its decoder ends. After a fault only the compressed bytes are still hashed: whether they are
/// the right ones decides what the fault means.
pub(super) fn run(inbox: &Inbox, windows: File, limits: TarLimits) -> Digested {
    let mut twin = Twin::default();
    let mut state = Ok(Digester::new(windows, limits));
    while let Some(work) = inbox.next() {
        match work {
            Work::Compressed(portion) => twin.compressed(portion),
            Work::Batch(batch) => {
                if state.is_ok() {
                    twin.plain(batch.plain());
                }
                state = state.and_then(|mut digester| digester.batch(&batch).map(|()| digester));
                inbox.recycle(batch);
            }
        }
    }
    let digests = twin.finish();
    Digested {
        digest: digests.digest,
        size: digests.size,
        content: state.and_then(|digester| digester.finish(digests.diff_id)),
    }
}

struct Digester {
    checksums: Checksums,
    chunks: ChunkTable,
    tar: TarScanner,
    entries: LayerEntries,
    windows: BufWriter<File>,
    windows_len: u64,
}

impl Digester {
    fn new(windows: File, limits: TarLimits) -> Self {
        Self {
            checksums: Checksums::default(),
            chunks: ChunkTable::default(),
            tar: TarScanner::new(limits),
            entries: LayerEntries::default(),
            windows: BufWriter::with_capacity(256 << 10, windows),
            windows_len: 0,
        }
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), Fault> {
        let plain = batch.plain();
        self.checksums(batch)?;
        let mut done = 0;
        for (at, checkpoint) in &batch.checkpoints {
            self.chunks.update(&plain[done..*at]);
            self.chunks.start(checkpoint)?;
            done = *at;
        }
        self.chunks.update(&plain[done..]);
        for window in &batch.windows {
            self.window(window)?;
        }

        let mut refused = None;
        let entries = &mut self.entries;
        let scanned = self.tar.push(plain, &mut |entry| {
            entries.push(&entry).map_err(|e| {
                refused = Some(e);
                // Only stops the scanner: `refused` is what is reported.
                DecodeError::Io(io::Error::other("entry refused"))
            })
        });
        match refused {
            Some(error) => Err(Fault::Merge(error)),
            None => Ok(scanned?),
        }
    }

    fn checksums(&mut self, batch: &Batch) -> Result<(), Fault> {
        let mut done = 0;
        for (at, mark) in &batch.members {
            self.checksums.update(&batch.plain()[done..*at]);
            self.checksums.mark(*mark)?;
            done = *at;
        }
        self.checksums.update(&batch.plain()[done..]);
        Ok(())
    }

    fn window(&mut self, raw: &RawWindow) -> Result<(), Fault> {
        let encoded = window::encode(raw)?;
        let too_long = || DecodeError::Io(io::Error::other("encoded window is longer than 4 GiB"));
        let len = u32::try_from(encoded.len()).map_err(|_| too_long())?;
        self.windows.write_all(&encoded).map_err(Fault::Spill)?;
        self.chunks.window(raw.chunk, self.windows_len, len);
        self.windows_len += u64::from(len);
        Ok(())
    }

    fn finish(self, diff_id: Digest) -> Result<LayerContent, Fault> {
        self.tar.finish()?;
        Ok(LayerContent {
            diff_id,
            chunks: self.chunks,
            windows: self.windows.into_inner().map_err(|e| Fault::Spill(e.into_error()))?,
            windows_len: self.windows_len,
            entries: self.entries,
        })
    }
}
