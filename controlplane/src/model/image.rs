//! Images of a workspace.

use serde::{Deserialize, Serialize};

use super::{ImageId, SecretId, Time, WorkspaceId};

/// An image: what it is, where its index is, what pulls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Unique within the workspace.
    pub image_id: ImageId,
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// The reference as it was given.
    pub base_image: String,
    /// Its registry, normalised ([`credplugin::parse_registry`]).
    pub registry: String,
    /// Digest of the platform's manifest.
    pub digest: String,
    /// `os/arch[/variant]`.
    pub platform: String,
    /// What pulls it.
    pub credentials: ImageCredentialSource,
    /// BLAKE3 of the clip index, hex.
    pub index_digest: String,
    /// Compressed bytes of the layers.
    pub image_bytes: u64,
    /// Bytes of the clip index.
    pub index_bytes: u64,
    /// Files in the tree.
    pub files: u64,
    /// When it was made.
    pub create_time: Time,
    /// When it was last made again.
    pub update_time: Time,
}

/// Where an image's credentials are read at dispatch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageCredentialSource {
    /// It is public: anonymous, explicitly.
    Anonymous,
    /// The columns `credential_secret_name`, `credential_secret_id`. The secret may have been deleted: then nothing runs.
    Secret {
        /// For people.
        name: String,
        /// What is looked up.
        id: SecretId,
    },
    /// Secrets of the workspace by name, each the value of the key of that name.
    Named(Vec<String>),
}

/// A stored clip index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipIndexInfo {
    /// BLAKE3, hex.
    pub index_digest: String,
    /// Its length.
    pub index_bytes: u64,
    /// Number of pieces.
    pub pieces: u64,
}
