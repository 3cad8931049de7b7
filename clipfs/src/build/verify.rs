//! Compares a clip index with its image, byte by byte.
//!
//! Each layer is streamed once and decoded as the read path does it: every chunk from its own checkpoint, with its own
//! window. The chunks follow each other without gaps, so when their concatenation hashes to the diff_id each of them is
//! proven. The tree is built anew from the archives and compared with the index's, inode by inode.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::batch::{self, Work};
use super::error::BuildError;
use super::feed::{self, FeedReader, PORTIONS};
use super::merge::Merging;
use super::progress::Progress;
use super::{ScannedLayer, plan};
use crate::decode::run::RunDecoder;
use crate::decode::tar::{TarLimits, TarScanner};
use crate::decode::{DecodeError, Resume};
use crate::image::LayerEntries;
use crate::index::{self, ChunkRecord, ClipIndex, ContentId, ImageMeta, IndexError, LayerIndex, LayerInfo};
use crate::num::{idx, to_u64, to_usize};
use crate::oci::{Descriptor, Digest};
use crate::registry::{ImageSource, ResolvedImage};

/// Bytes decoded at a time.
const PIECE: usize = 256 << 10;

/// What was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Layers, equal ones counted once.
    pub layers: u64,
    /// Chunks decoded from their checkpoints.
    pub chunks: u64,
    /// Compressed bytes read.
    pub compressed_bytes: u64,
    /// Plain bytes compared.
    pub plain_bytes: u64,
}

