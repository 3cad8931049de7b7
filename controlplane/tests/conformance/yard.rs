//! A database with a workspace and images, to which workers and containers come.

use std::collections::HashMap;
use std::sync::Arc;

use controlplane::model::{
    Beat, Capacity, ClipIndexInfo, Container, ContainerId, ContainerState, Demand, Image,
    ImageCredentialSource, ImageId, Lease, ManualClock, NewContainer, PageRequest, Registration, Report,
    Time, Worker, WorkerId, WorkspaceId,
};
use controlplane::store::{
    Change, Containers as _, Delivery, DeliveryKind, Done, Images as _, Indexes as _, Outbox as _,
    Queue as _, Result, SecretChange, SqlStore, Workers as _, Workspaces as _,
};

use crate::database::Database;

/// The digest of every image's manifest: `sha256:` and its identity.
pub(crate) fn digest(image: &str) -> String {
    format!("sha256:{image}")
}

/// Any change.
pub(crate) fn change<'a>(workspace: &'a WorkspaceId, target: &'a str) -> Change<'a> {
    Change { actor: "test", workspace: Some(workspace), action: "Test", target, key: None }
}

pub(crate) struct Yard {
    pub(crate) store: Arc<SqlStore>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) url: String,
    pub(crate) workspace: WorkspaceId,
    database: Database,
}

impl Yard {
    pub(crate) async fn sqlite() -> Self {
        Self::on(Database::sqlite().await).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::on(Database::postgres().await).await
    }

    pub(crate) async fn on(database: Database) -> Self {
        let (store, clock, url) = (database.store.clone(), database.clock.clone(), database.url.clone());
        let made =
            store.create_workspace(&Change { workspace: None, ..change(&"".into(), "yard") }, "yard").await;
        let workspace = made.unwrap().into_inner().workspace_id;
        let yard = Self { store, clock, url, workspace, database };
        for image in ["a", "b", "c"] {
            yard.image(image).await;
        }
        yard
    }

    /// Another replica.
    pub(crate) async fn replica(&self) -> Arc<SqlStore> {
        self.database.replica().await
    }

