//! The run directory: `<run_dir>/<id>/` for each mount, with
//! `lock` (held by the keeper as long as it lives), `state.json`, `server.json`, `handles` (the ledger), `control.sock`, `log`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{MountError, mountinfo};

/// How often a lock is tried that may be held by somebody who only looks.
const TRIES: u32 = 20;
/// Pause between these.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// What the keeper writes down about its mount.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct KeeperState {
    /// Where.
    pub mountpoint: PathBuf,
    /// Reference with digest.
    pub image: String,
    /// Digest of the manifest.
    pub digest: String,
    /// The keeper.
    pub keeper_pid: u32,
    /// The server that serves now.
    pub server_pid: u32,
    /// Times the server was started again.
    pub server_restarts: u64,
    /// The store's directory.
    pub cache_dir: PathBuf,
    /// When it was mounted: seconds since the epoch.
    pub started: u64,
    /// The mount's `major:minor`.
    pub device: String,
}

/// One mount's directory. Cheap to clone: paths only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunDir(PathBuf);

/// The keeper's hold on its run directory.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held until dropped")] Flock<File>);

impl RunDir {
    /// Of the mount at a canonical path.
    pub(crate) fn of(run_dir: &Path, mountpoint: &Path) -> Self {
        Self(run_dir.join(mountinfo::id(mountpoint)))
    }

    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn server_config(&self) -> PathBuf {
        self.0.join("server.json")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.0.join("handles")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn state_path(&self) -> PathBuf {
        self.0.join("state.json")
    }

    fn error(&self, source: io::Error) -> MountError {
        MountError::RunDir { path: self.0.clone(), source }
    }

    /// Creates the directory and takes it. What a dead keeper left is removed.
    pub(crate) fn take(&self, mountpoint: &Path) -> Result<Lock, MountError> {
        let lock = self.acquire().map_err(|e| self.error(e))?;
        let lock = lock.ok_or_else(|| MountError::AlreadyMounted(mountpoint.to_owned()))?;
        for left in [self.ledger(), self.state_path(), self.server_config(), self.control()] {
            match std::fs::remove_file(left) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.error(e)),
                _ => {}
            }
        }
        Ok(lock)
    }

    /// Waits a moment: somebody who only looks whether a keeper lives holds the lock too, for microseconds.
    fn acquire(&self) -> io::Result<Option<Lock>> {
        for _ in 0..TRIES {
            self.create()?;
            match self.lock() {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => {}
                // Removed between the two calls.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }

    /// Creates the directory if it is not there, and checks it.
    pub(crate) fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        self.check()
    }

    /// Whoever could write here could choose which process is signalled, and which file is opened.
    fn check(&self) -> io::Result<()> {
        for path in [self.0.parent(), Some(self.0.as_path())].into_iter().flatten() {
            let found = std::fs::symlink_metadata(path)?;
            let refuse = |why: &str| {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {why}", path.display())))
            };
            if !found.is_dir() {
                return refuse("is no directory (name the directory itself, not a link)");
            }
            if found.uid() != 0 && found.uid() != nix::unistd::geteuid().as_raw() {
                return refuse("belongs to another user");
            }
            if found.mode() & 0o022 != 0 {
                return refuse("may be written to by others");
            }
        }
        Ok(())
    }

    /// Takes the keeper's lock; `None` = a keeper lives (or the directory was removed meanwhile).
    fn lock(&self) -> io::Result<Option<Lock>> {
        self.check()?;
        let path = self.0.join("lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                let (ours, there) = (lock.metadata()?, std::fs::metadata(&path)?);
                Ok(((ours.dev(), ours.ino()) == (there.dev(), there.ino())).then_some(Lock(lock)))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Whether a keeper holds the directory.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.join("lock").exists() && matches!(self.lock(), Ok(None))
    }

    /// Writes a file whole or not at all.
    pub(crate) fn write(&self, path: &Path, document: &impl serde::Serialize) -> Result<(), MountError> {
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
            file.write_all(&serde_json::to_vec_pretty(document).map_err(io::Error::other)?)?;
            file.persist(path).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|e| self.error(e))
    }

    pub(crate) fn write_state(&self, state: &KeeperState) -> Result<(), MountError> {
        self.write(&self.state_path(), state)
    }

    pub(crate) fn state(&self) -> io::Result<KeeperState> {
        self.read(&self.state_path())
    }

    /// Reads a document of [`RunDir::write`].
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self, path: &Path) -> io::Result<T> {
        self.check()?;
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        serde_json::from_reader(io::BufReader::new(file)).map_err(io::Error::other)
    }

    /// Removes the directory, whose lock the caller holds.
    pub(crate) fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove run directory");
        }
    }

    /// Removes the directory unless a keeper lives: what is left of a dead one.
    pub(crate) fn reap(&self) {
        if self.0.exists()
            && let Ok(Some(_lock)) = self.lock()
        {
            self.remove();
        }
    }
}

/// All entries of a run directory, in no order. A missing directory has none.
pub(crate) fn entries(run_dir: &Path) -> io::Result<Vec<RunDir>> {
    let list = match std::fs::read_dir(run_dir) {
        Ok(list) => list,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in list {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(RunDir(entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> KeeperState {
        KeeperState {
            mountpoint: "/mnt/x".into(),
            image: "registry.test/app@sha256:00".into(),
            digest: "sha256:00".into(),
            keeper_pid: 1,
            server_pid: 2,
            server_restarts: 3,
            cache_dir: "/c".into(),
            started: 4,
            device: "0:5".into(),
        }
    }

    #[test]
    fn one_keeper_at_a_time_and_leftovers_go() {
        let top = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/x");
        let dir = RunDir::of(top.path(), mountpoint);
        assert!(!dir.is_kept());
        let lock = dir.take(mountpoint).unwrap();
        assert!(dir.is_kept());
        dir.write_state(&state()).unwrap();
        std::fs::write(dir.ledger(), "old").unwrap();
        assert_eq!(dir.state().unwrap(), state());
        assert!(matches!(dir.take(mountpoint), Err(MountError::AlreadyMounted(_))));
        assert_eq!(entries(top.path()).unwrap(), std::slice::from_ref(&dir));
        drop(lock);
        assert!(!dir.is_kept());
        let _lock = dir.take(mountpoint).unwrap();
        assert!(!dir.ledger().exists());
        assert!(dir.state().is_err());
        dir.remove();
        assert!(entries(top.path()).unwrap().is_empty());
    }

    #[test]
    fn what_others_may_write_to_is_not_used() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let top = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/x");
        let dir = RunDir::of(top.path(), mountpoint);
        drop(dir.take(mountpoint).unwrap());
        dir.write_state(&state()).unwrap();
        for path in [top.path(), dir.path()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
            assert!(dir.state().is_err() && dir.take(mountpoint).is_err(), "{}", path.display());
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        std::fs::rename(dir.state_path(), top.path().join("elsewhere")).unwrap();
        symlink(top.path().join("elsewhere"), dir.state_path()).unwrap();
        assert!(dir.state().is_err(), "a link");
    }

    #[test]
    fn a_missing_run_directory_has_no_entries() {
        let top = tempfile::tempdir().unwrap();
        assert!(entries(&top.path().join("none")).unwrap().is_empty());
    }
}
