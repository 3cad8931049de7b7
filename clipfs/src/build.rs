//! The index builder: streams every layer of an image once and writes its clip index.
//!
//! ```text
//! registry ──feed──► decode thread ──batches──► digest thread ──► layer index + entries ──► merge ──► file
//!          (async)    (inflate only)             (sha256, BLAKE3, CRC-32, tar, windows)
//! ```
//!
//! Inflating is what limits a build, so it has a thread to itself, writes into the buffers that travel, and everything
//! else happens on another thread: all of that takes four fifths of the time of inflating, so a third one would only get
//! in the way where there are two cores (`benches/README.md` has the numbers). Every queue
//! is bounded and the windows go to an unlinked file: memory does not grow with the image's bytes, only (a little) with
//! its number of files and chunks. Both digests of a layer are checked, the blob's and the plain stream's.
//!
//! Called by the command line; knows nothing of terminals: it tells a [`Progress`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::decode::scan::ScanLimits;
use crate::decode::tar::TarLimits;
use crate::decode::{Compression, DEFAULT_CHUNK};
use crate::image::Tree;
use crate::index::{self, ImageMeta, LayerIndex, WriteSummary};
use crate::num::to_u64;
use crate::oci::Digest;
use crate::registry::{ImageSource, ResolvedImage};

mod batch;
mod chunks;
mod digest;
mod error;
mod feed;
mod layer;
mod merge;
mod output;
mod progress;
mod twin;
pub mod verify;

pub use error::BuildError;
pub use progress::{Progress, Silent};

use layer::{LayerJob, ScannedLayer};
use output::Output;

/// Smallest distance between checkpoints that can be asked for: below it the windows outweigh the image.
pub const MIN_CHUNK: u32 = 64 << 10;

/// Largest one: chunks end at the first possible place *after* it, and none may exceed [`crate::decode::MAX_CHUNK`].
pub const MAX_CHUNK_OPTION: u32 = 16 << 20;

/// Most layers scanned at a time, whatever the number of cores: each holds about 9 MiB of buffers, and the builder
/// stays below 256 MiB.
const MAX_PARALLEL: usize = 16;

/// Tunables and limits of a build.
#[derive(Debug, Clone, Copy)]
pub struct BuildOptions {
    /// Distance between checkpoints in plain bytes, [`MIN_CHUNK`] ..= [`MAX_CHUNK_OPTION`].
    pub chunk: u32,
    /// Most plain bytes of a layer: an image is untrusted input.
    pub max_plain: u64,
    /// Limits of the layers' archives.
    pub tar: TarLimits,
    /// Layers scanned at a time; 0 = as many as there are cores, at most 16.
    pub parallel: usize,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { chunk: DEFAULT_CHUNK, max_plain: 1 << 40, tar: TarLimits::default(), parallel: 0 }
    }
}

impl BuildOptions {
    fn limits(&self) -> ScanLimits {
        ScanLimits { chunk: self.chunk, max_plain: self.max_plain }
    }

    fn parallel(&self) -> usize {
        match self.parallel {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_PARALLEL),
            n => n,
        }
    }
}

/// A layer of a built index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltLayer {
    /// Digest of the blob.
    pub digest: Digest,
    /// How it is compressed.
    pub compression: Compression,
    /// Compressed size in bytes.
    pub size: u64,
    /// Plain size in bytes.
    pub plain_size: u64,
    /// Number of chunks.
    pub chunks: u64,
}

/// What a build has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The index file.
    pub path: PathBuf,
    /// Digest of the manifest that it is bound to.
    pub digest: Digest,
    /// Sizes of the index and number of inodes.
    pub summary: WriteSummary,
    /// Layers, base first, as the manifest lists them.
    pub layers: Vec<BuiltLayer>,
    /// Sum of the compressed sizes of the layers.
    pub image_bytes: u64,
    /// Wall clock of the build.
    pub elapsed: Duration,
}

