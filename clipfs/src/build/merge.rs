//! Merges scanned layers in the manifest's order, as early as they can be.

use super::error::BuildError;
use super::{LayerIndex, ScannedLayer, Tree};
use crate::image::{LayerEntries, MergeError, Merger};

/// Layers that wait for those below them, and the tree so far.
pub(super) struct Merging {
    /// For every position of the manifest the position whose scan serves it.
    first_of: Vec<usize>,
    /// Entries, by position of the scan, until nobody needs them any more.
    entries: Vec<Option<LayerEntries>>,
    indexes: Vec<Option<LayerIndex>>,
    merger: Merger,
    /// The next position to merge.
    next: usize,
}

impl Merging {
    pub(super) fn new(first_of: Vec<usize>) -> Self {
        let layers = first_of.len();
        Self {
            first_of,
            entries: std::iter::repeat_with(|| None).take(layers).collect(),
            indexes: std::iter::repeat_with(|| None).take(layers).collect(),
            merger: Merger::default(),
            next: 0,
        }
    }

    /// A scan is done: merges whatever can be merged now, on a blocking thread.
    pub(super) async fn scanned(&mut self, position: usize, scanned: ScannedLayer) -> Result<(), BuildError> {
        self.entries[position] = Some(scanned.entries);
        self.indexes[position] = Some(scanned.index);
        while let Some(entries) = self.take_next() {
            let layer = u32::try_from(self.next).map_err(|_| MergeError::TooLarge("layers"))?;
            let mut merger = std::mem::take(&mut self.merger);
            self.merger = tokio::task::spawn_blocking(move || merger.apply(layer, entries).map(|()| merger))
                .await
                .map_err(|e| BuildError::panicked("merge", &e))??;
            self.next += 1;
        }
        Ok(())
    }

    /// The tree and the layers' indexes, when every layer has been scanned.
    pub(super) async fn finish(self) -> Result<(Tree, Vec<LayerIndex>), BuildError> {
        let merger = self.merger;
        let tree = tokio::task::spawn_blocking(move || merger.finish())
            .await
            .map_err(|e| BuildError::panicked("merge", &e))??;
        Ok((tree, spread(&self.first_of, self.indexes)?))
    }

    /// Entries of the next layer, if they have been scanned; copied if the layer comes once more.
    fn take_next(&mut self) -> Option<LayerEntries> {
        let first = *self.first_of.get(self.next)?;
        let again = self.first_of[self.next + 1..].contains(&first);
        if again { self.entries[first].clone() } else { self.entries[first].take() }
    }
}

/// One index per position: those of repeated layers share the windows' file.
fn spread(first_of: &[usize], mut indexes: Vec<Option<LayerIndex>>) -> Result<Vec<LayerIndex>, BuildError> {
    let mut layers: Vec<LayerIndex> = Vec::with_capacity(first_of.len());
    for (position, &first) in first_of.iter().enumerate() {
        let index = match indexes[position].take() {
            Some(index) => Some(index),
            None => layers.get(first).map(share).transpose()?,
        };
        // Every scan has reported by now, or the build has failed before.
        layers.push(index.ok_or_else(|| BuildError::Panicked("layer".to_owned()))?);
    }
    Ok(layers)
}

fn share(layer: &LayerIndex) -> Result<LayerIndex, BuildError> {
    let windows = layer
        .windows
        .try_clone()
        .map_err(|source| BuildError::Output { path: "the windows of a repeated layer".into(), source })?;
    Ok(LayerIndex { info: layer.info, chunks: layer.chunks.clone(), windows, windows_len: layer.windows_len })
}
