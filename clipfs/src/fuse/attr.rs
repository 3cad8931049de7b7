//! The index's attributes in FUSE's words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::decode::tar::Timestamp;
use crate::index::{Ino, Inode, Kind};

/// `st_blksize`: the page size, so that readers size their buffers by themselves.
pub(crate) const BLOCK_SIZE: u32 = 4096;

/// Unit of `st_blocks`.
const SECTOR: u64 = 512;

/// The type as `readdir` reports it.
pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File(_) => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
    }
}

/// All attributes.
pub(crate) fn attributes(ino: Ino, inode: &Inode) -> FileAttr {
    let mtime = time(inode.mtime);
    FileAttr {
        ino: INodeNo(ino),
        size: inode.size,
        blocks: inode.data_bytes.div_ceil(SECTOR),
        atime: mtime,
        mtime,
        ctime: mtime,
        crtime: UNIX_EPOCH,
        kind: file_type(inode.kind),
        perm: u16::try_from(inode.mode & 0o7777).unwrap_or(0),
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: device(inode.rdev),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// What a negative lookup answers: inode 0 tells the kernel to remember that the name does not exist.
pub(crate) fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// The kernel's 32-bit device number (`new_encode_dev` in linux/kdev_t.h): 12 bits of major, 20 of minor.
fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// Times that the platform cannot express become the epoch; no tar reader makes such.
fn time(at: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(at.secs.unsigned_abs());
    let second = if at.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second.and_then(|s| s.checked_add(Duration::from_nanos(u64::from(at.nanos)))).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_decode_as_the_kernel_does() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (8, 256), (259, 0xf_ffff), (0xfff, 0xf_ffff)] {
            let dev = u64::from(device((major, minor)));
            // glibc's 64-bit encoding agrees with the kernel's 32-bit one where the latter has bits.
            assert_eq!(libc::major(dev), major);
            assert_eq!(libc::minor(dev), minor);
        }
    }

    #[test]
    fn times_before_the_epoch_keep_their_nanoseconds() {
        let t = time(Timestamp { secs: -2, nanos: 800_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(t).unwrap(), Duration::from_millis(1200));
        let t = time(Timestamp { secs: 5, nanos: 1 });
        assert_eq!(t.duration_since(UNIX_EPOCH).unwrap(), Duration::new(5, 1));
        assert_eq!(
            time(Timestamp { secs: i64::MAX, nanos: 999_999_999 })
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs(),
            i64::MAX.unsigned_abs()
        );
        let _ = time(Timestamp { secs: i64::MIN, nanos: 0 });
    }

    #[test]
    fn blocks_round_up_and_leave_holes_out() {
        let inode = Inode {
            kind: Kind::File(None),
            mode: 0o104_755,
            uid: u32::MAX - 1,
            gid: 7,
            nlink: 3,
            size: 1 << 40,
            data_bytes: 513,
            mtime: Timestamp::default(),
            rdev: (0, 0),
            parent: 1,
        };
        let attr = attributes(9, &inode);
        assert_eq!((attr.ino.0, attr.blocks, attr.size, attr.perm), (9, 2, 1 << 40, 0o4755));
        assert_eq!((attr.uid, attr.gid, attr.nlink), (u32::MAX - 1, 7, 3));
    }
}
