//! A walk over everything in the cache directory: for counting, evicting, verifying, clearing.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use super::disk::{Dirs, Stat, Tree, hex_name, parse_hex_name, remove_at, stat_at, try_flock};
use super::usage::Tally;
use crate::decode::Blake3;

/// Suffix of a partial's map.
pub(super) const MAP: &str = ".map";

/// An object, or a partial with its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) tree: Tree,
    pub(super) name: Blake3,
    /// Allocated bytes.
    pub(super) bytes: u64,
    /// Bytes to read when verifying: an object's size, a partial's allocated bytes.
    pub(super) size: u64,
    /// Last use that the file system knows of, nanoseconds since 1970. 0 for half a partial: of no use to anybody.
    pub(super) recency: u64,
}

/// Adds what was found to a tally.
pub(super) fn count(tally: &mut Tally, found: &Found) {
    tally.bytes = tally.bytes.saturating_add(found.bytes);
    match found.tree {
        Tree::Objects => tally.objects += 1,
        Tree::Partial => tally.partials += 1,
    }
}

/// Visits everything, shard by shard. Names that are not ours are passed over; files that vanish meanwhile too.
pub(super) fn walk(dirs: &Dirs, visit: &mut dyn FnMut(Found) -> ControlFlow<()>) -> io::Result<()> {
    for tree in [Tree::Objects, Tree::Partial] {
        for shard in 0..=u8::MAX {
            let Some((dir, names)) = dirs.list_shard(tree, shard)? else { continue };
            let mut halves: BTreeMap<Blake3, (Option<Stat>, Option<Stat>)> = BTreeMap::new();
            for file in names {
                let (base, is_map) = match file.strip_suffix(MAP) {
                    Some(base) if tree == Tree::Partial => (base, true),
                    _ => (file.as_str(), false),
                };
                let Some(name) = parse_hex_name(base.as_bytes()).filter(|name| name[0] == shard) else {
                    continue;
                };
                let Ok(stat) = stat_at(&dir, &file) else { continue };
                if tree == Tree::Objects {
                    let Stat { ident, bytes, recency, .. } = stat;
                    if visit(Found { tree, name, bytes, size: ident.size, recency }).is_break() {
                        return Ok(());
                    }
                } else if is_map {
                    halves.entry(name).or_default().1 = Some(stat);
                } else {
                    halves.entry(name).or_default().0 = Some(stat);
                }
            }
            for (name, (data, map)) in halves {
                let whole = data.is_some() && map.is_some();
                let both = || data.iter().chain(&map);
                let bytes = both().map(|stat| stat.bytes).sum();
                let recency = if whole { both().map(|stat| stat.recency).max().unwrap_or(0) } else { 0 };
                if visit(Found { tree, name, bytes, size: bytes, recency }).is_break() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Removes an object or partial. `false`: was not there, cannot be removed, or (a partial, unless `force`) another
/// process has it open.
pub(super) fn remove(dirs: &Dirs, tree: Tree, name: &Blake3, force: bool) -> bool {
    let data = hex_name(name);
    let Ok(shard) = dirs.shard(tree, &data) else { return false };
    if tree == Tree::Objects {
        return remove_at(&shard, &data).is_ok();
    }
    let map = format!("{data}{MAP}");
    // Held until both names are gone: who opens one in between sees that it has no name any more.
    let mut held = Vec::new();
    if !force {
        for name in [&map, &data] {
            if let Ok(file) = super::disk::open_at(&shard, name, nix::fcntl::OFlag::O_RDONLY) {
                if !try_flock(&file, true) {
                    return false;
                }
                held.push(file);
            }
        }
    }
    // The map first: data without a map is nothing, a map without data would be false claims.
    let map_gone = remove_at(&shard, &map).is_ok();
    let data_gone = remove_at(&shard, &data).is_ok();
    map_gone || data_gone
}
