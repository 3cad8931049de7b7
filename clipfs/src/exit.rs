//! What a failure means to whoever called the process: the one table of exit codes (sysexits.h).
//!
//! The server finds a failure, the keeper passes its code on, the command line ends with it. So the codes of all errors
//! that the server can meet stand here; [`crate::mount::MountError`] and the command line add those of their own errors.
//! Every `match` is exhaustive: a new error does not compile without a code.

use std::io;

use crate::credentials::CredentialError;
use crate::decode::DecodeError;
use crate::index::IndexError;
use crate::read::ReadError;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::vfs::VfsError;

/// Usage.
pub const USAGE: u8 = 64;
/// Bad input: JSON, index, image.
pub const DATA: u8 = 65;
/// Not found: image, blob, file, credentials.
pub const NO_INPUT: u8 = 66;
/// Unknown host.
pub const NO_HOST: u8 = 68;
/// Unavailable.
pub const UNAVAILABLE: u8 = 69;
/// A bug.
pub const SOFTWARE: u8 = 70;
/// Cannot create.
pub const CANNOT_CREATE: u8 = 73;
/// Input or output.
pub const IO: u8 = 74;
/// Try later.
pub const TRY_LATER: u8 = 75;
/// Protocol or security refusal.
pub const PROTOCOL: u8 = 76;
/// Denied.
pub const DENIED: u8 = 77;
/// Configuration.
pub const CONFIG: u8 = 78;
/// What mount(8) calls a failed mount.
pub const MOUNT_FAILED: u8 = 32;

/// Of an image that cannot be had.
#[must_use]
pub fn registry(error: &RegistryError) -> u8 {
    match error {
        RegistryError::InvalidReference { .. } => USAGE,
        RegistryError::NotFound(_) => NO_INPUT,
        RegistryError::Denied { .. } => DENIED,
        RegistryError::Credentials(error) => credentials(error),
        RegistryError::Unavailable { .. } => UNAVAILABLE,
        RegistryError::UnknownHost { .. } => NO_HOST,
        RegistryError::TooManyRequests { .. } => TRY_LATER,
        RegistryError::Protocol { .. } | RegistryError::NotTls { .. } => PROTOCOL,
        RegistryError::Configuration { .. } => CONFIG,
        RegistryError::Mismatch { .. }
        | RegistryError::NotAnImage { .. }
        | RegistryError::NoPlatform { .. } => DATA,
        RegistryError::Io { source, .. } => io(source),
    }
}

/// Of credentials that cannot be had.
#[must_use]
pub fn credentials(error: &CredentialError) -> u8 {
    match error {
        CredentialError::NotFound { .. } => NO_INPUT,
        CredentialError::Denied { .. } => DENIED,
        CredentialError::Configuration(_) => CONFIG,
        CredentialError::Malformed(_) => DATA,
        CredentialError::Unavailable(_) => UNAVAILABLE,
        CredentialError::TryLater { .. } => TRY_LATER,
        CredentialError::Refused(_) => PROTOCOL,
        CredentialError::Broken(_) => SOFTWARE,
    }
}

/// Of an index that cannot be used.
#[must_use]
pub fn index(error: &IndexError) -> u8 {
    match error {
        IndexError::Io(error) => io(error),
        IndexError::NotAnIndex
        | IndexError::Version { .. }
        | IndexError::Length { .. }
        | IndexError::Checksum(_)
        | IndexError::Invalid(_) => DATA,
    }
}

/// Of bytes that do not decode.
#[must_use]
pub fn decode(error: &DecodeError) -> u8 {
    match error {
        DecodeError::Corrupt { .. }
        | DecodeError::Truncated { .. }
        | DecodeError::ChunkTooLong { .. }
        | DecodeError::TooLarge(_)
        | DecodeError::UnknownCompression(_)
        | DecodeError::Tar { .. } => DATA,
        DecodeError::Io(_) => IO,
    }
}

/// Of a store that cannot be used.
#[must_use]
pub fn store(error: &StoreError) -> u8 {
    match error {
        StoreError::Open { .. } => CANNOT_CREATE,
        StoreError::Io { .. } => IO,
    }
}

/// Of a path in an image.
#[must_use]
pub fn vfs(error: VfsError) -> u8 {
    match error {
        VfsError::NotFound | VfsError::NoAttribute => NO_INPUT,
        VfsError::NotADirectory | VfsError::IsADirectory | VfsError::NotASymlink | VfsError::NameTooLong => {
            DATA
        }
    }
}

/// Of bytes of an image that cannot be read.
#[must_use]
pub fn read(error: &ReadError) -> u8 {
    match error {
        ReadError::Registry(_, error) => registry(error),
        ReadError::Decode(_, error) => decode(error),
        ReadError::Mismatch(_) | ReadError::NoContent => DATA,
        ReadError::Deadline(_) | ReadError::Offline(_) => UNAVAILABLE,
        ReadError::Abandoned => SOFTWARE,
    }
}

/// Of a file of this machine.
#[must_use]
pub fn io(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound => NO_INPUT,
        io::ErrorKind::PermissionDenied => DENIED,
        _ => IO,
    }
}
