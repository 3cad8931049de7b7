//! `SEEK_DATA` and `SEEK_HOLE` by an index's extents: pure.

use crate::decode::tar::Extent;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whence {
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset; the end of the file counts as one.
    Hole,
}

/// The new offset; `None` = ENXIO: beyond the end, or no data follows. `extent(n)` is the n-th of `count` extents, sorted by
/// file offset and disjoint.
pub(crate) fn seek(
    size: u64,
    count: u32,
    extent: impl Fn(u32) -> Option<Extent>,
    offset: u64,
    whence: Whence,
) -> Option<u64> {
    if offset >= size {
        return None;
    }
    let end = |n: u32| extent(n).map(|e| e.file_offset.saturating_add(e.len));
    // First extent that ends behind the offset.
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if end(middle)? <= offset { low = middle + 1 } else { high = middle }
    }
    if whence == Whence::Data {
        return if low == count { None } else { Some(extent(low)?.file_offset.max(offset)) };
    }
    // Data may go on through the next extents: adjacent in the file, apart in the layer.
    let mut at = offset;
    while low < count && extent(low)?.file_offset <= at {
        at = end(low)?;
        low += 1;
    }
    Some(at.min(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(size: u64, map: &[bool], offset: u64, whence: Whence) -> Option<u64> {
        if offset >= size {
            return None;
        }
        let wanted = whence == Whence::Data;
        let found = (offset..size).find(|at| map[usize::try_from(*at).unwrap()] == wanted);
        found.or(if wanted { None } else { Some(size) })
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_map_of_bytes(
            runs in proptest::collection::vec((0_u64..5, 1_u64..6), 0..6),
            tail in 0_u64..5,
            whence in proptest::bool::ANY,
        ) {
            let (mut extents, mut map) = (Vec::new(), Vec::new());
            for (hole, len) in runs {
                map.extend((0..hole).map(|_| false));
                extents.push(Extent { file_offset: map.len() as u64, stream_offset: 1000, len });
                map.extend((0..len).map(|_| true));
            }
            map.extend((0..tail).map(|_| false));
            let size = map.len() as u64;
            let whence = if whence { Whence::Data } else { Whence::Hole };
            let count = u32::try_from(extents.len()).unwrap();
            for offset in 0..size + 2 {
                let get = |n: u32| extents.get(n as usize).copied();
                proptest::prop_assert_eq!(seek(size, count, get, offset, whence), naive(size, &map, offset, whence));
            }
        }
    }
}
