//! One layer's entries, kept compactly until every layer below has been merged.

use crate::decode::tar::Entry;

/// The entries of a layer in archive order. Compact: an image may have a million.
#[derive(Debug, Default)]
pub struct LayerEntries {}

impl LayerEntries {
    /// Appends the next entry of the archive.
    ///
    /// # Errors
    /// More than 4 GiB of names and targets.
    pub fn push(&mut self, entry: &Entry) -> Result<(), super::MergeError> {
        let _ = entry;
        unimplemented!()
    }

    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    /// No entries at all: an empty layer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