/// Why an index does not describe its image.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The index belongs to another image.
    #[error("the index is for manifest {index}, the image has manifest {image}")]
    OtherImage {
        /// Manifest digest in the index.
        index: Digest,
        /// Manifest digest of the image.
        image: Digest,
    },
    /// A document in the index is not the image's.
    #[error("the index holds another {0} than the image")]
    Document(&'static str),
    /// A layer cannot be read, is not what the manifest says, or does not make a tree.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A chunk does not decode from its checkpoint.
    #[error("layer {layer}: chunk {chunk} does not decode from its checkpoint")]
    Chunk {
        /// Digest of the blob.
        layer: Digest,
        /// Chunk number.
        chunk: u32,
        /// Cause.
        #[source]
        source: DecodeError,
    },
    /// A chunk decodes to something else than the index says.
    #[error("layer {layer}: chunk {chunk} does not match its digest in the index")]
    ChunkDigest {
        /// Digest of the blob.
        layer: Digest,
        /// Chunk number.
        chunk: u32,
    },
    /// The layers make another tree than the index has.
    #[error("the index's tree is not the image's: {0} differs")]
    Tree(String),
    /// The tree cannot be compared.
    #[error("cannot compare the trees")]
    Compare(#[from] IndexError),
}

/// Compares `index` with `image`.
///
/// # Errors
/// See [`VerifyError`]. Cancel safe.
pub async fn verify_image(
    index: &Arc<ClipIndex>,
    source: &ImageSource,
    image: &ResolvedImage,
    progress: Arc<dyn Progress>,
) -> Result<Verified, VerifyError> {
    check_documents(index, image)?;
    let blobs = &image.manifest.layers;
    let keys = blobs.iter().map(|b| b.digest).zip(image.config.diff_ids.iter().copied());
    let plan = plan(keys);
    let scratch = std::env::temp_dir();
    let mut merging = Merging::new(plan.first_of);
    let mut verified = Verified::default();
    for &position in &plan.scan {
        progress.layer(position, &blobs[position].digest, blobs[position].size);
    }
    for position in plan.scan {
        let (seen, scanned) = verify_layer(index, source, &blobs[position], position, &progress).await?;
        verified.layers += 1;
        verified.chunks += seen.chunks;
        verified.compressed_bytes += seen.compressed_bytes;
        verified.plain_bytes += seen.plain_bytes;
        merging.scanned(position, scanned).await?;
        progress.done(position);
    }
    let (tree, mut layers) = merging.finish().await?;
    let meta = ImageMeta {
        manifest_digest: image.manifest_digest,
        manifest: image.manifest_bytes.to_vec(),
        config: image.config_bytes.to_vec(),
        chunk: index.chunk_size(),
    };
    let index = index.clone();
    let compare = move || {
        let spill = |source| BuildError::Output { path: scratch.clone(), source };
        let mut file = tempfile::NamedTempFile::new_in(&scratch).map_err(spill)?;
        index::write(file.as_file_mut(), &meta, &tree, &mut layers).map_err(spill)?;
        let rebuilt = ClipIndex::open(file.path())?;
        difference(&index, &rebuilt).map_or(Ok(()), |what| Err(VerifyError::Tree(what)))
    };
    tokio::task::spawn_blocking(compare).await.map_err(|e| BuildError::panicked("comparison", &e))??;
    Ok(verified)
}

fn check_documents(index: &ClipIndex, image: &ResolvedImage) -> Result<(), VerifyError> {
    if index.manifest_digest() != image.manifest_digest {
        return Err(VerifyError::OtherImage { index: index.manifest_digest(), image: image.manifest_digest });
    }
    if index.manifest() != image.manifest_bytes {
        return Err(VerifyError::Document("manifest"));
    }
    if index.config() != image.config_bytes {
        return Err(VerifyError::Document("config"));
    }
    let claimed = (0..index.layer_count()).filter_map(|n| index.layer(n));
    let real = image.manifest.layers.iter().zip(&image.config.diff_ids);
    let same = |(info, (blob, diff_id)): (LayerInfo, (&Descriptor, &Digest))| {
        (info.digest, info.size, info.diff_id) == (blob.digest, blob.size, *diff_id)
    };
    if idx(index.layer_count()) != image.manifest.layers.len() || !claimed.zip(real).all(same) {
        return Err(VerifyError::Document("list of layers"));
    }
    Ok(())
}

async fn verify_layer(
    index: &Arc<ClipIndex>,
    source: &ImageSource,
    blob: &Descriptor,
    position: usize,
    progress: &Arc<dyn Progress>,
) -> Result<(Verified, ScannedLayer), VerifyError> {
    let (portions, portions_rx) = tokio::sync::mpsc::channel(PORTIONS);
    let (sink, inbox) = batch::pair();
    let reader = FeedReader::new(portions_rx, sink.sender());
    drop(sink);
    let hasher = tokio::task::spawn_blocking(move || {
        let (mut sha256, mut size) = (Sha256::new(), 0);
        while let Some(Work::Compressed(portion)) = inbox.next() {
            for bytes in portion {
                sha256.update(&bytes);
                size += to_u64(bytes.len());
            }
        }
        (Digest::from_bytes(sha256.finalize().into()), size)
    });
    let layer = u32::try_from(position).unwrap_or(u32::MAX);
    let chunks = index.clone();
    let decoder = tokio::task::spawn_blocking(move || LayerCheck::new(&chunks, layer)?.run(reader));
    let feed = feed::feed(source, blob, portions, position, progress.as_ref());
    let (fed, checked, hashed) = tokio::join!(feed, decoder, hasher);
    fed.map_err(|source| BuildError::Fetch { layer: blob.digest, source })?;
    let (found, size) = hashed.map_err(|e| BuildError::panicked("digest", &e))?;
    let checked = checked.map_err(|e| BuildError::panicked("decode", &e))?;
    let (diff_id, mut seen, scanned) = match checked {
        Ok(checked) if found == blob.digest => checked,
        // Wrong bytes explain whatever is wrong with the chunks, if all of them have been seen.
        _ if size == blob.size && found != blob.digest => {
            return Err(BuildError::Digest { layer: blob.digest, found }.into());
        }
        Ok(_) => return Err(BuildError::Size { layer: blob.digest, expected: blob.size, found: size }.into()),
        Err(error) => return Err(error),
    };
    if diff_id != scanned.index.info.diff_id {
        let expected = scanned.index.info.diff_id;
        return Err(BuildError::DiffId { layer: blob.digest, expected, found: diff_id }.into());
    }
    seen.compressed_bytes = size;
    Ok((seen, scanned))
}

/// Decodes one layer by its index.
struct LayerCheck<'a> {
    index: &'a ClipIndex,
    layer: u32,
    info: LayerInfo,
    records: Vec<ChunkRecord>,
}

