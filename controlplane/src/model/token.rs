//! Bearer tokens, without what is borne.

use serde::{Deserialize, Serialize};

use super::{Time, TokenId, WorkspaceId};

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// Sees one workspace.
    Workspace,
    /// Sees containers that are dispatched to its worker.
    Worker,
    /// Workspaces, tokens, workers.
    Admin,
}

/// A token's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Identity; also the actor in the audit.
    pub token_id: TokenId,
    /// What it may do.
    pub kind: TokenKind,
    /// Of a workspace's.
    pub workspace_id: Option<WorkspaceId>,
    /// Of a worker's: the only node that may use it; `None`: none has used it yet.
    pub node: Option<String>,
    /// When it was made.
    pub create_time: Time,
    /// When it ends; `None`: never.
    pub expire_time: Option<Time>,
}
