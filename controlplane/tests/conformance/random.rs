//! Random histories: submissions, placements, deliveries, reports true and stale, losses, stops, duplicates; after each step what must always
//! hold is compared. At the end everybody works properly, and every container has ended, once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use controlplane::model::{Beat, Capacity, Container, ContainerState, Demand, Lease, Worker, WorkerId};
use controlplane::store::{Containers as _, DeliveryKind, Outbox as _, Queue as _, StoreError, Workers as _};
use fixtures::rng::SplitMix64;

use crate::yard::{Yard, both, digest, lease_of};

both!(histories);

const STEPS: usize = 250;
const NODES: usize = 4;
const MAX_ATTEMPTS: u32 = 3;

/// What the world beside the database knows.
struct World {
    yard: Yard,
    rng: SplitMix64,
    demands: HashMap<String, Demand>,
    nodes: Vec<Node>,
    /// Every lease that was ever given, with its worker.
    leases: HashSet<(Lease, WorkerId)>,
    ended: HashMap<String, Container>,
}

struct Node {
    worker: Worker,
    /// What it runs: it does not know whether the lease still stands.
    runs: Vec<Lease>,
    /// Has not been declared lost, as far as it knows.
    alive: bool,
}

fn seeds() -> Vec<u64> {
    match std::env::var("CLIPFS_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => vec![1, 2],
    }
}

async fn histories(yard: Yard) {
    let mut yard = Some(yard);
    for seed in seeds() {
        let ground = match yard.take() {
            Some(yard) => yard,
            None => Yard::sqlite().await,
        };
        let mut world = World::new(ground, seed).await;
        for step in 0..STEPS {
            let what = world.step().await;
            world.check(&format!("seed {seed}, step {step}: {what}")).await;
        }
        world.finish(seed).await;
    }
}

impl World {
    async fn new(yard: Yard, seed: u64) -> Self {
        let mut nodes = Vec::new();
        for node in 0..NODES {
            let capacity = capacity_of(node);
            let worker = yard.register_in(&format!("node-{node}"), "", capacity).await;
            nodes.push(Node { worker, runs: Vec::new(), alive: true });
        }
        let rng = SplitMix64::new(seed);
        Self { yard, rng, demands: HashMap::new(), nodes, leases: HashSet::new(), ended: HashMap::new() }
    }

    async fn step(&mut self) -> String {
        let node = self.rng.index(self.nodes.len());
        match self.rng.below(20) {
            0..6 => self.submit().await,
            6..9 => self.place().await,
            9..12 => self.deliver(node).await,
            12..15 => self.report(node).await,
            15 => self.stale().await,
            16 => self.lose(node).await,
            17 => self.come_back(node).await,
            18 => self.stop().await,
            _ => self.rest(node).await,
        }
    }

    async fn submit(&mut self) -> String {
        let again = self.rng.below(5) == 0 && !self.demands.is_empty();
        let number = if again { self.rng.index(self.demands.len()) } else { self.demands.len() };
        let id = format!("c{number}");
        let demand = self.demands.get(&id).cloned().unwrap_or_else(|| Demand {
            cpu: i64::try_from(self.rng.below(5)).unwrap() * 250,
            memory: i64::try_from(self.rng.below(4)).unwrap() * 100,
            gpu: String::new(),
            gpu_count: i64::from(self.rng.below(6) == 0),
            pool_selector: String::new(),
        });
        let image = ["a", "b", "c"][number % 3];
        self.yard.try_submit(&id, image, demand.clone()).await.unwrap();
        self.demands.insert(id.clone(), demand);
        format!("submit {id}")
    }

    async fn place(&mut self) -> String {
        let batch = u32::try_from(self.rng.below(6)).unwrap() + 1;
        format!("{:?}", self.yard.store.place(batch).await.unwrap())
    }

