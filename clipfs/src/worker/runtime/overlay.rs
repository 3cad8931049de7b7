//! The writable layer: overlayfs over the image's mount.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::geteuid;

use super::job::Job;
use super::{RuntimeError, Scratch, remove};
use crate::mount::mountinfo;

/// How long a mount may be busy before it is detached.
const GRACE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(10);

/// Mounts a job's root file system over a lower directory. Does nothing if it is mounted.
pub(super) fn open(job: &Job, lower: &Path, scratch: Scratch) -> Result<(), RuntimeError> {
    let rootfs = job.rootfs();
    if is_mounted(&rootfs)? {
        return Ok(());
    }
    private_dir(&rootfs)?;
    let size = match scratch {
        Scratch::Disk => match over(lower, &job.disk_scratch(), &rootfs) {
            Ok(()) => return Ok(()),
            // Overlay on overlay, a network file system, one without the attributes that overlayfs needs.
            Err(RuntimeError::Io { what: MOUNT, source, .. }) => {
                tracing::warn!(key = job.key, %source, "the disk cannot hold a writable layer: memory does");
                remove(&job.disk_scratch())?;
                None
            }
            Err(error) => return Err(error),
        },
        Scratch::Tmpfs { size } => size,
    };
    let memory = job.memory_scratch();
    private_dir(&memory)?;
    if !is_mounted(&memory)? {
        let options = match size {
            Some(bytes) => format!("mode=0700,size={bytes}"),
            None => "mode=0700".to_owned(),
        };
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("clipfs-scratch"), &memory, Some("tmpfs"), flags, Some(options.as_str()))
            .map_err(io::Error::from)
            .map_err(RuntimeError::io("mount a tmpfs at", &memory))?;
    }
    over(lower, &memory, &rootfs)
}

const MOUNT: &str = "mount overlayfs at";

fn over(lower: &Path, scratch: &Path, at: &Path) -> Result<(), RuntimeError> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    private_dir(&upper)?;
    private_dir(&work)?;
    // The upper's root is what the container sees as `/`.
    let root = fs::metadata(lower).map_err(RuntimeError::io("look at", lower))?;
    let same = || {
        fs::set_permissions(&upper, root.permissions())?;
        if root.uid() != geteuid().as_raw() || root.gid() != 0 {
            chown(&upper, Some(root.uid()), Some(root.gid()))?;
        }
        Ok(())
    };
    same().map_err(RuntimeError::io("prepare", &upper))?;
    let options =
        [&b"lowerdir="[..], &escape(lower), b",upperdir=", &escape(&upper), b",workdir=", &escape(&work)]
            .concat();
    let flags = MsFlags::empty();
    mount(Some("clipfs-overlay"), at, Some("overlay"), flags, Some(options.as_slice()))
        .map_err(io::Error::from)
        .map_err(RuntimeError::io(MOUNT, at))
}

/// Commas end an option, colons a directory.
fn escape(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out
}

/// Unmounts what [`open`] has mounted and removes what was written. Does nothing if there is nothing.
pub(super) fn close(job: &Job) -> Result<(), RuntimeError> {
    unmount(&job.rootfs())?;
    unmount(&job.memory_scratch())?;
    remove(&job.memory_scratch())?;
    remove(&job.disk_scratch())
}

/// Whether something is mounted exactly there.
pub(super) fn is_mounted(path: &Path) -> Result<bool, RuntimeError> {
    mountinfo::at(path).map(|entry| entry.is_some()).map_err(RuntimeError::io("look for a mount at", path))
}

/// Unmounts everything at a path: at once, or when it has been busy for too long, detached.
pub(super) fn unmount(path: &Path) -> Result<(), RuntimeError> {
    let since = Instant::now();
    while is_mounted(path)? {
        let lazy = since.elapsed() > GRACE;
        let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
        match umount2(path, flags | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EBUSY) if !lazy => std::thread::sleep(RETRY),
            Err(errno) => return Err(RuntimeError::io("unmount", path)(errno.into())),
        }
    }
    Ok(())
}

/// A directory that nobody else may look into.
pub(super) fn private_dir(path: &Path) -> Result<(), RuntimeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(RuntimeError::io("create directory", path))
}

/// Removes a directory and what is in it. Refuses if something is mounted there: that is not ours to empty.
pub(super) fn remove(path: &Path) -> Result<(), RuntimeError> {
    if mounts_below(path)? {
        let source = io::Error::from(io::ErrorKind::ResourceBusy);
        return Err(RuntimeError::io("remove, because of a mount in it,", path)(source));
    }
    remove::tree(path).map_err(RuntimeError::io("remove", path))
}

fn mounts_below(path: &Path) -> Result<bool, RuntimeError> {
    let table = mountinfo::mountpoints().map_err(RuntimeError::io("look for mounts in", path))?;
    Ok(table.iter().any(|at| at.starts_with(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_stay_one_option() {
        assert_eq!(escape(Path::new("/a,b:c\\d")), b"/a\\,b\\:c\\\\d");
    }

    #[test]
    fn nothing_to_close_is_fine() {
        let top = tempfile::tempdir().unwrap();
        close(&Job::remains("1", top.path(), &top.path().join("run"))).unwrap();
    }
}
