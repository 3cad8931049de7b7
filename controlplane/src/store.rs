//! What is known: repositories over SQLite (embedded) and PostgreSQL (several replicas), behind the same traits.
//!
//! Every method is one transaction: all of it or nothing, whatever dies. What a change makes necessary elsewhere (audit, events, outbox,
//! the outcome for a retry) is committed with it. Methods are retried by themselves where the database asks for it (serialisation,
//! deadlock, busy) and nothing else was done. Nothing here sees a secret's value.
//!
//! No statement says `*`: PostgreSQL refuses prepared ones whose columns have become more, and a newer replica may add some.
//!
//! [`open`] gives the one implementation, [`SqlStore`]: the same SQL for both, with a `dialect` for where they differ. `tests/conformance`
//! runs over both.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::{
    Beat, ClipIndexInfo, Container, ContainerId, DataKey, Image, ImageId, KeyId, Lease, LogLine, LogPosition,
    NewContainer, Page, PageRequest, Registration, Report, Sealed, Secret, SecretId, SecretRow, Time, Token,
    TokenId, Worker, WorkerId, Workspace, WorkspaceId,
};

mod address;
mod announce;
mod audit;
mod bulk;
mod capacity;
mod change;
mod containers;
mod data_keys;
mod dialect;
mod error;
mod events;
mod housekeeping;
mod images;
mod indexes;
mod logs;
mod lookups;
mod migrations;
mod outbox;
mod page;
mod queue;
mod retry;
mod row;
mod secrets;
mod sql;
mod tokens;
mod topic;
mod whole;
mod workers;
mod workspaces;

pub use change::{Change, Done, IdempotencyKey, NewSecret, SecretChange};
pub use error::StoreError;
pub use migrations::{SCHEMA_VERSION, migrate, revert};
pub use sql::{SqlStore, open};
pub use topic::{Topic, Topics};

/// The result of every method.
pub type Result<T> = std::result::Result<T, StoreError>;

/// All repositories, and word of changes.
pub trait Store:
    Workspaces
    + Tokens
    + DataKeys
    + Secrets
    + Images
    + ImageLookups
    + Indexes
    + Workers
    + Containers
    + Queue
    + Outbox
    + Logs
    + Audit
    + Housekeeping
    + Announcements
    + std::fmt::Debug
{
}

