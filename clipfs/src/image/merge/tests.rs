//! The rules one by one, with what is expected written out.

use super::*;
use crate::decode::tar::{Entry, EntryKind, Extent, FileData};

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o700,
        uid: 1,
        gid: 2,
        mtime: Timestamp { secs: 9, nanos: 1 },
        xattrs: Vec::new(),
    }
}

fn dir(path: &str) -> Entry {
    entry(path, EntryKind::Dir)
}

/// A file of `size` bytes, by which tests tell files apart.
fn file(path: &str, size: u64) -> Entry {
    let extents = vec![Extent { file_offset: 0, stream_offset: size << 10, len: size }];
    let digest = [u8::try_from(size).unwrap(); 32];
    entry(path, EntryKind::File(FileData { size, extents, digest }))
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink(target.as_bytes().to_vec()))
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Hardlink(target.as_bytes().to_vec()))
}

fn merge(layers: &[Vec<Entry>]) -> Result<Tree, MergeError> {
    let mut merger = Merger::default();
    for (n, layer) in (0..).zip(layers) {
        let mut entries = LayerEntries::default();
        for e in layer {
            entries.push(e)?;
        }
        merger.apply(n, entries)?;
    }
    merger.finish()
}

/// The tree in words: directories `name/`, files `name=size` and `*links` if there are several, symlinks `name>target`.
fn show(tree: &Tree) -> String {
    let mut paths = vec![String::new(); tree.order.len()];
    let mut out = Vec::new();
    let mut slots = tree.iter_slots();
    let mut lens = tree.dir_lens.iter();
    for (n, node) in tree.iter_nodes().enumerate() {
        if node.kind != NodeKind::Dir {
            continue;
        }
        let parent = paths[n].clone();
        for slot in slots.by_ref().take(crate::num::idx(*lens.next().unwrap())) {
            let child = tree.nodes.node(slot.node);
            let path = parent.clone() + std::str::from_utf8(tree.nodes.name(slot.name)).unwrap();
            out.push(match child.kind {
                NodeKind::Dir => {
                    paths[crate::num::idx(tree.number_of(slot.node))] = path.clone() + "/";
                    path + "/"
                }
                NodeKind::Symlink => path + ">" + std::str::from_utf8(tree.nodes.target(child)).unwrap(),
                _ => {
                    let size = tree.content(child).map_or(0, |(body, _)| body.size);
                    let links = if child.nlink > 1 { format!("*{}", child.nlink) } else { String::new() };
                    format!("{path}={size}{links}")
                }
            });
        }
    }
    out.sort();
    out.join(" ")
}

fn check(layers: &[Vec<Entry>], want: &str) {
    match merge(layers) {
        Ok(tree) => assert_eq!(show(&tree), want),
        Err(e) => panic!("{e}, instead of {want}"),
    }
}

fn refused(layers: &[Vec<Entry>], want: &str) {
    let error = merge(layers).expect_err(want).to_string();
    assert!(error.contains(want), "{error:?} does not say {want:?}");
}

#[test]
fn names_are_cleaned_and_stay_inside_the_root() {
    check(
        &[vec![file("./a", 1), file("/b", 2), file("../../c", 3), file("x//y/./../z/", 4), dir("..")]],
        "a=1 b=2 c=3 x/ x/z=4",
    );
}

#[test]
fn missing_parents_are_synthesised() {
    let tree = merge(&[vec![file("p/q/f", 1)]]).unwrap();
    assert_eq!(show(&tree), "p/ p/q/ p/q/f=1");
    let p = tree.nodes.node(tree.order[1]);
    assert_eq!((p.mode, p.uid, p.gid, p.mtime_secs, p.nlink), (0o755, 0, 0, 0, 3));
    // Their own entry may come later, in the same layer or in another.
    let tree = merge(&[vec![file("p/f", 1), dir("p")]]).unwrap();
    assert_eq!(tree.nodes.node(tree.order[1]).mode, 0o700);
}

#[test]
fn entries_replace_what_is_there_but_directories_merge() {
    check(&[vec![dir("d"), file("d/f", 1)], vec![dir("d")]], "d/ d/f=1");
    check(&[vec![dir("d"), file("d/f", 1)], vec![file("d", 2)]], "d=2");
    check(&[vec![file("d", 1)], vec![dir("d"), file("d/f", 2)]], "d/ d/f=2");
    check(&[vec![symlink("d", "e"), dir("e"), file("e/f", 1)], vec![dir("d")]], "d/ e/ e/f=1");
    refused(&[vec![file("d", 1), file("d/f", 2)]], "a parent is not a directory");
}

