//! The store as a whole, in directories of its own. `faults` needs root: it mounts small file systems to fill them.

mod faults;
mod objects;
mod partials;
mod quota;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;

const LARGE: u64 = 1 << 30;

/// The index that most tests are mounts of.
const SCOPE: Blake3 = [0; 32];

fn open_with(dir: &Path, quota: u64) -> Arc<Store> {
    let options = StoreOptions { dir: dir.to_owned(), quota, memory: 1 << 20 };
    Arc::new(Store::open(options).expect("store opens"))
}

fn open(dir: &Path) -> Arc<Store> {
    open_with(dir, LARGE)
}

/// A directory for a store: it makes it itself.
fn cache() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("cache");
    (temp, dir)
}

/// Bytes that look like nothing else.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

fn digest(data: &[u8]) -> Blake3 {
    blake3::hash(data).into()
}

fn path_of(dir: &Path, tree: &str, name: &Blake3) -> PathBuf {
    let name = hex::encode(name);
    dir.join(tree).join(&name[..2]).join(name)
}

fn object_path(dir: &Path, data: &[u8]) -> PathBuf {
    path_of(dir, "objects", &digest(data))
}

/// What the store gives for a content that should be `data`: nothing, or exactly that.
fn get(store: &Store, data: &[u8]) -> Option<Vec<u8>> {
    let object = store.object(&digest(data), num(data.len()))?;
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut &object.file, &mut out).unwrap();
    assert!(out == data, "wrong bytes served");
    Some(out)
}

fn num(n: usize) -> u64 {
    crate::num::to_u64(n)
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Allocated bytes of everything that the quota is about.
fn on_disk(dir: &Path) -> u64 {
    files(dir, &["objects", "partial"])
        .iter()
        .filter_map(|path| path.symlink_metadata().ok())
        .map(|m| m.blocks() * 512)
        .sum()
}

/// Files below some subdirectories of the cache.
fn files(dir: &Path, trees: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs: Vec<_> = trees.iter().map(|tree| dir.join(tree)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(_) => found.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}

/// Waits for the rest that the store takes after a failed write.
fn rest() {
    std::thread::sleep(Duration::from_millis(1100));
}
