//! Random layer stacks: the merged tree, written as a clip index and seen through [`Vfs`], equals what a naive unpack in
//! memory makes of the same layers.
//!
//! The model below is written from the rules and knows nothing of how clipfs does it: whole paths in one map, linear
//! searches, everything copied.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use clipfs::decode::tar::{Entry, EntryKind, Extent, FileData, Timestamp};
use clipfs::decode::{Compression, Resume};
use clipfs::image::{LayerEntries, MergeError, Merger, Tree};
use clipfs::index::{ChunkRecord, ClipIndex, ContentId, ImageMeta, Ino, Kind, LayerIndex, LayerInfo, write};
use clipfs::oci::Digest;
use clipfs::vfs::{Vfs, VfsError};
use proptest::prelude::*;

type Path = Vec<Vec<u8>>;

/// Why the model refuses a layer, and because of which entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    BadName(usize),
    Dangling(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Dir,
    File { layer: u32, data: FileData },
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    /// A hard link (entry number) whose target has not come yet.
    Pending(usize),
}

/// A file system as two maps: paths to inodes, inodes to what they are.
#[derive(Debug, Clone)]
struct Model {
    names: BTreeMap<Path, u32>,
    inodes: HashMap<u32, (Meta, Body)>,
    next: u32,
}

fn synthetic() -> Meta {
    Meta { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: BTreeMap::new() }
}

fn components(path: &[u8]) -> Path {
    path.split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec).collect()
}

fn clean(path: &[u8]) -> Path {
    let mut out = Path::new();
    for c in components(path) {
        if c == b".." {
            out.pop();
        } else {
            out.push(c);
        }
    }
    out
}

fn allowed_xattrs(entry: &Entry) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let dropped = |n: &[u8]| n.starts_with(b"trusted.overlay.") || n.starts_with(b"user.overlay.");
    entry.xattrs.iter().filter(|(n, _)| !dropped(n)).cloned().collect()
}

impl Model {
    fn new() -> Self {
        Self {
            names: BTreeMap::from([(Path::new(), 0)]),
            inodes: HashMap::from([(0, (synthetic(), Body::Dir))]),
            next: 1,
        }
    }

    fn body(&self, path: &Path) -> Option<&Body> {
        self.names.get(path).map(|ino| &self.inodes[ino].1)
    }

    fn add(&mut self, path: Path, meta: Meta, body: Body) {
        self.names.insert(path, self.next);
        self.inodes.insert(self.next, (meta, body));
        self.next += 1;
    }

    fn remove(&mut self, path: &Path) {
        self.names.retain(|p, _| !p.starts_with(path));
    }

    /// Follows all symlinks of a path. `Err(true)`: a non-directory in the middle; `Err(false)`: too many links, or a
    /// name too long.
    fn follow(&self, path: &[Vec<u8>]) -> Result<Path, bool> {
        let mut todo: VecDeque<Vec<u8>> = path.iter().cloned().collect();
        let mut at = Path::new();
        let mut links = 0;
        while let Some(c) = todo.pop_front() {
            if self.body(&at).is_some_and(|b| *b != Body::Dir) {
                return Err(true);
            }
            if c == b".." {
                at.pop();
                continue;
            }
            if c.len() > 255 {
                return Err(false);
            }
            let mut child = at.clone();
            child.push(c);
            if let Some(Body::Symlink(target)) = self.body(&child) {
                links += 1;
                if links > 255 {
                    return Err(false);
                }
                if target.starts_with(b"/") {
                    at = Path::new();
                }
                for c in components(target).into_iter().rev() {
                    todo.push_front(c);
                }
            } else {
                at = child;
            }
        }
        Ok(at)
    }

    /// What a hard link names. `Ok(None)`: nothing.
    fn link_target(&self, target: &[u8]) -> Result<Option<u32>, ()> {
        let cut = target.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        let (parent, name) = target.split_at(cut);
        let path = if matches!(name, b"" | b"." | b"..") {
            self.follow(&components(target))
        } else {
            self.follow(&components(parent)).map(|mut p| {
                p.push(name.to_vec());
                p
            })
        };
        match path {
            Err(true) => Ok(None),
            Err(false) => Err(()),
            Ok(path) => match self.body(&path) {
                None | Some(Body::Pending(_)) => Ok(None),
                Some(Body::Dir) => Err(()),
                Some(_) => Ok(self.names.get(&path).copied()),
            },
        }
    }

    fn set(&mut self, ino: u32, meta: Meta) {
        let (own, body) = self.inodes.get_mut(&ino).unwrap();
        let symlink = matches!(body, Body::Symlink(_));
        *own = Meta { mode: if symlink { 0o777 } else { meta.mode }, ..meta };
    }

