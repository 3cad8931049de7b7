//! Random layer stacks: the merged tree, written as a clip index and seen through [`Vfs`], equals what a naive unpack in
//! memory makes of the same layers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use clipfs::decode::tar::{Entry, Extent, FileData};
use clipfs::decode::{Compression, Resume};
use clipfs::image::{LayerEntries, MergeError, Merger, Tree};
use clipfs::index::{ChunkRecord, ClipIndex, ContentId, ImageMeta, Ino, Kind, LayerIndex, LayerInfo, write};
use clipfs::oci::Digest;
use clipfs::vfs::{Vfs, VfsError};
use proptest::prelude::*;

mod generate;
mod model;

use generate::layers;
use model::{Body, Model, Path, Refusal};

/// Contents by digest and size: layer, first offset and extents of the first of them.
type Firsts = BTreeMap<([u8; 32], u64), (u32, u64, Vec<Extent>)>;

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
fn first_of_equals(model: &Model) -> Firsts {
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

fn check_content(index: &ClipIndex, id: ContentId, data: &FileData, firsts: &Firsts) {
    let content = index.content(id).unwrap();
    let (layer, _, extents) = &firsts[&(data.digest, data.size)];
    assert_eq!((content.digest, content.size, content.layer), (data.digest, data.size, *layer));
    let stored: Vec<_> = (0..index.extent_count(id)).map(|n| index.extent(id, n).unwrap()).collect();
    assert_eq!(&stored, extents);
    assert_eq!(index.extent(id, index.extent_count(id)), None);
    assert_eq!(content.sparse, extents.iter().map(|e| e.len).sum::<u64>() != data.size);
}

/// `contents_in` of every chunk finds exactly what starts there, in order.
fn check_ranges(index: &ClipIndex, firsts: &Firsts) {
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
