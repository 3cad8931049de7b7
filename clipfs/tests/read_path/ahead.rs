//! What is fetched, and what is not: the registry's log counts the bytes.

use std::time::Duration;

use fixtures::layer::Compress;
use fixtures::rng::SplitMix64;

use crate::support::{KIB, MIB, PATIENT, World, file, store};

/// Bytes that a client asks for a range, all chunks that it touches, none twice.
fn cost(world: &World, n: usize, range: &std::ops::Range<u64>) -> u64 {
    let chunks = world.chunks(n, range);
    let (first, last) = (chunks.first().unwrap(), chunks.last().unwrap());
    last.comp_offset + u64::from(last.comp_len) - first.comp_offset
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_read_fetches_the_chunks_it_touches_and_nothing_else() {
    let seed = 0x5eed_6000;
    let mut rng = SplitMix64::new(seed);
    for how in [Compress::Gzip { level: 6 }, Compress::ZstdFrames { bytes: 50_000 }, Compress::None] {
        let world = World::new(vec![file("a", 61, 12 * MIB)], how, 256 * KIB).await;
        for _ in 0..12 {
            let (n, range) = world.random(&mut rng, 1000);
            world.registry.reset_log();
            let reader = world.reader(&world.cold(), PATIENT);
            world.read(&reader, n, range.clone()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(world.asked_bytes(), cost(&world, n, &range), "seed {seed}, {how:?}, {range:?}");
            let stats = reader.stats();
            assert_eq!((stats.fetched_demand, stats.fetched_ahead), (world.asked_bytes(), 0));
            assert_eq!(stats.served_registry, range.end - range.start);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_reads_fetch_nothing_ahead() {
    let seed = 0x5eed_6001;
    let mut rng = SplitMix64::new(seed);
    let world = World::new(vec![file("a", 62, 48 * MIB)], Compress::None, 256 * KIB).await;
    let reader = world.reader(&world.cold(), PATIENT);
    let mut last = 0;
    let mut reads = 0;
    while reads < 60 {
        let (n, range) = world.random(&mut rng, 4096);
        // What is near counts as sequential: the kernel sends several requests at once.
        if range.start.abs_diff(last) < 5 * MIB {
            continue;
        }
        last = range.start;
        reads += 1;
        world.read(&reader, n, range).await.unwrap();
    }
    assert_eq!(reader.stats().fetched_ahead, 0, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_reads_run_ahead_and_fetch_everything_once() {
    for how in [Compress::Gzip { level: 1 }, Compress::None, Compress::ZstdFrames { bytes: 100_000 }] {
        let world = World::new(vec![file("a", 63, 24 * MIB)], how, 512 * KIB).await;
        let reader = world.reader(&world.cold(), PATIENT);
        world.read_all(&reader, 0).await.unwrap();
        let stats = reader.stats();
        assert!(stats.fetched_ahead > world.layer_size() / 2, "{how:?}: {stats:?}");
        assert_eq!(stats.fetched_ahead + stats.fetched_demand, world.asked_bytes(), "{how:?}");
        // Chunks of gzip share a byte with their neighbours.
        let most = world.layer_size() + 1000;
        assert!(world.asked_bytes() <= most, "{how:?}: {} of {}", world.asked_bytes(), world.layer_size());
        let served = stats.served_memory + stats.served_disk + stats.served_registry;
        assert_eq!(served, world.size(0), "{how:?}: {stats:?}");
    }
}

/// Read-ahead knows what the disk has: a second sequential reader, of a file that never becomes an object of its own because
/// it is not complete, fetches what is missing and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_has_is_not_fetched_ahead() {
    let world = World::new(vec![file("a", 64, 16 * MIB)], Compress::None, 256 * KIB).await;
    let dir = world.cache();
    let most = 15 * MIB;
    let read_most = async |reader| {
        for start in (0..most).step_by(128 << 10) {
            world.read(reader, 0, start..start + 128 * KIB).await.unwrap();
        }
    };
    {
        let reader = world.reader(&store(&dir, 1 << 30, 64 * MIB), PATIENT);
        // Backwards, so that nothing runs ahead into the last part.
        for n in (0..most / (128 * KIB)).rev() {
            let start = n * 128 * KIB;
            world.read(&reader, 0, start..start + 128 * KIB).await.unwrap();
        }
    }
    let since = std::time::Instant::now();
    loop {
        let offline = world.offline(&store(&dir, 1 << 30, 0));
        let all = async {
            for start in (0..most).step_by(256 << 10) {
                world.read(&offline, 0, start..start + 10).await?;
            }
            Ok::<_, clipfs::read::ReadError>(())
        };
        if all.await.is_ok() {
            break;
        }
        assert!(since.elapsed() < PATIENT, "not kept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.registry.reset_log();
    let reader = world.reader(&store(&dir, 1 << 30, 64 * MIB), PATIENT);
    read_most(&reader).await;
    let last = world.size(0) - most;
    assert!(world.asked_bytes() <= last + MIB, "{} bytes, {last} were missing", world.asked_bytes());
}
