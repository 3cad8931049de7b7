//! A container's output: a file of framed records, which the monitor writes and the worker reads while it grows.
//!
//! Each record is one byte for the stream (1 standard output, 2 standard error), the length as a `u32` in network order, and the data.
//! Offsets that callers see count data only, of both streams together. The monitor may be killed in the middle of a record: a record
//! that is not whole is none.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::num::{to_u64, to_usize};

/// Longest data of a record.
pub(super) const MAX_RECORD: usize = 64 << 10;

const HEADER: usize = 5;

/// Which stream something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    const fn tag(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    const fn of(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// A piece of output: stream, offset of its first byte, bytes.
pub type Piece = (LogStream, u64, Vec<u8>);

/// The writing end, up to a number of bytes of data.
pub(super) struct Writer {
    file: File,
    /// Bytes of whole records.
    whole: u64,
    room: u64,
    limit: u64,
    dropped: u64,
}

impl Writer {
    pub(super) fn create(path: &Path, limit: u64) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Self { file, whole: 0, room: limit, limit, dropped: 0 })
    }

    /// Appends data, or as much of it as there is room for: what comes after is counted, and one line says so.
    pub(super) fn write(&mut self, stream: LogStream, data: &[u8]) -> io::Result<()> {
        let len = to_u64(data.len());
        let kept = len.min(self.room);
        if kept > 0 {
            self.record(stream, &data[..to_usize(kept)])?;
            self.room -= kept;
        }
        if kept < len {
            if self.dropped == 0 {
                let marker = format!("\n[clipfs: output beyond {} bytes is dropped]\n", self.limit);
                self.record(LogStream::Stderr, marker.as_bytes())?;
            }
            self.dropped += len - kept;
        }
        Ok(())
    }

    /// Bytes that there was no room for.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn record(&mut self, stream: LogStream, data: &[u8]) -> io::Result<()> {
        for piece in data.chunks(MAX_RECORD) {
            let len = u32::try_from(piece.len()).map_err(io::Error::other)?;
            let mut record = Vec::with_capacity(HEADER + piece.len());
            record.push(stream.tag());
            record.extend_from_slice(&len.to_be_bytes());
            record.extend_from_slice(piece);
            if let Err(error) = self.file.write_all(&record) {
                // Half a record would make nonsense of all that follows, which the other stream may write when there is room again.
                self.file.set_len(self.whole)?;
                self.file.seek(SeekFrom::Start(self.whole))?;
                return Err(error);
            }
            self.whole += to_u64(record.len());
        }
        Ok(())
    }
}

/// A place in the file that is the start of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// Bytes of data before it.
    pub(super) offset: u64,
    /// Bytes of the file before it.
    position: u64,
}

/// Pieces from an offset on, at most `limit` bytes of data of them (but at least one piece, if there is one), and the place of
/// the first record that was not handed out whole. `near` is a place at or before the offset.
pub(super) fn read(path: &Path, near: Place, from: u64, limit: usize) -> io::Result<(Vec<Piece>, Place)> {
    let mut found = Vec::new();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((found, near)),
        Err(e) => return Err(e),
    };
    let end = file.metadata()?.len();
    let mut place = if near.offset <= from && near.position <= end { near } else { Place::default() };
    let mut room = limit;
    loop {
        file.seek(SeekFrom::Start(place.position))?;
        let mut header = [0; HEADER];
        if !fill(&mut file, &mut header)? {
            break;
        }
        let [tag, length @ ..] = header;
        let length = u64::from(u32::from_be_bytes(length));
        let next = place.position + to_u64(HEADER) + length;
        if next > end {
            break;
        }
        let stream = LogStream::of(tag).filter(|_| length <= to_u64(MAX_RECORD));
        let Some(stream) = stream else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its records are damaged"));
        };
        if place.offset + length > from {
            let skipped = from.saturating_sub(place.offset);
            let wanted = to_usize(length - skipped);
            let taken = if found.is_empty() { wanted.min(limit.max(1)) } else { wanted.min(room) };
            if taken == 0 {
                break;
            }
            let start = place.position + to_u64(HEADER) + skipped;
            file.seek(SeekFrom::Start(start))?;
            let mut data = vec![0; taken];
            if !fill(&mut file, &mut data)? {
                break;
            }
            found.push((stream, place.offset + skipped, data));
            room = room.saturating_sub(taken);
            if taken < wanted {
                break;
            }
        }
        place = Place { offset: place.offset + length, position: next };
    }
    Ok((found, place))
}

