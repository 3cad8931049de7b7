//! Random images read at random, in every compression and with chunks of every size.

use std::sync::Arc;

use fixtures::image::ImageBuilder;
use fixtures::layer::{Compress, Entry, SparseForm};
use fixtures::registry::Registry;
use fixtures::rng::SplitMix64;

use crate::support::{Files, KIB, MIB, PATIENT, World, file, store};

/// Reads of each image.
const READS: u64 = 60;

/// Files of all sizes from 1 byte to some MiB, twins and zeros among them, and a sparse one at the end.
fn files(rng: &mut SplitMix64) -> Files {
    let mut files = Files::new();
    for n in 0..12 {
        let most = [100, 5000, 200_000][rng.index(3)];
        let len = 1 + rng.below(most);
        files.push(file(&format!("small{n}"), rng.next_u64(), len));
    }
    let seed = rng.next_u64();
    files.push(file("large", seed, 2 * MIB + rng.below(MIB)));
    files.push(file("twin", seed, 300_000));
    files.push(file("twin again", seed, 300_000));
    files.push(("zeros".into(), vec![0; 700_000].into()));
    files
}

/// Some data in many holes, as bytes and as pieces.
fn sparse(rng: &mut SplitMix64) -> (Vec<u8>, Vec<(u64, Vec<u8>)>) {
    let mut data = Vec::new();
    let mut pieces = Vec::new();
    for _ in 0..40 {
        data.resize(data.len() + 1 + rng.index(20_000), 0);
        // Whole blocks: readers of tar differ on others.
        let mut piece = vec![0; 512 * (1 + rng.index(16))];
        rng.fill(&mut piece);
        pieces.push((u64::try_from(data.len()).unwrap(), piece.clone()));
        data.extend(piece);
    }
    data.resize(data.len() + 5000, 0);
    (data, pieces)
}

async fn compare(seed: u64) {
    let mut rng = SplitMix64::new(seed);
    let registry = Arc::new(Registry::plain());
    let mut files = files(&mut rng);
    let (data, pieces) = sparse(&mut rng);
    let mut entries: Vec<Entry> = files.iter().map(|(path, data)| Entry::file(path, data)).collect();
    entries.push(Entry::sparse("sparse", u64::try_from(data.len()).unwrap(), &pieces, SparseForm::Pax10));
    files.push(("sparse".into(), data.into()));
    for how in Compress::ALL {
        let image = ImageBuilder::new().layer(entries.clone(), how).build();
        for chunk in [64 * KIB, 256 * KIB, 2 * MIB] {
            let world = World::of(&registry, files.clone(), &image, chunk).await;
            let memory = [0, MIB, 64 * MIB][rng.index(3)];
            let reader = world.reader(&store(&world.cache(), 1 << 30, memory), PATIENT);
            for n in 0..READS {
                let longest = [20, 5000, 300_000][rng.index(3)];
                let (file, range) = world.random(&mut rng, longest);
                let outcome = world.read(&reader, file, range.clone()).await;
                outcome.unwrap_or_else(|error| {
                    panic!("seed {seed}, {how:?}, chunks of {chunk}, read {n} of {range:?}: {error:?}")
                });
            }
            // Behind the end there is nothing, and asking for it is no error.
            world.read(&reader, 0, world.size(0)..world.size(0) + 10).await.unwrap();
            assert_eq!(reader.stats().verify_failures, 0, "seed {seed}, {how:?}, chunks of {chunk}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_and_chunk_size_reads_as_the_original() {
    compare(0x5eed_0001).await;
}

/// Memory is asked by what a chunk holds; the disk must have each file's own copy nevertheless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_chunks_are_all_kept() {
    let files = vec![("zeros".into(), vec![0; 3 << 20].into()), ("more".into(), vec![0; 2 << 20].into())];
    for how in [Compress::None, Compress::Gzip { level: 6 }, Compress::Zstd { level: 3 }] {
        let world = World::new(files.clone(), how, 64 * KIB).await;
        let reader = world.reader(&store(&world.cache(), 1 << 30, 64 * MIB), PATIENT);
        for n in 0..files.len() {
            world.read_all(&reader, n).await.unwrap();
        }
        for n in 0..files.len() {
            world.kept(&world.cache(), n).await;
        }
    }
}

/// `try_read` has what `read` brought, and says nothing of what it does not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_answers_without_waiting() {
    let world = World::new(vec![file("a", 1, MIB)], Compress::Gzip { level: 6 }, 64 * KIB).await;
    let reader = world.reader(&world.cold(), PATIENT);
    assert!(reader.try_read(world.content(0), 0, 10).is_none());
    world.read(&reader, 0, 100..10_000).await.unwrap();
    world.check(0, &(5000..9000), &reader.try_read(world.content(0), 5000, 4000).unwrap());
    assert!(reader.try_read(world.content(0), 900_000, 10).is_none());
}
