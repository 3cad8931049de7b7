//! Who is calling. Put into a request's extensions by [`crate::server`], which knows the token; asked by every RPC.
//!
//! What a token of this kind may not do at all is PERMISSION_DENIED. An object that it may not see is not there: NOT_FOUND, like one
//! that does not exist.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use crate::model::{TokenId, TokenKind, WorkspaceId};

/// Random bytes of a token.
const RANDOM_BYTES: usize = 32;

/// The longest text that is looked at as a token.
const MAX_TOKEN: usize = 128;

/// Why a caller is not known: one text, whatever is wrong with the token.
const UNKNOWN: &str = "the call needs a bearer token that is known, not revoked and not expired";

/// The bearer of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Identity of the token.
    pub token_id: TokenId,
    /// What it may do.
    pub kind: TokenKind,
    /// Of a workspace's token.
    pub workspace: Option<WorkspaceId>,
    /// Of a worker's token, once it is bound to a node.
    pub node: Option<String>,
    /// Mixed into hashes of requests.
    pub pepper: Pepper,
}

/// What only the bearer of a token can know and is not in the database: hashes of requests that hold secrets are made with it, so that
/// nobody who reads the database can try guesses.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pepper([u8; 32]);

impl Pepper {
    /// Of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"clipfs request pepper\0");
        hash.update(token.as_bytes());
        Self(hash.finalize().into())
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Pepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pepper(…)")
    }
}

impl Caller {
    /// The caller's workspace.
    ///
    /// # Errors
    /// PERMISSION_DENIED: not a workspace's token.
    pub fn workspace(&self) -> Result<&WorkspaceId, Status> {
        match (self.kind, &self.workspace) {
            (TokenKind::Workspace, Some(workspace)) => Ok(workspace),
            _ => Err(Status::permission_denied("this method needs a workspace token")),
        }
    }

    /// The caller is an administrator.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn admin(&self) -> Result<(), Status> {
        match self.kind {
            TokenKind::Admin => Ok(()),
            TokenKind::Workspace | TokenKind::Worker => {
                Err(Status::permission_denied("this method needs an admin token"))
            }
        }
    }

    /// The caller is a worker.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn worker(&self) -> Result<(), Status> {
        match self.kind {
            TokenKind::Worker => Ok(()),
            TokenKind::Workspace | TokenKind::Admin => {
                Err(Status::permission_denied("this method needs a worker token"))
            }
        }
    }
}

/// Who sent a request.
///
/// # Errors
/// UNAUTHENTICATED: nobody known.
pub fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    request.extensions().get::<Caller>().ok_or_else(unknown)
}

/// The answer to a missing, malformed, unknown, revoked or expired token.
#[must_use]
pub fn unknown() -> Status {
    Status::unauthenticated(UNKNOWN)
}

/// What is kept of a token: SHA-256 of its whole text. `None`: it cannot be one, and nobody need be asked.
#[must_use]
pub fn token_hash(token: &str) -> Option<[u8; 32]> {
    let looks_right = token.len() <= MAX_TOKEN
        && token.starts_with("cfs_")
        && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    looks_right.then(|| Sha256::digest(token.as_bytes()).into())
}

/// A new token and what is kept of it: `cfs_`, a letter for its kind, `_`, 32 random bytes in base64url.
///
/// # Errors
/// The system has no random bytes.
pub fn new_token(kind: TokenKind) -> std::io::Result<(SecretString, [u8; 32])> {
    let mut random = Zeroizing::new([0_u8; RANDOM_BYTES]);
    fill_random(&mut random[..])?;
    let letter = match kind {
        TokenKind::Workspace => 'w',
        TokenKind::Worker => 'n',
        TokenKind::Admin => 'a',
    };
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(&random[..]));
    let token = SecretString::from(format!("cfs_{letter}_{}", encoded.as_str()));
    let hash = Sha256::digest(token.expose_secret().as_bytes()).into();
    Ok((token, hash))
}

/// Bytes of the kernel's generator.
fn fill_random(buffer: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read as _;
    std::fs::File::open("/dev/urandom")?.read_exact(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller_of(kind: TokenKind) -> Caller {
        let workspace = (kind == TokenKind::Workspace).then(|| WorkspaceId::from("w"));
        Caller { token_id: TokenId::from("t"), kind, workspace, node: None, pepper: Pepper::default() }
    }

    #[test]
    fn each_kind_may_do_its_own() {
        for kind in [TokenKind::Workspace, TokenKind::Worker, TokenKind::Admin] {
            let caller = caller_of(kind);
            assert_eq!(caller.workspace().is_ok(), kind == TokenKind::Workspace);
            assert_eq!(caller.worker().is_ok(), kind == TokenKind::Worker);
            assert_eq!(caller.admin().is_ok(), kind == TokenKind::Admin);
        }
    }

    #[test]
    fn a_request_without_a_caller_is_nobody_s() {
        let status = caller(&Request::new(())).expect_err("nobody");
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
    }

    #[test]
    fn tokens_are_unlike_and_hash_to_what_is_kept() {
        let (token, hash) = new_token(TokenKind::Admin).expect("random bytes");
        let (other, _) = new_token(TokenKind::Admin).expect("random bytes");
        assert_ne!(token.expose_secret(), other.expose_secret());
        assert!(token.expose_secret().starts_with("cfs_a_"));
        assert_eq!(token.expose_secret().len(), 6 + 43);
        assert_eq!(token_hash(token.expose_secret()), Some(hash));
    }

    #[test]
    fn what_cannot_be_a_token_is_not_looked_up() {
        for text in ["", "cfs", "x", "cfs_a_ b", "cfs_w_\u{e9}", &"cfs_".repeat(100)] {
            assert_eq!(token_hash(text), None, "{text}");
        }
    }
}
