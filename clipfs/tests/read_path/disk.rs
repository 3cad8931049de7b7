//! The store under the reader: none in memory, too small, full.

use std::path::Path;
use std::sync::Arc;

use fixtures::layer::Compress;
use fixtures::rng::SplitMix64;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::support::{Files, KIB, MIB, PATIENT, World, file, store};

/// A small file system of its own, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn new(options: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        mount(Some("clipfs-test"), temp.path(), Some("tmpfs"), MsFlags::empty(), Some(options))
            .expect("this test mounts a tmpfs: it needs root (CAP_SYS_ADMIN)");
        Self(temp)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

async fn read_everything(world: &Arc<World>, dir: &Path, quota: u64, memory: u64, seed: u64) {
    let store = store(dir, quota, memory);
    let reader = world.reader(&store, PATIENT);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..world.files.len() {
        let (world, reader) = (Arc::clone(world), reader.clone());
        tasks.spawn(async move { world.read_all(&reader, n).await });
    }
    let mut rng = SplitMix64::new(seed);
    for _ in 0..50 {
        let (n, range) = world.random(&mut rng, 300_000);
        let outcome = world.read(&reader, n, range.clone()).await;
        outcome.unwrap_or_else(|error| panic!("seed {seed}, {range:?}: {error:?}"));
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.unwrap().unwrap();
    }
    store.recount().unwrap();
    assert!(store.stats().memory_bytes <= memory);
}

fn files(sizes: &[u64]) -> Files {
    (0..).zip(sizes).map(|(n, size)| file(&format!("f{n}"), 40 + n, *size)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_hurts_nobody() {
    let world = World::new(files(&[MIB, 3 * MIB, 900_000]), Compress::Gzip { level: 1 }, 128 * KIB).await;
    let world = Arc::new(world);
    for options in ["size=64k", "size=700k", "size=16m,nr_inodes=8"] {
        let small = Small::new(options);
        read_everything(&world, &small.0.path().join("cache"), 1 << 30, 2 * MIB, 0x5eed_5000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_memory_is_slow_and_right() {
    for how in [Compress::Gzip { level: 6 }, Compress::Zstd { level: 3 }, Compress::Bgzip] {
        let world = Arc::new(World::new(files(&[MIB, 300_000, 2 * MIB]), how, 128 * KIB).await);
        read_everything(&world, &world.cache(), 1 << 30, 0, 0x5eed_5001).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_quota_holds() {
    let quota = 4 * MIB;
    let sizes: Vec<u64> = (0..20).map(|n| 100_000 + n * 333_333).collect();
    let world = Arc::new(World::new(files(&sizes), Compress::Gzip { level: 1 }, 512 * KIB).await);
    assert!(world.files.iter().map(|(_, data)| data.len()).sum::<usize>() > 60 << 20);
    read_everything(&world, &world.cache(), quota, 8 * MIB, 0x5eed_5002).await;
    // Write-behind may still be under way: the quota holds at every moment.
    let store = store(&world.cache(), quota, 0);
    for _ in 0..10 {
        store.recount().unwrap();
        let stats = store.stats();
        assert!(stats.disk_bytes <= quota, "{stats:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A bit that flips on disk is found before it is served, and fetched again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spoiled_files_are_fetched_again() {
    let world = World::new(files(&[MIB, 3 * MIB]), Compress::Gzip { level: 1 }, 128 * KIB).await;
    let dir = world.cache();
    {
        let reader = world.reader(&store(&dir, 1 << 30, 64 * MIB), PATIENT);
        world.read_all(&reader, 0).await.unwrap();
        world.kept(&dir, 0).await;
        // Parts of it only: this one stays partial.
        world.read(&reader, 1, MIB..MIB + 500_000).await.unwrap();
    }
    let mut todo = vec![dir.join("objects"), dir.join("partial")];
    let mut spoiled = 0;
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            use std::os::unix::fs::FileExt as _;
            let writing = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let len = writing.metadata().unwrap().len();
            for at in (0..len).step_by(50_000) {
                let mut byte = [0];
                writing.read_exact_at(&mut byte, at).unwrap();
                writing.write_all_at(&[!byte[0]], at).unwrap();
            }
            spoiled += 1;
        }
    }
    assert!(spoiled > 0);
    let reader = world.reader(&store(&dir, 1 << 30, 0), PATIENT);
    for n in 0..2 {
        world.read_all(&reader, n).await.unwrap();
    }
}
