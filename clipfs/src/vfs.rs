//! The file system's view of an index: lookup, attributes, directories, xattrs. Pure, synchronous, in memory.

use std::sync::Arc;

use crate::index::{ClipIndex, Ino, Inode};

/// Name of the root's virtual xattr that tells which image is mounted.
pub const IMAGE_XATTR: &[u8] = b"user.clipfs.image";

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
        let _ = (dir, name);
        unimplemented!()
    }

    /// Entries of a directory from `offset` (0 = the start, else an entry's `next`).
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`.
    pub fn readdir(
        &self,
        dir: Ino,
        offset: u64,
    ) -> Result<impl Iterator<Item = DirEntry<'_>>, VfsError> {
        let _ = (dir, offset);
        Ok(std::iter::empty())
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// `NotFound`, `NotASymlink`.
    pub fn readlink(&self, ino: Ino) -> Result<&[u8], VfsError> {
        let _ = ino;
        unimplemented!()
    }

    /// An extended attribute.
    ///
    /// # Errors
    /// `NotFound`, `NoAttribute`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<&[u8], VfsError> {
        let _ = (ino, name, &self.image);
        unimplemented!()
    }

    /// Names of all extended attributes, each followed by NUL, as `listxattr` returns them.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, VfsError> {
        let _ = ino;
        unimplemented!()
    }

    /// Follows a path from the root, symlinks included unless it is the last component and `follow` is false: for `ls`,
    /// `cat` and `stat`.
    ///
    /// # Errors
    /// `NotFound` (also for more than 40 symlinks), `NotADirectory`.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Ino, VfsError> {
        let _ = (path, follow);
        unimplemented!()
    }

    /// Totals for `statfs`.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals { bytes: self.index.content_bytes(), files: self.index.inode_count() }
    }
}
