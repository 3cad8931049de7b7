//! The cache directory: held descriptors, names, temporary files. No policy.
//!
//! ```text
//! <dir>/CACHEDIR.TAG  version  usage
//! <dir>/objects/<aa>/<64 hex>         complete contents, by their own digest
//! <dir>/partial/<aa>/<64 hex>         sparse files of contents of which parts are here
//! <dir>/partial/<aa>/<64 hex>.map     and which parts: see `segments`
//! <dir>/tmp/<16 hex>                  being written (and flocked); renamed into place
//! ```
//!
//! Everything is done relative to held directory descriptors and no link is ever followed below the directory that
//! the user named, so nobody who swaps names under us can make us read or write elsewhere.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::decode::Blake3;

/// First line of the `version` file. A directory of another version is refused: its files mean something else.
const VERSION: &str = "clipfs store 1";
/// See <https://bford.info/cachedir/>: backup programs leave such directories out.
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
# This directory is a cache of clipfs. It may be removed at any time.\n";

const DIR_MODE: Mode = Mode::S_IRWXU;
const FILE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// The two trees of sharded names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    Objects,
    Partial,
}

/// Held descriptors of one cache directory. They stay valid when the directory is renamed; when it is removed, every
/// creation fails with ENOENT, and [`Disk::reopen`] makes new ones.
#[derive(Debug)]
pub(super) struct Dirs {
    root: OwnedFd,
    /// Also the lock that only one process at a time scans or evicts under.
    objects: File,
    partial: OwnedFd,
    tmp: OwnedFd,
    /// The shared tally: see `usage`. `None`: cannot be opened; each process then counts for itself.
    pub(super) usage: Option<File>,
    /// `objects` and `partial` did not exist before: there is nothing to count.
    pub(super) fresh: bool,
}

/// What eviction, verification and accounting need to know of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) ident: Ident,
    /// Allocated bytes.
    pub(super) bytes: u64,
    /// Modification time, nanoseconds since 1970.
    pub(super) mtime: u64,
    /// The later of access and modification time, nanoseconds since 1970.
    pub(super) recency: u64,
    /// Whether a name refers to it.
    pub(super) linked: bool,
    pub(super) regular: bool,
}

/// A file's identity: while it stays the same, so do the bytes (short of a failing disk).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ident {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) ctime: (i64, i64),
}

fn nanos(sec: i64, nsec: i64) -> u64 {
    let sec = u64::try_from(sec).unwrap_or(0);
    sec.saturating_mul(1_000_000_000).saturating_add(u64::try_from(nsec).unwrap_or(0))
}

impl From<FileStat> for Stat {
    fn from(st: FileStat) -> Self {
        let mtime = nanos(st.st_mtime, st.st_mtime_nsec);
        Self {
            ident: Ident {
                dev: st.st_dev,
                ino: st.st_ino,
                size: u64::try_from(st.st_size).unwrap_or(0),
                ctime: (st.st_ctime, st.st_ctime_nsec),
            },
            bytes: u64::try_from(st.st_blocks).unwrap_or(0).saturating_mul(512),
            mtime,
            recency: mtime.max(nanos(st.st_atime, st.st_atime_nsec)),
            linked: st.st_nlink > 0,
            regular: st.st_mode & libc::S_IFMT == libc::S_IFREG,
        }
    }
}

/// A file's [`Stat`] by descriptor.
pub(super) fn stat(file: impl AsFd) -> io::Result<Stat> {
    Ok(fstat(file)?.into())
}

/// A file's [`Stat`] by name; a link's own.
pub(super) fn stat_at(dir: impl AsFd, name: &str) -> io::Result<Stat> {
    Ok(fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.into())
}

/// Opens a file in a held directory. Never a link, never blocking on a FIFO that somebody put there.
pub(super) fn open_at(dir: impl AsFd, name: &str, flags: OFlag) -> io::Result<File> {
    let always = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    Ok(File::from(openat(dir, name, flags | always, FILE_MODE)?))
}

/// Removes a name. A link itself, never its target.
pub(super) fn remove_at(dir: impl AsFd, name: &str) -> io::Result<()> {
    Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?)
}

pub(super) fn rename_at(from: impl AsFd, name: &str, to: impl AsFd, new: &str) -> io::Result<()> {
    Ok(renameat(from, name, to, new)?)
}

/// Takes a `flock`, exclusive or shared, without waiting. `false`: somebody else holds it. File systems that cannot
/// lock count as granted: the locks only save work there, digests do the rest.
pub(super) fn try_flock(file: &File, exclusive: bool) -> bool {
    let taken = if exclusive { file.try_lock() } else { file.try_lock_shared() };
    !matches!(taken, Err(TryLockError::WouldBlock))
}

/// Lower-case hexadecimal: the name of an object or partial.
pub(super) fn hex_name(name: &Blake3) -> String {
    hex::encode(name)
}

