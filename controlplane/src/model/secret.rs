//! Secrets as they are kept: sealed.

use serde::{Deserialize, Serialize};

use super::{KeyId, SecretId, Time, WorkspaceId};

/// What may be known of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Identity.
    pub secret_id: SecretId,
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// For people. Two registries may share a name (`a.b` and `a-b`): with the registry it is unique.
    pub name: String,
    /// The registry that it is for; empty: a plain value.
    pub registry: String,
    /// Counts values, from 1.
    pub version: u64,
    /// When it was made.
    pub create_time: Time,
    /// When it got its newest value.
    pub update_time: Time,
}

/// A sealed value.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The data key that opens it.
    pub key_id: KeyId,
    /// `version | nonce | ciphertext | tag`.
    pub record: Vec<u8>,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes, {})", self.record.len(), self.key_id)
    }
}

/// A secret as it stands in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// Its description, to which the value is bound.
    pub secret: Secret,
    /// Its value.
    pub sealed: Sealed,
    /// The newest version that was ever committed: a row that is older was rolled back.
    pub newest: u64,
}

/// A workspace's data key, wrapped.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey {
    /// Identity.
    pub key_id: KeyId,
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// The key encryption key that wraps it.
    pub kek_id: String,
    /// `nonce | ciphertext | tag`.
    pub wrapped: Vec<u8>,
    /// Whether new values are sealed with it.
    pub current: bool,
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DataKey({} of {}, wrapped by {})", self.key_id, self.workspace_id, self.kek_id)
    }
}
