//! `/proc/self/mountinfo`: what is mounted where.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Type that our mounts have in the mount table.
pub(crate) const FS_TYPE: &str = "fuse.clipfs";

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `major:minor`, as in `/sys/class/bdi`.
    pub(crate) device: String,
    pub(crate) mountpoint: PathBuf,
    pub(crate) fs_type: String,
    /// What is mounted, as whoever mounted it says.
    pub(crate) source: String,
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

/// Everything that is mounted, in the order of the table.
pub(crate) fn mountpoints() -> std::io::Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).map(|entry| entry.mountpoint).collect())
}

/// Where a file system of ours is mounted, as seen from one mountpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Topmost at the mountpoint (unless something covers a directory above it).
    Top,
    /// Under another mount, or at another place.
    Elsewhere,
    /// Not in the table.
    Nowhere,
}

/// Looks for the file system of a device.
pub(crate) fn place(mountpoint: &Path, device: &str) -> std::io::Result<Place> {
    Ok(place_in(&std::fs::read("/proc/self/mountinfo")?, mountpoint, device))
}

fn place_in(table: &[u8], mountpoint: &Path, device: &str) -> Place {
    let (mut place, mut known) = (Place::Nowhere, false);
    for entry in parse(table) {
        let wanted = entry.is_ours() && entry.device == device;
        known |= wanted;
        if entry.mountpoint == mountpoint {
            place = if wanted { Place::Top } else { Place::Nowhere };
        }
    }
    if known && place == Place::Nowhere { Place::Elsewhere } else { place }
}

/// How long a mount may take to answer before it counts as living.
const PROBE: std::time::Duration = std::time::Duration::from_secs(2);

/// Whether nobody is at the other end of the mount any more. One that does not answer is not dead: its keeper may be starting
/// a server.
pub(crate) fn is_dead(mountpoint: &Path) -> bool {
    let path = mountpoint.to_owned();
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let answer = nix::sys::statfs::statfs(&path);
        // Nobody receives after the limit.
        let _ = sender.send(matches!(answer, Err(Errno::ENOTCONN | Errno::ECONNABORTED)));
    });
    receiver.recv_timeout(PROBE).unwrap_or(false)
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
        let source = String::from_utf8_lossy(rest.next().unwrap_or_default()).into_owned();
        Some(Entry { device, mountpoint: PathBuf::from(mountpoint), fs_type, source })
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
    fn places_a_device_among_what_lies_over_it() {
        let line = |device: &str, at: &str, kind: &str| format!("1 1 {device} / {at} rw - {kind} x rw\n");
        let (ours, other) = (line("0:55", "/m", FS_TYPE), line("0:56", "/m", FS_TYPE));
        let at = |table: &str| place_in(table.as_bytes(), Path::new("/m"), "0:55");
        assert_eq!(at(&ours), Place::Top);
        assert_eq!(at(&(other.clone() + &ours)), Place::Top);
        assert_eq!(at(&(ours.clone() + &other)), Place::Elsewhere);
        assert_eq!(at(&(ours + &line("0:9", "/m", "tmpfs"))), Place::Elsewhere);
        assert_eq!(at(&line("0:55", "/n", FS_TYPE)), Place::Elsewhere);
        assert_eq!(at(&other), Place::Nowhere);
        assert_eq!(at(&line("0:55", "/m", "tmpfs")), Place::Nowhere);
    }

    #[test]
    fn finds_the_root() {
        assert!(at(Path::new("/")).unwrap().is_some());
        assert!(at(Path::new("/nothing/here")).unwrap().is_none());
    }
}