    /// A node reads its messages, acknowledges some, and does what they say.
    async fn deliver(&mut self, node: usize) -> String {
        let store = &self.yard.store;
        let Node { worker, runs, alive } = &mut self.nodes[node];
        if !*alive {
            return "deliver to nobody".to_owned();
        }
        let mut deliveries = self.yard.deliveries(&worker.worker_id).await;
        deliveries.truncate(self.rng.index(4));
        for delivery in &deliveries {
            if delivery.kind == DeliveryKind::Dispatch && !runs.contains(&delivery.lease) {
                assert!(store.dispatched(&worker.worker_id, &delivery.lease).await.unwrap().is_some());
                runs.push(delivery.lease.clone());
            }
            // An acknowledgement may be lost: then the message comes again.
            if self.rng.below(4) > 0 {
                store.acknowledge(&worker.worker_id, &[delivery.delivery]).await.unwrap();
            }
        }
        format!("deliver {deliveries:?}")
    }

    async fn report(&mut self, node: usize) -> String {
        let Node { worker, runs, .. } = &mut self.nodes[node];
        if runs.is_empty() {
            return "nothing to report".to_owned();
        }
        let index = self.rng.index(runs.len());
        let lease = runs[index].clone();
        use ContainerState::{Exited, Failed, Mounting, Running};
        let state = [Mounting, Running, Running, Exited, Exited, Failed][self.rng.index(6)];
        match self.yard.report(&worker.worker_id, &lease, state).await {
            Ok(container) => {
                assert_eq!(lease_of(&container), lease);
                if state.is_final() {
                    runs.remove(index);
                }
            }
            Err(StoreError::Stale(_)) => {
                runs.remove(index);
            }
            Err(error) => panic!("{error:?}"),
        }
        format!("report {state:?} of {lease:?}")
    }

    /// Somebody says something with any lease that there ever was. It counts only if it stands and is his own.
    async fn stale(&mut self) -> String {
        let mut all: Vec<_> = self.leases.iter().cloned().collect();
        if all.is_empty() {
            return "no lease yet".to_owned();
        }
        all.sort_by_key(|(lease, _)| lease.fencing_token);
        let (lease, worker) = all.swap_remove(self.rng.index(all.len()));
        let before = self.yard.container(lease.container_id.as_str()).await;
        let stands = lease_of(&before) == lease && before.worker_id.as_ref() == Some(&worker);
        let other = &self.nodes[self.rng.index(self.nodes.len())].worker.worker_id;
        if !stands || *other != worker {
            let answer = self.yard.report(other, &lease, ContainerState::Exited).await;
            assert!(matches!(answer, Err(StoreError::Stale(_))), "{lease:?} {answer:?}");
            assert_eq!(self.yard.container(lease.container_id.as_str()).await, before);
        }
        format!("stale {lease:?}")
    }

    async fn lose(&mut self, node: usize) -> String {
        let known = self.yard.worker(&self.nodes[node].worker.worker_id).await;
        let beat = if self.rng.below(3) == 0 { known.beat.wrapping_sub(1) } else { known.beat };
        let lost = self.yard.store.lose_worker(&known.worker_id, beat, MAX_ATTEMPTS).await.unwrap();
        assert_eq!(lost.is_some(), known.live && beat == known.beat);
        if lost.is_some() {
            self.nodes[node].alive = false;
        }
        format!("lose node {node}: {lost:?}")
    }

    /// Registers again, still running what it ran.
    async fn come_back(&mut self, node: usize) -> String {
        let worker = self.yard.register_in(&format!("node-{node}"), "", capacity_of(node)).await;
        let strangers =
            self.yard.store.reconcile(&worker.worker_id, &self.nodes[node].runs, MAX_ATTEMPTS).await.unwrap();
        let node = &mut self.nodes[node];
        node.runs.retain(|lease| !strangers.contains(lease));
        (node.worker, node.alive) = (worker, true);
        format!("{} came back, {strangers:?}", node.worker.node)
    }

    async fn stop(&mut self) -> String {
        if self.demands.is_empty() {
            return "nothing to stop".to_owned();
        }
        let id = format!("c{}", self.rng.index(self.demands.len()));
        self.yard.stop(&id).await;
        format!("stop {id}")
    }

