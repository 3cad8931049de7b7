//! The circumstances of a change, from a request.

use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::{Caller, validate};
use crate::model::WorkspaceId;
use crate::store::{Change, IdempotencyKey};

/// What a request's change is; [`Circumstances::change`] borrows from it.
#[derive(Debug)]
pub struct Circumstances {
    actor: String,
    workspace: Option<WorkspaceId>,
    action: &'static str,
    target: String,
    key: String,
    hash: [u8; 32],
}

impl Circumstances {
    /// Of a request of `caller`. `target` is for people and never a value; `keyless` is the request with an empty idempotency key:
    /// a retry is told from another request by its hash.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the key.
    pub fn new(
        caller: &Caller,
        action: &'static str,
        target: impl Into<String>,
        key: &str,
        keyless: &impl Message,
    ) -> Result<Self, Status> {
        validate::idempotency_key(key)?;
        Ok(Self {
            actor: caller.token_id.to_string(),
            workspace: caller.workspace.clone(),
            action,
            target: target.into(),
            key: key.to_owned(),
            hash: if key.is_empty() { [0; 32] } else { request_hash(caller, action, keyless) },
        })
    }

    /// In another workspace than the caller's: an administrator's change.
    #[must_use]
    pub fn in_workspace(mut self, workspace: Option<WorkspaceId>) -> Self {
        self.workspace = workspace;
        self
    }

    /// For a repository.
    #[must_use]
    pub fn change(&self) -> Change<'_> {
        let key = IdempotencyKey { key: &self.key, request: self.hash };
        Change {
            actor: &self.actor,
            workspace: self.workspace.as_ref(),
            action: self.action,
            target: &self.target,
            key: (!self.key.is_empty()).then_some(key),
        }
    }
}

/// Hash of a request, with the caller's pepper: it may hold a secret's value. So a retry comes with the token of the first try.
fn request_hash(caller: &Caller, action: &str, message: &impl Message) -> [u8; 32] {
    let encoded = zeroize::Zeroizing::new(message.encode_to_vec());
    let mut hash = Sha256::new();
    hash.update(caller.pepper.as_bytes());
    hash.update(action.len().to_be_bytes());
    hash.update(action.as_bytes());
    hash.update(encoded.as_slice());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use api::v1;

    use super::*;
    use crate::model::{TokenId, TokenKind};

    #[test]
    fn a_retry_is_the_same_and_another_request_is_not() {
        let caller = Caller {
            token_id: TokenId::from("t"),
            kind: TokenKind::Workspace,
            workspace: Some("w".into()),
            node: None,
            pepper: Default::default(),
        };
        let of = |name: &str, key: &str| {
            let request = v1::CreateWorkspaceRequest { name: name.to_owned(), ..Default::default() };
            Circumstances::new(&caller, "CreateWorkspace", name, key, &request).expect("a fine key")
        };
        let hash = |c: &Circumstances| c.change().key.map(|key| key.request);
        assert_eq!(hash(&of("a", "k")), hash(&of("a", "k")));
        assert_ne!(hash(&of("a", "k")), hash(&of("b", "k")));
        assert_eq!(hash(&of("a", "")), None);
        let seen = of("a", "k");
        assert_eq!((seen.change().actor, seen.change().workspace.map(WorkspaceId::as_str)), ("t", Some("w")));
    }
}
