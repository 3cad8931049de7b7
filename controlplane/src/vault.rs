//! Secrets at rest: envelope encryption.
//!
//! A key encryption key (KEK, 32 bytes, never in the database) wraps one data key a workspace; the data key seals values. A record is
//! bound to its workspace, secret, version, data key, registry and name: one that was moved, rolled back or tampered with does not open.
//!
//! | module | does |
//! | --- | --- |
//! | [`envelope`] | what is encrypted how |
//! | [`keyfile`] | the file of KEKs |
//! | [`keyring`] | the KEKs that this process knows |
//! | [`rotation`] | new KEKs, new data keys, online |
//! | [`status`] | which keys there are, and what needs them |
//!
//! Which data key is current is asked of the database for every value that is sealed; unwrapped keys are kept in memory, a bounded number.
//! A change that brings a value sealed with a key that was rotated out *and* deleted in that moment breaks the table's reference: it is
//! refused whole, and may be tried again.
//!
//! What this cannot notice: a database that was put back as a whole, with its list of newest versions.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use secrecy::SecretSlice;

use self::envelope::{Key, KeyBinding};
use self::keyring::Keyring;
use crate::model::{DataKey, KeyId, Sealed, Secret, SecretRow, WorkspaceId};
use crate::store::{Audit, DataKeys, Store, StoreError, Workspaces};

pub mod envelope;
pub mod keyfile;
pub mod keyring;
pub mod rotation;
pub mod status;

/// Unwrapped data keys that are kept, 32 bytes each: those of as many workspaces as start containers about the same time.
const KEPT_KEYS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// How often a row that moves under our feet is read again. Each time somebody else got on; more than this is a bug.
const TRIES: u32 = 16;

/// The repositories that the vault works with.
pub trait VaultStore: Workspaces + DataKeys + Audit + std::fmt::Debug {}

impl<S: Workspaces + DataKeys + Audit + std::fmt::Debug + ?Sized> VaultStore for S {}

/// Seals and opens values. Cheap to clone.
#[derive(Debug)]
pub struct Vault<S: ?Sized = dyn Store> {
    store: Arc<S>,
    keyring: Keyring,
    kept: Kept,
}

impl<S: ?Sized> Clone for Vault<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), keyring: self.keyring.clone(), kept: self.kept.clone() }
    }
}

/// Why a value cannot be sealed or opened. Never holds one.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The row was moved, rolled back or tampered with: DATA_LOSS.
    #[error("{0} does not open: its row was changed outside of the control plane")]
    Tampered(String),
    /// The KEK that wraps the data key is not here.
    #[error("key encryption key {0} is not in the key file")]
    NoKek(String),
    /// The key file cannot be used.
    #[error("{0}")]
    KeyFile(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl VaultError {
    /// What a command exits with (sysexits.h): 78 for keys that are not here, 65 for rows that do not open, 69 for the database.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NoKek(_) | Self::KeyFile(_) => 78,
            Self::Tampered(_) => 65,
            Self::Store(_) => 69,
        }
    }

    fn secret(secret: &Secret) -> Self {
        Self::Tampered(format!("secret {}", secret.secret_id))
    }

    fn data_key(key: &DataKey) -> Self {
        Self::Tampered(format!("data key {} of workspace {}", key.key_id, key.workspace_id))
    }
}

impl<S: ?Sized> Vault<S> {
    /// A vault over a database, with keys.
    #[must_use]
    pub fn new(store: Arc<S>, keyring: Keyring) -> Self {
        Self { store, keyring, kept: Kept::default() }
    }

    /// The key encryption keys.
    #[must_use]
    pub const fn keyring(&self) -> &Keyring {
        &self.keyring
    }
}

