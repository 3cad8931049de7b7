//! `/proc/self/mountinfo`: what is mounted where.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Type that our mounts have in the mount table.
pub(crate) const FS_TYPE: &str = "fuse.clipfs";

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `major:minor`, as in `/sys/class/bdi`.
    pub(crate) device: String,
    pub(crate) mountpoint: PathBuf,
    pub(crate) fs_type: String,
}

impl Entry {
    pub(crate) fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// The topmost mount at exactly this path. Never touches the mount itself, which may be dead.
pub(crate) fn at(mountpoint: &Path) -> std::io::Result<Option<Entry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).filter(|entry| entry.mountpoint == mountpoint).last())
}

/// See proc_pid_mountinfo(5): `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw`.
fn parse(table: &[u8]) -> impl Iterator<Item = Entry> {
    table.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let mountpoint = unescape(fields.nth(1)?);
        let mut rest = fields.skip_while(|field| *field != b"-");
        rest.next()?;
        let fs_type = String::from_utf8(rest.next()?.to_vec()).ok()?;
        Some(Entry { device, mountpoint: PathBuf::from(mountpoint), fs_type })
    })
}

/// Blank, tab, line feed and backslash stand as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let (mut out, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((first, tail)) = rest.split_first() {
        let code =
            tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// The canonical path of a mountpoint that may be dead: its own inode is not looked at unless it is a symlink.
pub(crate) fn canonical(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match std::fs::canonicalize(&absolute) {
        Ok(path) => Ok(path),
        Err(e)
            if e.raw_os_error() == Some(libc::ENOTCONN) || e.raw_os_error() == Some(libc::ECONNABORTED) =>
        {
            let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else { return Err(e) };
            Ok(std::fs::canonicalize(parent)?.join(name))
        }
        Err(e) => Err(e),
    }
}

/// Name of a mount's entry in the run directory.
pub(crate) fn id(mountpoint: &Path) -> String {
    hex::encode(&blake3::hash(mountpoint.as_os_str().as_bytes()).as_bytes()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        let table = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
            40 35 0:55 / /a\\040b\\134c ro,relatime shared:2 master:3 - fuse.clipfs image ro,user_id=0\n\
            nonsense\n";
        let entries: Vec<_> = parse(table).collect();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].fs_type, "ext3");
        assert_eq!(entries[1].device, "0:55");
        assert_eq!(entries[1].mountpoint, Path::new("/a b\\c"));
        assert!(entries[1].is_ours() && !entries[0].is_ours());
    }

    #[test]
    fn finds_the_root() {
        assert!(at(Path::new("/")).unwrap().is_some());
        assert!(at(Path::new("/nothing/here")).unwrap().is_none());
    }
}