/// Builds the clip index of `image` and puts it at `output` (mode 0644), whole or not at all: it is written beside its
/// destination and renamed when it is complete and synced. An existing file is replaced.
///
/// Dropping the future cancels the build and leaves nothing behind.
///
/// # Errors
/// See [`BuildError`].
pub async fn index_image(
    source: &ImageSource,
    image: &ResolvedImage,
    output: &Path,
    options: BuildOptions,
    progress: Arc<dyn Progress>,
) -> Result<Built, BuildError> {
    let started = Instant::now();
    let output = Output::create(output)?;
    let (tree, layers) = scan_layers(source, image, output.dir(), options, progress).await?;
    let built_layers: Vec<BuiltLayer> = layers.iter().map(built_layer).collect();
    let meta = ImageMeta {
        manifest_digest: image.manifest_digest,
        manifest: image.manifest_bytes.to_vec(),
        config: image.config_bytes.to_vec(),
        chunk: options.chunk,
    };
    let (output, summary) = write(output, meta, tree, layers).await?;
    let path = output.publish()?;
    Ok(Built {
        path,
        digest: image.manifest_digest,
        summary,
        image_bytes: built_layers.iter().map(|l| l.size).sum(),
        layers: built_layers,
        elapsed: started.elapsed(),
    })
}

/// Scans the layers, equal ones once, and merges them.
async fn scan_layers(
    source: &ImageSource,
    image: &ResolvedImage,
    dir: &Path,
    options: BuildOptions,
    progress: Arc<dyn Progress>,
) -> Result<(Tree, Vec<LayerIndex>), BuildError> {
    let blobs = &image.manifest.layers;
    let diff_ids = &image.config.diff_ids;
    if blobs.len() != diff_ids.len() {
        return Err(BuildError::DiffIds { layers: blobs.len(), diff_ids: diff_ids.len() });
    }
    let jobs = plan(blobs.iter().map(|blob| blob.digest).zip(diff_ids.iter().copied()));
    for &position in &jobs.scan {
        progress.layer(position, &blobs[position].digest, blobs[position].size);
    }

    let mut merging = merge::Merging::new(jobs.first_of);
    let permits = Arc::new(tokio::sync::Semaphore::new(options.parallel()));
    let mut tasks = tokio::task::JoinSet::new();
    for position in jobs.scan {
        let job = LayerJob {
            source: source.clone(),
            blob: blobs[position].clone(),
            diff_id: diff_ids[position],
            position,
            dir: dir.to_owned(),
            limits: options.limits(),
            tar: options.tar,
            progress: progress.clone(),
        };
        let permits = permits.clone();
        tasks.spawn(async move {
            // The semaphore is never closed; a build without its permit would only be slower to start.
            let _permit = permits.acquire_owned().await;
            layer::scan(&job).await.map(|scanned| (position, scanned))
        });
    }
    while let Some(joined) = tasks.join_next().await {
        let (position, scanned) = joined.map_err(|e| BuildError::panicked("layer", &e))??;
        merging.scanned(position, scanned).await?;
    }
    merging.finish().await
}

/// Which layers to scan, and for every layer which scan it shares.
struct Plan {
    /// Positions in the manifest, each for a distinct (digest, diff_id), in order.
    scan: Vec<usize>,
    /// For every position the position of the scan that serves it.
    first_of: Vec<usize>,
}

/// Layers that occur twice are scanned once. The diff_id belongs to the key, so that a config that claims two plain
/// digests for one blob is found out.
fn plan(layers: impl Iterator<Item = (Digest, Digest)>) -> Plan {
    let mut first = HashMap::new();
    let mut plan = Plan { scan: Vec::new(), first_of: Vec::new() };
    for (position, key) in layers.enumerate() {
        let first = *first.entry(key).or_insert(position);
        if first == position {
            plan.scan.push(position);
        }
        plan.first_of.push(first);
    }
    plan
}

async fn write(
    mut output: Output,
    meta: ImageMeta,
    tree: Tree,
    mut layers: Vec<LayerIndex>,
) -> Result<(Output, WriteSummary), BuildError> {
    tokio::task::spawn_blocking(move || {
        let summary = index::write(output.file(), &meta, &tree, &mut layers).map_err(|e| output.error(e))?;
        output.sync()?;
        Ok((output, summary))
    })
    .await
    .map_err(|e| BuildError::panicked("index writer", &e))?
}

fn built_layer(layer: &LayerIndex) -> BuiltLayer {
    BuiltLayer {
        digest: layer.info.digest,
        compression: layer.info.compression,
        size: layer.info.size,
        plain_size: layer.info.plain_size,
        chunks: to_u64(layer.chunks.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_layers_are_scanned_once() {
        let [a, b, x] = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"x")];
        let plan = plan([(a, x), (b, x), (a, x), (a, b), (b, x)].into_iter());
        assert_eq!(plan.scan, [0, 1, 3]);
        assert_eq!(plan.first_of, [0, 1, 0, 3, 1]);
    }
}