impl<'a> LayerCheck<'a> {
    fn new(index: &'a ClipIndex, layer: u32) -> Result<Self, VerifyError> {
        let info = index.layer(layer).ok_or(VerifyError::Document("list of layers"))?;
        let records = (0..index.chunk_count(layer)).filter_map(|n| index.chunk(layer, n)).collect();
        Ok(Self { index, layer, info, records })
    }

    fn run(self, mut input: FeedReader) -> Result<(Digest, Verified, ScannedLayer), VerifyError> {
        let mut plain = Plain::new(self.info.digest);
        let mut cursor = Cursor::default();
        let mut first = 0;
        while first < self.records.len() {
            let continues =
                self.records[first + 1..].iter().take_while(|c| c.resume == Resume::Continue).count();
            let next = first + 1 + continues;
            self.decode_run(first, &self.records[first..next], &mut cursor, &mut input, &mut plain)?;
            first = next;
        }
        let fault = |source| BuildError::Decode { layer: self.info.digest, source };
        // What no chunk needs still belongs to the blob's digest.
        while cursor.refill(&mut input).map_err(fault)? {}
        plain.tar.finish().map_err(fault)?;
        let seen =
            Verified { chunks: to_u64(self.records.len()), plain_bytes: plain.len, ..Verified::default() };
        let windows = tempfile::tempfile()
            .map_err(|source| BuildError::Output { path: std::env::temp_dir(), source })?;
        // Only the tree of the rebuilt index is looked at: it gets chunks that need no windows.
        let bare = |c: &ChunkRecord| ChunkRecord {
            bit: 0,
            resume: Resume::Fresh,
            window_offset: 0,
            window_len: 0,
            ..*c
        };
        let chunks = self.records.iter().map(bare).collect();
        let index = LayerIndex { info: self.info, chunks, windows, windows_len: 0 };
        Ok((
            Digest::from_bytes(plain.sha256.finalize().into()),
            seen,
            ScannedLayer { index, entries: plain.entries },
        ))
    }

    fn decode_run(
        &self,
        first: usize,
        run: &[ChunkRecord],
        cursor: &mut Cursor,
        input: &mut FeedReader,
        plain: &mut Plain,
    ) -> Result<(), VerifyError> {
        let number = |n: usize| u32::try_from(first + n).unwrap_or(u32::MAX);
        let (Some(start), Some(end)) = (run.first(), run.last()) else { return Ok(()) };
        let end = end.comp_offset + u64::from(end.comp_len);
        let mut done = 0;
        let mut digest_differs = None;
        let mut decode = || -> Result<(), DecodeError> {
            let window = self.index.window(self.layer, number(0))?;
            let lens = run.iter().map(|c| c.plain_len).collect();
            let mut decoder = RunDecoder::new(self.info.compression, start.bit, window.as_ref(), lens)?;
            cursor.seek(start.comp_offset, input)?;
            while cursor.position < end {
                let bytes = cursor.take(end, input)?;
                decoder.push(bytes, &mut |n, bytes| {
                    done = n + 1;
                    if run.get(n).map(|c| c.digest) != Some(*blake3::hash(&bytes).as_bytes()) {
                        digest_differs = Some(n);
                        return Err(DecodeError::Io(std::io::Error::other("digest differs")));
                    }
                    plain.push(&bytes)
                })?;
            }
            let truncated = || DecodeError::Truncated { format: "layer", offset: end };
            decoder.is_done().then_some(()).ok_or_else(truncated)
        };
        let result = decode();
        let layer = self.info.digest;
        match (result, digest_differs) {
            (_, Some(n)) => Err(VerifyError::ChunkDigest { layer, chunk: number(n) }),
            (Err(source @ DecodeError::Tar { .. }), None) => Err(BuildError::Decode { layer, source }.into()),
            (Err(source), None) => Err(VerifyError::Chunk { layer, chunk: number(done), source }),
            (Ok(()), None) => Ok(()),
        }
    }
}

