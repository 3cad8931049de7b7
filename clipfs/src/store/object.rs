//! Complete objects: whole contents, verified before use.
//!
//! Nothing is fsynced. After a power cut an object may be short or full of zeros, but a new process verifies it before
//! its first use, so the worst is a miss; an fsync per object would make filling the cache a hundred times slower.
//!
//! That an object was used must survive restarts and reach other processes, or eviction would throw out what is needed.
//! The access time tells: the kernel moves it on reads (with `relatime` once a day), and [`Inner::touch`] when an object is
//! opened whose times are old. It is not done more often because it changes the ctime too, so that every other
//! process has to verify the object again.

use std::fs::{File, FileTimes};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::disk::{
    Dirs, Ident, Stat, Tree, hex_name, is, is_full, open_at, remove_at, same_file, stat, stat_at,
};
use super::evict::removed;
use super::memo::now;
use super::usage::{Change, signed};
use super::{Inner, ObjectFile};
use crate::decode::Blake3;
use crate::num::{to_u64, to_usize};

/// Bytes read at once when verifying: enough for BLAKE3 to use the widest vectors, few enough for the cache.
const READ: u64 = 256 << 10;

/// How old an object's times may grow before opening it renews them.
const TOUCH_AFTER: Duration = Duration::from_secs(6 * 3600);
/// The same for objects beyond [`TOUCH_LARGE`], which take others longer to verify again.
const TOUCH_LARGE_AFTER: Duration = Duration::from_secs(24 * 3600);
const TOUCH_LARGE: u64 = 16 << 20;

/// Allocation unit assumed when reserving: what nearly every file system uses.
const BLOCK: u64 = 4096;

/// How often one write asks for room on a full disk. More than once: other writers may take what was freed.
const RELIEFS: u32 = 3;

/// Bytes that a write at `offset` may allocate.
pub(super) fn span(offset: u64, len: u64) -> u64 {
    let end = offset.saturating_add(len).div_ceil(BLOCK).saturating_mul(BLOCK);
    end - offset / BLOCK * BLOCK
}

/// BLAKE3 of a file's bytes, as many as `size`. `Ok(None)`: there are fewer, or more.
pub(super) fn hash_file(file: &File, size: u64, progress: &mut dyn FnMut(u64)) -> io::Result<Option<Blake3>> {
    let mut hasher = blake3::Hasher::new();
    // One byte more than the file is said to have, to see its end.
    let mut buffer = vec![0; to_usize(READ.min(size.saturating_add(1)))];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok((at == size).then(|| hasher.finalize().into())),
            Ok(n) => {
                hasher.update(buffer.get(..n).unwrap_or_default());
                at += to_u64(n);
                progress(to_u64(n));
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if at > size {
            return Ok(None);
        }
    }
}

/// Outcome of looking at an object file.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Sound(Stat),
    Corrupt(Stat),
    /// It changed while it was read.
    Unsettled,
}

