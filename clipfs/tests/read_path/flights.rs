//! Many readers at once.

use std::sync::Arc;

use fixtures::layer::Compress;
use fixtures::registry::{Delivery, Registry, RegistryConfig, Shaping};
use fixtures::rng::SplitMix64;

use crate::support::{KIB, MIB, PATIENT, World, file, image, store};

/// Panics if a byte was asked for twice. Neighbouring chunks of gzip may share one.
fn assert_once(world: &World, what: &str) {
    let mut asked = world.asked();
    asked.sort_by_key(|range| (range.start, range.end));
    for pair in asked.windows(2) {
        assert!(pair[1].start + 1 >= pair[0].end, "{what}: {:?} and {:?} overlap", pair[0], pair[1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_readers_fetch_each_byte_once() {
    let seed = 0x5eed_0002;
    let mut rng = SplitMix64::new(seed);
    for how in [Compress::Gzip { level: 6 }, Compress::ZstdFrames { bytes: 100_000 }, Compress::None] {
        let files = vec![file("a", 3, 6 * MIB), file("b", 4, 500_000)];
        let world = Arc::new(World::new(files, how, 256 * KIB).await);
        // Slow enough for everyone to come while the first fetches are under way.
        let shaping = Shaping { rtt: std::time::Duration::from_millis(20), ..Shaping::default() };
        world.registry.shape(shaping);
        let reader = world.reader(&world.cold(), PATIENT);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (world, reader) = (Arc::clone(&world), reader.clone());
            let (n, range) = world.random(&mut rng, 600_000);
            tasks.spawn(async move { world.read(&reader, n, range).await });
        }
        while let Some(outcome) = tasks.join_next().await {
            outcome.unwrap().unwrap_or_else(|error| panic!("seed {seed}, {how:?}: {error:?}"));
        }
        assert_once(&world, &format!("seed {seed}, {how:?}"));
        let stats = reader.stats();
        assert!(stats.fetched_demand + stats.fetched_ahead >= world.asked_bytes(), "{stats:?}");
        assert!(stats.served_registry > 0, "{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_give_up_do_not_hurt_those_who_wait() {
    let world = Arc::new(World::new(vec![file("a", 5, MIB)], Compress::Gzip { level: 6 }, 64 * KIB).await);
    world.registry.shape(Shaping { rtt: std::time::Duration::from_millis(200), ..Shaping::default() });
    let reader = world.reader(&world.cold(), PATIENT);
    let read = || {
        let (world, reader) = (Arc::clone(&world), reader.clone());
        tokio::spawn(async move { world.read(&reader, 0, 0..100_000).await })
    };
    let first = read();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let second = read();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    first.abort();
    second.await.unwrap().unwrap();
    assert_once(&world, "one flight");
}

/// Two images, two readers, two stores on one directory: what they share is fetched by the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_share_a_directory() {
    let delivery = Delivery::redirect();
    let registry = Arc::new(Registry::start(RegistryConfig { delivery, ..RegistryConfig::default() }));
    let common: Vec<_> = (0..8).map(|n| file(&format!("common{n}"), n, 150_000 * (n + 1))).collect();
    let mut worlds = Vec::new();
    for own in 0..2 {
        let mut files = common.clone();
        files.insert(usize::try_from(own).unwrap(), file("own", 100 + own, 3 * MIB));
        let made = image(&files, Compress::Gzip { level: 1 });
        worlds.push(Arc::new(World::of(&registry, files, &made, 128 * KIB).await));
    }
    let dir = worlds[0].cache();
    let readers: Vec<_> =
        worlds.iter().map(|world| world.reader(&store(&dir, 1 << 30, 8 * MIB), PATIENT)).collect();
    let seed = 0x5eed_0003;
    let mut rng = SplitMix64::new(seed);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..120 {
        let (world, reader) = (Arc::clone(&worlds[n % 2]), readers[n % 2].clone());
        let (file, range) = world.random(&mut rng, 400_000);
        tasks.spawn(async move { world.read(&reader, file, range).await });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.unwrap().unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
    }
    // Once the first has all of the common files, the second needs no registry for them.
    for n in 1..=common.len() {
        worlds[0].read_all(&readers[0], n).await.unwrap();
        worlds[0].kept(&dir, n).await;
    }
    for n in (0..=common.len()).filter(|&n| n != 1) {
        worlds[1].kept(&dir, n).await;
    }
}