    /// Owner, mode and time of the link's entry, its attributes added.
    fn set_link(&mut self, ino: u32, meta: Meta) {
        let mut xattrs = self.inodes[&ino].0.xattrs.clone();
        xattrs.extend(meta.xattrs.clone());
        self.set(ino, Meta { xattrs, ..meta });
    }

    fn apply(&mut self, layer: u32, entries: &[Entry]) -> Result<(), Refusal> {
        let mut plain = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            let mut path = clean(&entry.path);
            if path.iter().any(|c| c.len() > 255 || c.contains(&0)) {
                return Err(Refusal::BadName(n));
            }
            let last = path.pop().unwrap_or_default();
            if path.iter().any(|c| c.starts_with(b".wh..wh.")) {
                continue;
            }
            if !last.starts_with(b".wh.") {
                plain.push((n, entry));
                continue;
            }
            if matches!(last.as_slice(), b".wh." | b".wh.." | b".wh...") {
                return Err(Refusal::BadName(n));
            }
            if last.starts_with(b".wh..wh.") && last != b".wh..wh..opq" {
                continue;
            }
            let dir = match self.follow(&path) {
                Ok(dir) => dir,
                Err(true) => continue,
                Err(false) => return Err(Refusal::BadName(n)),
            };
            if last == b".wh..wh..opq" {
                self.names.retain(|p, _| !(p.starts_with(&dir) && p.len() > dir.len()));
            } else {
                let mut hidden = dir;
                hidden.push(last[4..].to_vec());
                self.remove(&hidden);
            }
        }
        for (n, entry) in plain {
            self.entry(layer, n, entry)?;
        }
        self.settle(entries)
    }

    fn entry(&mut self, layer: u32, n: usize, entry: &Entry) -> Result<(), Refusal> {
        let mut path = clean(&entry.path);
        let meta = Meta {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: allowed_xattrs(entry),
        };
        let Some(name) = path.pop() else {
            if entry.kind == EntryKind::Dir {
                self.set(0, meta);
            }
            return Ok(());
        };
        let mut place = self.follow(&path).map_err(|_| Refusal::BadName(n))?;
        for len in 1..=place.len() {
            match self.body(&place[..len].to_vec()) {
                Some(Body::Dir) => {}
                Some(_) => return Err(Refusal::BadName(n)),
                None => self.add(place[..len].to_vec(), synthetic(), Body::Dir),
            }
        }
        place.push(name);
        if let Some(&ino) = self.names.get(&place) {
            if entry.kind == EntryKind::Dir && self.inodes[&ino].1 == Body::Dir {
                self.set(ino, meta);
                return Ok(());
            }
            self.remove(&place);
        }
        let body = match &entry.kind {
            EntryKind::Hardlink(target) => {
                match self.link_target(target).map_err(|()| Refusal::BadName(n))? {
                    Some(ino) => {
                        self.names.insert(place, ino);
                        self.set_link(ino, meta);
                    }
                    None => self.add(place, meta, Body::Pending(n)),
                }
                return Ok(());
            }
            EntryKind::File(data) => Body::File { layer, data: data.clone() },
            EntryKind::Dir => Body::Dir,
            EntryKind::Symlink(t) if t.is_empty() || t.len() > 4095 => return Err(Refusal::BadName(n)),
            EntryKind::Symlink(t) => Body::Symlink(t.clone()),
            EntryKind::Char { major, minor } => Body::Char(*major, *minor),
            EntryKind::Block { major, minor } => Body::Block(*major, *minor),
            EntryKind::Fifo => Body::Fifo,
        };
        let mode = if matches!(body, Body::Symlink(_)) { 0o777 } else { meta.mode };
        self.add(place, Meta { mode, ..meta }, body);
        Ok(())
    }

    /// Links what waits for its target, in archive order, again and again while that helps.
    fn settle(&mut self, entries: &[Entry]) -> Result<(), Refusal> {
        loop {
            let mut waiting: Vec<(usize, Path)> = self
                .names
                .keys()
                .filter_map(|p| match self.body(p) {
                    Some(Body::Pending(n)) => Some((*n, p.clone())),
                    _ => None,
                })
                .collect();
            waiting.sort();
            let Some(&(first, _)) = waiting.first() else { return Ok(()) };
            let mut linked = 0;
            for (n, path) in waiting {
                let EntryKind::Hardlink(target) = &entries[n].kind else { unreachable!() };
                if let Some(ino) = self.link_target(target).map_err(|()| Refusal::BadName(n))? {
                    let (meta, _) = self.inodes[&self.names[&path]].clone();
                    self.names.insert(path, ino);
                    self.set_link(ino, meta);
                    linked += 1;
                }
            }
            if linked == 0 {
                return Err(Refusal::Dangling(first));
            }
        }
    }
}

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

