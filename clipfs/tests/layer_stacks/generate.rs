//! Random layers: few names, so that they meet; every kind of entry, whiteouts, links that lead anywhere.

use std::collections::BTreeMap;

use clipfs::decode::tar::{Entry, EntryKind, Extent, FileData, Timestamp};
use proptest::prelude::*;

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("a"), 3 => Just("b"), 2 => Just("c"), 2 => Just("lib"), 1 => Just(".."), 1 => Just("."),
        1 => Just(""), 1 => Just(".wh..wh.plnk"), 1 => Just("\u{e4}\u{f6}"),
    ]
    .prop_map(str::to_owned)
}

fn last_component() -> impl Strategy<Value = String> {
    prop_oneof![
        20 => component(),
        2 => Just(".wh.a".to_owned()),
        2 => Just(".wh.b".to_owned()),
        1 => Just(".wh.lib".to_owned()),
        3 => Just(".wh..wh..opq".to_owned()),
        1 => prop::sample::select(vec![".wh.", ".wh..", ".wh...", ".wh.x", "d", "e"]).prop_map(str::to_owned),
        1 => (250usize..260).prop_map(|n| "n".repeat(n)),
    ]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(vec!["", "", "", "./", "/", "../"]);
    let suffix = prop::sample::select(vec!["", "", "", "", "/", "/."]);
    let parents = prop_oneof![3 => Just(0), 4 => Just(1), 3 => Just(2), 1 => Just(3)]
        .prop_flat_map(|n| prop::collection::vec(component(), n));
    (prefix, parents, last_component(), suffix).prop_map(|(prefix, mut path, last, suffix)| {
        path.push(last);
        format!("{prefix}{}{suffix}", path.join("/")).into_bytes()
    })
}

/// File bodies from a small set, so that equal ones meet. Stream offsets come later.
fn data() -> impl Strategy<Value = FileData> {
    (0u8..8).prop_map(|n| {
        let runs: &[(u64, u64)] = match n {
            0 => &[],
            1..=4 => &[(0, 10)],
            5 => &[(10, 5), (50, 10)],
            6 => &[(0, 20)],
            _ => &[],
        };
        let size = match n {
            0 => 0,
            1..=4 => 10,
            _ => 70,
        };
        let extents = runs.iter().map(|&(file_offset, len)| Extent { file_offset, stream_offset: 0, len });
        FileData { size, extents: extents.collect(), digest: [n; 32] }
    })
}

fn kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![
        5 => data().prop_map(EntryKind::File),
        5 => Just(EntryKind::Dir),
        4 => path().prop_map(EntryKind::Symlink),
        5 => path().prop_map(EntryKind::Hardlink),
        1 => (0u32..3, any::<u32>()).prop_map(|(major, minor)| EntryKind::Char { major, minor }),
        1 => (0u32..3, any::<u32>()).prop_map(|(major, minor)| EntryKind::Block { major, minor }),
        1 => Just(EntryKind::Fifo),
        1 => prop::sample::select(vec![0usize, 4095, 4096]).prop_map(|n| EntryKind::Symlink(vec![b'/'; n])),
    ]
}

fn xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let names = ["security.capability", "trusted.overlay.opaque", "user.a", "user.b", "user.overlay.x"];
    prop_oneof![
        3 => Just(BTreeMap::new()),
        2 => prop::collection::btree_map(prop::sample::select(names.to_vec()), 0u8..3, 0..4),
    ]
    .prop_map(|set| set.into_iter().map(|(n, v)| (n.as_bytes().to_vec(), vec![v; usize::from(v)])).collect())
}

fn entry() -> impl Strategy<Value = Entry> {
    let ids = prop::sample::select(vec![0, 1000, u32::MAX]);
    let times = (-3i64..3, prop::sample::select(vec![0, 999_999_999]));
    (path(), kind(), 0u32..0o10000, ids.clone(), ids, times, xattrs()).prop_map(
        |(path, kind, mode, uid, gid, (secs, nanos), xattrs)| Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime: Timestamp { secs, nanos },
            xattrs,
        },
    )
}

/// Two layers, the lower with a symlink to a directory, the upper with some of what can become of it in any order:
/// replaced by a directory or another symlink, whited out, and whiteouts and files below its name.
fn replaced_symlink() -> impl Strategy<Value = [Vec<Entry>; 2]> {
    let link = |target: &str| EntryKind::Symlink(target.as_bytes().to_vec());
    let fifo = EntryKind::Fifo;
    let lower = [
        ("a/lib/a", fifo.clone()),
        ("a/lib/c/d", fifo.clone()),
        ("b/a", fifo.clone()),
        ("lib", link("a/lib")),
    ];
    let upper = vec![
        ("lib", EntryKind::Dir),
        ("lib/.wh..wh..opq", fifo.clone()),
        ("lib/.wh.a", fifo.clone()),
        ("lib/.wh.c", fifo.clone()),
        ("lib/c/e", fifo.clone()),
        ("lib/b", fifo.clone()),
        ("lib/c", EntryKind::Dir),
        (".wh.lib", fifo),
        ("lib", link("b")),
    ];
    let named = |(path, kind): (&str, EntryKind)| (Just(path.as_bytes().to_vec()), Just(kind), entry());
    let put = |all: Vec<(Vec<u8>, EntryKind, Entry)>| {
        all.into_iter().map(|(path, kind, entry)| Entry { path, kind, ..entry }).collect::<Vec<_>>()
    };
    let lower = Vec::from(lower.map(named));
    let upper = prop::sample::subsequence(upper, 1..=9)
        .prop_shuffle()
        .prop_flat_map(move |upper| upper.into_iter().map(named).collect::<Vec<_>>());
    (lower, upper).prop_map(move |(lower, upper)| [put(lower), put(upper)])
}

/// Layers as they come, or with a symlink's story told in two of them.
fn stacks() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    let random = || prop::collection::vec(prop::collection::vec(entry(), 0..16), 1..5);
    let told = (random(), replaced_symlink()).prop_map(|(mut layers, [lower, upper])| {
        if layers.len() < 2 {
            layers.push(Vec::new());
        }
        let last = layers.len() - 1;
        layers[last - 1].extend(lower);
        layers[last].splice(0..0, upper);
        layers
    });
    prop_oneof![2 => random(), 1 => told]
}

/// Layers with stream offsets that follow each other, as in a tar.
pub(crate) fn layers() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    stacks().prop_map(|mut layers| {
        for layer in &mut layers {
            let mut at = 512;
            for entry in layer {
                if let EntryKind::File(data) = &mut entry.kind {
                    for extent in &mut data.extents {
                        extent.stream_offset = at;
                        at += extent.len;
                    }
                }
                at += 512;
            }
        }
        layers
    })
}