    /// Time goes on; a node says what it has, forgets something, gives something back, or caches something.
    async fn rest(&mut self, node: usize) -> String {
        self.yard.clock.advance(Duration::from_millis(self.rng.below(3000)));
        let store = &self.yard.store;
        let Node { worker, runs, alive } = &mut self.nodes[node];
        let beat = Beat {
            worker_id: worker.worker_id.clone(),
            epoch: worker.epoch,
            draining: self.rng.below(3) == 0,
        };
        let refused = store.beat(&[beat]).await.unwrap();
        assert_eq!(refused.is_empty(), *alive);
        if !*alive {
            return "dead beat".to_owned();
        }
        match self.rng.below(4) {
            0 if !runs.is_empty() => {
                let forgotten = runs.remove(self.rng.index(runs.len()));
                store.reconcile(&worker.worker_id, runs, MAX_ATTEMPTS).await.unwrap();
                format!("forget {forgotten:?}")
            }
            1 if !runs.is_empty() => {
                let lease = runs.remove(self.rng.index(runs.len()));
                let back = store.give_back(&worker.worker_id, &lease, Duration::from_secs(1)).await;
                format!("give back {lease:?}: {back:?}")
            }
            2 => {
                let digests = [digest("a"), digest("b")];
                let digests = &digests[..self.rng.index(3)];
                store.set_cached_images(&worker.worker_id, worker.epoch, digests).await.unwrap();
                "cache".to_owned()
            }
            _ => format!("unpark {}", store.unpark(3).await.unwrap()),
        }
    }

    async fn check(&mut self, what: &str) {
        let checked = std::panic::AssertUnwindSafe(self.yard.check(&self.demands));
        let checked = futures_util::FutureExt::catch_unwind(checked).await;
        assert!(checked.is_ok(), "{what}");
        let containers = self.yard.containers().await;
        assert_eq!(containers.len(), self.demands.len(), "{what}");
        for container in containers {
            if let Some(worker) = container.worker_id.clone() {
                self.leases.insert((lease_of(&container), worker));
            }
            let id = container.container_id.to_string();
            if let Some(ended) = self.ended.get(&id) {
                assert_eq!(*ended, container, "{what}: what has ended has changed");
            } else if container.state.is_final() {
                self.ended.insert(id, container);
            }
        }
        // A token is of one dispatch.
        let tokens: HashSet<u64> = self.leases.iter().map(|(lease, _)| lease.fencing_token).collect();
        assert_eq!(tokens.len(), self.leases.len(), "{what}");
    }

    /// Everybody works properly until nothing is left.
    async fn finish(&mut self, seed: u64) {
        for round in 0.. {
            assert!(round < 500, "seed {seed} does not end");
            self.yard.clock.advance(Duration::from_secs(61));
            for node in 0..self.nodes.len() {
                self.come_back(node).await;
                let Node { worker, runs, .. } = &mut self.nodes[node];
                for delivery in self.yard.deliveries(&worker.worker_id).await {
                    if delivery.kind == DeliveryKind::Dispatch && !runs.contains(&delivery.lease) {
                        runs.push(delivery.lease.clone());
                    }
                    self.yard.store.acknowledge(&worker.worker_id, &[delivery.delivery]).await.unwrap();
                }
                for lease in std::mem::take(runs) {
                    self.yard.report(&worker.worker_id, &lease, ContainerState::Exited).await.unwrap();
                }
            }
            while self.yard.store.place(7).await.unwrap().more {}
            self.check(&format!("seed {seed}, the end, round {round}")).await;
            if self.ended.len() == self.demands.len() {
                break;
            }
        }
        for id in self.demands.keys() {
            let events =
                self.yard.store.events(&self.yard.workspace, &id.as_str().into(), 0, 1000).await.unwrap();
            let ends = events.iter().filter(|(_, _, container)| container.state.is_final()).count();
            assert_eq!(ends, 1, "seed {seed}: {id} ended {ends} times");
            assert!(events.is_sorted_by_key(|(seq, ..)| *seq));
        }
        assert_eq!(self.yard.store.outbox_length().await.unwrap(), 0);
        assert!(self.yard.workers().await.iter().all(|worker| worker.free == worker.total));
    }
}

fn capacity_of(node: usize) -> Capacity {
    let gpus = i64::from(node == 0);
    let gpu = if gpus > 0 { "T4" } else { "" };
    Capacity { cpu: 1000, memory: 400, gpu: gpu.to_owned(), gpu_count: gpus }
}
