//! Paths in the merged tree: cleaning them, and following symlinks that never leave the root.

use super::nodes::{NodeKind, Nodes, ROOT};
use crate::num::to_u64;

/// Most symlinks that one path may lead through (containerd's `fs.RootPath`).
const MAX_LINKS: u32 = 255;

/// Most bytes of symlink targets that all paths of an image together may lead through. Real images need a few megabytes; without
/// a limit a small hostile one could keep us busy for hours.
pub(super) const LINK_BUDGET: u64 = 1 << 30;

/// Longest name in a directory (`NAME_MAX`).
pub(super) const MAX_NAME: usize = 255;

/// Why a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResolveError {
    /// A component that is no directory is used as one.
    NotADirectory,
    /// More than [`MAX_LINKS`] symlinks.
    TooManyLinks,
    /// A component of a symlink's target is longer than [`MAX_NAME`].
    NameTooLong,
    /// The image has used up its [`LINK_BUDGET`].
    TooMuch,
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The deepest inode of the path that exists. A directory if `missing` is not empty.
    pub(super) node: u32,
    /// Components below `node` that do not exist.
    pub(super) missing: Vec<Vec<u8>>,
}

/// Cleans a path as Go's `filepath.Clean` does, clamped at the root: components joined by `/`, without the leading
/// one; empty for the root.
pub(super) fn clean(path: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for component in path.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => out.truncate(out.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            name => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(name);
            }
        }
    }
}

/// Splits at the last slash: what leads to the directory, and the name in it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Follows a path from the root, symlinks of every component included. Absolute targets start at the root; `..` stops
/// there. What does not exist is walked by its letters: `missing/..` is where it started.
///
/// (`..` in a target goes up from where the component before it has led, as the kernel and umoci do. containerd's
/// `RootPath` cuts such a target short by its letters; the two differ only if the component is itself a symlink.)
///
/// `budget` is what is left of [`LINK_BUDGET`].
pub(super) fn resolve(tree: &Nodes, path: &[u8], budget: &mut u64) -> Result<Place, ResolveError> {
    let mut place = Place { node: ROOT, missing: Vec::new() };
    let mut links = 0;
    // A symlink replaces the rest of the path by its target and what followed it.
    let mut owned: Vec<u8>;
    let mut rest = path;
    while let Some((component, after)) = next_component(rest) {
        rest = after;
        if !tree.is_dir(place.node) {
            return Err(ResolveError::NotADirectory);
        }
        if component == b".." {
            if place.missing.pop().is_none() {
                place.node = tree.parent(place.node);
            }
            continue;
        }
        if component.len() > MAX_NAME {
            return Err(ResolveError::NameTooLong);
        }
        if !place.missing.is_empty() {
            place.missing.push(component.to_vec());
            continue;
        }
        let Some(slot) = tree.lookup(place.node, component) else {
            place.missing.push(component.to_vec());
            continue;
        };
        let child = tree.slot(slot).node;
        let node = tree.node(child);
        if node.kind != NodeKind::Symlink {
            place.node = child;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(ResolveError::TooManyLinks);
        }
        let target = tree.target(node);
        *budget = budget.checked_sub(to_u64(target.len())).ok_or(ResolveError::TooMuch)?;
        if target.starts_with(b"/") {
            place.node = ROOT;
        }
        owned = [target, b"/", rest].concat();
        rest = &owned;
    }
    Ok(place)
}

/// The first component that is neither empty nor `.`, and what follows.
fn next_component(mut path: &[u8]) -> Option<(&[u8], &[u8])> {
    while !path.is_empty() {
        let end = path.iter().position(|&b| b == b'/').unwrap_or(path.len());
        let (component, after) = (&path[..end], path.get(end + 1..).unwrap_or_default());
        if !component.is_empty() && component != b"." {
            return Some((component, after));
        }
        path = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::nodes::Attrs;
    use super::*;

    #[test]
    fn cleans_like_go() {
        let mut out = Vec::new();
        for (path, want) in [
            ("", ""),
            (".", ""),
            ("/", ""),
            ("./a//b/", "a/b"),
            ("../../a", "a"),
            ("a/../../b", "b"),
            ("a/b/../../..", ""),
            ("/a/./b/../c", "a/c"),
            ("..a/...", "..a/..."),
        ] {
            clean(path.as_bytes(), &mut out);
            assert_eq!(out, want.as_bytes(), "{path}");
        }
    }

    fn sample() -> Nodes {
        let mut t = Nodes::new();
        let mut add = |dir: u32, name: &str, kind: NodeKind, target: &str| {
            let (data, aux) = match kind {
                NodeKind::Symlink => t.add_target(target.as_bytes()).unwrap(),
                NodeKind::Dir => (super::super::nodes::NONE, 0),
                _ => (super::super::nodes::NONE, 0),
            };
            let node = t.add_node(kind, &Attrs::SYNTHETIC, data, aux).unwrap();
            t.link(dir, name.as_bytes(), node).unwrap();
            node
        };
        let usr = add(ROOT, "usr", NodeKind::Dir, ""); // 1
        let _lib = add(usr, "lib", NodeKind::Dir, ""); // 2
        add(ROOT, "lib", NodeKind::Symlink, "usr/lib");
        add(usr, "up", NodeKind::Symlink, "../../../usr");
        add(ROOT, "abs", NodeKind::Symlink, "/usr/up/lib");
        add(ROOT, "loop", NodeKind::Symlink, "loop");
        add(ROOT, "file", NodeKind::Fifo, "");
        add(ROOT, "gone", NodeKind::Symlink, "no/such/../dir");
        add(ROOT, "phys", NodeKind::Symlink, "lib/..");
        t
    }

    #[test]
    fn follows_symlinks_inside_the_root() {
        let tree = sample();
        let resolve = |path: &[u8], budget: u64| resolve(&tree, path, &mut { budget });
        for (path, node, missing) in [
            ("", 0, ""),
            ("usr/lib", 2, ""),
            ("lib", 2, ""),
            ("abs", 2, ""),
            ("usr/up/up/lib", 2, ""),
            ("phys", 1, ""),
            ("usr/new/x", 1, "new/x"),
            ("gone", 0, "no/dir"),
            ("gone/x", 0, "no/dir/x"),
        ] {
            let place = resolve(path.as_bytes(), 100).unwrap();
            assert_eq!(place.node, node, "{path}");
            assert_eq!(place.missing.join(&b'/'), missing.as_bytes(), "{path}");
        }
        assert_eq!(resolve(b"loop", 5000), Err(ResolveError::TooManyLinks));
        assert_eq!(resolve(b"loop", 100), Err(ResolveError::TooMuch));
        assert_eq!(resolve(b"file/x", 5000), Err(ResolveError::NotADirectory));
        assert_eq!(resolve(b"file", 5000).unwrap().missing.len(), 0);
    }
}