impl<S: VaultStore + ?Sized> Vault<S> {
    /// Seals a value under the current data key of `secret`'s workspace, bound to the description, version included: for a new value of
    /// a secret that was read, give the description with `version + 1`.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn seal(&self, secret: &Secret, value: &[u8]) -> Result<Sealed, VaultError> {
        let (key_id, key) = self.current_key(&secret.workspace_id).await?;
        let record = envelope::seal(&key, &key_id, secret, value);
        Ok(Sealed { key_id, record })
    }

    /// Opens a value.
    ///
    /// # Errors
    /// See [`VaultError`]. A row that a rotation has sealed anew since it was read is [`VaultError::Tampered`] too, once its old key is
    /// deleted: who gets that reads the row again, and believes it if nothing has changed.
    pub async fn open(&self, row: &SecretRow) -> Result<SecretSlice<u8>, VaultError> {
        let SecretRow { secret, sealed, newest } = row;
        if secret.version != *newest {
            return Err(VaultError::secret(secret));
        }
        let key = self.key(&secret.workspace_id, &sealed.key_id).await.map_err(|error| match error {
            VaultError::Tampered(_) => VaultError::secret(secret),
            error => error,
        })?;
        envelope::open(&key, &sealed.key_id, secret, &sealed.record).map_err(|_| VaultError::secret(secret))
    }

    /// The workspace's current data key; the first one is made when it is needed.
    async fn current_key(&self, workspace: &WorkspaceId) -> Result<(KeyId, Key), VaultError> {
        for _ in 0..TRIES {
            match self.store.current_data_key(workspace).await? {
                Some(row) => {
                    let key = self.key(workspace, &row.key_id).await?;
                    return Ok((row.key_id, key));
                }
                // Made by us or by somebody faster: either way it is read.
                None => drop(self.make_data_key(workspace, None).await?),
            }
        }
        Err(StoreError::Conflict(format!("workspace {workspace} gets no data key")).into())
    }

    /// Makes a new data key current. `None`: another one is there instead.
    async fn make_data_key(
        &self,
        workspace: &WorkspaceId,
        instead_of: Option<&KeyId>,
    ) -> Result<Option<KeyId>, VaultError> {
        // Held until the key is in the database: nobody drops the KEK in between.
        let held = self.keyring.hold(false).await?;
        let (kek, key, key_id) = (held.keks().active(), Key::generate(), KeyId::generate());
        let binding = KeyBinding { workspace, key: &key_id, kek_id: &kek.kek_id };
        let row = DataKey {
            wrapped: envelope::wrap(&kek.key, &binding, &key),
            key_id,
            workspace_id: workspace.clone(),
            kek_id: kek.kek_id.clone(),
            current: true,
        };
        let made = self.store.set_current_data_key(&row, instead_of).await?;
        Ok(made.then_some(row.key_id))
    }

    /// A workspace's data key, from memory or unwrapped.
    async fn key(&self, workspace: &WorkspaceId, key_id: &KeyId) -> Result<Key, VaultError> {
        if let Some(key) = self.kept.get(workspace, key_id) {
            return Ok(key);
        }
        let mut missing = None;
        for _ in 0..TRIES {
            let row = self.store.data_key(key_id).await?;
            let row = row
                .filter(|row| row.workspace_id == *workspace)
                .ok_or_else(|| VaultError::Tampered(format!("data key {key_id} of workspace {workspace}")))?;
            match self.unwrap(&row).await {
                Ok(key) => {
                    self.kept.put(workspace, key_id, &key);
                    return Ok(key);
                }
                // A rotation may have rewrapped it and dropped the old KEK since the row was read: once more, unless it is the same.
                Err(VaultError::NoKek(kek_id)) if missing.as_ref() != Some(&kek_id) => missing = Some(kek_id),
                Err(error) => return Err(error),
            }
        }
        Err(VaultError::NoKek(missing.unwrap_or_default()))
    }

    async fn unwrap(&self, row: &DataKey) -> Result<Key, VaultError> {
        let kek = self.keyring.find(&row.kek_id).await?;
        let binding = KeyBinding { workspace: &row.workspace_id, key: &row.key_id, kek_id: &row.kek_id };
        envelope::unwrap(&kek.key, &binding, &row.wrapped).map_err(|_| VaultError::data_key(row))
    }
}

/// Unwrapped data keys, most recently used. Those that leave are wiped.
#[derive(Clone)]
struct Kept(Arc<Mutex<LruCache<(WorkspaceId, KeyId), Key>>>);

impl Default for Kept {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(KEPT_KEYS))))
    }
}

impl Kept {
    fn get(&self, workspace: &WorkspaceId, key_id: &KeyId) -> Option<Key> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&(workspace.clone(), key_id.clone())).cloned()
    }

    fn put(&self, workspace: &WorkspaceId, key_id: &KeyId, key: &Key) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put((workspace.clone(), key_id.clone()), key.clone());
    }
}

/// How many.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "{} keys", kept.len())
    }
}

#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
pub(crate) mod tests;
