//! Three replicas on one PostgreSQL.

use std::collections::BTreeSet;

use fixtures::secret::secret;

use crate::ledger::Ledger;
use crate::world::{World, until};

#[test]
fn three_replicas_lose_nothing_and_double_nothing() {
    let mut world = World::postgres(3);
    let token = world.workspace("team");
    for node in ["node-1", "node-2", "node-3"] {
        world.start_worker(node);
    }
    assert!(world.create_image(&token, "app", &secret("registry 1")).status.success());
    let mut accepted = BTreeSet::new();
    let mut clients = Vec::new();
    for n in 0..60 {
        let name = format!("run-{n:04}");
        let args = [
            "run",
            "app",
            "--detach",
            "--name",
            &name,
            "--cpu",
            "500m",
            "--memory",
            "64MiB",
            "--",
            "/bin/echo",
            "begin",
        ];
        let mut client = world.client(&token, &args);
        client.env("CLIPFS_SERVER", format!("http://{}", world.address(n % 3)));
        clients.push(client.stdout(std::process::Stdio::null()).spawn().unwrap());
        accepted.insert(name);
        if clients.len() == 6 {
            clients.drain(..).for_each(|mut client| assert!(client.wait().unwrap().success()));
        }
    }
    let began = std::time::Instant::now();
    loop {
        let ledger = Ledger::read(world.url());
        if ledger.containers.len() == accepted.len() && ledger.open().is_empty() {
            break;
        }
        assert!(began.elapsed() < crate::world::PATIENCE, "{ledger:#?}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    until("everything is settled", || {
        let ledger = Ledger::read(world.url());
        ledger.outbox == 0 && ledger.reserved == 0 && world.leftovers().is_empty()
    });
    let ledger = Ledger::read(world.url());
    ledger.assert_settled(&accepted);
    for (id, (state, attempts, code, reason)) in &ledger.containers {
        assert_eq!((state.as_str(), *attempts, *code, reason.as_str()), ("exited", 1, 0, ""), "{id}");
        assert_eq!(ledger.begun.get(&(id.clone(), 1)), Some(&1), "{id}");
    }
}