/// Layers with stream offsets that follow each other, as in a tar.
fn layers() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    prop::collection::vec(prop::collection::vec(entry(), 0..16), 1..5).prop_map(|mut layers| {
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

fn merge(layers: &[Vec<Entry>]) -> Result<Tree, (u32, MergeError)> {
    let mut merger = Merger::default();
    for (n, layer) in (0..).zip(layers) {
        let mut entries = LayerEntries::default();
        for entry in layer {
            entries.push(entry).map_err(|e| (n, e))?;
        }
        assert_eq!(entries.len(), layer.len());
        merger.apply(n, entries).map_err(|e| (n, e))?;
    }
    Ok(merger.finish().unwrap())
}

/// A layer that is long enough for every entry, cut into chunks of 700 bytes.
fn layer_index(n: u8) -> LayerIndex {
    let plain_size = 20_000;
    let chunks = (0..plain_size).step_by(700).map(|at| {
        let len = u32::try_from((plain_size - at).min(700)).unwrap();
        ChunkRecord {
            plain_offset: at,
            plain_len: len,
            comp_offset: at,
            comp_len: len,
            bit: 0,
            resume: Resume::Fresh,
            digest: [n; 32],
            window_offset: 0,
            window_len: 0,
        }
    });
    LayerIndex {
        info: LayerInfo {
            digest: Digest::of(&[n]),
            diff_id: Digest::of(&[n]),
            compression: Compression::None,
            size: plain_size,
            plain_size,
        },
        chunks: chunks.collect(),
        windows: tempfile::tempfile().unwrap(),
        windows_len: 0,
    }
}

fn index_bytes(tree: &Tree, layers: usize) -> Vec<u8> {
    use std::io::{Read as _, Seek as _};
    let meta = ImageMeta {
        manifest_digest: Digest::of(b"{}"),
        manifest: b"{}".to_vec(),
        config: b"{\"os\":\"linux\"}".to_vec(),
        chunk: 700,
    };
    let mut layers: Vec<_> = (0..layers).map(|n| layer_index(u8::try_from(n).unwrap())).collect();
    let mut file = tempfile::tempfile().unwrap();
    let summary = write(&mut file, &meta, tree, &mut layers).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(summary.bytes, u64::try_from(bytes.len()).unwrap());
    assert_eq!(summary.files, tree.inodes());
    bytes
}

/// Every path that a walk through the file system finds, with its inode number. Checks the directories on its way.
fn walk(vfs: &Vfs) -> BTreeMap<Path, Ino> {
    let mut found = BTreeMap::from([(Path::new(), 1)]);
    let mut todo = vec![(Path::new(), 1, 1)];
    while let Some((path, dir, parent)) = todo.pop() {
        let all: Vec<_> = vfs.readdir(dir, 0).unwrap().collect();
        assert_eq!((all[0].name, all[0].ino), (&b"."[..], dir));
        assert_eq!((all[1].name, all[1].ino), (&b".."[..], parent));
        assert!(all[2..].windows(2).all(|w| w[0].name < w[1].name), "sorted");
        assert_eq!(vfs.lookup(dir, b"..").unwrap().0, parent);
        for (n, e) in all.iter().enumerate() {
            // Going on from any offset gives the same rest.
            let rest: Vec<_> = vfs.readdir(dir, e.next).unwrap().map(|e| e.name).collect();
            let want: Vec<_> = all[n + 1..].iter().map(|e| e.name).collect();
            assert_eq!(rest, want);
            assert_eq!(vfs.lookup(dir, e.name).unwrap(), (e.ino, e.inode));
            assert_eq!(vfs.attr(e.ino).unwrap(), e.inode);
        }
        for e in &all[2..] {
            let mut child = path.clone();
            child.push(e.name.to_vec());
            if e.inode.kind == Kind::Dir {
                todo.push((child.clone(), e.ino, dir));
            }
            found.insert(child, e.ino);
        }
        assert_eq!(vfs.lookup(dir, b"no such name"), Err(VfsError::NotFound));
    }
    found
}

/// The inode numbers that the format promises: breadth first, names sorted, at the first name.
fn expected_numbers(model: &Model) -> HashMap<u32, Ino> {
    let mut by_depth: Vec<&Path> = model.names.keys().collect();
    let mut numbers = HashMap::new();
    // Breadth first = by depth, then by the order of the parents, which is the same rule one level up.
    by_depth.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    for path in by_depth {
        let next = Ino::try_from(numbers.len()).unwrap() + 1;
        numbers.entry(model.names[path]).or_insert(next);
    }
    numbers
}

/// Of equal contents the one that comes first: (layer, first offset), extents.
fn first_of_equals(model: &Model) -> BTreeMap<([u8; 32], u64), (u32, u64, Vec<Extent>)> {
    let mut firsts: BTreeMap<_, (u32, u64, Vec<Extent>)> = BTreeMap::new();
    for ino in model.names.values() {
        if let (_, Body::File { layer, data }) = &model.inodes[ino]
            && data.size > 0
        {
            let at = data.extents.first().map_or(u64::MAX, |e| e.stream_offset);
            let place = (*layer, at, data.extents.clone());
            let first = firsts.entry((data.digest, data.size)).or_insert_with(|| place.clone());
            if (place.0, place.1) < (first.0, first.1) {
                *first = place;
            }
        }
    }
    firsts
}

fn compare(model: &Model, vfs: &Vfs) {
    let index = vfs.index();
    let found = walk(vfs);
    let want: BTreeSet<_> = model.names.keys().collect();
    assert_eq!(found.keys().collect::<BTreeSet<_>>(), want, "paths");
    let numbers = expected_numbers(model);
    let firsts = first_of_equals(model);
    for (path, &ino) in &found {
        let id = model.names[path];
        assert_eq!(numbers[&id], ino, "{path:?}: inode number, and with it hard-link groups");
        let (meta, body) = &model.inodes[&id];
        let inode = vfs.attr(ino).unwrap();
        assert_eq!(
            (inode.mode, inode.uid, inode.gid, inode.mtime),
            (meta.mode, meta.uid, meta.gid, meta.mtime),
            "{path:?}"
        );
        let children = |p: &Path| p.len() == path.len() + 1 && p.starts_with(path);
        let links = match body {
            Body::Dir => {
                2 + model.names.keys().filter(|p| children(p) && model.body(p) == Some(&Body::Dir)).count()
            }
            _ => model.names.values().filter(|&&other| other == id).count(),
        };
        assert_eq!(inode.nlink, u32::try_from(links).unwrap(), "{path:?}");
        let xattrs: BTreeMap<_, _> = index.xattrs(ino).map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        assert_eq!(xattrs, meta.xattrs, "{path:?}");
        for (name, value) in &meta.xattrs {
            assert_eq!(vfs.getxattr(ino, name).unwrap(), value);
        }
        assert_eq!(vfs.getxattr(ino, b"user.none"), Err(VfsError::NoAttribute));
        let (mut size, mut data_bytes, mut rdev) = (0, 0, (0, 0));
        let kind = match body {
            Body::Dir => Kind::Dir,
            Body::Symlink(target) => {
                assert_eq!(vfs.readlink(ino).unwrap(), target);
                size = u64::try_from(target.len()).unwrap();
                Kind::Symlink
            }
            Body::Char(major, minor) => {
                rdev = (*major, *minor);
                Kind::Char
            }
            Body::Block(major, minor) => {
                rdev = (*major, *minor);
                Kind::Block
            }
            Body::Fifo => Kind::Fifo,
            Body::Pending(_) => unreachable!(),
            Body::File { data, .. } => {
                size = data.size;
                data_bytes = data.extents.iter().map(|e| e.len).sum();
                let Kind::File(content) = inode.kind else { panic!("{path:?} is no file") };
                if data.size > 0 {
                    check_content(index, content.unwrap(), data, &firsts);
                } else {
                    assert_eq!(content, None);
                }
                inode.kind
            }
        };
        assert_eq!(inode.kind, kind, "{path:?}");
        assert_eq!((inode.size, inode.data_bytes, inode.rdev), (size, data_bytes, rdev), "{path:?}");
        let joined = path.join(&b'/');
        assert_eq!(vfs.resolve(&joined, false), Ok(ino), "{path:?}");
        if kind != Kind::Symlink {
            assert_eq!(vfs.readlink(ino), Err(VfsError::NotASymlink));
        }
        if kind != Kind::Dir {
            assert!(matches!(vfs.readdir(ino, 0).map(Iterator::count), Err(VfsError::NotADirectory)));
            assert_eq!(vfs.lookup(ino, b"x"), Err(VfsError::NotADirectory));
        } else {
            let up = path.split_last().map_or(1, |(_, parent)| found[parent]);
            assert_eq!(inode.parent, up);
        }
        // Where `follow` can tell, resolving agrees (it has no limit of 40 links, and ends at what is missing).
        if let Ok(target) = model.follow(path)
            && let Some(&ino) = found.get(&target)
            && let Ok(resolved) = vfs.resolve(&joined, true)
        {
            assert_eq!(resolved, ino, "{path:?}");
        }
    }
    assert_eq!(vfs.totals().files, u64::try_from(numbers.len()).unwrap());
    assert_eq!(vfs.totals().bytes, firsts.keys().map(|(_, size)| size).sum::<u64>());
    assert_eq!(index.content_count(), u32::try_from(firsts.len()).unwrap());
    check_ranges(index, &firsts);
}

fn check_content(
    index: &ClipIndex,
    id: ContentId,
    data: &FileData,
    firsts: &BTreeMap<([u8; 32], u64), (u32, u64, Vec<Extent>)>,
) {
    let content = index.content(id).unwrap();
    let (layer, _, extents) = &firsts[&(data.digest, data.size)];
    assert_eq!((content.digest, content.size, content.layer), (data.digest, data.size, *layer));
    let stored: Vec<_> = (0..index.extent_count(id)).map(|n| index.extent(id, n).unwrap()).collect();
    assert_eq!(&stored, extents);
    assert_eq!(index.extent(id, index.extent_count(id)), None);
    assert_eq!(content.sparse, extents.iter().map(|e| e.len).sum::<u64>() != data.size);
}

/// `contents_in` of every chunk finds exactly what starts there, in order.
fn check_ranges(index: &ClipIndex, firsts: &BTreeMap<([u8; 32], u64), (u32, u64, Vec<Extent>)>) {
    for layer in 0..index.layer_count() {
        for n in 0..index.chunk_count(layer) {
            let chunk = index.chunk(layer, n).unwrap();
            assert_eq!(index.chunk_at(layer, chunk.plain_offset), Some(n));
            let range = chunk.plain_offset..chunk.plain_offset + u64::from(chunk.plain_len);
            assert_eq!(index.chunk_at(layer, range.end - 1), Some(n));
            let mut want: Vec<_> = firsts
                .iter()
                .filter(|(_, (l, at, _))| *l == layer && range.contains(at))
                .map(|((digest, _), (_, at, _))| (*at, *digest))
                .collect();
            want.sort_unstable();
            let got: Vec<_> = index
                .contents_in(layer, range)
                .map(|id| (index.extent(id, 0).unwrap().stream_offset, index.content(id).unwrap().digest))
                .collect();
            assert_eq!(got, want);
        }
        assert_eq!(index.chunk_at(layer, index.layer(layer).unwrap().plain_size), None);
    }
}

/// Drops the entries that the model refuses, so that what is left is an image.
fn without_refused(mut layers: Vec<Vec<Entry>>) -> (Vec<Vec<Entry>>, Model) {
    let mut model = Model::new();
    for (n, layer) in (0..).zip(&mut layers) {
        loop {
            let mut tried = model.clone();
            match tried.apply(n, layer) {
                Ok(()) => {
                    model = tried;
                    break;
                }
                Err(Refusal::BadName(entry) | Refusal::Dangling(entry)) => drop(layer.remove(entry)),
            }
        }
    }
    (layers, model)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn equals_a_naive_unpack(layers in layers()) {
        let (layers, model) = without_refused(layers);
        let tree = merge(&layers).unwrap();
        let bytes = index_bytes(&tree, layers.len());
        let again = index_bytes(&merge(&layers).unwrap(), layers.len());
        prop_assert_eq!(&bytes, &again, "the same image gives the same bytes");
        let index = ClipIndex::from_bytes(bytes).unwrap();
        index.verify_all().unwrap();
        compare(&model, &Vfs::new(Arc::new(index), "image"));
    }

    #[test]
    fn refuses_what_the_model_refuses(layers in layers()) {
        let mut model = Model::new();
        let mut refused = None;
        for (n, layer) in (0..).zip(&layers) {
            if let Err(refusal) = model.apply(n, layer) {
                refused = Some((n, refusal));
                break;
            }
        }
        match (merge(&layers), refused) {
            (Ok(_), None) => {}
            (Err((at, MergeError::BadName { layer, .. })), Some((n, Refusal::BadName(_)))) => {
                prop_assert_eq!((at, layer), (n, n));
            }
            (Err((at, MergeError::DanglingHardlink { layer, .. })), Some((n, Refusal::Dangling(_)))) => {
                prop_assert_eq!((at, layer), (n, n));
            }
            (got, want) => prop_assert!(false, "{:?} instead of {:?}", got.map(|_| ()), want),
        }
    }
}
