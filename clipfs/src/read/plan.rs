//! The pure part: which pieces of which chunks make up a range of a file.

use crate::decode::tar::Extent;
use crate::index::{ClipIndex, ContentId};
use crate::num::to_u64;

#[cfg(test)]
mod tests;

/// A consecutive part of a file range, in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// A hole.
    Zeros {
        /// Length in bytes.
        len: u64,
    },
    /// Bytes of one chunk.
    Data {
        /// Layer number.
        layer: u32,
        /// Chunk number in the layer.
        chunk: u32,
        /// Offset in the chunk's plain bytes.
        at: u32,
        /// Length in bytes.
        len: u32,
        /// Offset in the file of the piece's first byte.
        file_offset: u64,
        /// Offset in the file of the first byte that this extent has in this chunk: where the segment that is kept on
        /// disk begins.
        segment: u64,
    },
}

/// The index refers to something that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inconsistent;

/// Plans `offset .. offset + len` of a content, cut at the end of the file.
pub(super) fn plan(
    index: &ClipIndex,
    id: ContentId,
    offset: u64,
    len: u64,
) -> Result<Vec<Piece>, Inconsistent> {
    let content = index.content(id).ok_or(Inconsistent)?;
    let end = offset.saturating_add(len).min(content.size);
    let mut at = offset;
    let mut pieces = Vec::new();
    let mut n = first_extent_after(index, id, offset)?;
    while at < end {
        let extent = index.extent(id, n);
        let data_start = extent.map_or(end, |e| e.file_offset.max(at).min(end));
        if data_start > at {
            pieces.push(Piece::Zeros { len: data_start - at });
            at = data_start;
            continue;
        }
        let extent = extent.ok_or(Inconsistent)?;
        let data_end = extent.file_offset.saturating_add(extent.len).min(end);
        at = cut_by_chunks(index, content.layer, &extent, at, data_end, &mut pieces)?;
        n += 1;
    }
    Ok(pieces)
}

/// The first extent that ends behind `offset`: extents are sorted and do not overlap.
fn first_extent_after(index: &ClipIndex, id: ContentId, offset: u64) -> Result<u32, Inconsistent> {
    let (mut low, mut high) = (0, index.extent_count(id));
    while low < high {
        let mid = low + (high - low) / 2;
        let extent = index.extent(id, mid).ok_or(Inconsistent)?;
        if extent.file_offset.saturating_add(extent.len) > offset {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    Ok(low)
}

/// Cuts `from .. to` (file offsets within `extent`) at chunk boundaries; returns `to`.
fn cut_by_chunks(
    index: &ClipIndex,
    layer: u32,
    extent: &Extent,
    from: u64,
    to: u64,
    pieces: &mut Vec<Piece>,
) -> Result<u64, Inconsistent> {
    let mut at = from;
    let mut stream = extent
        .stream_offset
        .checked_add(from.checked_sub(extent.file_offset).ok_or(Inconsistent)?)
        .ok_or(Inconsistent)?;
    let mut chunk = index.chunk_at(layer, stream).ok_or(Inconsistent)?;
    while at < to {
        let record = index.chunk(layer, chunk).ok_or(Inconsistent)?;
        let chunk_end = record.plain_offset.checked_add(u64::from(record.plain_len)).ok_or(Inconsistent)?;
        let inside = stream.checked_sub(record.plain_offset).ok_or(Inconsistent)?;
        let len = (to - at).min(chunk_end.checked_sub(stream).ok_or(Inconsistent)?);
        if len == 0 {
            return Err(Inconsistent);
        }
        let segment_stream = extent.stream_offset.max(record.plain_offset);
        pieces.push(Piece::Data {
            layer,
            chunk,
            at: u32::try_from(inside).map_err(|_| Inconsistent)?,
            len: u32::try_from(len).map_err(|_| Inconsistent)?,
            file_offset: at,
            segment: extent
                .file_offset
                .checked_add(segment_stream - extent.stream_offset)
                .ok_or(Inconsistent)?,
        });
        at += len;
        stream += len;
        chunk += 1;
    }
    Ok(at)
}

/// Joins the bytes of pieces; a single piece is not copied.
pub(super) fn join(parts: &[bytes::Bytes]) -> bytes::Bytes {
    if let [one] = parts {
        return one.clone();
    }
    let mut whole = bytes::BytesMut::with_capacity(parts.iter().map(bytes::Bytes::len).sum());
    for part in parts {
        whole.extend_from_slice(part);
    }
    whole.freeze()
}

/// Zeros for a hole. Reads are at most a few MiB long.
pub(super) fn zeros(len: u64) -> bytes::Bytes {
    const ZEROS: &[u8] = &[0; 128 << 10];
    if len <= to_u64(ZEROS.len()) {
        bytes::Bytes::from_static(&ZEROS[..crate::num::to_usize(len)])
    } else {
        vec![0; crate::num::to_usize(len)].into()
    }
}