#[test]
fn whiteouts_hide_lower_layers_only_whatever_their_order() {
    let lower = || vec![dir("d"), file("d/a", 1), file("d/b", 2), file("e", 3)];
    check(&[lower(), vec![file(".wh.e", 0)]], "d/ d/a=1 d/b=2");
    check(&[lower(), vec![file("d/.wh.a", 0)]], "d/ d/b=2 e=3");
    check(&[lower(), vec![file("e", 4), file(".wh.e", 0)]], "d/ d/a=1 d/b=2 e=4");
    check(&[lower(), vec![file(".wh.d", 0), file("d/c", 4)]], "d/ d/c=4 e=3");
    check(&[lower(), vec![file("d/c", 4), file("d/.wh..wh..opq", 0)]], "d/ d/c=4 e=3");
    check(&[lower(), vec![file(".wh..wh..opq", 0)]], "");
    check(&[lower(), vec![file("no/such/.wh.dir", 0), file("e/.wh.x", 0)]], "d/ d/a=1 d/b=2 e=3");
    // A file that becomes an opaque directory, as overlay differs write it.
    check(&[lower(), vec![dir("e"), file("e/.wh..wh..opq", 0), file("e/n", 5)]], "d/ d/a=1 d/b=2 e/ e/n=5");
    check(&[lower(), vec![file(".wh..wh.plnk/1.2", 5), file(".wh..wh.aufs", 5)]], "d/ d/a=1 d/b=2 e=3");
    for bad in [".wh.", "d/.wh..", ".wh..."] {
        refused(&[lower(), vec![file(bad, 0)]], "a whiteout of nothing");
    }
}

#[test]
fn whiteouts_below_a_replaced_symlink_spare_its_target() {
    let lower = || {
        vec![
            file("usr/lib64/ld.so", 1),
            file("usr/lib64/libc", 2),
            file("o/libc", 3),
            symlink("l", "usr/lib64"),
        ]
    };
    let opaque = || file("l/.wh..wh..opq", 0);
    let all = "usr/ usr/lib64/ usr/lib64/ld.so=1 usr/lib64/libc=2";
    let new = || file("l/new", 4);
    check(&[lower(), vec![dir("l"), opaque(), new()]], &format!("l/ l/new=4 o/ o/libc=3 {all}"));
    check(&[lower(), vec![dir("l"), file("l/.wh.libc", 0), new()]], &format!("l/ l/new=4 o/ o/libc=3 {all}"));
    check(&[lower(), vec![file(".wh.l", 0), file("l/.wh.libc", 0)]], &format!("o/ o/libc=3 {all}"));
    check(&[lower(), vec![file(".wh.l", 0), opaque(), new()]], &format!("l/ l/new=4 o/ o/libc=3 {all}"));
    // Another symlink: the new target counts.
    check(&[lower(), vec![symlink("l", "o"), file("l/.wh.libc", 0)]], &format!("l>o o/ {all}"));
    // Before the member that replaces it, the symlink is what it was, as for containerd and umoci.
    check(&[lower(), vec![opaque(), dir("l"), new()]], "l/ l/new=4 o/ o/libc=3 usr/ usr/lib64/");
    check(
        &[lower(), vec![file("l/.wh.libc", 0), file(".wh.l", 0)]],
        "o/ o/libc=3 usr/ usr/lib64/ usr/lib64/ld.so=1",
    );
}

