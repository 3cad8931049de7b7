//! Tenants.

use serde::{Deserialize, Serialize};

use super::{Time, WorkspaceId};

/// What separates tenants: no secret, image or container is seen from another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Identity.
    pub workspace_id: WorkspaceId,
    /// Unique, for people.
    pub name: String,
    /// When it was made.
    pub create_time: Time,
}