/// Fills the buffer; `false` = the file ends before.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LogStream::{Stderr, Stdout};

    fn all(path: &Path, from: u64, limit: usize) -> Vec<Piece> {
        read(path, Place::default(), from, limit).unwrap().0
    }

    #[test]
    fn pieces_come_back_from_any_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        assert!(all(&path, 0, 100).is_empty(), "no file, no output");
        let mut writer = Writer::create(&path, 1000).unwrap();
        writer.write(Stdout, b"one").unwrap();
        writer.write(Stderr, b"two").unwrap();
        writer.write(Stdout, b"three").unwrap();
        let piece = |stream, offset, data: &[u8]| (stream, offset, data.to_vec());
        let (one, two, three) =
            (piece(Stdout, 0, b"one"), piece(Stderr, 3, b"two"), piece(Stdout, 6, b"three"));
        assert_eq!(all(&path, 0, 100), [one.clone(), two.clone(), three.clone()]);
        assert_eq!(all(&path, 3, 100), [two.clone(), three.clone()]);
        assert_eq!(all(&path, 4, 100), [piece(Stderr, 4, b"wo"), three.clone()]);
        assert_eq!(all(&path, 0, 4), [one.clone(), piece(Stderr, 3, b"t")]);
        assert!(all(&path, 11, 100).is_empty());
        // Read on from where the last one stopped.
        let (first, place) = read(&path, Place::default(), 0, 4).unwrap();
        assert_eq!((first.len(), place.offset), (2, 3));
        let (rest, place) = read(&path, place, 4, 100).unwrap();
        assert_eq!(rest, [piece(Stderr, 4, b"wo"), three]);
        writer.write(Stderr, b"four").unwrap();
        assert_eq!(read(&path, place, 11, 100).unwrap().0, [piece(Stderr, 11, b"four")]);
    }

    #[test]
    fn what_is_too_much_is_dropped_with_one_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let mut writer = Writer::create(&path, 5).unwrap();
        for _ in 0..3 {
            writer.write(Stdout, b"abcd").unwrap();
        }
        assert_eq!(writer.dropped(), 7);
        let found = all(&path, 0, 1000);
        assert_eq!(found.len(), 3);
        assert_eq!((&found[0].2[..], &found[1].2[..]), (&b"abcd"[..], &b"a"[..]));
        assert_eq!(found[2].0, Stderr);
        assert!(String::from_utf8_lossy(&found[2].2).contains("beyond 5 bytes"));
    }

    #[test]
    fn what_a_full_disk_has_torn_is_taken_back() {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        assert!(nix::unistd::geteuid().is_root(), "this test mounts: run it as root");
        let dir = tempfile::tempdir().unwrap();
        let none: Option<&str> = None;
        mount(none, dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let path = dir.path().join("output");
        let mut writer = Writer::create(&path, 1 << 20).unwrap();
        writer.write(Stdout, b"before").unwrap();
        let error =
            writer.write(Stdout, &vec![b'x'; 60 << 10]).and_then(|()| writer.write(Stdout, &[b'y'; 9000]));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let kept = all(&path, 0, 1 << 20);
        writer.write(Stderr, b"after").unwrap();
        let found = all(&path, 0, 1 << 20);
        drop(writer);
        umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
        assert_eq!(&found[..kept.len()], kept);
        assert_eq!(found.last().unwrap().2, b"after");
    }

    #[test]
    fn a_torn_record_is_none_and_a_damaged_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let mut writer = Writer::create(&path, 100).unwrap();
        writer.write(Stdout, b"whole").unwrap();
        writer.write(Stdout, b"torn").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in 10..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(all(&path, 0, 100).len(), 1, "cut at {cut}");
        }
        let mut damaged = bytes;
        damaged[0] = 9;
        std::fs::write(&path, &damaged).unwrap();
        assert!(read(&path, Place::default(), 0, 100).is_err());
    }
}
