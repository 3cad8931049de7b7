//! Unmounting: grace, then lazy detach, then abort. Works on dead mounts: the mount itself is never looked at.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::mountinfo::Place;
use super::rundir::RunDir;
use super::{MountError, mountinfo};

/// How often a busy mount is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(20);

/// Between the first and the second word to a keeper.
const PATIENCE: Duration = Duration::from_millis(100);
/// A keeper that was told twice ends within this time.
const KILLED: Duration = Duration::from_secs(2);

/// Result of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Not mounted any more.
    Gone,
    /// In use.
    Busy,
    /// Still mounted, but not topmost where it was mounted: nothing is done to it.
    Covered,
}

/// One attempt to unmount the file system of a device, if it is topmost on a mountpoint: never another one.
pub(super) fn attempt(mountpoint: &Path, device: &str, lazy: bool) -> io::Result<Attempt> {
    match mountinfo::place(mountpoint, device)? {
        Place::Top => {}
        Place::Elsewhere => return Ok(Attempt::Covered),
        Place::Nowhere => return Ok(Attempt::Gone),
    }
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(mountpoint, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(Attempt::Gone),
        // Taken away meanwhile, or a directory above is covered.
        Err(Errno::EINVAL | Errno::ENOENT) if mountinfo::place(mountpoint, device)? == Place::Nowhere => {
            Ok(Attempt::Gone)
        }
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(Attempt::Covered),
        Err(Errno::EBUSY) => Ok(Attempt::Busy),
        Err(errno) => Err(errno.into()),
    }
}

/// Aborts the connection of a FUSE device through fusectl, if that is mounted. All its requests fail from then on.
pub(super) fn abort(device: &str) {
    let Some((_, minor)) = device.split_once(':') else { return };
    let path = format!("/sys/fs/fuse/connections/{minor}/abort");
    if let Err(error) = std::fs::write(&path, "1") {
        tracing::debug!(path, %error, "cannot abort through fusectl");
    }
}

/// Unmounts and waits until the keeper has cleaned up. `timeout` is the grace for a busy mount before it is detached,
/// and again for its last files to be closed before the connection is aborted.
///
/// # Errors
/// [`MountError::NotMounted`], what umount(2) says, a keeper that does not end.
pub fn unmount(run_dir: &Path, mountpoint: &Path, timeout: Duration) -> Result<(), MountError> {
    let not_mounted = || MountError::NotMounted(mountpoint.to_owned());
    let path = mountinfo::canonical(mountpoint).map_err(|_| not_mounted())?;
    let failed = |source| MountError::Unmount { path: path.clone(), source };
    let dir = RunDir::of(run_dir, &path);
    let top = mountinfo::at(&path).map_err(failed)?.filter(mountinfo::Entry::is_ours);
    let kept = dir.state().ok().map(|state| state.device).filter(|device| !device.is_empty());
    // What a keeper says is meant before what happens to lie on top; what a dead one said, only if it is true still.
    let device = match (kept, top) {
        (Some(kept), _) if mountinfo::place(&path, &kept).map_err(failed)? != Place::Nowhere => Some(kept),
        (kept, _) if dir.is_kept() => kept,
        (_, top) => top.map(|entry| entry.device),
    };
    let Some(device) = device else {
        if dir.is_kept() {
            // Detached by somebody else, still in use.
            return finish(&dir, &path, None, timeout);
        }
        dir.reap();
        return Err(not_mounted());
    };
    let since = Instant::now();
    loop {
        match attempt(&path, &device, since.elapsed() >= timeout).map_err(failed)? {
            Attempt::Gone => break,
            Attempt::Covered if since.elapsed() >= timeout => return Err(MountError::Covered(path)),
            Attempt::Covered | Attempt::Busy => std::thread::sleep(RETRY),
        }
    }
    finish(&dir, &path, Some(&device), timeout)
}

/// Waits for the keeper to end by itself, as it does when the last file is closed; then makes it.
fn finish(dir: &RunDir, path: &Path, device: Option<&str>, timeout: Duration) -> Result<(), MountError> {
    let gone = || !dir.is_kept();
    if wait(timeout, gone) {
        dir.reap();
        return Ok(());
    }
    if let Some(device) = device {
        if mountinfo::place(path, device).is_ok_and(|place| place != Place::Nowhere) {
            // A bind mount of it, say: served until that is gone too.
            return Err(MountError::Covered(path.to_owned()));
        }
        abort(device);
    }
    // Told once it gives its server the same grace again, told twice none. Its death closes the connection.
    for _ in 0..2 {
        if terminate(dir) && wait(PATIENCE, gone) {
            break;
        }
    }
    if wait(KILLED, gone) {
        dir.reap();
        return Ok(());
    }
    Err(MountError::Lingers(path.to_owned()))
}

/// Signals the keeper; `false` = there is none.
fn terminate(dir: &RunDir) -> bool {
    let Some(pid) =
        dir.state().ok().and_then(|state| i32::try_from(state.keeper_pid).ok()).filter(|pid| *pid > 1)
    else {
        return false;
    };
    // While the lock is held the process of that number is the keeper.
    dir.is_kept() && nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok()
}

fn wait(timeout: Duration, done: impl Fn() -> bool) -> bool {
    let since = Instant::now();
    loop {
        if done() {
            return true;
        }
        if since.elapsed() >= timeout {
            return false;
        }
        std::thread::sleep(RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_ours() {
        let top = tempfile::tempdir().unwrap();
        for path in [top.path(), Path::new("/"), Path::new("/nothing/here")] {
            let error = unmount(top.path(), path, Duration::ZERO).unwrap_err();
            assert!(matches!(error, MountError::NotMounted(_)), "{error}");
        }
        assert_eq!(attempt(Path::new("/"), "0:0", true).unwrap(), Attempt::Gone);
    }
}