/// The other way round. `None`: not a name that this module gives.
pub(super) fn parse_hex_name(name: &[u8]) -> Option<Blake3> {
    let mut digest = [0; 32];
    let lower = name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (lower && hex::decode_to_slice(name, &mut digest).is_ok()).then_some(digest)
}

pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// A file in `tmp`, locked while this lives and removed unless renamed.
#[derive(Debug)]
pub(super) struct Temp<'a> {
    dirs: &'a Dirs,
    name: String,
    pub(super) file: File,
    placed: bool,
}

impl Temp<'_> {
    /// Renames it into place.
    pub(super) fn place(mut self, dir: impl AsFd, name: &str) -> io::Result<()> {
        rename_at(&self.dirs.tmp, &self.name, dir, name)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.placed {
            // Failing to is harmless: the next opening removes what nobody has locked.
            let _ = remove_at(&self.dirs.tmp, &self.name);
        }
    }
}

impl Dirs {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(DIR_MODE.bits()).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let root = nix::fcntl::open(path, dir_flags(), Mode::empty()).map_err(|e| {
            if matches!(e, Errno::ELOOP | Errno::ENOTDIR) && path.is_symlink() {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is a symbolic link: name the directory itself",
                )
            } else {
                e.into()
            }
        })?;
        check_owner(&root)?;
        let has_version = check_version(&root)?;
        let (objects, fresh) = subdir(&root, "objects")?;
        let (partial, partial_fresh) = subdir(&root, "partial")?;
        let (tmp, _) = subdir(&root, "tmp")?;
        let usage = open_at(&root, "usage", OFlag::O_RDWR | OFlag::O_CREAT).ok();
        if (fresh || partial_fresh)
            && let Some(usage) = &usage
        {
            // What it says is of directories that somebody has removed.
            usage.set_len(0)?;
        }
        let fresh = fresh && partial_fresh;
        let dirs = Self { root, objects: objects.into(), partial, tmp, usage, fresh };
        if !has_version {
            // A full disk may refuse these; the next opening tries again.
            if let Err(error) = dirs.write_marks() {
                tracing::debug!(dir = %path.display(), %error, "cannot mark the cache directory");
            }
        }
        Ok(dirs)
    }

    fn write_marks(&self) -> io::Result<()> {
        for (name, text) in [("CACHEDIR.TAG", CACHEDIR_TAG), ("version", VERSION)] {
            let mut temp = self.temp()?;
            temp.file.write_all(text.as_bytes())?;
            temp.place(&self.root, name)?;
        }
        Ok(())
    }

    fn tree(&self, tree: Tree) -> std::os::fd::BorrowedFd<'_> {
        match tree {
            Tree::Objects => self.objects.as_fd(),
            Tree::Partial => self.partial.as_fd(),
        }
    }

    /// The directory that holds `name`. `O_PATH`: enough to work in, and cheap.
    pub(super) fn shard(&self, tree: Tree, name: &str) -> io::Result<OwnedFd> {
        let aa = name.get(..2).unwrap_or_default();
        Ok(openat(self.tree(tree), aa, dir_flags() | OFlag::O_PATH, Mode::empty())?)
    }

    /// The same, created if missing. Whatever else has taken its name (a link, say) is removed.
    pub(super) fn make_shard(&self, tree: Tree, name: &str) -> io::Result<OwnedFd> {
        let aa = name.get(..2).unwrap_or_default();
        match self.shard(tree, name) {
            Err(e) if is(&e, Errno::ENOENT) => {}
            Err(e) if is(&e, Errno::ELOOP) || is(&e, Errno::ENOTDIR) => remove_at(self.tree(tree), aa)?,
            other => return other,
        }
        match mkdirat(self.tree(tree), aa, DIR_MODE) {
            Ok(()) | Err(Errno::EEXIST) => self.shard(tree, name),
            Err(e) => Err(e.into()),
        }
    }

    /// A new file in `tmp`, empty and locked.
    pub(super) fn temp(&self) -> io::Result<Temp<'_>> {
        loop {
            let name = format!("{:016x}", fastrand::u64(..));
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
            let file = match open_at(&self.tmp, &name, flags) {
                Err(e) if is(&e, Errno::EEXIST) => continue,
                other => other?,
            };
            // Another process may have taken it for a leftover before it was locked.
            if try_flock(&file, true) && stat(&file)?.linked {
                return Ok(Temp { dirs: self, name, file, placed: false });
            }
        }
    }

    /// Removes files in `tmp` that no living process is writing. Returns the bytes freed.
    pub(super) fn remove_leftovers(&self) -> io::Result<u64> {
        let mut freed = 0;
        for name in list(&self.tmp)? {
            let Ok(file) = open_at(&self.tmp, &name, OFlag::O_RDONLY) else {
                // Not a file of ours (a link, say): out with it all the same.
                let _ = remove_at(&self.tmp, &name);
                continue;
            };
            if try_flock(&file, true) && remove_at(&self.tmp, &name).is_ok() {
                freed += stat(&file).map_or(0, |st| st.bytes);
            }
        }
        Ok(freed)
    }

    /// Names in one shard, by number. A shard that does not exist is empty.
    pub(super) fn list_shard(&self, tree: Tree, shard: u8) -> io::Result<Option<(OwnedFd, Vec<String>)>> {
        match openat(self.tree(tree), format!("{shard:02x}").as_str(), dir_flags(), Mode::empty()) {
            Ok(dir) => {
                let names = list(&dir)?;
                Ok(Some((dir, names)))
            }
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits at most `wait` until no other process counts or evicts. The lock ends with the guard; one thread of this
    /// process at a time (the caller's mutex sees to that). `None`: still busy.
    pub(super) fn scan_lock(&self, wait: Duration) -> Option<ScanLock<'_>> {
        let start = Instant::now();
        loop {
            if try_flock(&self.objects, true) {
                return Some(ScanLock(&self.objects));
            }
            if start.elapsed() >= wait {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// See [`Dirs::scan_lock`].
#[derive(Debug)]
pub(super) struct ScanLock<'a>(&'a File);

impl Drop for ScanLock<'_> {
    fn drop(&mut self) {
        // Cannot fail on a lock that is held; closing would release it anyway.
        let _ = self.0.unlock();
    }
}

fn dir_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Opens a subdirectory, created if missing; whether it was.
fn subdir(root: &OwnedFd, name: &str) -> io::Result<(OwnedFd, bool)> {
    let fresh = match mkdirat(root, name, DIR_MODE) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(e) => return Err(e.into()),
    };
    let dir = openat(root, name, dir_flags(), Mode::empty())?;
    check_owner(&dir)?;
    Ok((dir, fresh))
}

/// Others who can write here could change objects after they were verified.
fn check_owner(dir: &OwnedFd) -> io::Result<()> {
    let st = fstat(dir)?;
    if st.st_uid != 0 && st.st_uid != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    if st.st_mode & libc::S_IWOTH != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "other users may write to it"));
    }
    Ok(())
}

