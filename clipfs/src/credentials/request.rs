//! The ContainerRequest as a file that may change under us.
//!
//! Links are followed (an orchestrator's mounted secrets are links that it swaps), but only to regular files. `/proc/self/fd/N` of a
//! memory file works: opening it makes a new description, so every read starts at the beginning.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use credplugin::ContainerRequest;
use credplugin::request::MAX_REQUEST;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::CredentialError;

/// How long a writer in place gets to finish, once.
const REWRITE_PAUSE: Duration = Duration::from_millis(50);

/// A request's file. Read again at every ask: whoever rewrites it (mode 0600, by rename) gives a running mount newer credentials.
#[derive(Debug)]
pub struct RequestFile {
    path: PathBuf,
    /// Its mode has been complained about.
    warned: AtomicBool,
}

/// A request as it was read.
pub struct ReadRequest {
    /// Its bytes, for plugins. Wiped when dropped.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Parsed and checked.
    pub request: ContainerRequest,
}

impl fmt::Debug for ReadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Both fields hold secrets.
        f.debug_struct("ReadRequest").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl RequestFile {
    /// Opens and checks a request. Blocking.
    ///
    /// # Errors
    /// [`CredentialError::Configuration`]: the file cannot be read, or others may write it. [`CredentialError::Malformed`]: it is no ContainerRequest. Both
    /// name the file.
    pub fn open(path: &Path) -> Result<Self, CredentialError> {
        let file = Self { path: path.to_owned(), warned: AtomicBool::new(false) };
        file.read()?;
        Ok(file)
    }

    /// Reads it as it is now. Blocking; a small file. If it cannot be used, it may be in the middle of a rewrite: then once more
    /// after a moment.
    ///
    /// # Errors
    /// As [`RequestFile::open`].
    pub fn read(&self) -> Result<ReadRequest, CredentialError> {
        self.read_twice(|| std::thread::sleep(REWRITE_PAUSE))
    }

    fn read_twice(&self, pause: impl FnOnce()) -> Result<ReadRequest, CredentialError> {
        // `true` = written while it was read.
        if let Ok((request, false)) = self.attempt() {
            return Ok(request);
        }
        pause();
        self.attempt().map(|(request, _)| request)
    }

    /// Changes when the file does: another file, size or time.
    #[must_use]
    pub fn version(&self) -> u64 {
        version_of(&self.path)
    }

    /// The request, and whether the file changed meanwhile.
    fn attempt(&self) -> Result<(ReadRequest, bool), CredentialError> {
        let unreadable = |error: io::Error| self.wrong(&error.to_string());
        let file = self.open_regular()?;
        let before = file.metadata().map_err(unreadable)?;
        self.check_mode(&before)?;
        // One allocation: a buffer that grows leaves copies of secrets behind.
        let mut bytes = Zeroizing::new(vec![0; MAX_REQUEST + 1]);
        let mut filled = 0;
        loop {
            match (&file).read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        if filled > MAX_REQUEST {
            return Err(self.malformed(&format!("larger than {} MiB", MAX_REQUEST >> 20)));
        }
        bytes.truncate(filled);
        let request = ContainerRequest::parse(&bytes).map_err(|error| self.malformed(&error.message))?;
        let after = file.metadata().map_err(unreadable)?;
        Ok((ReadRequest { bytes, request }, stamp(&before) != stamp(&after)))
    }

    fn open_regular(&self) -> Result<File, CredentialError> {
        // Opening a FIFO or a terminal must neither block nor make it ours.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&self.path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.wrong("there is no such file"),
            _ => self.wrong(&error.to_string()),
        })?;
        match file.metadata() {
            Ok(found) if found.is_file() => Ok(file),
            Ok(found) if found.is_dir() => Err(self.wrong("it is a directory: name the file")),
            Ok(_) => Err(self.wrong("it is not a regular file")),
            Err(error) => Err(self.wrong(&error.to_string())),
        }
    }

    /// Whoever may write it may replace the credentials: refused. Whoever may read it has them: told once. A file without a name
    /// (a memory file) is out of the reach of others.
    fn check_mode(&self, found: &Metadata) -> Result<(), CredentialError> {
        if found.nlink() == 0 {
            return Ok(());
        }
        let foreign = found.uid() != 0 && found.uid() != geteuid().as_raw();
        let mode = found.mode() & 0o7777;
        if foreign || mode & 0o022 != 0 {
            let who = if foreign { format!("its owner, user {},", found.uid()) } else { "anyone".into() };
            return Err(self.wrong(&format!(
                "{who} may replace the credentials (mode {mode:04o}): chown root, chmod 0600"
            )));
        }
        if mode & 0o077 != 0 && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                path = %self.path.display(),
                mode = format!("{mode:o}"),
                "the container request holds secrets and is open to others: give it mode 0600"
            );
        }
        Ok(())
    }

    fn wrong(&self, reason: &str) -> CredentialError {
        CredentialError::Configuration(format!("container request {}: {reason}", self.path.display()))
    }

    /// The file's content cannot be used.
    pub(super) fn malformed(&self, reason: &str) -> CredentialError {
        CredentialError::Malformed(format!("{}: {reason}", self.path.display()))
    }
}

/// Identity of a file's content, as far as its metadata tell.
fn stamp(found: &Metadata) -> [u64; 7] {
    [
        found.dev(),
        found.ino(),
        found.size(),
        // Only compared.
        found.mtime().cast_unsigned(),
        found.mtime_nsec().cast_unsigned(),
        found.ctime().cast_unsigned(),
        found.ctime_nsec().cast_unsigned(),
    ]
}

/// Changes when a file does, or when it goes or comes.
pub(super) fn version_of(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    std::fs::metadata(path).ok().as_ref().map(stamp).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
pub(super) mod tests;