/// Tenants.
#[async_trait]
pub trait Workspaces: Send + Sync {
    /// Makes one. [`StoreError::Exists`]: the name is taken.
    async fn create_workspace(&self, change: &Change<'_>, name: &str) -> Result<Done<Workspace>>;
    /// By identity or name.
    async fn workspace(&self, id_or_name: &str) -> Result<Option<Workspace>>;
    /// By identity, oldest first.
    async fn workspaces(&self, page: &PageRequest) -> Result<Page<Workspace>>;
}

/// Bearer tokens, by their hashes.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// Keeps a token (its `create_time` is set here). `hash` = SHA-256 of what is borne.
    async fn create_token(&self, change: &Change<'_>, token: &Token, hash: &[u8; 32]) -> Result<Done<Token>>;
    /// The token that is borne, unless it was revoked or has expired.
    async fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<Token>>;
    /// Gives a worker's token that has no node yet this one. `false`: it has another.
    async fn bind_token(&self, token: &TokenId, node: &str) -> Result<bool>;
    /// Ends a token. [`StoreError::NotFound`].
    async fn revoke_token(&self, change: &Change<'_>, token: &TokenId) -> Result<()>;
    /// All, or those of a workspace.
    async fn tokens(&self, workspace: Option<&WorkspaceId>, page: &PageRequest) -> Result<Page<Token>>;
}

/// Wrapped data keys.
#[async_trait]
pub trait DataKeys: Send + Sync {
    /// The workspace's current key.
    async fn current_data_key(&self, workspace: &WorkspaceId) -> Result<Option<DataKey>>;
    /// A key, current or not.
    async fn data_key(&self, key: &KeyId) -> Result<Option<DataKey>>;
    /// Makes `key` current in the place of `instead_of`. `false`: somebody was faster, read again.
    async fn set_current_data_key(&self, key: &DataKey, instead_of: Option<&KeyId>) -> Result<bool>;
    /// Keys that `kek_id` does not wrap, by identity.
    async fn data_keys_not_wrapped_by(&self, kek_id: &str, limit: u32) -> Result<Vec<DataKey>>;
    /// Wraps a key anew. `false`: it was not wrapped by `from_kek` any more.
    async fn rewrap_data_key(
        &self,
        key: &KeyId,
        from_kek: &str,
        to_kek: &str,
        wrapped: &[u8],
    ) -> Result<bool>;
    /// Deletes keys that are not current and that no secret needs; tells how many.
    async fn delete_unused_data_keys(&self) -> Result<u64>;
    /// Secrets whose key is not their workspace's current one.
    async fn secrets_under_old_keys(&self, limit: u32) -> Result<Vec<SecretRow>>;
    /// Seals a secret anew, same value and version. `false`: it has changed meanwhile.
    async fn reseal_secret(&self, row: &SecretRow, sealed: &Sealed) -> Result<bool>;
    /// Whether any key exists: then a missing KEK is an error, not a first start.
    async fn has_data_keys(&self) -> Result<bool>;
}

/// Secrets, sealed.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// Keeps a new one. [`StoreError::Exists`]: its name (with its registry) is taken.
    async fn create_secret(&self, change: &Change<'_>, new: &NewSecret) -> Result<Done<Secret>>;
    /// Gives it a new value, version `read.version + 1`, and queues word for running containers of images that use it.
    /// [`StoreError::Conflict`]: it is not at `read.version` any more; [`StoreError::NotFound`].
    async fn update_secret(
        &self,
        change: &Change<'_>,
        read: &Secret,
        sealed: &Sealed,
    ) -> Result<Done<Secret>>;
    /// Deletes it for good. Images that name it keep the name and do not run.
    async fn delete_secret(&self, change: &Change<'_>, secret: &SecretId) -> Result<Done<()>>;
    /// By identity; rows of other workspaces do not exist.
    async fn secret(&self, workspace: &WorkspaceId, id: &SecretId) -> Result<Option<SecretRow>>;
    /// All of a name: plain values have an empty registry and come first.
    async fn secrets_named(&self, workspace: &WorkspaceId, name: &str) -> Result<Vec<SecretRow>>;
    /// The workspace's secret for a registry.
    async fn secret_for_registry(&self, workspace: &WorkspaceId, registry: &str)
    -> Result<Option<SecretRow>>;
    /// By name.
    async fn secrets(&self, workspace: &WorkspaceId, page: &PageRequest) -> Result<Page<Secret>>;
}

/// Images.
#[async_trait]
pub trait Images: Send + Sync {
    /// Keeps an image, new or again (`create_time` of the first time stays), with what happens to its secret, whole or not at
    /// all. Its index must be complete. With [`SecretChange::Create`] and [`SecretChange::Update`] `image.credentials` is
    /// overwritten with the secret's name and identity.
    async fn put_image(
        &self,
        change: &Change<'_>,
        image: &Image,
        secret: &SecretChange,
    ) -> Result<Done<Image>>;
    /// One.
    async fn image(&self, workspace: &WorkspaceId, image: &ImageId) -> Result<Option<Image>>;
    /// By identity.
    async fn images(&self, workspace: &WorkspaceId, page: &PageRequest) -> Result<Page<Image>>;
    /// How many images use a secret.
    async fn images_using(&self, workspace: &WorkspaceId, secret: &SecretId) -> Result<u64>;
    /// `SetImageCredentialSecret`: links an image to a secret of the same workspace, or with `None` to none. The name is read from
    /// the secret. [`StoreError::NotFound`] names which of the two.
    async fn set_image_credential_secret(
        &self,
        change: &Change<'_>,
        image: &ImageId,
        secret: Option<&SecretId>,
    ) -> Result<Done<Image>>;
    /// Deletes it. [`StoreError::Conflict`]: containers of it have not ended.
    async fn delete_image(&self, change: &Change<'_>, image: &ImageId) -> Result<Done<()>>;
    /// Whether a container of the image is dispatched to the worker and has not ended.
    async fn is_dispatched_to(
        &self,
        workspace: &WorkspaceId,
        image: &ImageId,
        worker: &WorkerId,
    ) -> Result<bool>;
}

/// What is asked before an image is made, and before its index is shown.
#[async_trait]
pub trait ImageLookups: Send + Sync {
    /// What [`Images::put_image`] has given under the same key: then there is nothing left to do. [`StoreError::KeyReused`].
    async fn made_image(&self, change: &Change<'_>) -> Result<Option<Image>>;
    /// Images of a manifest, in all workspaces: those of `workspace` first, then the newest. For an index that may serve again; whose it
    /// may be is for the caller to decide.
    async fn images_of_digest(
        &self,
        digest: &str,
        workspace: &WorkspaceId,
        limit: u32,
    ) -> Result<Vec<(WorkspaceId, ImageId)>>;
    /// As [`Images::is_dispatched_to`], by the worker's node.
    async fn is_dispatched_to_node(
        &self,
        workspace: &WorkspaceId,
        image: &ImageId,
        node: &str,
    ) -> Result<bool>;
}

/// Longest piece of a clip index, in bytes.
pub const MAX_PIECE: usize = 512 << 10;

/// Clip indexes, in pieces. Found by content: whoever may read an image may read its index.
#[async_trait]
pub trait Indexes: Send + Sync {
    /// What is stored under a digest, complete.
    async fn clip_index(&self, digest: &str) -> Result<Option<ClipIndexInfo>>;
    /// Begins to store one. `false`: it is complete already.
    async fn begin_clip_index(&self, info: &ClipIndexInfo) -> Result<bool>;
    /// Stores a piece, at most [`MAX_PIECE`]; the same again is nothing.
    async fn put_clip_index_piece(&self, digest: &str, position: u64, data: &[u8]) -> Result<()>;
    /// All pieces are there. [`StoreError::Conflict`]: they are not.
    async fn complete_clip_index(&self, digest: &str) -> Result<()>;
    /// A piece.
    async fn clip_index_piece(&self, digest: &str, position: u64) -> Result<Option<Vec<u8>>>;
}

/// Nodes.
#[async_trait]
pub trait Workers: Send + Sync {
    /// A node comes, or comes again: a new epoch, live, free = total less what its containers have reserved. Wakes what waits for
    /// such capacity.
    async fn register_worker(&self, registration: &Registration) -> Result<Worker>;
    /// Signs of life, many in one transaction. Answers those whose epoch is not theirs any more, or who are not live.
    async fn beat(&self, beats: &[Beat]) -> Result<Vec<WorkerId>>;
    /// What a node has changed: total and free move by the difference.
    async fn set_capacity(
        &self,
        worker: &WorkerId,
        epoch: u64,
        capacity: &crate::model::Capacity,
    ) -> Result<()>;
    /// Digests of images that its cache holds (partly), in the place of what was known.
    async fn set_cached_images(&self, worker: &WorkerId, epoch: u64, digests: &[String]) -> Result<()>;
    /// Identity, epoch and beats of all that are live.
    async fn live_workers(&self) -> Result<Vec<(WorkerId, u64, u64)>>;
    /// Declares a worker lost, unless it has beaten since `beat`: not live, epoch + 1; its outbox is emptied; its containers go
    /// back to the queue with a delay, or fail (UNAVAILABLE) at `max_attempts`, or end if somebody asked to stop them. Tells how many
    /// containers; `None`: it lives.
    async fn lose_worker(&self, worker: &WorkerId, beat: u64, max_attempts: u32) -> Result<Option<u64>>;
    /// One.
    async fn worker(&self, worker: &WorkerId) -> Result<Option<Worker>>;
    /// By identity.
    async fn workers(&self, page: &PageRequest) -> Result<Page<Worker>>;
}

/// Containers, as their owners see them, and as workers report them.
#[async_trait]
pub trait Containers: Send + Sync {
    /// Queues a container. The same identity again, with the same request, is the same container ([`Done::Replayed`]); with another
    /// request [`StoreError::Exists`]. [`StoreError::NotFound`]: the image.
    async fn submit(&self, change: &Change<'_>, new: &NewContainer) -> Result<Done<Container>>;
    /// One.
    async fn container(&self, workspace: &WorkspaceId, container: &ContainerId) -> Result<Option<Container>>;
    /// Newest first.
    async fn containers(
        &self,
        workspace: &WorkspaceId,
        active: bool,
        page: &PageRequest,
    ) -> Result<Page<Container>>;
    /// Asks to stop: a queued one ends at once (FAILED, code 1 CANCELLED), a dispatched one is cancelled through the outbox, an ended one
    /// stays as it is.
    async fn stop(&self, change: &Change<'_>, container: &ContainerId) -> Result<Done<Container>>;
    /// What has happened after `seq`, oldest first: sequence number, time, and the container as it was.
    async fn events(
        &self,
        workspace: &WorkspaceId,
        container: &ContainerId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, Time, Container)>>;
    /// The request that was queued, and the image, of a dispatch that still stands.
    async fn dispatched(&self, worker: &WorkerId, lease: &Lease) -> Result<Option<(String, Image)>>;
    /// Takes a worker's report. Same or earlier state than known: nothing. A final state frees the reservation (and wakes what waits)
    /// and drops what the outbox still holds for the lease. [`StoreError::Stale`]: the lease is not that worker's newest.
    async fn report(&self, worker: &WorkerId, report: &Report) -> Result<Container>;
    /// Compares what a worker says it runs with what it should: answers leases that are not its own (to be stopped), and takes
    /// back what it has acknowledged and does not have (requeued like [`Workers::lose_worker`] does).
    async fn reconcile(&self, worker: &WorkerId, held: &[Lease], max_attempts: u32) -> Result<Vec<Lease>>;
    /// Takes back one dispatch that was never started, without counting it: back to the queue, after `delay`.
    async fn give_back(&self, worker: &WorkerId, lease: &Lease, delay: Duration) -> Result<()>;
}

/// What one pass over the queue did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// Workers that got something, each once.
    pub workers: Vec<WorkerId>,
    /// Containers that were placed.
    pub placed: u64,
    /// Containers that fit nowhere now, and wait for capacity.
    pub parked: u64,
    /// There may be more: come again at once.
    pub more: bool,
}

/// Placing containers.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Takes up to `batch` of the longest waiting containers and places each: a live worker of its pool with enough free CPU, memory
    /// and GPUs; among those one that holds objects of its image, else the one that it fills best. Placing = reserving, a new
    /// attempt with a new fencing token, state scheduled, an event, a `dispatch` in the outbox. Several replicas do not wait for each
    /// other: rows that another one holds are skipped.
    async fn place(&self, batch: u32) -> Result<Placed>;
    /// Wakes parked containers that would fit now, at most `limit`; tells how many. What changes capacity wakes by itself; this finds what
    /// slipped between two replicas.
    async fn unpark(&self, limit: u32) -> Result<u64>;
    /// How long until the next container may be placed, if all that are ready now have been: of those that wait after a loss.
    async fn next_ready(&self) -> Result<Option<Duration>>;
    /// Containers in the queue: ready, parked.
    async fn queue_length(&self) -> Result<(u64, u64)>;
}

/// What a worker is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryKind {
    /// Run this.
    Dispatch,
    /// Stop this.
    Cancel,
    /// Newer credentials are there.
    Credentials,
}

/// A message in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its number: the same again is the same message.
    pub delivery: u64,
    /// What.
    pub kind: DeliveryKind,
    /// Of which dispatch.
    pub lease: Lease,
}

/// Messages that are sent at least once.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// What is not acknowledged, in order, after `after`.
    async fn deliveries(&self, worker: &WorkerId, after: u64, limit: u32) -> Result<Vec<Delivery>>;
    /// It has arrived.
    async fn acknowledge(&self, worker: &WorkerId, deliveries: &[u64]) -> Result<()>;
    /// Messages that wait, of all workers.
    async fn outbox_length(&self) -> Result<u64>;
}

/// Output of containers.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Keeps pieces; the same position again is nothing. Of a container's output at most `cap` bytes are kept, the first ones.
    /// [`StoreError::Stale`].
    async fn append_logs(&self, worker: &WorkerId, lease: &Lease, pieces: &[LogLine], cap: u64)
    -> Result<()>;
    /// Pieces from a position on, in order.
    async fn logs(
        &self,
        workspace: &WorkspaceId,
        container: &ContainerId,
        from: LogPosition,
        limit: u32,
    ) -> Result<Vec<LogLine>>;
}

/// Who did what.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Notes what changed nothing, or failed. Changes note themselves.
    async fn note(&self, change: &Change<'_>, result: &str) -> Result<()>;
    /// Newest first: time, actor, action, target, result.
    async fn audited(
        &self,
        workspace: Option<&WorkspaceId>,
        limit: u32,
    ) -> Result<Vec<(Time, String, String, String, String)>>;
}

/// What has outlived its use.
#[async_trait]
pub trait Housekeeping: Send + Sync {
    /// Deletes ended containers with their events and logs, outcomes for retries, expired tokens, and clip indexes that no image has,
    /// all older than `age`; a bounded number at a time. Tells how many rows went.
    async fn tidy(&self, age: Duration) -> Result<u64>;
    /// The database answers and has this version's tables.
    async fn ready(&self) -> Result<()>;
}

/// Word of changes, across replicas. It may be lost: whoever waits looks by himself now and then.
#[async_trait]
pub trait Announcements: Send + Sync {
    /// Hears what changes from now on.
    fn topics(&self) -> Topics;
}

/// A store, shared.
pub type SharedStore = Arc<dyn Store>;
