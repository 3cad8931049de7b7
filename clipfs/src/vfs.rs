//! The file system's view of an index: lookup, attributes, directories, xattrs. Pure, synchronous, in memory.

use std::sync::Arc;

use crate::index::reader::ROOT;
use crate::index::{ClipIndex, Ino, Inode, Kind};

/// Name of the root's virtual xattr that tells which image is mounted.
pub const IMAGE_XATTR: &[u8] = b"user.clipfs.image";

/// Longest name (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// Most symlinks that a path may lead through (`MAXSYMLINKS` in the kernel).
const MAX_LINKS: u32 = 40;

/// Entries before a directory's first name: `.` and `..`. The n-th name is at offset n + 2.
const DOTS: u64 = 2;

/// What a caller did wrong; the adapter turns it into an errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VfsError {
    /// No such name or inode: ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// A file where a directory is needed: ENOTDIR.
    #[error("not a directory")]
    NotADirectory,
    /// A directory where a file is needed: EISDIR.
    #[error("is a directory")]
    IsADirectory,
    /// Not a symlink: EINVAL.
    #[error("not a symlink")]
    NotASymlink,
    /// No such xattr: ENODATA.
    #[error("no such attribute")]
    NoAttribute,
    /// Name over 255 bytes: ENAMETOOLONG.
    #[error("name too long")]
    NameTooLong,
}

/// One directory entry as `readdirplus` wants it.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// Name; `.` and `..` included.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: Ino,
    /// Attributes.
    pub inode: Inode,
    /// Offset to ask for the entry after this one: stable across processes.
    pub next: u64,
}

/// File system totals for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of all distinct contents.
    pub bytes: u64,
    /// Inodes.
    pub files: u64,
}

/// An image's tree, as a file system sees it.
#[derive(Debug, Clone)]
pub struct Vfs {
    index: Arc<ClipIndex>,
    image: Arc<str>,
}

impl Vfs {
    /// `image` is what the root's virtual xattr answers: reference with digest.
    #[must_use]
    pub fn new(index: Arc<ClipIndex>, image: &str) -> Self {
        Self { index, image: image.into() }
    }

    /// The index beneath.
    #[must_use]
    pub fn index(&self) -> &Arc<ClipIndex> {
        &self.index
    }

    /// Attributes.
    ///
    /// # Errors
    /// [`VfsError::NotFound`].
    pub fn attr(&self, ino: Ino) -> Result<Inode, VfsError> {
        self.index.inode(ino).ok_or(VfsError::NotFound)
    }

    /// A name in a directory (`.` and `..` included).
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NameTooLong`.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<(Ino, Inode), VfsError> {
        if name.len() > MAX_NAME {
            return Err(VfsError::NameTooLong);
        }
        let inode = self.dir(dir)?;
        let ino = match name {
            b"." => dir,
            b".." => inode.parent,
            name => self.index.lookup(dir, name).ok_or(VfsError::NotFound)?,
        };
        Ok((ino, self.attr(ino)?))
    }

    /// Entries of a directory from `offset` (0 = the start, else an entry's `next`).
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`.
    pub fn readdir(&self, dir: Ino, offset: u64) -> Result<impl Iterator<Item = DirEntry<'_>>, VfsError> {
        let inode = self.dir(dir)?;
        let len = u64::from(self.index.dir_len(dir)) + DOTS;
        Ok((offset..len).filter_map(move |at| {
            let (name, ino): (&[u8], Ino) = match at {
                0 => (b".", dir),
                1 => (b"..", inode.parent),
                _ => self.index.dir_entry(dir, u32::try_from(at - DOTS).ok()?)?,
            };
            Some(DirEntry { name, ino, inode: self.index.inode(ino)?, next: at + 1 })
        }))
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// `NotFound`, `NotASymlink`.
    pub fn readlink(&self, ino: Ino) -> Result<&[u8], VfsError> {
        match self.attr(ino)?.kind {
            Kind::Symlink => self.index.symlink(ino).ok_or(VfsError::NotFound),
            _ => Err(VfsError::NotASymlink),
        }
    }

    /// An extended attribute.
    ///
    /// # Errors
    /// `NotFound`, `NoAttribute`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<&[u8], VfsError> {
        self.attr(ino)?;
        if ino == ROOT && name == IMAGE_XATTR {
            return Ok(self.image.as_bytes());
        }
        self.index.xattr(ino, name).ok_or(VfsError::NoAttribute)
    }

    /// Names of all extended attributes, each followed by NUL, as `listxattr` returns them.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, VfsError> {
        self.attr(ino)?;
        let mut list = Vec::new();
        let virtual_name = (ino == ROOT).then_some(IMAGE_XATTR);
        let own = self.index.xattrs(ino).map(|(name, _)| name).filter(|&name| Some(name) != virtual_name);
        for name in virtual_name.into_iter().chain(own) {
            list.extend_from_slice(name);
            list.push(0);
        }
        Ok(list)
    }

    /// Follows a path from the root, symlinks included unless it is the last component and `follow` is false: for `ls`,
    /// `cat` and `stat`.
    ///
    /// # Errors
    /// `NotFound` (also for more than 40 symlinks), `NotADirectory`.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Ino, VfsError> {
        let mut at = ROOT;
        let mut links = 0;
        // A symlink replaces the rest of the path by its target and what followed it.
        let mut rest = path.to_vec();
        let mut pos = 0;
        while let Some(tail) = rest.get(pos..).filter(|tail| !tail.is_empty()) {
            let end = tail.iter().position(|&b| b == b'/').unwrap_or(tail.len());
            let name = &tail[..end];
            let last = tail[end..].iter().all(|&b| b == b'/');
            // A slash behind the name asks for what a link points to, and for a directory.
            let slash = end < tail.len();
            if name.is_empty() {
                pos += 1;
                continue;
            }
            let (ino, inode) = self.lookup(at, name)?;
            if inode.kind == Kind::Symlink && (!last || follow || slash) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(VfsError::NotFound);
                }
                let target = self.readlink(ino)?;
                if target.starts_with(b"/") {
                    at = ROOT;
                }
                rest = [target, &tail[end..]].concat();
                pos = 0;
                continue;
            }
            if slash && inode.kind != Kind::Dir {
                return Err(VfsError::NotADirectory);
            }
            at = ino;
            pos += end;
        }
        Ok(at)
    }

    /// A directory's attributes.
    fn dir(&self, ino: Ino) -> Result<Inode, VfsError> {
        let inode = self.attr(ino)?;
        if inode.kind == Kind::Dir { Ok(inode) } else { Err(VfsError::NotADirectory) }
    }

    /// Totals for `statfs`.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals { bytes: self.index.content_bytes(), files: self.index.inode_count() }
    }
}

#[cfg(test)]
mod tests;
