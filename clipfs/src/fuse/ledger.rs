//! What a server must know about the connection and the open files of the server before it: a small file in the run
//! directory, written on every open and release, read once after a restart.
//!
//! Layout (native endian: it never leaves the machine): a header of `HEADER` bytes, then eight bytes for each inode, at
//! `HEADER + 8 × ino`: open handles (u32) and mode (u32: 0 none, `CACHED`, else the kernel's backing id). The file is
//! sparse; an inode that was never opened takes no space.
//!
//! Counts may be too high, never too low: an open is recorded before it is answered and a release after, so a death in between
//! makes the next server count a handle that does not exist. The inode then keeps its mode until the end of the mount, which
//! costs a little speed. The other way round the kernel would refuse the next open with EIO.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::index::Ino;

/// Length of the header.
const HEADER: u64 = 64;
/// First bytes of an initialised ledger; the last digit is its version.
const MAGIC: &[u8; 8] = b"clipfsL1";
/// Mode of an inode whose handles read through the page cache.
const CACHED: u32 = u32::MAX;
/// Length of an inode's record.
const RECORD: u64 = 8;
/// Records read at once after a restart.
const PIECE: usize = 64 << 10;

/// What the kernel said in FUSE_INIT: a restarted server is told the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelInit {
    /// Protocol major version.
    pub major: u32,
    /// Protocol minor version.
    pub minor: u32,
    /// Largest read-ahead offered.
    pub max_readahead: u32,
    /// Capabilities offered.
    pub flags: u64,
}

/// Mode of an inode with open handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordedMode {
    /// Through the page cache.
    Cached,
    /// Handed to the kernel under this backing id.
    Passthrough(u32),
}

/// One inode that had handles open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) ino: Ino,
    pub(crate) count: u32,
    pub(crate) mode: RecordedMode,
}

/// The ledger file. `None` inside = a mount that cannot be adopted (tests).
#[derive(Debug)]
pub struct Ledger(Option<File>);

impl Ledger {
    /// A ledger in `file`, which is empty or was written by an earlier server.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(Some(file))
    }

    /// Remembers nothing.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// What the kernel offered when the connection was initialised; `None` if it has not been yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kernel_init(&self) -> io::Result<Option<KernelInit>> {
        let Some(file) = &self.0 else { return Ok(None) };
        let mut header = [0; 32];
        match file.read_exact_at(&mut header, 0) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        if header[..8] != MAGIC[..] {
            return Ok(None);
        }
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Ok(Some(KernelInit {
            major: word(8),
            minor: word(12),
            max_readahead: word(16),
            flags: u64::from(word(24)) | (u64::from(word(28)) << 32),
        }))
    }

    /// Records that the connection is initialised.
    ///
    /// # Errors
    /// The file cannot be written: the mount would not survive its server.
    pub fn set_kernel_init(&self, init: &KernelInit) -> io::Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        let mut header = Vec::with_capacity(32);
        header.extend_from_slice(MAGIC);
        for word in [init.major, init.minor, init.max_readahead, 0] {
            header.extend_from_slice(&word.to_ne_bytes());
        }
        let (low, high) = halves(init.flags);
        header.extend_from_slice(&low.to_ne_bytes());
        header.extend_from_slice(&high.to_ne_bytes());
        file.write_all_at(&header, 0)
    }

    /// Records the handles of an inode; `None` = none.
    pub(crate) fn record(&self, ino: Ino, handles: Option<(u32, RecordedMode)>) -> io::Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        let (count, mode) = match handles {
            None => (0, 0),
            Some((count, RecordedMode::Cached)) => (count, CACHED),
            Some((count, RecordedMode::Passthrough(id))) => (count, id),
        };
        let mut record = [0; 8];
        record[..4].copy_from_slice(&count.to_ne_bytes());
        record[4..].copy_from_slice(&mode.to_ne_bytes());
        file.write_all_at(&record, HEADER + ino.saturating_mul(RECORD))
    }

    /// All inodes with handles, as recorded.
    pub(crate) fn recorded(&self) -> io::Result<Vec<Recorded>> {
        let Some(file) = &self.0 else { return Ok(Vec::new()) };
        let (mut found, mut piece) = (Vec::new(), vec![0; PIECE]);
        let mut at = HEADER;
        // Holes read as zeros, but gigabytes of them would take their time: skip them.
        while let Some(data) = next_data(file, at)? {
            at = data - data % RECORD;
            let read = file.read_at(&mut piece, at)?;
            let whole = read - read % crate::num::to_usize(RECORD);
            if whole == 0 {
                break;
            }
            for (n, record) in (0_u64..).zip(piece[..whole].chunks_exact(8)) {
                let word =
                    |i: usize| u32::from_ne_bytes([record[i], record[i + 1], record[i + 2], record[i + 3]]);
                let mode = match word(4) {
                    0 => continue,
                    CACHED => RecordedMode::Cached,
                    id => RecordedMode::Passthrough(id),
                };
                found.push(Recorded { ino: (at - HEADER) / RECORD + n, count: word(0), mode });
            }
            at += crate::num::to_u64(whole);
        }
        Ok(found)
    }
}

/// Low and high half.
pub(crate) fn halves(flags: u64) -> (u32, u32) {
    let b = flags.to_le_bytes();
    (u32::from_le_bytes([b[0], b[1], b[2], b[3]]), u32::from_le_bytes([b[4], b[5], b[6], b[7]]))
}

/// Offset of the next data at or after `at`; `None` at the end.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    let offset = i64::try_from(at).map_err(io::Error::other)?;
    match nix::unistd::lseek(file, offset, nix::unistd::Whence::SeekData) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        // A file system without SEEK_DATA: everything is data up to the end.
        Err(nix::errno::Errno::EINVAL) => Ok((at < file.metadata()?.len()).then_some(at)),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_an_uninitialised_connection() {
        let ledger = Ledger::new(tempfile::tempfile().unwrap());
        assert_eq!(ledger.kernel_init().unwrap(), None);
        assert_eq!(ledger.recorded().unwrap(), []);
    }

    #[test]
    fn remembers_what_the_kernel_said() {
        let ledger = Ledger::new(tempfile::tempfile().unwrap());
        let init = KernelInit { major: 7, minor: 45, max_readahead: 131_072, flags: 0x1234_5678_9abc_def0 };
        ledger.set_kernel_init(&init).unwrap();
        assert_eq!(ledger.kernel_init().unwrap(), Some(init));
        assert_eq!(ledger.recorded().unwrap(), []);
    }

    #[test]
    fn remembers_handles_wherever_they_are() {
        let ledger = Ledger::new(tempfile::tempfile().unwrap());
        ledger.record(2, Some((1, RecordedMode::Cached))).unwrap();
        ledger.record(9_000, Some((3, RecordedMode::Passthrough(17)))).unwrap();
        ledger.record(50_000_000, Some((2, RecordedMode::Cached))).unwrap();
        ledger.record(3, Some((2, RecordedMode::Cached))).unwrap();
        ledger.record(3, None).unwrap();
        let expected = [
            Recorded { ino: 2, count: 1, mode: RecordedMode::Cached },
            Recorded { ino: 9_000, count: 3, mode: RecordedMode::Passthrough(17) },
            Recorded { ino: 50_000_000, count: 2, mode: RecordedMode::Cached },
        ];
        assert_eq!(ledger.recorded().unwrap(), expected);
    }
}
