//! Names of registries.

use crate::{Code, Error};

/// The registry host (with port) of an image reference: see `docs/CREDENTIALS.md`.
///
/// # Errors
/// [`Code::BadRequest`]: an empty reference, or one whose host is none.
pub fn parse_registry(reference: &str) -> Result<String, Error> {
    let _ = reference;
    Err(Error::new(Code::Internal, "parse_registry"))
}

/// The display name of the secret of a registry: `oci-registry-` and the host with `-` for `.`, `:` and `/`.
#[must_use]
pub fn secret_name(registry: &str) -> String {
    registry.to_owned()
}
