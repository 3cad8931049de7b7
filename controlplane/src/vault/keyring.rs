//! Key encryption keys, as this process knows them.
//!
//! They come from `--kek-file`, from an inherited descriptor (`/dev/fd/N`), or, for the embedded default, from a file in the data directory
//! that is made at the first start. Another process may rotate them: a key that is not known is looked for in the file once more, and a new
//! data key is wrapped under the file's shared lock, by what is active *then*. So `controlplane keys rotate`, which takes the exclusive
//! lock to change the file, can tell that nothing needs an old key any more.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::VaultError;
use super::keyfile::{self, Kek, Keks, Kind, Opened};

/// Name of the generated file in the data directory.
pub const GENERATED: &str = "kek";

/// Cheap to clone. Shows the path and the keys' identities only.
#[derive(Debug, Clone)]
pub struct Keyring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    kind: Kind,
    keks: RwLock<Arc<Keks>>,
}

/// The keys of the file as they are now, which nobody changes while this is held.
#[derive(Debug)]
pub(super) struct Held {
    keyring: Keyring,
    /// As they were read under the lock: what is in memory may be older for a moment, where several read at once.
    keks: Arc<Keks>,
    /// Closed last, and with it unlocked. `None`: nothing that could be locked.
    _lock: Option<File>,
    exclusive: bool,
}

impl Keyring {
    /// Reads a key file. Waits for a pipe's writer.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`]: it is not there, not ours alone, or no key file.
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        let (opened, kind) = keyfile::read(path).map_err(|why| unusable(path, &why))?;
        let keks = RwLock::new(Arc::new(opened.keks));
        Ok(Self(Arc::new(Inner { path: path.to_owned(), kind, keks })))
    }

    /// Reads the key file of a data directory; at the very first start (`!has_data_keys`) it is made. Later a missing file is an error: a
    /// new key would open nothing.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`].
    pub fn open_or_generate(directory: &Path, has_data_keys: bool) -> Result<Self, VaultError> {
        let path = directory.join(GENERATED);
        // Anything but "not there" is told when it is opened.
        if let Ok(false) = path.try_exists() {
            if has_data_keys {
                return Err(unusable(
                    &path,
                    "it is missing, and secrets are sealed with it; put it back, or name it with --kek-file",
                ));
            }
            keyfile::generate(&path).map_err(|error| unusable(&path, &format!("cannot be made: {error}")))?;
        }
        Self::open(&path)
    }

    /// Where they came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The keys as they were last read.
    #[must_use]
    pub fn keks(&self) -> Arc<Keks> {
        Arc::clone(&self.0.keks.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A key by identity; where it is not known the file is read once more.
    ///
    /// # Errors
    /// [`VaultError::NoKek`].
    pub(super) async fn find(&self, kek_id: &str) -> Result<Kek, VaultError> {
        if let Some(kek) = self.keks().get(kek_id) {
            return Ok(kek.clone());
        }
        let keks = match self.reload().await {
            Ok(keks) => keks,
            Err(error) => {
                tracing::warn!(%error, kek_id, "a key encryption key is not known and the key file cannot be read again");
                self.keks()
            }
        };
        keks.get(kek_id).cloned().ok_or_else(|| VaultError::NoKek(kek_id.to_owned()))
    }

    /// Reads the file again. Where it cannot be read, or came by a pipe, the keys stay as they are.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`].
    pub(super) async fn reload(&self) -> Result<Arc<Keks>, VaultError> {
        if self.0.kind == Kind::Pipe {
            return Ok(self.keks());
        }
        let opened = self.blocking(|path| keyfile::read(path).map(|(opened, _)| opened)).await?;
        Ok(self.set(opened.keks))
    }

    /// Locks the file and reads it. Exclusive: to change it.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`]; also for what came by descriptor, if it is to be changed.
    pub(super) async fn hold(&self, exclusive: bool) -> Result<Held, VaultError> {
        let held = |keks, lock| Held { keyring: self.clone(), keks, _lock: lock, exclusive };
        match self.0.kind {
            Kind::File => {
                let Opened { file, keks } = self.blocking(move |path| keyfile::lock(path, exclusive)).await?;
                Ok(held(self.set(keks), Some(file)))
            }
            _ if exclusive => Err(unusable(
                self.path(),
                "keys are rotated in a file; name it with --kek-file, not an inherited descriptor",
            )),
            // Nobody changes it: there is nothing to lock.
            _ => Ok(held(self.keks(), None)),
        }
    }

    fn set(&self, keks: Keks) -> Arc<Keks> {
        let keks = Arc::new(keks);
        self.0.keks.write().unwrap_or_else(PoisonError::into_inner).clone_from(&keks);
        keks
    }

    /// Does something with the file on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, String> + Send + 'static,
    ) -> Result<T, VaultError> {
        let path = self.0.path.clone();
        let done =
            tokio::task::spawn_blocking(move || work(&path).map_err(|why| unusable(&path, &why))).await;
        done.unwrap_or_else(|_| Err(unusable(self.path(), "reading it was interrupted")))
    }
}

impl Held {
    /// The keys.
    pub(super) fn keks(&self) -> &Keks {
        &self.keks
    }

    /// Puts others in their place: in the file first, then here.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`]: the file has the old keys or the new ones.
    pub(super) async fn replace(&self, keks: Keks) -> Result<(), VaultError> {
        debug_assert!(self.exclusive, "others may read");
        let new = keks.clone();
        let write = move |path: &Path| {
            keyfile::replace(path, &new).map_err(|error| format!("cannot be replaced: {error}"))
        };
        self.keyring.blocking(write).await?;
        self.keyring.set(keks);
        Ok(())
    }
}

fn unusable(path: &Path, why: &str) -> VaultError {
    VaultError::KeyFile(format!("key file {}: {why}", path.display()))
}

#[cfg(test)]
mod tests;
