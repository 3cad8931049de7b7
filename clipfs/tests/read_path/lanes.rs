//! Long zstd frames, which only decode in order.

use std::sync::Arc;

use fixtures::layer::Compress;
use fixtures::rng::SplitMix64;

use crate::support::{KIB, MIB, PATIENT, World, file, store};

const FRAME: Compress = Compress::Zstd { level: 3 };

async fn world(sizes: &[u64], how: Compress) -> World {
    let files = (0..).zip(sizes).map(|(n, size)| file(&format!("f{n}"), 80 + n, *size)).collect();
    World::new(files, how, 512 * KIB).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_reader_decodes_the_frame_once() {
    for how in [FRAME, Compress::ZstdFrames { bytes: 3_000_000 }] {
        let world = world(&[24 * MIB], how).await;
        let reader = world.reader(&world.cold(), PATIENT);
        world.read_all(&reader, 0).await.unwrap();
        let (asked, layer) = (world.asked_bytes(), world.layer_size());
        assert!(asked * 10 <= layer * 13, "{how:?}: {asked} bytes of a layer of {layer}");
    }
}

/// Less memory than read-ahead runs ahead: chunks that a walk passes go to those who wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_memory_does_not_start_over_and_over() {
    let world = world(&[24 * MIB], FRAME).await;
    let reader = world.reader(&store(&world.cache(), 1 << 30, 2 * MIB), PATIENT);
    world.read_all(&reader, 0).await.unwrap();
    let (asked, layer) = (world.asked_bytes(), world.layer_size());
    assert!(asked <= layer * 2, "{asked} bytes of a layer of {layer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jumps_back_and_forth_work() {
    let seed = 0x5eed_8000;
    let mut rng = SplitMix64::new(seed);
    let world = Arc::new(world(&[5 * MIB, MIB, 300_000], FRAME).await);
    for memory in [0, 64 * MIB] {
        let dir = tempfile::tempdir().unwrap();
        let reader = world.reader(&store(&dir.path().join("cache"), 1 << 20, memory), PATIENT);
        for range in [4 * MIB..4 * MIB + 100, 100..200, 2 * MIB..3 * MIB, 0..50] {
            world.read(&reader, 0, range).await.unwrap();
        }
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let (world, reader) = (Arc::clone(&world), reader.clone());
            let (n, range) = world.random(&mut rng, 100_000);
            tasks.spawn(async move { world.read(&reader, n, range).await });
        }
        while let Some(outcome) = tasks.join_next().await {
            outcome.unwrap().unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        }
    }
}

/// A few compressed bytes that are very many plain ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_zeros_reads_at_its_end() {
    let files = vec![("zeros".into(), vec![0; 96 << 20].into()), file("end", 90, 10_000)];
    let world = World::new(files, FRAME, MIB).await;
    let reader = world.reader(&store(&world.cache(), 1 << 30, 4 * MIB), PATIENT);
    world.read(&reader, 1, 0..10_000).await.unwrap();
    world.read(&reader, 0, 95 * MIB..96 * MIB).await.unwrap();
}
