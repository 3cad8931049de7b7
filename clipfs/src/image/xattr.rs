//! Sets of extended attributes in the form that the clip index stores: for each attribute, sorted by name, the name's
//! length (u8), the value's length (u32 LE), the name, the value.

use crate::num::idx;

/// Kernel limit on a value (`XATTR_SIZE_MAX`).
const MAX_VALUE: usize = 64 << 10;
/// Kernel limit on all names of a file, each with its NUL (`XATTR_LIST_MAX`).
const MAX_LIST: usize = 64 << 10;

/// Namespaces that Linux knows. containerd ignores attributes of others (setting one answers `ENOTSUP`).
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];

/// What steers overlayfs. An image must not reach into an overlayfs that is stacked on the mount.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Whether an attribute of the archive is kept at all.
fn kept(name: &[u8]) -> bool {
    !name.contains(&0)
        && NAMESPACES.iter().any(|space| name.len() > space.len() && name.starts_with(space))
        && !OVERLAY.iter().any(|prefix| name.starts_with(prefix))
}

/// Encodes a set, sorted by name, whatever the order given; of equal names the last wins. Attributes in namespaces that
/// Linux does not know and those of overlayfs are dropped.
pub(crate) fn encode<'a>(set: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut sorted: Vec<_> = set.filter(|(name, _)| kept(name)).collect();
    sorted.sort_by_key(|&(name, _)| name);
    let mut out = Vec::new();
    for (n, &(name, value)) in sorted.iter().enumerate() {
        if sorted.get(n + 1).is_some_and(|&(next, _)| next == name) {
            continue;
        }
        // Longer than the kernel allows (`XATTR_NAME_MAX`): written so that `check` refuses the set.
        let name_len = u8::try_from(name.len()).unwrap_or(0);
        out.push(name_len);
        out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
    out
}

/// Iterates over an encoded set. Stops at the first thing that is none: [`check`] tells.
#[derive(Debug, Clone)]
pub(crate) struct Iter<'a> {
    rest: &'a [u8],
}

/// Decodes a set.
pub(crate) fn iter(set: &[u8]) -> Iter<'_> {
    Iter { rest: set }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&name_len, rest) = self.rest.split_first()?;
        let (value_len, rest) = rest.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(usize::from(name_len))?;
        let (value, rest) = rest.split_at_checked(idx(u32::from_le_bytes(*value_len)))?;
        self.rest = rest;
        Some((name, value))
    }
}

/// Whether `set` is a set that the kernel could have: complete, strictly sorted, within its limits.
pub(crate) fn check(set: &[u8]) -> bool {
    let mut attributes = iter(set);
    let mut before: &[u8] = b"";
    let mut list = 0;
    for (name, value) in attributes.by_ref() {
        if name <= before || name.contains(&0) || value.len() > MAX_VALUE {
            return false;
        }
        list += name.len() + 1;
        before = name;
    }
    attributes.rest.is_empty() && list <= MAX_LIST
}

/// `below` overlaid by `above`: what setting attributes one by one on an existing file leaves.
pub(crate) fn overlay(below: &[u8], above: &[u8]) -> Vec<u8> {
    encode(iter(below).chain(iter(above)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_sorted_without_overlay_and_unknown_namespaces() {
        let set: [(&[u8], &[u8]); 7] = [
            (b"user.b", b"2"),
            (b"user.a", b"1"),
            (b"trusted.overlay.opaque", b"y"),
            (b"user.overlay.redirect", b"/"),
            (b"rootless.x", b"y"),
            (b"user.", b"y"),
            (b"user.b", b"3"),
        ];
        let encoded = encode(set.into_iter());
        let back: Vec<_> = iter(&encoded).collect();
        assert_eq!(back, [(&b"user.a"[..], &b"1"[..]), (b"user.b", b"3")]);
        assert!(check(&encoded));
        assert!(check(b""));
    }

    #[test]
    fn check_refuses_what_the_kernel_cannot_have() {
        let long_name = [b"user.".as_slice(), &[b'n'; 300]].concat();
        assert!(!check(&encode([(long_name.as_slice(), b"".as_slice())].into_iter())));
        let long_value = vec![0; MAX_VALUE + 1];
        assert!(!check(&encode([(b"user.v".as_slice(), long_value.as_slice())].into_iter())));
        let names: Vec<_> = (0..400).map(|n| format!("user.{n:0>240}").into_bytes()).collect();
        assert!(!check(&encode(names.iter().map(|n| (n.as_slice(), b"".as_slice())))));
        let good = encode([(b"user.a".as_slice(), b"1".as_slice())].into_iter());
        for cut in 1..good.len() {
            assert!(!check(&good[..cut]), "{cut}");
        }
        assert!(!check(&[good.clone(), good].concat()), "not strictly sorted");
    }

    #[test]
    fn overlay_adds_and_replaces() {
        let below = encode([(b"user.a".as_slice(), b"1".as_slice()), (b"user.b", b"1")].into_iter());
        let above = encode([(b"user.b".as_slice(), b"2".as_slice())].into_iter());
        let merged = overlay(&below, &above);
        let merged: Vec<_> = iter(&merged).collect();
        assert_eq!(merged, [(&b"user.a"[..], &b"1"[..]), (b"user.b", b"2")]);
    }
}