#[test]
fn a_hidden_directory_that_the_layer_uses_is_the_layers() {
    let lower = || vec![Entry { mode: 0o711, ..dir("d") }, file("d/s/a", 1), file("d/t/a", 2), dir("e")];
    let mode = |layer: Vec<Entry>, want: &str| {
        let tree = merge(&[lower(), layer]).unwrap();
        assert_eq!(show(&tree), want);
        tree.nodes.node(tree.order[1]).mode
    };
    let hide = |path: &str| file(path, 0);
    // Undescribed it is made anew, described it is as described, before the whiteout or after.
    assert_eq!(mode(vec![file("d/s/b", 3), hide(".wh.d")], "d/ d/s/ d/s/b=3 e/"), 0o755);
    assert_eq!(mode(vec![hide(".wh.d"), file("d/s/b", 3)], "d/ d/s/ d/s/b=3 e/"), 0o755);
    assert_eq!(mode(vec![dir("d"), hide(".wh.d")], "d/ e/"), 0o700);
    assert_eq!(mode(vec![file("d/s/b", 3), hide(".wh.d"), dir("d")], "d/ d/s/ d/s/b=3 e/"), 0o700);
    // An opaque marker leaves the directory's own metadata, and described directories below.
    assert_eq!(mode(vec![dir("d/t"), file("d/b", 3), hide("d/.wh..wh..opq")], "d/ d/b=3 d/t/ e/"), 0o711);
    // Cleared once, then hidden, at the root, and again.
    check(&[lower(), vec![hide("d/.wh..wh..opq"), hide(".wh.d")]], "e/");
    let again = || hide(".wh..wh..opq");
    check(
        &[lower(), vec![file("d/s/b", 3), again(), file("f", 4), again(), hide(".wh.f")]],
        "d/ d/s/ d/s/b=3 f=4",
    );
    // A name that is used again after a removal is the layer's, one in the next layer is not.
    check(&[lower(), vec![hide(".wh.d"), file("n", 1), hide(".wh.n")], vec![hide(".wh.n")]], "e/");
}

#[test]
fn symlinked_parents_are_followed_inside_the_root() {
    let lower =
        || vec![dir("usr/lib"), file("usr/lib/a", 1), symlink("lib", "usr/lib"), symlink("abs", "/../usr")];
    check(
        &[lower(), vec![file("lib/b", 2)]],
        "abs>/../usr lib>usr/lib usr/ usr/lib/ usr/lib/a=1 usr/lib/b=2",
    );
    check(&[lower(), vec![file("abs/lib/.wh.a", 0)]], "abs>/../usr lib>usr/lib usr/ usr/lib/");
    check(&[lower(), vec![file("lib", 3)]], "abs>/../usr lib=3 usr/ usr/lib/ usr/lib/a=1");
    check(&[vec![symlink("l", "m/n"), file("l/f", 1)]], "l>m/n m/ m/n/ m/n/f=1");
    refused(&[vec![symlink("l", "l"), file("l/f", 1)]], "too many symbolic links");
}

#[test]
fn hard_links_share_the_inode() {
    check(&[vec![file("a", 1), link("b", "a")]], "a=1*2 b=1*2");
    check(&[vec![link("a", "b"), file("b", 1)]], "a=1*2 b=1*2");
    check(&[vec![file("a", 1)], vec![link("d/b", "./a")]], "a=1*2 d/ d/b=1*2");
    check(&[vec![link("a", "b"), link("b", "c"), file("c", 1)]], "a=1*3 b=1*3 c=1*3");
    check(&[vec![file("a", 1), link("b", "a")], vec![file(".wh.a", 0)]], "b=1");
    check(&[vec![file("a", 1), link("b", "a")], vec![file("a", 2)]], "a=2 b=1");
    // A later entry of the same name wins over a link that waits.
    check(&[vec![link("a", "b"), file("a", 2), file("b", 1)]], "a=2 b=1");
    // The last component of a target is not followed, those before are.
    check(&[vec![symlink("s", "a"), link("t", "s"), file("a", 1)]], "a=1 s>a t>a");
    check(&[vec![dir("d"), file("d/a", 1), symlink("s", "d"), link("b", "s/a")]], "b=1*2 d/ d/a=1*2 s>d");
    refused(&[vec![dir("d"), link("a", "d")]], "a hard link to a directory");
    refused(&[vec![file("a", 1), link("a", "a")]], "does not exist");
    refused(&[vec![link("a", "b"), link("b", "a")]], "points to \"b\", which does not exist");
    refused(&[vec![file("a", 1)], vec![file(".wh.a", 0), link("b", "a")]], "does not exist");
}

