//! The ContainerRequest as a file that may change under us.

use std::path::{Path, PathBuf};

use super::CredentialError;

/// A request's file. Read again at every ask: whoever rewrites it (mode 0600, by rename) gives a running mount newer credentials.
#[derive(Debug)]
pub struct RequestFile {
    path: PathBuf,
}

/// A request as it was read.
#[derive(Debug)]
pub struct ReadRequest {
    /// Its bytes, for plugins. Wiped when dropped.
    pub bytes: zeroize::Zeroizing<Vec<u8>>,
    /// Parsed and checked.
    pub request: credplugin::ContainerRequest,
}

impl RequestFile {
    /// Opens and checks a request.
    ///
    /// # Errors
    /// The file cannot be read, or is no ContainerRequest.
    pub fn open(path: &Path) -> Result<Self, CredentialError> {
        let file = Self { path: path.to_owned() };
        file.read()?;
        Ok(file)
    }

    /// Reads it as it is now. Blocking; a small file.
    ///
    /// # Errors
    /// As [`RequestFile::open`].
    pub fn read(&self) -> Result<ReadRequest, CredentialError> {
        Err(CredentialError::Broken(format!("{}: not built", self.path.display())))
    }

    /// Changes when the file does.
    #[must_use]
    pub fn version(&self) -> u64 {
        0
    }
}
