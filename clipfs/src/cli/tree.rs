//! Files of an image as people and programs want to read about them.

use serde::Serialize;

use super::output::printable;
use super::time;
use crate::decode::tar::Timestamp;
use crate::index::{ClipIndex, Ino, Inode, Kind};

/// A file of an image, for JSON.
#[derive(Debug, Serialize)]
pub(super) struct FileReport {
    /// Lossy where the name is not UTF-8.
    path: String,
    /// The name's bytes in hex, where `path` is lossy.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    ino: Ino,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Octal, as chmod takes it.
    mode: String,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<String>,
}

impl FileReport {
    pub(super) fn new(index: &ClipIndex, path: &[u8], ino: Ino, inode: &Inode) -> Self {
        let text = String::from_utf8_lossy(path).into_owned();
        Self {
            path_hex: (text.as_bytes() != path).then(|| hex::encode(path)),
            path: text,
            ino,
            kind: kind(inode.kind),
            mode: format!("{:04o}", inode.mode),
            uid: inode.uid,
            gid: inode.gid,
            nlink: inode.nlink,
            size: inode.size,
            mtime: time::rfc3339(inode.mtime),
            target: index.symlink(ino).map(|target| String::from_utf8_lossy(target).into_owned()),
            rdev: rdev(inode),
        }
    }

    /// The same as `name  value` lines.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("path", printable(self.path.as_bytes())),
            ("type", self.kind.to_owned()),
            ("inode", self.ino.to_string()),
            ("mode", self.mode.clone()),
            ("owner", format!("{}:{}", self.uid, self.gid)),
            ("links", self.nlink.to_string()),
            ("size", self.size.to_string()),
            ("modified", self.mtime.clone()),
        ];
        rows.extend(self.target.as_ref().map(|target| ("target", printable(target.as_bytes()))));
        rows.extend(self.rdev.as_ref().map(|rdev| ("device", rdev.clone())));
        rows
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File(_) => "file",
        Kind::Dir => "directory",
        Kind::Symlink => "symlink",
        Kind::Char => "char device",
        Kind::Block => "block device",
        Kind::Fifo => "fifo",
    }
}

fn rdev(inode: &Inode) -> Option<String> {
    let (major, minor) = inode.rdev;
    matches!(inode.kind, Kind::Char | Kind::Block).then(|| format!("{major}:{minor}"))
}

/// `drwxr-sr-t`, as ls prints it.
pub(super) fn mode_string(kind: Kind, mode: u32) -> String {
    let letter = match kind {
        Kind::File(_) => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Char => 'c',
        Kind::Block => 'b',
        Kind::Fifo => 'p',
    };
    let mut text = String::from(letter);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => set,
            (true, false) => unset,
        });
    }
    text
}

/// The columns of `ls -l` before the name.
pub(super) fn long_columns(inode: &Inode) -> [String; 6] {
    let size = match inode.kind {
        Kind::Char | Kind::Block => format!("{}, {}", inode.rdev.0, inode.rdev.1),
        _ => inode.size.to_string(),
    };
    let mtime: Timestamp = inode.mtime;
    [
        mode_string(inode.kind, inode.mode),
        inode.nlink.to_string(),
        inode.uid.to_string(),
        inode.gid.to_string(),
        size,
        time::minutes(mtime),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_ls_prints_them() {
        let table = [
            (Kind::File(None), 0o644, "-rw-r--r--"),
            (Kind::File(None), 0o4755, "-rwsr-xr-x"),
            (Kind::File(None), 0o4644, "-rwSr--r--"),
            (Kind::Dir, 0o1777, "drwxrwxrwt"),
            (Kind::Dir, 0o1776, "drwxrwxrwT"),
            (Kind::Dir, 0o2750, "drwxr-s---"),
            (Kind::Symlink, 0o777, "lrwxrwxrwx"),
            (Kind::Char, 0o600, "crw-------"),
            (Kind::Block, 0, "b---------"),
            (Kind::Fifo, 0o2600, "prw---S---"),
        ];
        for (kind, mode, text) in table {
            assert_eq!(mode_string(kind, mode), text);
        }
    }
}