#[test]
fn a_hard_link_applies_its_metadata_and_adds_attributes() {
    let set = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect::<Vec<_>>()
    };
    let target = Entry { xattrs: set(&[("security.capability", "c"), ("user.a", "1")]), ..file("a", 1) };
    let later = Entry {
        xattrs: set(&[("user.a", "2"), ("user.b", "3"), ("user.overlay.x", "4")]),
        mode: 0o4755,
        uid: 7,
        ..link("b", "a")
    };
    let tree = merge(&[vec![target, later]]).unwrap();
    let node = tree.nodes.node(tree.order[1]);
    assert_eq!((node.mode, node.uid, node.gid), (0o4755, 7, 2));
    let xattrs: Vec<_> = xattr::iter(&tree.nodes.xattr_sets[crate::num::idx(node.xattrs)]).collect();
    let want: [(&[u8], &[u8]); 3] = [(b"security.capability", b"c"), (b"user.a", b"2"), (b"user.b", b"3")];
    assert_eq!(xattrs, want);
}

#[test]
fn the_root_has_metadata_too() {
    let tree = merge(&[vec![dir("./")], vec![file("/", 1)]]).unwrap();
    assert_eq!(tree.nodes.node(ROOT).mode, 0o700);
    assert_eq!(tree.nodes.node(ROOT).kind, NodeKind::Dir);
    let tree = merge(&[]).unwrap();
    assert_eq!(tree.nodes.node(ROOT).mode, 0o755);
    assert_eq!(tree.inodes(), 1);
}

#[test]
fn impossible_names_and_targets_are_refused() {
    refused(&[vec![file(&"n".repeat(256), 1)]], "longer than 255");
    refused(&[vec![file("a\0b", 1)]], "NUL");
    refused(&[vec![symlink("s", "")]], "its target");
    refused(&[vec![symlink("s", &"t".repeat(4096))]], "its target");
    check(&[vec![file(&"n".repeat(255), 1)]], &("n".repeat(255) + "=1"));
    let huge = vec![(b"user.x".to_vec(), vec![0; 70_000])];
    refused(&[vec![Entry { xattrs: huge, ..file("f", 1) }]], "extended attributes");
}

#[test]
fn identical_contents_are_one_in_stream_order() {
    let mut again = file("c", 5);
    if let EntryKind::File(data) = &mut again.kind {
        data.extents[0].stream_offset = 1;
    }
    let tree = merge(&[vec![file("a", 5), file("b", 4)], vec![again, file("d", 6)]]).unwrap();
    let contents: Vec<_> = tree.iter_contents().map(|b| (b.layer, b.stream, b.size)).collect();
    assert_eq!(contents, [(0, 4 << 10, 4), (0, 5 << 10, 5), (1, 6 << 10, 6)]);
}

#[test]
fn very_deep_paths_do_not_overflow_the_stack() {
    let deep = "d/".repeat(100_000);
    let tree = merge(&[vec![file(&(deep.clone() + "f"), 1)], vec![file("x", 1)]]).unwrap();
    assert_eq!(tree.inodes(), 100_003);
    let tree = merge(&[vec![file(&(deep + "f"), 1)], vec![file(".wh.d", 0), file("x", 1)]]).unwrap();
    assert_eq!(show(&tree), "x=1");
}

#[test]
fn a_long_chain_of_links_ends() {
    let chain: Vec<_> = (0..100).map(|n| link(&format!("l{n}"), &format!("l{}", n + 1))).collect();
    refused(&[chain.into_iter().chain([file("l100", 1)]).collect()], "more than 64");
}

/// Bytes per file of the whole merge; what the index builder's budget is reckoned with.
#[test]
fn a_million_files_would_fit() {
    let mut entries = LayerEntries::default();
    for n in 0..20_000u64 {
        let mut f = file(&format!("usr/lib/python3/dist-packages/p{}/m{n}.py", n / 20), 1);
        if let EntryKind::File(data) = &mut f.kind {
            data.digest[..8].copy_from_slice(&n.to_le_bytes());
            data.extents[0].stream_offset = n << 10;
        }
        entries.push(&f).unwrap();
    }
    let log = entries.bytes();
    let mut merger = Merger::default();
    merger.apply(0, entries).unwrap();
    let merged = merger.tree.bytes();
    let tree = merger.finish().unwrap();
    let permutations = 4 * (tree.order.len() + tree.numbers.len() + tree.entries.len())
        + 4 * (tree.contents.len() + tree.content_of.len());
    let per_file = |bytes: usize| bytes / 20_000;
    assert!(per_file(log) < 90, "log: {}", per_file(log));
    assert!(per_file(merged) < 170, "merged: {}", per_file(merged));
    assert!(per_file(merged + permutations) < 190, "tree: {}", per_file(merged + permutations));
}
