//! Lists in pages, as Google's AIP-158 says: opaque tokens that belong to their list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use crate::model::PageRequest;

/// Items of a page whose size the caller leaves open.
const DEFAULT_SIZE: u32 = 100;
/// Most items of a page; who asks for more gets so many.
const MAX_SIZE: u32 = 1000;
/// Bytes of a token that say to which list it belongs.
const LIST_BYTES: usize = 8;
/// Longest token that is looked at.
const MAX_TOKEN: usize = 1024;

/// The list that a token belongs to: the RPC and what it was asked for.
fn list_of(list: &[&str]) -> [u8; LIST_BYTES] {
    let mut hash = Sha256::new();
    for part in list {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut mark = [0; LIST_BYTES];
    mark.copy_from_slice(&hash.finalize()[..LIST_BYTES]);
    mark
}

/// Which page is asked for. `list` = the RPC's name and everything that selects the list.
///
/// # Errors
/// INVALID_ARGUMENT: a negative size, or a token that is not one of this list.
pub fn request(list: &[&str], size: i32, token: &str) -> Result<PageRequest, Status> {
    let size = match u32::try_from(size) {
        Ok(0) => DEFAULT_SIZE,
        Ok(size) => size.min(MAX_SIZE),
        Err(_) => return Err(Status::invalid_argument("page_size must not be negative")),
    };
    if token.is_empty() {
        return Ok(PageRequest { size, after: None });
    }
    let refused = || Status::invalid_argument("page_token is not one that this list has answered");
    if token.len() > MAX_TOKEN {
        return Err(refused());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
    let after = bytes.strip_prefix(&list_of(list)).ok_or_else(refused)?;
    let after = String::from_utf8(after.to_vec()).map_err(|_| refused())?;
    // Keys of our lists hold none; PostgreSQL takes no NUL.
    if after.contains(char::is_control) {
        return Err(refused());
    }
    Ok(PageRequest { size, after: Some(after) })
}

/// The token of the next page; empty: there is none.
#[must_use]
pub fn token(list: &[&str], next: Option<&str>) -> String {
    next.map_or_else(String::new, |key| {
        let mut bytes = list_of(list).to_vec();
        bytes.extend_from_slice(key.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (asked, got) in [(0, 100), (1, 1), (1000, 1000), (1001, 1000), (i32::MAX, 1000)] {
            assert_eq!(request(&["l"], asked, "").expect("valid").size, got);
        }
        assert_eq!(request(&["l"], -1, "").expect_err("negative").code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn a_token_belongs_to_its_list() {
        let of = |list: &[&str], token: &str| request(list, 0, token).map(|page| page.after);
        let next = token(&["list", "a"], Some("key/1"));
        assert_eq!(of(&["list", "a"], &next).expect("its own"), Some("key/1".to_owned()));
        for (list, token) in [
            (&["list", "b"][..], next.as_str()),
            (&["lista", ""], &next),
            (&["list", "a"], "garbage!"),
            (&["list", "a"], "AAAA"),
            (&["list", "a"], &"A".repeat(5000)),
        ] {
            assert!(of(list, token).is_err(), "{list:?} {token}");
        }
        assert_eq!(token(&["l"], None), "");
    }
}
