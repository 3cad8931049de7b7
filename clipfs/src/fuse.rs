//! The adapter between the kernel and [`Vfs`] + [`Reader`]: `fuser::Filesystem`, as thin as paper.
//!
//! FUSE threads never block: metadata is answered from memory, reads that hit memory too; everything else becomes a task on the
//! runtime that answers within the read deadline. Everything is stateless (ino = tree position, directory offsets from the tree, the
//! handle says only the mode), so that a restarted server goes on where the dead one stopped: see [`session`] and
//! [`ledger`]. Used by [`crate::mount`].

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};
use tokio::runtime::Handle;

use crate::index::{ContentId, Kind};
use crate::read::Reader;
use crate::vfs::{Vfs, VfsError};

mod attr;
mod backing;
mod errno;
pub mod ledger;
mod modes;
mod seek;
pub mod session;
mod shared;
pub mod stats;

use ledger::{KernelInit, Ledger};
use shared::FH_EMPTY;

pub use shared::Shared;

/// How long the kernel may keep names and attributes: for ever, as the image cannot change. (The kernel counts in jiffies and
/// clamps; a century needs no clamping.)
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Inode numbers are never used for something else.
const GENERATION: Generation = Generation(0);

/// Largest request: 256 pages, the kernel's own limit (`fs.fuse.max_pages_limit`).
const MAX_REQUEST: u32 = 1 << 20;

/// Background requests (read-ahead) that the kernel keeps in flight, and when it starts to hold back.
const MAX_BACKGROUND: u16 = 64;
const CONGESTION: u16 = 48;

/// Longest name, as `statfs` reports it.
const NAME_MAX: u32 = 255;

/// Tunables of the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FuseOptions {
    /// Hand complete objects to the kernel where it can take them.
    pub passthrough: bool,
    /// Every request is answered within this time.
    pub deadline: Duration,
}

/// One image as a FUSE file system.
#[derive(Debug)]
pub struct ClipFs {
    shared: Arc<Shared>,
    runtime: Handle,
}

impl ClipFs {
    /// `runtime` runs what cannot be answered from memory; `ledger` is what an earlier server left behind.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn new(
        vfs: Vfs,
        reader: Reader,
        options: FuseOptions,
        ledger: Ledger,
        runtime: Handle,
    ) -> io::Result<Self> {
        let shared = Shared::new(vfs, reader, options, ledger)?;
        Ok(Self { shared: Arc::new(shared), runtime })
    }

    /// What `status` reads.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    fn vfs(&self) -> &Vfs {
        &self.shared.vfs
    }

    /// The content of a regular file (`None` = empty) and its size.
    fn file(&self, ino: INodeNo) -> Result<(Option<ContentId>, u64), Errno> {
        let inode = self.vfs().attr(ino.0).map_err(errno::of_vfs)?;
        match inode.kind {
            Kind::File(content) => Ok((content, inode.size)),
            Kind::Dir => Err(errno::of_vfs(VfsError::IsADirectory)),
            // The kernel opens devices and FIFOs by itself and never opens symlinks.
            Kind::Symlink | Kind::Char | Kind::Block | Kind::Fifo => Err(Errno::EINVAL),
        }
    }
}

