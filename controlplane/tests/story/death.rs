//! kill -9 of whatever there is, while containers run: every accepted run ends once.
//!
//! Seeded: `STORY_SEED` repeats a run, `STORY_RUNS` makes it longer.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fixtures::rng::SplitMix64;
use fixtures::secret::secret;

use crate::ledger::Ledger;
use crate::world::{Database, World, until};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Submits a run until somebody has accepted it: the same name again is the same run.
fn submit(world: &World, token: &std::path::Path, name: &str, program: &str) {
    let began = Instant::now();
    loop {
        let args = [
            "run", "app", "--detach", "--name", name, "--cpu", "200m", "--memory", "64MiB", "--", "/bin/sh",
            "-c", program,
        ];
        let output = world.client(token, &args).output().unwrap();
        if output.status.success() {
            return;
        }
        let text = String::from_utf8_lossy(&output.stderr);
        // Away, or busy, for now.
        assert!([Some(69), Some(75)].contains(&output.status.code()), "{name}: {}: {text}", output.status);
        assert!(began.elapsed() < Duration::from_secs(60), "{name}: {text}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[expect(clippy::print_stderr, reason = "the seed repeats the run")]
fn kill_at_random(mut world: World, seed: u64, runs: u64) {
    eprintln!("STORY_SEED={seed} STORY_RUNS={runs}");
    let mut random = SplitMix64::new(seed);
    let token = world.workspace("team");
    world.start_worker("node-1");
    world.start_worker("node-2");
    assert!(world.create_image(&token, "app", &secret("registry 1")).status.success());

    let mut accepted = BTreeSet::new();
    for n in 0..runs {
        let name = format!("run-{n:04}");
        let program = format!("echo begin; sleep 0.{}; exit {}", random.index(10), n % 5);
        submit(&world, &token, &name, &program);
        accepted.insert(name);
        match random.index(16) {
            0 => world.restart_server(0),
            1 => world.restart_worker(random.index(2)),
            2 => {
                // Longer than a lease: its containers are taken from it.
                let worker = random.index(2);
                world.kill_worker(worker);
                std::thread::sleep(Duration::from_secs(if n % 3 == 0 { 4 } else { 1 }));
                world.restart_worker(worker);
            }
            3 => {
                if let Database::Postgres(server) = &mut world.database {
                    server.kill9();
                    std::thread::sleep(Duration::from_millis(300));
                    server.restart();
                }
            }
            _ => {}
        }
    }
    let began = Instant::now();
    loop {
        let ledger = Ledger::read(world.url());
        if ledger.open().is_empty() && ledger.outbox == 0 && ledger.reserved == 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{ledger:#?}");
        std::thread::sleep(Duration::from_millis(250));
    }
    until("nothing is mounted any more", || world.leftovers().is_empty());
    let ledger = Ledger::read(world.url());
    ledger.assert_settled(&accepted);
    let exited = ledger.containers.iter().filter(|(_, (state, ..))| state == "exited").count();
    for (id, (state, attempts, code, reason)) in &ledger.containers {
        let n: i64 = id.trim_start_matches("run-").parse().unwrap();
        if state == "exited" && reason.is_empty() {
            assert_eq!(*code, n % 5, "{id}");
        } else {
            assert!(!reason.is_empty(), "{id} {state} after {attempts} attempts without a reason");
        }
    }
    assert!(exited * 10 >= ledger.containers.len() * 9, "too many failed: {:#?}", ledger.containers);
}

#[test]
fn of_scheduler_and_workers_on_sqlite() {
    kill_at_random(World::sqlite(), number("STORY_SEED", 4), number("STORY_RUNS", 60));
}

#[test]
fn of_scheduler_workers_and_database_on_postgresql() {
    kill_at_random(World::postgres(1), number("STORY_SEED", 5), number("STORY_RUNS", 60));
}

#[test]
fn a_container_outlives_worker_and_control_plane() {
    let mut world = World::sqlite();
    let token = world.workspace("team");
    let worker = world.start_worker("node-1");
    assert!(world.create_image(&token, "app", &secret("registry 1")).status.success());
    let program = "echo begin; sleep 5; echo end; exit 9";
    let args = ["run", "app", "--detach", "--name", "long", "--", "/bin/sh", "-c", program];
    assert!(world.client(&token, &args).stdout(Stdio::null()).status().unwrap().success());
    until("it runs", || world.json(&token, &["ps"])[0]["state"] == "running");
    world.kill_worker(worker);
    world.restart_server(0);
    world.restart_worker(worker);
    until("it has ended", || Ledger::read(world.url()).open().is_empty());
    let ledger = Ledger::read(world.url());
    assert_eq!(ledger.containers["long"], ("exited".to_owned(), 1, 9, String::new()), "{ledger:#?}");
    until("its output is there", || {
        let output = world.client(&token, &["logs", "long"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout) == "begin\nend\n"
    });
    until("nothing is mounted any more", || world.leftovers().is_empty());
}

#[test]
fn a_worker_that_was_declared_lost_is_told_to_stop() {
    let mut world = World::sqlite();
    let token = world.workspace("team");
    let first = world.start_worker("node-1");
    assert!(world.create_image(&token, "app", &secret("registry 1")).status.success());
    let program = "echo begin; sleep 8; exit 0";
    let args = ["run", "app", "--detach", "--name", "long", "--", "/bin/sh", "-c", program];
    assert!(world.client(&token, &args).stdout(Stdio::null()).status().unwrap().success());
    until("it runs", || world.json(&token, &["ps"])[0]["state"] == "running");
    world.start_worker("node-2");
    world.freeze_worker(first, true);
    until("it runs elsewhere", || {
        let listed = world.json(&token, &["ps"]);
        listed[0]["attempt"] == 2 && listed[0]["state"] == "running"
    });
    world.freeze_worker(first, false);
    until("it has ended", || Ledger::read(world.url()).open().is_empty());
    until("everything is settled", || {
        let ledger = Ledger::read(world.url());
        ledger.outbox == 0 && ledger.reserved == 0 && world.leftovers().is_empty()
    });
    Ledger::read(world.url()).assert_settled(&BTreeSet::from(["long".to_owned()]));
    assert_eq!(Ledger::read(world.url()).containers["long"].1, 2);
}
