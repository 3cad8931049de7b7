//! Who changes what, for the audit, and how a retry is recognised.

use crate::model::{Sealed, Secret, WorkspaceId};

/// The circumstances of a change.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Identity of the caller's token, or a part of the control plane (`operator`, `scheduler`).
    pub actor: &'a str,
    /// In whose workspace; `None`: in none.
    pub workspace: Option<&'a WorkspaceId>,
    /// The RPC's name.
    pub action: &'static str,
    /// What is changed, for people. Never a value.
    pub target: &'a str,
    /// `None`: every call is a new one.
    pub key: Option<IdempotencyKey<'a>>,
}

/// How a retry is recognised: scope is the workspace, or the actor where there is none.
#[derive(Debug, Clone, Copy)]
pub struct IdempotencyKey<'a> {
    /// The caller's.
    pub key: &'a str,
    /// SHA-256 of the request, so that another request under the same key is told from a retry.
    pub request: [u8; 32],
}

/// The outcome of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done<T> {
    /// It was done now.
    Now(T),
    /// It had been done under the same key; this was the outcome.
    Replayed(T),
}

impl<T> Done<T> {
    /// The outcome, of whichever call.
    pub fn into_inner(self) -> T {
        match self {
            Self::Now(outcome) | Self::Replayed(outcome) => outcome,
        }
    }
}

/// A secret to be kept. The identity is made before: the value is bound to it.
#[derive(Debug, Clone)]
pub struct NewSecret {
    /// Description; version 1. Times are set by the store.
    pub secret: Secret,
    /// Value.
    pub sealed: Sealed,
}

/// What happens to a secret together with its image.
#[derive(Debug, Clone)]
pub enum SecretChange {
    /// Nothing: the image says itself what pulls it.
    None,
    /// It is made. [`super::StoreError::Conflict`] if the registry has got one meanwhile: read again.
    Create(NewSecret),
    /// It gets a new value, as by [`super::Secrets::update_secret`].
    Update {
        /// As it was read.
        read: Secret,
        /// The new value.
        sealed: Sealed,
    },
}
