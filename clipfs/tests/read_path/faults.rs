//! Each way a registry fails: data or an error, in time, never wrong bytes; and when it is over, all is well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clipfs::read::{ReadError, Reader};
use fixtures::layer::Compress;
use fixtures::registry::{Auth, Close, Fault, Registry, RegistryConfig, Rule};
use fixtures::rng::SplitMix64;

use crate::support::{KIB, MIB, World, file, image};

/// The deadline of reads, and what a reply may take on a machine that does much else.
const DEADLINE: Duration = Duration::from_secs(8);
const SLACK: Duration = Duration::from_secs(6);

/// What the fault table promises.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expect {
    /// Every read succeeds.
    Data,
    /// Every read fails.
    Error,
    /// Either.
    Any,
}

use Expect::{Any, Data, Error};

fn blobs(fault: Fault) -> Rule {
    Rule::new(fault).blobs()
}

/// Faults by name, what to expect of reads under them.
fn faults() -> Vec<(&'static str, Vec<Rule>, Expect)> {
    let flip = |offset| Fault::FlipBodyByte { offset };
    let cut = |after, how| Fault::Truncate { after, how };
    vec![
        ("killed at once", vec![blobs(Fault::Hangup(Close::Rst)).times(2)], Data),
        ("killed always", vec![blobs(Fault::Hangup(Close::Rst))], Error),
        ("hung up in order", vec![blobs(Fault::Hangup(Close::Fin)).times(2)], Data),
        ("truncated by FIN", vec![blobs(cut(3000, Close::Fin)).times(3)], Data),
        ("truncated by RST", vec![blobs(cut(3000, Close::Rst)).times(3)], Data),
        // Each answer brings something: resuming gets there, or gives up.
        ("always truncated", vec![blobs(cut(20_000, Close::Fin))], Any),
        ("nothing but headers", vec![blobs(cut(0, Close::Fin))], Error),
        ("stalls once", vec![blobs(Fault::StallBody { after: 1000 }).once()], Data),
        ("no answer once", vec![blobs(Fault::StallHeaders).once()], Data),
        ("stalls always", vec![blobs(Fault::StallBody { after: 0 })], Error),
        ("a byte a second", vec![blobs(Fault::SlowBody { bytes_per_second: 1 })], Error),
        ("flips once", vec![blobs(flip(700)).once()], Data),
        ("flips always", vec![blobs(flip(700))], Error),
        ("wrong range once", vec![blobs(Fault::WrongContentRange).once()], Data),
        ("wrong range always", vec![blobs(Fault::WrongContentRange)], Error),
        ("no range in a partial answer", vec![blobs(Fault::NoContentRange)], Error),
        ("encoded", vec![blobs(Fault::content_encoding("gzip"))], Error),
        ("ignores ranges", vec![blobs(Fault::IgnoreRange)], Data),
        ("ignores ranges and flips", vec![blobs(Fault::IgnoreRange), blobs(flip(700)).once()], Data),
        ("burst of 503", vec![blobs(Fault::status(503)).times(3)], Data),
        ("always 503", vec![blobs(Fault::status(503))], Error),
        ("429, come back in a second", vec![blobs(Fault::too_many_requests("1")).times(2)], Data),
        ("429 without a word", vec![blobs(Fault::status(429)).times(2)], Data),
        ("404", vec![blobs(Fault::status(404))], Error),
        ("416", vec![blobs(Fault::status(416))], Error),
        ("another body", vec![blobs(Fault::Body(b"<html>".as_slice().into())).once()], Data),
        ("a length too short", vec![blobs(Fault::ContentLength { delta: -1 }).once()], Data),
        ("a length too long", vec![blobs(Fault::ContentLength { delta: 1 }).once()], Data),
    ]
}

/// One read at random; asserts that it ended in time.
async fn read(world: &World, reader: &Reader, rng: &mut SplitMix64) -> Result<(), ReadError> {
    // The first file alone: what ends before the blob does is asked for by range.
    let (_, range) = world.random(rng, 200_000);
    let since = Instant::now();
    let outcome = world.read(reader, 0, range.clone()).await;
    assert!(since.elapsed() < DEADLINE + SLACK, "{range:?} took {:?}", since.elapsed());
    outcome
}

async fn strike(world: &World, name: &str, rules: Vec<Rule>, expect: Expect, seed: u64) {
    let mut rng = SplitMix64::new(seed);
    let reader = world.reader(&world.cold(), DEADLINE);
    for rule in rules {
        world.registry.faults().set(rule);
    }
    // Where nothing succeeds, one read shows it.
    let reads = if expect == Error { 1 } else { 4 };
    for n in 0..reads {
        let outcome = read(world, &reader, &mut rng).await;
        match expect {
            Data => assert!(outcome.is_ok(), "{name}, seed {seed}, read {n}: {outcome:?}"),
            Error => assert!(outcome.is_err(), "{name}, seed {seed}, read {n} succeeded"),
            Any => {}
        }
    }
    assert!(expect != Error || reader.last_error().is_some(), "{name}: an error that status does not know");
    world.registry.faults().clear();
    // The same ranges again: what failed is not remembered.
    let mut rng = SplitMix64::new(seed);
    for n in 0..4 {
        let outcome = read(world, &reader, &mut rng).await;
        assert!(outcome.is_ok(), "after {name}, seed {seed}, read {n}: {outcome:?}");
    }
}

async fn all_faults(how: Compress, seed: u64) {
    let files = vec![file("a", 11, MIB), file("b", 12, MIB)];
    let made = image(&files, how);
    let mut worlds = tokio::task::JoinSet::new();
    // Each has its own registry, so that they may run at the same time: most of it is waiting.
    for (n, (name, rules, expect)) in (0..).zip(faults()) {
        let (files, made) = (files.clone(), made.clone());
        worlds.spawn(async move {
            let world = World::of(&Arc::new(Registry::plain()), files, &made, 64 * KIB).await;
            strike(&world, name, rules, expect, seed + n).await;
        });
    }
    while let Some(done) = worlds.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_a_registry_with_gzip() {
    all_faults(Compress::Gzip { level: 6 }, 0x5eed_1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_a_registry_with_a_long_zstd_frame() {
    all_faults(Compress::Zstd { level: 3 }, 0x5eed_2000).await;
}

/// Tokens end in the middle of a run: renewed once, for all readers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_end_are_renewed() {
    let config = RegistryConfig { auth: Auth::bearer("u", "p"), ..RegistryConfig::default() };
    let registry = Arc::new(Registry::start(config));
    let files = vec![file("a", 13, 2 * MIB)];
    let made = image(&files, Compress::Gzip { level: 6 });
    let world = Arc::new(World::logged_in(&registry, files, &made, 64 * KIB).await);
    let reader = world.reader(&world.cold(), DEADLINE);
    let seed = 0x5eed_3000;
    let mut rng = SplitMix64::new(seed);
    for round in 0..3 {
        registry.revoke_all();
        let issued = registry.tokens_issued();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (world, reader) = (Arc::clone(&world), reader.clone());
            let (n, range) = world.random(&mut rng, 100_000);
            tasks.spawn(async move { world.read(&reader, n, range).await });
        }
        while let Some(outcome) = tasks.join_next().await {
            outcome.unwrap().unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error:?}"));
        }
        assert!(registry.tokens_issued() <= issued + 1, "one renewal for all");
    }
}
