//! The run directory is in memory: where it is on a disk, a small tmpfs of our own is mounted over it, which the next worker finds and uses,
//! and which goes with the last worker that has no containers.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::WorkerError;
use super::runtime::remove_dir;
use crate::mount::mountinfo;

/// By this name it is known in the mount table.
const SOURCE: &str = "clipfs-run";

/// Most bytes. A container needs some 50 KiB, and at most its request (1 MiB) five times: in its own file, its mount's, the
/// bundle's, the OCI runtime's copy, and while one is replaced. Only what is used takes memory.
const SIZE: &str = "512m";

/// Makes sure that a directory, which is there, is in memory. Tells whether something was mounted over it now.
///
/// # Errors
/// It is on a disk, and must stay there.
pub(super) fn ensure(dir: &Path) -> Result<bool, WorkerError> {
    let refuse = |reason: String| WorkerError::NotMemory { path: dir.to_owned(), reason };
    let kind = statfs(dir).map_err(|e| WorkerError::io("look at", dir)(e.into()))?.filesystem_type();
    if kind == TMPFS_MAGIC {
        return Ok(false);
    }
    // What an earlier worker that was allowed to has left on the disk. Mounts are containers that still run: they would be lost.
    for entry in std::fs::read_dir(dir).map_err(WorkerError::io("read", dir))? {
        let path = entry.map_err(WorkerError::io("read", dir))?.path();
        let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
        let removed = if is_dir {
            remove_dir(&path).map_err(|e| e.to_string())
        } else {
            std::fs::remove_file(&path).map_err(|e| format!("cannot remove {}: {e}", path.display()))
        };
        removed.map_err(|e| refuse(format!("it is in use: {e}")))?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mount = |more: &str| {
        let options = format!("mode=0700,size={SIZE}{more}");
        mount(Some(SOURCE), dir, Some("tmpfs"), flags, Some(options.as_str()))
    };
    let mounted = match mount(",noswap") {
        // A kernel before 6.4.
        Err(Errno::EINVAL) => mount(""),
        mounted => mounted,
    };
    mounted.map_err(|errno| refuse(format!("none can be mounted there: {}", std::io::Error::from(errno))))?;
    tracing::info!(path = %dir.display(), size = SIZE, "run directory is on a disk: a tmpfs is mounted over it");
    Ok(true)
}

/// Unmounts what [`ensure`] has mounted, now or earlier, unless something uses it.
pub(super) fn release(dir: &Path) {
    let ours = std::fs::canonicalize(dir).and_then(|dir| mountinfo::at(&dir));
    if !ours.is_ok_and(|entry| entry.is_some_and(|entry| entry.fs_type == "tmpfs" && entry.source == SOURCE))
    {
        return;
    }
    match umount2(dir, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => tracing::info!(path = %dir.display(), "nothing is left in the run directory: unmounted"),
        Err(errno) => tracing::debug!(path = %dir.display(), %errno, "the run directory is in use"),
    }
}
