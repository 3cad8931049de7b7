//! Sparse maps in their four spellings, and what they come to: extents.
//!
//! GNU's old format (type `S`) keeps the map in the header block and in blocks behind it; pax 0.0 and 0.1 keep it in
//! the extended header, pax 1.0 at the beginning of the data. All list runs of data as (offset, length); all
//! checks are those of Go's reader.

use super::Extent;
use super::fault::Fault;
use super::header::Block;
use super::number::{decimal, numeric};
use super::pax::{Records, number};
use crate::num::{to_u64, to_usize};

/// Most runs of a map, as in Go: more than the limit on headers lets through by default.
const MAX_RUNS: usize = 1 << 20;
/// Length of a run's two numbers in the old format.
const PAIR: usize = 24;
/// Where the old format's header block has its runs, and how many bytes they and the flag behind them take.
const OLD_MAP: std::ops::Range<usize> = 386..386 + 4 * PAIR + 1;

/// A run of data as the map has it: file offset and length.
pub(super) type Run = (i64, i64);

fn add(runs: &mut Vec<Run>, run: Run) -> Result<(), Fault> {
    if runs.len() >= MAX_RUNS {
        return Err(Fault::SparseMap("too many entries"));
    }
    runs.push(run);
    Ok(())
}

/// The old format's map while its blocks come in.
#[derive(Debug)]
pub(super) struct OldMap {
    runs: Vec<Run>,
    read: u64,
    limit: u64,
}

impl OldMap {
    /// `limit` bounds the bytes of the whole map.
    pub(super) fn new(limit: u64) -> Self {
        Self { runs: Vec::new(), read: 0, limit }
    }

    /// Reads the part in the header block; the runs if that is all.
    pub(super) fn start(&mut self, header: &Block) -> Result<Option<Vec<Run>>, Fault> {
        self.read(&header[OLD_MAP])
    }

    /// Reads the next block; the runs if it is the last.
    pub(super) fn extend(&mut self, block: &Block) -> Result<Option<Vec<Run>>, Fault> {
        self.read(block)
    }

    fn read(&mut self, map: &[u8]) -> Result<Option<Vec<Run>>, Fault> {
        self.read += to_u64(map.len());
        if self.read >= self.limit {
            return Err(Fault::SparseMap("too long"));
        }
        // GNU and BSD tar, too, end at the first offset that starts with a NUL.
        for pair in map.chunks_exact(PAIR).take_while(|pair| pair[0] != 0) {
            let (offset, len) = pair.split_at(PAIR / 2);
            let offset = numeric(offset).ok_or(Fault::Number("sparse offset"))?;
            let len = numeric(len).ok_or(Fault::Number("sparse length"))?;
            add(&mut self.runs, (offset, len))?;
        }
        let is_continued = map.get(map.len() / PAIR * PAIR).is_some_and(|&flag| flag != 0);
        Ok(if is_continued { None } else { Some(std::mem::take(&mut self.runs)) })
    }
}

/// pax 1.0: decimal lines, first the number of runs, then two lines for each, padded to whole blocks.
#[derive(Debug)]
pub(super) struct TextMap {
    text: Vec<u8>,
    lines: usize,
    /// Lines needed, once the first line is there.
    needed: Option<usize>,
    limit: u64,
}

impl TextMap {
    /// `limit` bounds the bytes of the map.
    pub(super) fn new(limit: u64) -> Self {
        Self { text: Vec::new(), lines: 0, needed: None, limit }
    }

    /// Takes the next block of the data; the runs when the map is complete.
    pub(super) fn extend(&mut self, block: &Block) -> Result<Option<Vec<Run>>, Fault> {
        self.text.extend_from_slice(block);
        if to_u64(self.text.len()) > self.limit {
            return Err(Fault::SparseMap("too long"));
        }
        self.lines += block.iter().filter(|&&byte| byte == b'\n').count();
        if self.lines == 0 {
            return Ok(None);
        }
        let needed = match self.needed {
            Some(needed) => needed,
            None => *self.needed.insert(self.count_needed()?),
        };
        if self.lines < needed { Ok(None) } else { self.runs(needed).map(Some) }
    }