impl Inner {
    /// See [`super::Store::object`].
    pub(super) fn object(&self, digest: &Blake3, size: u64) -> Option<ObjectFile> {
        let dirs = self.disk.dirs()?;
        // Before the file is opened, so that an eviction of our own does not take it away in between.
        let pin = self.pins.pin(*digest);
        let name = hex_name(digest);
        let opened =
            dirs.shard(Tree::Objects, &name).and_then(|shard| open_at(shard, &name, OFlag::O_RDONLY));
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                self.memo.forget(digest);
                if is(&error, Errno::ELOOP) {
                    self.remove_corrupt(&dirs, digest, None);
                } else if !is(&error, Errno::ENOENT) {
                    tracing::debug!(object = name, %error, "cannot open a cached object");
                }
                return None;
            }
        };
        match self.look(digest, &file) {
            // The digest proves the bytes; if they are not as many as the caller believes, it is the caller who errs.
            Look::Sound(stat) if stat.ident.size != size => None,
            Look::Sound(stat) => {
                let verified = self.touch(digest, &file, &stat);
                Some(ObjectFile { file, verified, _pin: pin })
            }
            Look::Corrupt(stat) => {
                self.remove_corrupt(&dirs, digest, Some(&stat));
                None
            }
            Look::Unsettled => None,
        }
    }

    /// Whether the file's bytes are the object's: remembered, or found out now, by one thread per object at a time.
    fn look(&self, digest: &Blake3, file: &File) -> Look {
        let Ok(before) = stat(file) else { return Look::Unsettled };
        if !before.regular {
            return Look::Corrupt(before);
        }
        let known = |stat: Stat| {
            let sound = self.memo.check(digest, &stat.ident)?;
            Some(if sound { Look::Sound(stat) } else { Look::Corrupt(stat) })
        };
        if let Some(look) = known(before) {
            return look;
        }
        let _turn = self.memo.turn(*digest);
        // Its times may be touched while it is read (by another process): then once more.
        for _ in 0..3 {
            let Ok(before) = stat(file) else { return Look::Unsettled };
            if let Some(look) = known(before) {
                return look;
            }
            // A file that cannot be read (EIO) is as bad as a wrong one.
            let sound = hash_file(file, before.ident.size, &mut |_| {}).ok().flatten() == Some(*digest);
            let Ok(after) = stat(file) else { return Look::Unsettled };
            if after.ident == before.ident {
                self.memo.insert(*digest, after.ident, sound);
                return if sound { Look::Sound(after) } else { Look::Corrupt(after) };
            }
        }
        Look::Unsettled
    }

    /// Counts and removes a corrupt object, unless another file has taken its place meanwhile.
    pub(super) fn remove_corrupt(&self, dirs: &Dirs, digest: &Blake3, seen: Option<&Stat>) {
        self.counters.corrupt.fetch_add(1, Ordering::Relaxed);
        let name = hex_name(digest);
        tracing::warn!(object = name, "removing a corrupt object from the cache");
        let Ok(shard) = dirs.shard(Tree::Objects, &name) else { return };
        let Ok(now) = stat_at(&shard, &name) else { return };
        let same = seen.is_none_or(|seen| (seen.ident.dev, seen.ident.ino) == (now.ident.dev, now.ident.ino));
        if same && remove_at(&shard, &name).is_ok() {
            self.memo.forget(digest);
            self.usage.add(dirs, removed(Tree::Objects, now.bytes));
        }
    }

    /// Renews the access time of an object that looks unused for long, and keeps the verification valid. The identity that
    /// stands for the verified bytes from now on.
    fn touch(&self, digest: &Blake3, file: &File, seen: &Stat) -> Ident {
        let limit = if seen.ident.size > TOUCH_LARGE { TOUCH_LARGE_AFTER } else { TOUCH_AFTER };
        let age = Duration::from_nanos(now().saturating_sub(seen.recency));
        if age < limit || file.set_times(FileTimes::new().set_accessed(SystemTime::now())).is_err() {
            return seen.ident;
        }
        // Only the times may have changed: a write in between would have moved the mtime.
        if let Ok(after) = stat(file)
            && after.mtime == seen.mtime
            && after.ident.size == seen.ident.size
        {
            self.memo.renew(digest, &seen.ident, after.ident);
            return after.ident;
        }
        seen.ident
    }

    /// See [`super::Store::put_object`].
    pub(super) fn put_object(self: &Arc<Self>, digest: &Blake3, data: &[u8]) -> bool {
        if *blake3::hash(data).as_bytes() != *digest {
            tracing::debug!(object = hex_name(digest), "not kept: its bytes do not match its digest");
            return false;
        }
        let len = to_u64(data.len());
        // Most often there is none and this costs two calls. If there is one it must be a sound one: a corrupt one is removed.
        if self.object(digest, len).is_some() {
            return true;
        }
        if !self.health.may_write() {
            return false;
        }
        let need = span(0, len);
        let Some(_room) = self.reserve(need) else { return false };
        self.writing("object", need, |dirs| self.write_object(dirs, digest, data)).is_some()
    }

    fn write_object(&self, dirs: &Dirs, digest: &Blake3, data: &[u8]) -> io::Result<()> {
        let mut temp = dirs.temp()?;
        temp.file.write_all(data)?;
        let file = temp.file.try_clone()?;
        let name = hex_name(digest);
        let shard = dirs.make_shard(Tree::Objects, &name)?;
        // Another writer may have been faster. Its file has the same bytes, or will be found corrupt: either way ours may
        // replace it.
        let replaced = stat_at(&shard, &name).ok();
        temp.place(&shard, &name)?;
        // Renaming changes the ctime: the identity to remember is the one after it.
        let stat = stat(&file)?;
        self.memo.insert(*digest, stat.ident, true);
        self.usage.add(dirs, placed(stat.bytes, replaced));
        Ok(())
    }

    /// Runs a write, with what can be done about a failure: a directory that is gone is made again, a full disk is relieved
    /// by evicting. `None`: failed, and counted.
    pub(super) fn writing<T>(
        self: &Arc<Self>,
        what: &str,
        need: u64,
        mut write: impl FnMut(&Dirs) -> io::Result<T>,
    ) -> Option<T> {
        let mut dirs = self.dirs_for_writing()?;
        let (mut may_reopen, mut evictions) = (true, RELIEFS);
        loop {
            let error = match write(&dirs) {
                Ok(done) => {
                    self.health.worked();
                    return Some(done);
                }
                Err(error) => error,
            };
            if may_reopen && (is(&error, Errno::ENOENT) || is(&error, Errno::ESTALE)) {
                may_reopen = false;
                if let Some(again) = self.reopen(Some(&dirs)) {
                    dirs = again;
                    continue;
                }
                return None;
            }
            if evictions > 0 && is_full(&error) && self.make_space(&dirs, need) {
                evictions -= 1;
                continue;
            }
            self.health.failed(self.disk.path(), what, &error);
            return None;
        }
    }

    /// Makes a verified partial's data file an object: see `partial`. The caller holds its map's lock.
    pub(super) fn adopt(
        &self,
        dirs: &Dirs,
        partial: (&str, &File),
        digest: &Blake3,
        verified: &Stat,
    ) -> io::Result<()> {
        let (from, file) = partial;
        let source = dirs.shard(Tree::Partial, from)?;
        // The name must still be that of the file that was verified.
        if !stat_at(&source, from).is_ok_and(|named| same_file(file, &named.ident)) {
            return Err(Errno::ENOENT.into());
        }
        let name = hex_name(digest);
        let shard = dirs.make_shard(Tree::Objects, &name)?;
        let replaced = stat_at(&shard, &name).ok();
        super::disk::rename_at(&source, from, &shard, &name)?;
        let after = stat(file)?;
        if (after.mtime, after.ident.size) == (verified.mtime, verified.ident.size) {
            self.memo.insert(*digest, after.ident, true);
        }
        // The bytes were counted as a partial's.
        self.usage.add(dirs, Change { partials: -1, ..placed(0, replaced) });
        Ok(())
    }
}

/// The change that a new object makes.
fn placed(bytes: u64, replaced: Option<Stat>) -> Change {
    match replaced {
        None => Change { bytes: signed(bytes), objects: 1, partials: 0 },
        Some(old) => Change { bytes: signed(bytes) - signed(old.bytes), ..Change::default() },
    }
}
