//! What is encrypted how. Bytes in, bytes out: no file, no database, no clock.
//!
//! Two layers, both XChaCha20-Poly1305 (a 24-byte nonce may be drawn at random for ever):
//!
//! | | key | plaintext | bound to (associated data) | stored as |
//! | --- | --- | --- | --- | --- |
//! | data key | KEK | 32 bytes | `clipfs data key v1`, workspace, key id, KEK id | `nonce 24 | ciphertext 32 | tag 16` |
//! | secret | data key | value | `clipfs secret v1`, workspace, secret id, version, key id, registry, name | `1 | nonce 24 | ciphertext | tag 16` |
//!
//! Associated data is a list of fields, each with its length before it, so that no two lists have the same bytes.
//!
//! **The name is bound too.** Images that name their secrets (`AWS_SECRET_ACCESS_KEY`) find values by name: two rows whose names were
//! exchanged in the database would hand one key's value out as another's. Nothing renames a secret; who adds that has to seal anew.
//!
//! The length of a value shows in the length of its record.

use chacha20poly1305::aead::{AeadInOut, Generate, KeyInit, Tag};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::SecretSlice;
use zeroize::Zeroizing;

use crate::model::{KeyId, Secret, WorkspaceId};

/// Length of all keys, in bytes.
pub const KEY: usize = 32;

/// Of a nonce.
const NONCE: usize = 24;
/// Of a tag.
const TAG: usize = 16;
/// The form of a record, its first byte.
const RECORD_V1: u8 = 1;

/// A key's bytes. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY]>);

impl Key {
    /// A new one, of the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = Self(Zeroizing::new([0; KEY]));
        let drawn = Zeroizing::new(<[u8; KEY]>::generate());
        key.0.copy_from_slice(&*drawn);
        key
    }

    /// Of bytes; `None`: there are not [`KEY`] of them.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; KEY]);
        (bytes.len() == KEY).then(|| key.copy_from_slice(bytes))?;
        Some(Self(key))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY] {
        &self.0
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }
}

/// Shows nothing.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// It does not open: another key, another binding, or other bytes. Which of these cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoesNotOpen;

/// What a data key is bound to.
#[derive(Debug, Clone, Copy)]
pub struct KeyBinding<'a> {
    /// Whose.
    pub workspace: &'a WorkspaceId,
    /// Which.
    pub key: &'a KeyId,
    /// What wraps it.
    pub kek_id: &'a str,
}

impl KeyBinding<'_> {
    fn aad(&self) -> Vec<u8> {
        fields(&[
            b"clipfs data key v1",
            self.workspace.as_str().as_bytes(),
            self.key.as_str().as_bytes(),
            self.kek_id.as_bytes(),
        ])
    }
}

/// Wraps a data key: `nonce | ciphertext | tag`.
#[must_use]
pub fn wrap(kek: &Key, binding: &KeyBinding<'_>, key: &Key) -> Vec<u8> {
    encrypt(kek, &[], &binding.aad(), key.expose())
}

/// Unwraps a data key.
///
/// # Errors
/// [`DoesNotOpen`].
pub fn unwrap(kek: &Key, binding: &KeyBinding<'_>, wrapped: &[u8]) -> Result<Key, DoesNotOpen> {
    let bytes = decrypt(kek, &binding.aad(), wrapped)?;
    Key::of_bytes(&bytes).ok_or(DoesNotOpen)
}

/// Seals a value: `version byte | nonce | ciphertext | tag`. It is bound to the whole description but its times.
#[must_use]
pub fn seal(key: &Key, key_id: &KeyId, secret: &Secret, value: &[u8]) -> Vec<u8> {
    encrypt(key, &[RECORD_V1], &secret_aad(key_id, secret), value)
}

/// Opens a record.
///
/// # Errors
/// [`DoesNotOpen`].
pub fn open(
    key: &Key,
    key_id: &KeyId,
    secret: &Secret,
    record: &[u8],
) -> Result<SecretSlice<u8>, DoesNotOpen> {
    match record.split_first() {
        Some((&RECORD_V1, sealed)) => {
            let mut value = decrypt(key, &secret_aad(key_id, secret), sealed)?;
            // As long as its memory: turned into a box it is not moved, and nothing stays behind.
            Ok(SecretSlice::from(std::mem::take(&mut *value)))
        }
        _ => Err(DoesNotOpen),
    }
}

fn secret_aad(key_id: &KeyId, secret: &Secret) -> Vec<u8> {
    fields(&[
        b"clipfs secret v1",
        secret.workspace_id.as_str().as_bytes(),
        secret.secret_id.as_str().as_bytes(),
        &secret.version.to_le_bytes(),
        key_id.as_str().as_bytes(),
        secret.registry.as_bytes(),
        secret.name.as_bytes(),
    ])
}

/// Fields, each with its length before it: 8 bytes, little endian.
fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// `head | nonce | ciphertext | tag`, in one piece of memory: the plaintext lies in it until it is encrypted there.
fn encrypt(key: &Key, head: &[u8], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let nonce = XNonce::generate();
    let mut out = Vec::with_capacity(head.len() + NONCE + plaintext.len() + TAG);
    out.extend_from_slice(head);
    out.extend_from_slice(&nonce);
    let begin = out.len();
    out.extend_from_slice(plaintext);
    let tag = key
        .cipher()
        .encrypt_inout_detached(&nonce, aad, (&mut out[begin..]).into())
        .expect("a value in memory is shorter than the cipher's limit of 256 GiB");
    out.extend_from_slice(&tag);
    out
}

/// Of `nonce | ciphertext | tag`.
fn decrypt(key: &Key, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, DoesNotOpen> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE).ok_or(DoesNotOpen)?;
    let (ciphertext, tag) =
        sealed.len().checked_sub(TAG).and_then(|at| sealed.split_at_checked(at)).ok_or(DoesNotOpen)?;
    let nonce = XNonce::try_from(nonce).map_err(|_| DoesNotOpen)?;
    let tag = Tag::<XChaCha20Poly1305>::try_from(tag).map_err(|_| DoesNotOpen)?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    key.cipher()
        .decrypt_inout_detached(&nonce, aad, plaintext.as_mut_slice().into(), &tag)
        .map_err(|_| DoesNotOpen)?;
    Ok(plaintext)
}

#[cfg(test)]
mod tests;
