//! The index file: written beside its destination, renamed when complete.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::BuildError;

/// Mode of an index: public data, derived from the image.
const MODE: u32 = 0o644;

/// An index on its way. Dropping it removes the temporary file.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    dir: PathBuf,
    temp: NamedTempFile,
}

impl Output {
    /// Creates the temporary file, so that an unwritable directory is known before a layer is fetched.
    pub(super) fn create(path: &Path) -> Result<Self, BuildError> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let error = |source| BuildError::Output { path: path.to_owned(), source };
        if path.is_dir() {
            return Err(error(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let temp =
            tempfile::Builder::new().prefix(".clipfs-").suffix(".tmp").tempfile_in(&dir).map_err(|e| {
                // tempfile wraps the error to name its random path; ours says more.
                error(e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error))
            })?;
        Ok(Self { path: path.to_owned(), dir, temp })
    }

    /// The directory of the destination.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file to write to.
    pub(super) fn file(&mut self) -> &mut File {
        self.temp.as_file_mut()
    }

    /// An error that names the destination.
    pub(super) fn error(&self, source: io::Error) -> BuildError {
        BuildError::Output { path: self.path.clone(), source }
    }

    /// Brings the bytes to the disk: opening an index does not check its windows, so a file with its final name must be
    /// whole even after a power cut. Blocking.
    pub(super) fn sync(&self) -> Result<(), BuildError> {
        let file = self.temp.as_file();
        file.set_permissions(Permissions::from_mode(MODE))
            .and_then(|()| file.sync_all())
            .map_err(|e| self.error(e))
    }

    /// Puts the file at its destination. Two system calls: not worth a thread, and not cancelled in between.
    pub(super) fn publish(self) -> Result<PathBuf, BuildError> {
        let Self { path, temp, .. } = self;
        let error = |source| BuildError::Output { path: path.clone(), source };
        temp.persist(&path).map_err(|e| error(e.error))?;
        // The directory is not synced: after a power cut the old name, or none, is there, and the index is built again.
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("directory")
            .map(|e| e.expect("entry").file_name().into_string().expect("utf-8"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn publishes_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.clip");
        fs::write(&path, "old").expect("write");
        let mut dropped = Output::create(&path).expect("create");
        dropped.file().write_all(b"half").expect("write");
        drop(dropped);
        assert_eq!(names(dir.path()), ["a.clip"]);
        assert_eq!(fs::read(&path).expect("read"), b"old");

        let mut kept = Output::create(&path).expect("create");
        kept.file().write_all(b"whole").expect("write");
        kept.sync().expect("sync");
        assert_eq!(kept.publish().expect("publish"), path);
        assert_eq!(names(dir.path()), ["a.clip"]);
        assert_eq!(fs::read(&path).expect("read"), b"whole");
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, MODE);
    }

    #[test]
    fn an_impossible_destination_is_told_at_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        for path in [dir.path().join("missing/a.clip"), dir.path().to_owned()] {
            let error = Output::create(&path).expect_err("refused");
            assert!(error.to_string().contains(path.to_str().expect("utf-8")), "{error}");
        }
    }
}