/// A place in the compressed stream.
#[derive(Default)]
struct Cursor {
    piece: Vec<u8>,
    /// Stream offset of the first byte of `piece`.
    piece_at: u64,
    /// The next byte to hand out.
    position: u64,
}

impl Cursor {
    /// Reads the next piece, keeping the last byte of this one: two chunks may meet inside it. `false` at the end.
    fn refill(&mut self, input: &mut FeedReader) -> Result<bool, DecodeError> {
        let keep = self.piece.len().saturating_sub(1);
        self.piece_at += to_u64(keep);
        self.piece.drain(..keep);
        let kept = self.piece.len();
        self.piece.resize(kept + PIECE, 0);
        let read = input.read(&mut self.piece[kept..])?;
        self.piece.truncate(kept + read);
        Ok(read > 0)
    }

    fn seek(&mut self, to: u64, input: &mut FeedReader) -> Result<(), DecodeError> {
        if to < self.piece_at {
            return Err(DecodeError::Io(std::io::Error::other("the chunk starts inside an earlier one")));
        }
        while to > self.piece_at + to_u64(self.piece.len()) {
            if !self.refill(input)? {
                return Err(DecodeError::Truncated { format: "layer", offset: to });
            }
        }
        self.position = to;
        Ok(())
    }

    /// The next bytes, not beyond `end`.
    fn take(&mut self, end: u64, input: &mut FeedReader) -> Result<&[u8], DecodeError> {
        if self.position == self.piece_at + to_u64(self.piece.len()) && !self.refill(input)? {
            return Err(DecodeError::Truncated { format: "layer", offset: self.position });
        }
        let from = to_usize(self.position - self.piece_at);
        let len = to_usize(end - self.position).min(self.piece.len() - from);
        self.position += to_u64(len);
        Ok(&self.piece[from..from + len])
    }
}

/// The plain stream, put together from the chunks.
struct Plain {
    layer: Digest,
    sha256: Sha256,
    tar: TarScanner,
    entries: LayerEntries,
    len: u64,
}

impl Plain {
    fn new(layer: Digest) -> Self {
        let tar = TarScanner::new(TarLimits::default());
        Self { layer, sha256: Sha256::new(), tar, entries: LayerEntries::default(), len: 0 }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.sha256.update(bytes);
        self.len += to_u64(bytes.len());
        let (entries, layer) = (&mut self.entries, self.layer);
        self.tar.push(bytes, &mut |entry| {
            entries
                .push(&entry)
                .map_err(|e| DecodeError::Io(std::io::Error::other(format!("layer {layer}: {e}"))))
        })
    }
}

/// The first thing in which two trees differ.
fn difference(a: &ClipIndex, b: &ClipIndex) -> Option<String> {
    if a.inode_count() != b.inode_count() {
        return Some("the number of inodes".to_owned());
    }
    if a.content_count() != b.content_count() {
        return Some("the number of contents".to_owned());
    }
    for ino in 1..=a.inode_count() {
        let same_names = a.dir_len(ino) == b.dir_len(ino)
            && (0..a.dir_len(ino)).all(|n| a.dir_entry(ino, n) == b.dir_entry(ino, n));
        if a.inode(ino) != b.inode(ino)
            || !same_names
            || a.symlink(ino) != b.symlink(ino)
            || !a.xattrs(ino).eq(b.xattrs(ino))
        {
            return Some(format!("inode {ino}"));
        }
    }
    for id in (0..a.content_count()).map(ContentId) {
        let same_extents = a.extent_count(id) == b.extent_count(id)
            && (0..a.extent_count(id)).all(|n| a.extent(id, n) == b.extent(id, n));
        if a.content(id) != b.content(id) || !same_extents {
            return Some(format!("content {}", id.0));
        }
    }
    None
}

/// Checks an index by itself, sections that opening leaves alone included.
///
/// # Errors
/// See [`IndexError`].
pub fn verify_file(path: &Path) -> Result<ClipIndex, IndexError> {
    let index = ClipIndex::open(path)?;
    index.verify_all()?;
    Ok(index)
}