    fn count_needed(&self) -> Result<usize, Fault> {
        let first = self.text.split(|&byte| byte == b'\n').next().and_then(decimal);
        let runs =
            first.and_then(|n| u64::try_from(n).ok()).ok_or(Fault::SparseMap("bad number of entries"))?;
        // Two bytes a line at least: more can never come within the limit.
        if runs > self.limit / 2 {
            return Err(Fault::SparseMap("too many entries"));
        }
        Ok(to_usize(runs) * 2 + 1)
    }

    fn runs(&self, needed: usize) -> Result<Vec<Run>, Fault> {
        let mut numbers = self.text.split(|&byte| byte == b'\n').take(needed).skip(1).map(decimal);
        let mut runs = Vec::with_capacity(needed / 2);
        while let Some(offset) = numbers.next() {
            let run = offset.zip(numbers.next().flatten());
            add(&mut runs, run.ok_or(Fault::SparseMap("not a number"))?)?;
        }
        Ok(runs)
    }
}

/// Where an extended header says that the map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PaxMap {
    /// Nowhere: not sparse, or a version that nobody knows.
    None,
    /// In the extended header.
    InHeader,
    /// At the beginning of the data.
    InData,
}

impl PaxMap {
    /// Versions 0.0 and 0.1 need not name themselves.
    pub(super) fn of(records: &Records) -> Self {
        let sparse = &records.sparse;
        match (sparse.major.as_slice(), sparse.minor.as_slice()) {
            (b"0", b"0" | b"1") => Self::InHeader,
            (b"1", b"0") => Self::InData,
            (b"", b"") if !sparse.map.is_empty() => Self::InHeader,
            _ => Self::None,
        }
    }
}

/// The logical size that the extended header has, if it has one.
pub(super) fn logical_size(records: &Records) -> Result<Option<i64>, Fault> {
    let sparse = &records.sparse;
    match number("GNU.sparse.size", &sparse.size)? {
        None => number("GNU.sparse.realsize", &sparse.realsize),
        size => Ok(size),
    }
}

/// The map of pax 0.1, and of 0.0 after [`Records::parse`].
pub(super) fn map_in_header(records: &Records) -> Result<Vec<Run>, Fault> {
    let count = decimal(&records.sparse.numblocks)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or(Fault::SparseMap("bad number of entries"))?;
    let map = records.sparse.map.as_slice();
    let numbers = if map.is_empty() { 0 } else { map.split(|&byte| byte == b',').count() };
    if count.checked_mul(2) != Some(numbers) {
        return Err(Fault::SparseMap("not as many entries as stated"));
    }
    let mut runs = Vec::with_capacity(count);
    let mut fields = map.split(|&byte| byte == b',').map(decimal).take(numbers);
    while let Some(offset) = fields.next() {
        let run = offset.zip(fields.next().flatten());
        add(&mut runs, run.ok_or(Fault::SparseMap("not a number"))?)?;
    }
    Ok(runs)
}

/// Turns a map into extents: the runs in order, without the empty ones, adjacent ones merged.
/// `stored` bytes of data stand at `stream_offset`; the map must describe them all and no more.
pub(super) fn extents(
    runs: &[Run],
    size: u64,
    stored: u64,
    stream_offset: u64,
) -> Result<Vec<Extent>, Fault> {
    let mut extents: Vec<Extent> = Vec::new();
    let (mut end, mut mapped) = (0, 0);
    for &(offset, len) in runs {
        let (Ok(offset), Ok(len)) = (u64::try_from(offset), u64::try_from(len)) else {
            return Err(Fault::SparseMap("negative number"));
        };
        if offset < end {
            return Err(Fault::SparseMap("entries overlap or are out of order"));
        }
        // Both come from an i64: the sum fits.
        end = offset + len;
        if end > size {
            return Err(Fault::SparseMap("entry reaches beyond the end of the file"));
        }
        match extents.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.file_offset + last.len == offset => last.len += len,
            _ => extents.push(Extent { file_offset: offset, stream_offset: stream_offset + mapped, len }),
        }
        mapped += len;
    }
    if mapped != stored {
        return Err(Fault::SparseData { mapped, stored });
    }
    Ok(extents)
}