    async fn image(&self, name: &str) {
        let index = ClipIndexInfo { index_digest: format!("index-{name}"), index_bytes: 1, pieces: 1 };
        self.store.begin_clip_index(&index).await.unwrap();
        self.store.put_clip_index_piece(&index.index_digest, 0, b"x").await.unwrap();
        self.store.complete_clip_index(&index.index_digest).await.unwrap();
        let image = Image {
            image_id: name.into(),
            workspace_id: self.workspace.clone(),
            base_image: format!("registry.invalid/{name}:1"),
            registry: "registry.invalid".to_owned(),
            digest: digest(name),
            platform: "linux/amd64".to_owned(),
            credentials: ImageCredentialSource::Anonymous,
            index_digest: index.index_digest,
            image_bytes: 1,
            index_bytes: 1,
            files: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        self.store.put_image(&change(&self.workspace, name), &image, &SecretChange::None).await.unwrap();
    }

    pub(crate) async fn register_in(&self, node: &str, pool: &str, capacity: Capacity) -> Worker {
        let registration = Registration {
            node: node.to_owned(),
            capacity,
            pool_selector: pool.to_owned(),
            version: "test".to_owned(),
        };
        self.store.register_worker(&registration).await.unwrap()
    }

    /// A worker of the default pool, without GPUs.
    pub(crate) async fn register(&self, node: &str, cpu: i64, memory: i64) -> WorkerId {
        self.register_in(node, "", Capacity { cpu, memory, ..Capacity::default() }).await.worker_id
    }

    pub(crate) fn new_container(&self, id: &str, image: &str, demand: Demand) -> NewContainer {
        NewContainer {
            container_id: id.into(),
            workspace_id: self.workspace.clone(),
            image_id: ImageId::from(image),
            request: format!("{{\"image_id\":\"{image}\"}}"),
            demand,
        }
    }

    pub(crate) async fn try_submit(&self, id: &str, image: &str, demand: Demand) -> Result<Done<Container>> {
        self.store.submit(&change(&self.workspace, id), &self.new_container(id, image, demand)).await
    }

    /// Queues a container of image `a`.
    pub(crate) async fn submit(&self, id: &str, cpu: i64, memory: i64) {
        self.try_submit(id, "a", Demand { cpu, memory, ..Demand::default() }).await.unwrap();
    }

    pub(crate) async fn place(&self) -> (u64, u64) {
        let placed = self.store.place(100).await.unwrap();
        (placed.placed, placed.parked)
    }

    pub(crate) async fn container(&self, id: &str) -> Container {
        self.store.container(&self.workspace, &ContainerId::from(id)).await.unwrap().unwrap()
    }

    pub(crate) async fn worker(&self, id: &WorkerId) -> Worker {
        self.store.worker(id).await.unwrap().unwrap()
    }

    /// Where a container was sent: the node's name, or nothing.
    pub(crate) async fn node_of(&self, id: &str) -> String {
        match self.container(id).await.worker_id {
            Some(worker) => self.worker(&worker).await.node,
            None => String::new(),
        }
    }

    pub(crate) async fn lease(&self, id: &str) -> Lease {
        lease_of(&self.container(id).await)
    }

    pub(crate) async fn report(
        &self,
        worker: &WorkerId,
        lease: &Lease,
        state: ContainerState,
    ) -> Result<Container> {
        self.store.report(worker, &report(lease, state)).await
    }

    pub(crate) async fn beat(&self, worker: &Worker) -> bool {
        let beat = Beat { worker_id: worker.worker_id.clone(), epoch: worker.epoch, draining: false };
        self.store.beat(&[beat]).await.unwrap().is_empty()
    }

    pub(crate) async fn deliveries(&self, worker: &WorkerId) -> Vec<Delivery> {
        self.store.deliveries(worker, 0, 1000).await.unwrap()
    }

    pub(crate) async fn stop(&self, id: &str) -> Container {
        self.store.stop(&change(&self.workspace, id), &ContainerId::from(id)).await.unwrap().into_inner()
    }

    pub(crate) async fn workers(&self) -> Vec<Worker> {
        let mut request = PageRequest { size: 1000, after: None };
        let mut all = Vec::new();
        loop {
            let page = self.store.workers(&request).await.unwrap();
            all.extend(page.items);
            request.after = page.next;
            if request.after.is_none() {
                return all;
            }
        }
    }

    pub(crate) async fn containers(&self) -> Vec<Container> {
        let mut request = PageRequest { size: 1000, after: None };
        let mut all = Vec::new();
        loop {
            let page = self.store.containers(&self.workspace, false, &request).await.unwrap();
            all.extend(page.items);
            request.after = page.next;
            if request.after.is_none() {
                return all;
            }
        }
    }

    /// What must hold at any time: what is free is what is not reserved, and what waits in the outbox is of dispatches that stand.
    pub(crate) async fn check(&self, demands: &HashMap<String, Demand>) {
        let containers = self.containers().await;
        let active: Vec<&Container> =
            containers.iter().filter(|c| !c.state.is_final() && c.state != ContainerState::Queued).collect();
        let mut outbox = 0;
        for worker in self.workers().await {
            let here: Vec<&&Container> =
                active.iter().filter(|c| c.worker_id.as_ref() == Some(&worker.worker_id)).collect();
            let (mut cpu, mut memory, mut gpus) = (0, 0, 0);
            for container in &here {
                let demand = &demands[container.container_id.as_str()];
                cpu += demand.cpu;
                memory += demand.memory;
                gpus += demand.gpu_count;
            }
            let free = &worker.free;
            assert_eq!(worker.total.cpu - cpu, free.cpu, "{worker:?}");
            assert_eq!(worker.total.memory - memory, free.memory, "{worker:?}");
            assert_eq!(worker.total.gpu_count - gpus, free.gpu_count, "{worker:?}");
            assert!(free.cpu >= 0 && free.memory >= 0 && free.gpu_count >= 0, "{worker:?}");
            assert_eq!(worker.containers, u64::try_from(here.len()).unwrap(), "{worker:?}");
            assert!(worker.live || here.is_empty(), "a lost worker has containers: {worker:?}");
            for delivery in self.deliveries(&worker.worker_id).await {
                outbox += 1;
                let stands = here.iter().any(|container| lease_of(container) == delivery.lease);
                assert!(stands, "{delivery:?} of {worker:?} is of no dispatch");
            }
        }
        assert_eq!(self.store.outbox_length().await.unwrap(), outbox, "messages for nobody");
        for container in &containers {
            let sent = container.worker_id.is_some();
            match container.state {
                ContainerState::Queued => assert!(!sent && container.end_time.is_none(), "{container:?}"),
                state if state.is_final() => assert!(container.end_time.is_some(), "{container:?}"),
                _ => assert!(sent && container.end_time.is_none(), "{container:?}"),
            }
        }
        let queued = containers.iter().filter(|c| c.state == ContainerState::Queued).count();
        let (ready, parked) = self.store.queue_length().await.unwrap();
        assert_eq!(ready + parked, u64::try_from(queued).unwrap());
    }
}

pub(crate) fn lease_of(container: &Container) -> Lease {
    Lease {
        workspace_id: container.workspace_id.clone(),
        container_id: container.container_id.clone(),
        attempt: container.attempt,
        fencing_token: container.fencing_token,
    }
}

pub(crate) fn report(lease: &Lease, state: ContainerState) -> Report {
    let failed = state == ContainerState::Failed;
    Report {
        lease: lease.clone(),
        state,
        exit_code: if state == ContainerState::Exited { 7 } else { 0 },
        reason: if failed { "no such program".to_owned() } else { String::new() },
        reason_code: 0,
        cost: None,
    }
}

pub(crate) fn kinds(deliveries: &[Delivery]) -> Vec<DeliveryKind> {
    deliveries.iter().map(|delivery| delivery.kind).collect()
}

/// Runs tests over both databases.
macro_rules! both {
    ($($(#[$attribute:meta])* $name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Yard::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Yard::postgres().await).await;
            })+
        }
    };
}
pub(crate) use both;
