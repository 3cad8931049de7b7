//! A registry that is gone, or hangs: what the store has reads on, the rest fails in time, and all is well afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clipfs::read::ReadError;
use fixtures::layer::Compress;
use fixtures::registry::Network;
use fixtures::rng::SplitMix64;

use crate::support::{KIB, MIB, PATIENT, World, file, store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_holds_while_the_registry_hangs() {
    let deadline = Duration::from_secs(2);
    let world = World::new(vec![file("a", 21, MIB)], Compress::Gzip { level: 6 }, 64 * KIB).await;
    let reader = world.reader(&world.cold(), deadline);
    world.registry.set_network(Network::Hanging);
    for offset in [0, 0, 500_000] {
        let since = Instant::now();
        let outcome = world.read(&reader, 0, offset..offset + 1000).await;
        assert!(matches!(outcome, Err(ReadError::Deadline(d)) if d == deadline), "{outcome:?}");
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    }
    assert!(reader.last_error().unwrap().contains("deadline"));
    world.registry.up();
    let reader = world.reader(&world.cold(), PATIENT);
    world.read(&reader, 0, 0..1000).await.unwrap();
}

/// Readers that gave up leave fetches behind that nobody wants: they must not stand in the way of those who come when
/// the registry is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_what_nobody_wants() {
    let world = Arc::new(World::new(vec![file("a", 22, 20 * MIB)], Compress::None, 64 * KIB).await);
    let store = world.cold();
    let reader = world.reader(&store, Duration::from_secs(1));
    world.registry.set_network(Network::Hanging);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..250 {
        let (world, reader) = (Arc::clone(&world), reader.clone());
        let start = n * 64 * KIB;
        tasks.spawn(async move { world.read(&reader, 0, start..start + 10).await });
    }
    while let Some(outcome) = tasks.join_next().await {
        assert!(matches!(outcome.unwrap(), Err(ReadError::Deadline(_))));
    }
    world.registry.up();
    let since = Instant::now();
    while let Err(error) = world.read(&reader, 0, 19 * MIB..19 * MIB + 10).await {
        assert!(since.elapsed() < PATIENT, "{error}");
    }
    // Time for what was left behind to come out.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut wanted: Vec<_> = world.asked();
    wanted.sort_by_key(|range| range.start);
    wanted.dedup();
    assert!(wanted.len() < 60, "{} chunks were fetched, one was wanted", wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_registry_the_store_serves_what_it_has() {
    for how in [Compress::Gzip { level: 6 }, Compress::Zstd { level: 3 }, Compress::None] {
        let files = vec![file("a", 23, MIB), file("b", 24, 3 * MIB), file("c", 25, 40_000)];
        let world = World::new(files, how, 256 * KIB).await;
        let reader = world.reader(&store(&world.cache(), 1 << 30, 64 * MIB), PATIENT);
        world.read_all(&reader, 0).await.unwrap();
        world.kept(&world.cache(), 0).await;
        world.registry.down();
        let down = world.offline(&store(&world.cache(), 1 << 30, 0));
        world.read_all(&down, 0).await.unwrap();
        let outcome = world.read(&down, 1, 2 * MIB..3 * MIB).await;
        assert!(matches!(outcome, Err(ReadError::Offline(_))), "{how:?}: {outcome:?}");
        let stats = down.stats();
        assert_eq!((stats.served_disk, stats.served_registry), (MIB, 0), "{stats:?}");
        assert_eq!((stats.fetched_demand, stats.fetched_ahead), (0, 0), "{stats:?}");
        // The one that had a registry goes on with what it has, and fails for the rest.
        world.read_all(&reader, 0).await.unwrap();
        assert!(world.read(&reader, 1, 2 * MIB..3 * MIB).await.is_err());
        world.registry.up();
        world.read_all(&reader, 1).await.unwrap();
    }
}

/// The network comes and goes under a reader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_registry_brings_right_bytes_or_errors() {
    let seed = 0x5eed_4000;
    let mut rng = SplitMix64::new(seed);
    let files = vec![file("a", 26, 4 * MIB)];
    let world = Arc::new(World::new(files, Compress::Gzip { level: 1 }, 64 * KIB).await);
    let reader = world.reader(&world.cold(), Duration::from_secs(5));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (world, reader) = (Arc::clone(&world), reader.clone());
        let (n, range) = world.random(&mut rng, 200_000);
        let wait = Duration::from_millis(rng.below(1500));
        tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            // Wrong bytes panic; errors are what the network is.
            drop(world.read(&reader, n, range).await);
        });
    }
    for _ in 0..6 {
        let network = [Network::Refusing, Network::Hanging][rng.index(2)];
        world.registry.set_network(network);
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.registry.up();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    let since = Instant::now();
    while let Err(error) = world.read_all(&reader, 0).await {
        assert!(since.elapsed() < PATIENT, "seed {seed}: {error}");
    }
}
