//! One layer: transfer, decode thread and digest thread, and the verdict on what they say.

use std::path::PathBuf;
use std::sync::Arc;

use super::digest::{self, Digested, Fault};
use super::error::BuildError;
use super::feed::{self, FeedReader, PORTIONS};
use super::progress::Progress;
use super::{batch, batch::BatchSink};
use crate::decode::scan::{ScanLimits, ScanSummary};
use crate::decode::tar::TarLimits;
use crate::decode::{self, DecodeError};
use crate::image::LayerEntries;
use crate::index::{LayerIndex, LayerInfo};
use crate::oci::{Descriptor, Digest};
use crate::registry::{ImageSource, RegistryError};

/// Most bytes read behind a place where a layer does not decode, to learn whether they are the bytes that the manifest
/// names: beyond, the answer is not worth the transfer.
const DRAIN_LIMIT: u64 = 64 << 20;

/// Transfers of a layer whose bytes do not match its digest, first one included.
const TRANSFERS: u32 = 2;

/// What it takes to scan a layer.
pub(super) struct LayerJob {
    pub(super) source: ImageSource,
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) position: usize,
    /// Where the windows are spilled, unlinked.
    pub(super) dir: PathBuf,
    pub(super) limits: ScanLimits,
    pub(super) tar: TarLimits,
    pub(super) progress: Arc<dyn Progress>,
}

/// A scanned layer, both digests checked.
#[derive(Debug)]
pub(super) struct ScannedLayer {
    pub(super) index: LayerIndex,
    pub(super) entries: LayerEntries,
}

/// Scans a layer. Wrong bytes are asked for a second time, elsewhere if there is an elsewhere.
pub(super) async fn scan(job: &LayerJob) -> Result<ScannedLayer, BuildError> {
    for transfer in 1.. {
        match scan_once(job).await {
            Err(BuildError::Digest { layer, found }) if transfer < TRANSFERS => {
                tracing::info!(%layer, %found, "layer does not match its digest, fetching it again");
                job.source.distrust(&job.blob);
                job.progress.layer(job.position, &job.blob.digest, job.blob.size);
            }
            result => {
                if result.is_ok() {
                    job.progress.done(job.position);
                }
                return result;
            }
        }
    }
    unreachable!("the last transfer returns")
}

async fn scan_once(job: &LayerJob) -> Result<ScannedLayer, BuildError> {
    let spill_error = |source| BuildError::Output { path: job.dir.clone(), source };
    let windows = tempfile::tempfile_in(&job.dir).map_err(spill_error)?;
    let (portions, portions_rx) = tokio::sync::mpsc::channel(PORTIONS);
    let (sink, inbox) = batch::pair();
    let reader = FeedReader::new(portions_rx, sink.sender());
    let (limits, tar) = (job.limits, job.tar);
    // Both threads end when their channel does: dropping this future drops the transfer, then the decoder, then the
    // digester.
    let decoder = tokio::task::spawn_blocking(move || decode_layer(reader, sink, limits));
    let digester = tokio::task::spawn_blocking(move || digest::run(&inbox, windows, tar));
    let (fed, decoded, digested) = tokio::join!(
        feed::feed(&job.source, &job.blob, portions, job.position, job.progress.as_ref()),
        decoder,
        digester
    );
    let decoded = decoded.map_err(|e| BuildError::panicked("decode", &e))?;
    let digested = digested.map_err(|e| BuildError::panicked("digest", &e))?;
    verdict(job, fed, decoded, digested)
}

/// How decoding went, and whether all bytes of the blob have been seen.
#[derive(Debug)]
struct Decoded {
    result: Result<ScanSummary, DecodeError>,
    complete: bool,
}

fn decode_layer(mut reader: FeedReader, mut sink: BatchSink, limits: ScanLimits) -> Decoded {
    let result = decode::scan::scan(&mut reader, limits, &mut sink).and_then(|summary| {
        sink.flush()?;
        Ok(summary)
    });
    let complete = match &result {
        // Cut off, or the digester has gone: there is nothing to read on.
        Err(DecodeError::Io(_)) => false,
        _ => reader.drain(DRAIN_LIMIT),
    };
    Decoded { result, complete }
}

/// What is wrong, if anything, in the order in which causes have effects: a broken transfer or wrong bytes explain
/// every other error.
fn verdict(
    job: &LayerJob,
    fed: Result<(), RegistryError>,
    decoded: Decoded,
    digested: Digested,
) -> Result<ScannedLayer, BuildError> {
    let layer = job.blob.digest;
    fed.map_err(|source| BuildError::Fetch { layer, source })?;
    if decoded.complete && digested.digest != layer {
        return Err(BuildError::Digest { layer, found: digested.digest });
    }
    let content = match (decoded.result, digested.content) {
        (_, Err(Fault::Spill(source))) => return Err(BuildError::Output { path: job.dir.clone(), source }),
        (_, Err(Fault::Merge(error))) => return Err(error.into()),
        (Err(source), _) | (Ok(_), Err(Fault::Decode(source))) => {
            return Err(BuildError::Decode { layer, source });
        }
        (Ok(summary), Ok(content)) => (summary, content),
    };
    let (summary, content) = content;
    if digested.size != job.blob.size {
        return Err(BuildError::Size { layer, expected: job.blob.size, found: digested.size });
    }
    if content.diff_id != job.diff_id {
        return Err(BuildError::DiffId { layer, expected: job.diff_id, found: content.diff_id });
    }
    if !decoded.complete {
        // Only a blob far longer than its manifest says gets here; its digest is not known.
        return Err(BuildError::Size { layer, expected: job.blob.size, found: digested.size });
    }
    Ok(ScannedLayer {
        index: LayerIndex {
            info: LayerInfo {
                digest: layer,
                diff_id: content.diff_id,
                compression: summary.compression,
                size: digested.size,
                plain_size: summary.plain,
            },
            chunks: content
                .chunks
                .finish(summary.comp_end)
                .map_err(|source| BuildError::Decode { layer, source })?,
            windows: content.windows,
            windows_len: content.windows_len,
        },
        entries: content.entries,
    })
}
