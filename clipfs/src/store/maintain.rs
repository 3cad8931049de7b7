//! What `clipfs cache` does: collect, verify, clear. Long, synchronous, and harmless to whoever uses the store meanwhile.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::disk::{Dirs, Tree, hex_name, is, open_at, stat, try_flock};
use super::evict::removed;
use super::object::hash_file;
use super::scan::{Found, MAP, remove, walk};
use super::segments::{HEADER, Identity, MAX_MAP, SLOT, Segments};
use super::{Inner, VerifyReport, lock};
use crate::decode::Blake3;
use crate::num::{idx, to_u64, to_usize};

/// How long to wait for another process that scans or evicts, before going on beside it.
const PATIENCE: Duration = Duration::from_secs(30);

impl Inner {
    fn dirs_for_maintenance(&self) -> io::Result<Arc<Dirs>> {
        self.disk.dirs().ok_or_else(|| io::Error::from(Errno::ENOENT))
    }

    /// See [`super::Store::gc`].
    pub(super) fn gc(&self, target: Option<u64>) -> io::Result<u64> {
        let dirs = self.dirs_for_maintenance()?;
        let _turn = lock(&self.scanning);
        let _lock = dirs.scan_lock(PATIENCE);
        let leftovers = dirs.remove_leftovers()?;
        let halves = self.remove_halves(&dirs)?;
        Ok(leftovers + halves + self.evict_locked(&dirs, target.unwrap_or(self.quota))?)
    }

    /// Removes data without a map and maps without data: what a crash in the middle of a removal leaves.
    fn remove_halves(&self, dirs: &Dirs) -> io::Result<u64> {
        let mut halves = Vec::new();
        walk(dirs, &mut |found| {
            if found.tree == Tree::Partial && found.recency == 0 {
                halves.push(found);
            }
            ControlFlow::Continue(())
        })?;
        let gone = halves.iter().filter(|half| remove(dirs, half.tree, &half.name, false));
        Ok(gone.map(|half| half.bytes).sum())
    }

    /// See [`super::Store::recount`].
    pub(super) fn recount(&self) -> io::Result<()> {
        let dirs = self.dirs_for_maintenance()?;
        let _turn = lock(&self.scanning);
        let _lock = dirs.scan_lock(PATIENCE);
        self.count_locked(&dirs, &|| true)
    }

    /// See [`super::Store::clear`].
    pub(super) fn clear(&self) -> io::Result<u64> {
        let dirs = self.dirs_for_maintenance()?;
        let _turn = lock(&self.scanning);
        let _lock = dirs.scan_lock(PATIENCE);
        let mut freed = dirs.remove_leftovers()?;
        self.memo.clear();
        walk(&dirs, &mut |Found { tree, name, bytes, .. }| {
            if remove(&dirs, tree, &name, true) {
                freed += bytes;
            }
            ControlFlow::Continue(())
        })?;
        self.memo.clear();
        self.count_locked(&dirs, &|| true)?;
        Ok(freed)
    }

    /// See [`super::Store::verify`].
    pub(super) fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> io::Result<VerifyReport> {
        let dirs = self.dirs_for_maintenance()?;
        let mut all = Vec::new();
        let mut total = 0;
        walk(&dirs, &mut |found| {
            total += found.size;
            all.push((found.tree, found.name));
            ControlFlow::Continue(())
        })?;
        let mut report = VerifyReport::default();
        progress(0, total);
        for (tree, name) in all {
            let mut read = |n| {
                report.bytes += n;
                // Segments may overlap and files grow: never more than all.
                progress(report.bytes.min(total), total);
            };
            let file = hex_name(&name);
            let Ok(shard) = dirs.shard(tree, &file) else { continue };
            let verdict = match tree {
                Tree::Objects => verify_object(&shard, &file, &name, &mut read),
                Tree::Partial => verify_partial(&shard, &file, &name, &mut read),
            };
            match verdict {
                Ok(sound) => {
                    report.checked += 1;
                    if sound {
                        continue;
                    }
                }
                // Evicted meanwhile.
                Err(e) if is(&e, Errno::ENOENT) => continue,
                // A link, or a disk that cannot read it back.
                Err(_) => report.checked += 1,
            }
            self.remove_bad(&dirs, tree, &name);
            let tree = if tree == Tree::Objects { "objects" } else { "partial" };
            report.corrupt.push(format!("{tree}/{}/{file}", &file[..2]));
        }
        progress(total, total);
        Ok(report)
    }

    fn remove_bad(&self, dirs: &Dirs, tree: Tree, name: &Blake3) {
        if tree == Tree::Objects {
            self.remove_corrupt(dirs, name, None);
            return;
        }
        self.counters.corrupt.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::warn!(partial = hex_name(name), "removing a corrupt partial object from the cache");
        let bytes = partial_bytes(dirs, name);
        if remove(dirs, tree, name, true) {
            self.usage.add(dirs, removed(tree, bytes));
        }
    }
}

fn partial_bytes(dirs: &Dirs, name: &Blake3) -> u64 {
    let file = hex_name(name);
    let Ok(shard) = dirs.shard(Tree::Partial, &file) else { return 0 };
    let names = [format!("{file}{MAP}"), file];
    names.iter().filter_map(|name| super::disk::stat_at(&shard, name).ok()).map(|stat| stat.bytes).sum()
}

/// Opens without moving the access time, which eviction goes by: being verified is not being used.
fn open_unnoticed(shard: impl std::os::fd::AsFd + Copy, name: &str) -> io::Result<File> {
    match open_at(shard, name, OFlag::O_RDONLY | OFlag::O_NOATIME) {
        Err(e) if is(&e, Errno::EPERM) => open_at(shard, name, OFlag::O_RDONLY),
        other => other,
    }
}

fn verify_object(
    shard: &std::os::fd::OwnedFd,
    file: &str,
    digest: &Blake3,
    read: &mut dyn FnMut(u64),
) -> io::Result<bool> {
    let object = open_unnoticed(shard, file)?;
    let stat = stat(&object)?;
    Ok(stat.regular && hash_file(&object, stat.ident.size, read)? == Some(*digest))
}

/// Whether the header is that of a partial of this name and every recorded segment matches. Half a partial, and records
/// that were torn, are no corruption.
fn verify_partial(
    shard: &std::os::fd::OwnedFd,
    file: &str,
    name: &Blake3,
    read: &mut dyn FnMut(u64),
) -> io::Result<bool> {
    let map = open_unnoticed(shard, &format!("{file}{MAP}"))?;
    let data = open_unnoticed(shard, file)?;
    if !try_flock(&map, false) {
        // Just being made, or made an object.
        return Ok(true);
    }
    let size = stat(&map)?.ident.size.min(MAX_MAP);
    let mut bytes = vec![0; to_usize(size)];
    map.read_exact_at(&mut bytes, 0)?;
    drop(map);
    let Some((header, records)) = bytes.split_at_checked(HEADER) else { return Ok(false) };
    let Some(identity) = Identity::from_header(header).filter(|identity| identity.name() == *name) else {
        return Ok(false);
    };
    let mut segments = Segments::default();
    records.chunks(SLOT).filter_map(|slot| identity.parse(slot)).for_each(|segment| segments.insert(segment));
    for segment in segments.iter() {
        let mut bytes = vec![0; idx(segment.len)];
        if data.read_exact_at(&mut bytes, segment.offset).is_err() || !segment.matches(&bytes) {
            return Ok(false);
        }
        read(to_u64(bytes.len()));
    }
    Ok(true)
}