/// Whether the directory has this version's mark; an error if it has another's.
fn check_version(root: &OwnedFd) -> io::Result<bool> {
    let file = match open_at(root, "version", OFlag::O_RDONLY) {
        Err(e) if is(&e, Errno::ENOENT) => return Ok(false),
        other => other?,
    };
    let mut text = String::new();
    file.take(256).read_to_string(&mut text)?;
    match text.trim_end() {
        VERSION => Ok(true),
        // A power cut may leave it empty.
        "" => Ok(false),
        other => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it was made by another version of clipfs ({other:?}, this one reads {VERSION:?})"),
        )),
    }
}

/// Names in a directory, those that are not UTF-8 (never ours) left out.
fn list(dir: &OwnedFd) -> io::Result<Vec<String>> {
    // Through a descriptor of its own: the position in a directory belongs to the open file.
    let mut dir = nix::dir::Dir::openat(dir, ".", dir_flags(), Mode::empty())?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        if let Ok(name) = entry?.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The directory by path, and what is held of it now.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    dirs: Mutex<Option<Arc<Dirs>>>,
}

impl Disk {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let dirs = match Dirs::open(path) {
            Ok(dirs) => Some(Arc::new(dirs)),
            // Full: start without; the first write that succeeds makes up for it.
            Err(e) if is_full(&e) && path.is_dir() => None,
            Err(e) => return Err(e),
        };
        Ok(Self { path: path.to_owned(), dirs: Mutex::new(dirs) })
    }

    /// Holds nothing yet; the first write tries to open the directory.
    pub(super) fn unopened(path: PathBuf) -> Self {
        Self { path, dirs: Mutex::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is held now. `None`: nothing: every read is a miss.
    pub(super) fn dirs(&self) -> Option<Arc<Dirs>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After ENOENT: opens the path afresh (creating it), unless another thread has done so since `seen`. The
    /// flag: whether this call did it.
    pub(super) fn reopen(&self, seen: Option<&Arc<Dirs>>) -> io::Result<(Arc<Dirs>, bool)> {
        let mut held = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = held.as_ref()
            && !seen.is_some_and(|seen| Arc::ptr_eq(seen, now))
        {
            return Ok((Arc::clone(now), false));
        }
        let dirs = Arc::new(Dirs::open(&self.path)?);
        *held = Some(Arc::clone(&dirs));
        Ok((dirs, true))
    }
}

/// Trouble that room would cure.
pub(super) fn is_full(error: &io::Error) -> bool {
    is(error, Errno::ENOSPC) || is(error, Errno::EDQUOT)
}

/// Whether two handles are of the same file.
pub(super) fn same_file(file: &File, ident: &Ident) -> bool {
    file.metadata().is_ok_and(|m| m.dev() == ident.dev && m.ino() == ident.ino)
}
