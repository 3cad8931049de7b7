//! Archives by hand, header by header, and what the scanner makes of them.

mod build;
mod forms;
mod limits;
mod portions;
mod refusals;
mod sparse_maps;

use super::{Entry, EntryKind, FileData, TarLimits, scan_all};

/// Scans an archive that must be good.
fn scan(archive: &[u8]) -> Vec<Entry> {
    scan_all(archive, TarLimits::default()).unwrap()
}

/// Scans an archive that must hold one entry.
fn scan_one(archive: &[u8]) -> Entry {
    let mut entries = scan(archive);
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.pop().unwrap()
}

/// Why an archive is refused.
fn reason(archive: &[u8]) -> String {
    scan_all(archive, TarLimits::default()).unwrap_err().to_string()
}

fn file(entry: &Entry) -> &FileData {
    match &entry.kind {
        EntryKind::File(data) => data,
        other => panic!("{} is no file but {other:?}", String::from_utf8_lossy(&entry.path)),
    }
}

/// A file's bytes, put together from its extents.
fn content(archive: &[u8], entry: &Entry) -> Vec<u8> {
    let data = file(entry);
    let mut content = vec![0; usize::try_from(data.size).unwrap()];
    for extent in &data.extents {
        let [from, to, len] = [extent.stream_offset, extent.file_offset, extent.len]
            .map(|number| usize::try_from(number).unwrap());
        content[to..to + len].copy_from_slice(&archive[from..from + len]);
    }
    content
}
