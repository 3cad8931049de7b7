//! Word of changes: which rows are worth a look.

use tokio::sync::broadcast;

use crate::model::{ContainerId, WorkerId, WorkspaceId};

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Something can be placed.
    Queue,
    /// A worker's outbox.
    Worker(WorkerId),
    /// A container's state or output.
    Container(WorkspaceId, ContainerId),
    /// Anything: word was lost, look at everything.
    Everything,
}

/// A listener. [`Topics::next`] never fails: what was missed arrives as [`Topic::Everything`].
#[derive(Debug)]
pub struct Topics(broadcast::Receiver<Topic>);

impl Topics {
    pub(super) const fn new(receiver: broadcast::Receiver<Topic>) -> Self {
        Self(receiver)
    }

    /// The next change. Cancel safe. Never returns once the store is gone.
    pub async fn next(&mut self) -> Topic {
        match self.0.recv().await {
            Ok(topic) => topic,
            Err(broadcast::error::RecvError::Lagged(_)) => Topic::Everything,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