/// Answers an xattr call in its two forms: how long (`size` 0), or the value if it fits.
fn answer_xattr(reply: ReplyXattr, size: u32, value: Result<&[u8], VfsError>) {
    let (value, len) = match value.map(|v| (v, u32::try_from(v.len()))) {
        Ok((value, Ok(len))) => (value, len),
        Ok((_, Err(_))) => return reply.error(Errno::E2BIG),
        Err(error) => return reply.error(errno::of_vfs(error)),
    };
    match size {
        0 => reply.size(len),
        _ if size < len => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

impl Filesystem for ClipFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Asking for too much is refused with the most there is: the only way to learn what the kernel sent.
        let max_readahead = match config.set_max_readahead(u32::MAX) {
            Ok(_) => u32::MAX,
            Err(most) => most,
        };
        let (fuser::Version(major, minor), flags) = (config.kernel_abi(), config.capabilities().bits());
        // Set once for each process: a second handshake does not happen.
        let _ = self.shared.kernel_init.set(KernelInit { major, minor, max_readahead, flags });
        for capability in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_EXPORT_SUPPORT,
        ] {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "the kernel does not have it");
            }
        }
        let wanted = self.shared.passes_through();
        if wanted && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err() {
            tracing::info!("this kernel has no FUSE passthrough: complete files are served by reads");
            self.shared.passthrough.store(false, Ordering::Relaxed);
        }
        // 1, not 2: an overlay with a writable layer may then be stacked on the mount. What these setters refuse they
        // leave at a value that works.
        let _ = config.set_max_stack_depth(1);
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_readahead(MAX_REQUEST.min(max_readahead).max(1));
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(CONGESTION);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // For file handles (`open_by_handle_at`, overlayfs) the kernel asks for "." in any inode, files included.
        let found = match name.as_bytes() {
            b"." => self.vfs().attr(parent.0).map(|inode| (parent.0, inode)),
            name => self.vfs().lookup(parent.0, name),
        };
        match found {
            Ok((ino, inode)) => reply.entry(&FOREVER, &attr::attributes(ino, &inode), GENERATION),
            // The image will never have that name: the kernel may remember it.
            Err(VfsError::NotFound) if self.vfs().attr(parent.0).is_ok() => {
                reply.entry(&FOREVER, &attr::absent(), GENERATION);
            }
            Err(error) => reply.error(errno::of_vfs(error)),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.vfs().attr(ino.0) {
            Ok(inode) => reply.attr(&FOREVER, &attr::attributes(ino.0, &inode)),
            Err(error) => reply.error(errno::of_vfs(error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.vfs().readlink(ino.0) {
            Ok(target) => reply.data(target),
            Err(error) => reply.error(errno::of_vfs(error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.0 & libc::O_ACCMODE != libc::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return reply.error(Errno::EROFS);
        }
        let content = match self.file(ino) {
            Ok((Some(content), _)) => content,
            Ok((None, _)) => {
                return reply.opened(FH_EMPTY, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            }
            Err(errno) => return reply.error(errno),
        };
        if let Some(held) = self.shared.modes.join(ino.0, |raw| backing::inherit(&reply, raw)) {
            return self.shared.answer_open(reply, &held);
        }
        let shared = self.shared();
        self.runtime.spawn(async move { shared.open(ino.0, content, reply).await });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let since = Instant::now();
        let (content, len) = match self.file(ino) {
            Ok((content, file_size)) => {
                let rest = file_size.saturating_sub(offset);
                (content, u32::try_from(rest).unwrap_or(u32::MAX).min(size))
            }
            Err(errno) => return reply.error(errno),
        };
        if len == 0 {
            return reply.data(&[]);
        }
        // Only an empty file has no content: a size without one is a contradiction in the index.
        let Some(content) = content else { return reply.error(Errno::EIO) };
        if let Some(bytes) = self.shared.reader.try_read(content, offset, len) {
            return self.shared.answer_read(ino.0, offset, len, &bytes, reply, since);
        }
        let shared = self.shared();
        self.runtime.spawn(async move { shared.read(ino.0, content, offset, len, reply, since).await });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // Answered first: see `ledger`.
        reply.ok();
        if fh != FH_EMPTY {
            self.shared.modes.release(ino.0);
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // The kernel then never asks again.
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // With FUSE_NO_OPENDIR_SUPPORT the kernel then opens all directories by itself, and caches their entries as if
        // FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE had been answered (fs/fuse/file.c, fuse_file_open).
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.vfs().readdir(ino.0, offset) {
            Ok(entries) => {
                for entry in entries {
                    let kind = attr::file_type(entry.inode.kind);
                    if reply.add(INodeNo(entry.ino), entry.next, kind, OsStr::from_bytes(entry.name)) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno::of_vfs(error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self.vfs().readdir(ino.0, offset) {
            Ok(entries) => {
                for entry in entries {
                    let attributes = attr::attributes(entry.ino, &entry.inode);
                    let name = OsStr::from_bytes(entry.name);
                    if reply.add(INodeNo(entry.ino), entry.next, name, &FOREVER, &attributes, GENERATION) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno::of_vfs(error)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let totals = self.vfs().totals();
        let blocks = totals.bytes.div_ceil(u64::from(attr::BLOCK_SIZE));
        reply.statfs(blocks, 0, 0, totals.files, 0, attr::BLOCK_SIZE, NAME_MAX, attr::BLOCK_SIZE);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer_xattr(reply, size, self.vfs().getxattr(ino.0, name.as_bytes()));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.vfs().listxattr(ino.0);
        answer_xattr(reply, size, names.as_deref().map_err(|error| *error));
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = match whence {
            libc::SEEK_DATA => seek::Whence::Data,
            libc::SEEK_HOLE => seek::Whence::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let found = match self.file(ino) {
            Ok((Some(content), size)) => {
                let index = self.vfs().index();
                seek::seek(size, index.extent_count(content), |n| index.extent(content, n), offset, whence)
            }
            Ok((None, size)) => seek::seek(size, 0, |_| None, offset, whence),
            Err(errno) => return reply.error(errno),
        };
        match found.map(i64::try_from) {
            Some(Ok(at)) => reply.offset(at),
            Some(Err(_)) | None => reply.error(Errno::ENXIO),
        }
    }

    // The mount is read-only: the kernel refuses writes itself (MS_RDONLY). Should it be remounted writable, these still do.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: fuser::WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}
