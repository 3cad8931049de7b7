//! How keys stand: which there are, and what needs them.

use serde::Serialize;

use super::{Vault, VaultError, VaultStore};

/// Most secrets under old keys that a status counts.
const COUNTED: u32 = 1000;

/// A key encryption key and what needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KekStatus {
    /// Identity.
    pub kek_id: String,
    /// `active`, `next`, `old`, or `missing` where it is not in the file.
    pub role: &'static str,
    /// Data keys that it wraps.
    pub data_keys: u64,
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyStatus {
    /// The key file.
    pub key_file: String,
    /// Keys of the file, and those that are missing in it.
    pub keks: Vec<KekStatus>,
    /// Data keys in all.
    pub data_keys: u64,
    /// Secrets whose key is not their workspace's current one, up to 1000.
    pub secrets_under_old_keys: u64,
}

impl<S: VaultStore + ?Sized> Vault<S> {
    /// How things stand.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn key_status(&self) -> Result<KeyStatus, VaultError> {
        let keks = self.keyring.reload().await?;
        let mut status: Vec<KekStatus> = keks
            .iter()
            .map(|kek| KekStatus { kek_id: kek.kek_id.clone(), role: kek.role.word(), data_keys: 0 })
            .collect();
        // No key is wrapped by nothing: these are all of them.
        let rows = self.store.data_keys_not_wrapped_by("", u32::MAX).await?;
        for row in &rows {
            match status.iter_mut().find(|kek| kek.kek_id == row.kek_id) {
                Some(kek) => kek.data_keys += 1,
                None => {
                    status.push(KekStatus { kek_id: row.kek_id.clone(), role: "missing", data_keys: 1 });
                }
            }
        }
        let old = self.store.secrets_under_old_keys(COUNTED).await?;
        Ok(KeyStatus {
            key_file: self.keyring.path().display().to_string(),
            keks: status,
            data_keys: rows.len() as u64,
            secrets_under_old_keys: old.len() as u64,
        })
    }
}
