//! What callers may name things, and how long. Messages name the field, and never repeat a value.

use tonic::Status;

/// Longest name of a workspace, secret, image or container.
pub const MAX_NAME: usize = 128;
/// Longest idempotency key.
const MAX_KEY: usize = 256;
/// Largest value of a secret.
pub const MAX_VALUE: usize = 64 << 10;

/// A name: 1 to 128 of `A-Z a-z 0-9 _ - .`, and neither `.` nor `..`.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn name(field: &str, text: &str) -> Result<(), Status> {
    let fine = (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !matches!(text, "." | "..");
    if fine {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{field} must be 1 to {MAX_NAME} of A-Z a-z 0-9 _ - .")))
}

/// A name, or nothing where that means to make one.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn optional_name(field: &str, text: &str) -> Result<(), Status> {
    if text.is_empty() { Ok(()) } else { name(field, text) }
}

/// An idempotency key; empty = none.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn idempotency_key(text: &str) -> Result<(), Status> {
    if text.len() <= MAX_KEY && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "idempotency_key must be at most {MAX_KEY} printable ASCII characters without spaces"
    )))
}

/// A secret's value: 1 byte to 64 KiB, of any kind.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn value(text: &str) -> Result<(), Status> {
    match text.len() {
        0 => Err(Status::invalid_argument("value must not be empty")),
        1..=MAX_VALUE => Ok(()),
        _ => Err(Status::invalid_argument("value must be at most 64 KiB")),
    }
}

/// A number of the interface that cannot be below zero.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn not_negative(field: &str, number: i64) -> Result<(), Status> {
    if number >= 0 {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{field} must not be negative")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for text in ["a", "A.b_c-9", "oci-registry-x", &"x".repeat(128)] {
            assert!(name("f", text).is_ok(), "{text}");
        }
        for text in ["", ".", "..", "a/b", "a b", "\u{e4}", "a\n", &"x".repeat(129)] {
            assert!(name("f", text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_and_keys() {
        assert!(value("\r\n").is_ok() && value(&"x".repeat(MAX_VALUE)).is_ok());
        assert!(value("").is_err() && value(&"x".repeat(MAX_VALUE + 1)).is_err());
        assert!(idempotency_key("").is_ok() && idempotency_key("a b").is_err());
        assert!(idempotency_key(&"k".repeat(257)).is_err());
    }
}
