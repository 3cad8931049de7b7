//! Identities, records, the clock: words for all. No I/O, and never a secret's value.

mod clock;
mod container;
mod id;
mod image;
mod page;
mod secret;
mod token;
mod worker;
mod workspace;

pub use clock::{Clock, ManualClock, SystemClock, Time};
pub use container::{
    Container, ContainerState, Demand, Lease, LogLine, LogPosition, LogStream, NewContainer, Report,
    StartCost,
};
pub use id::{ContainerId, ImageId, KeyId, SecretId, TokenId, WorkerId, WorkspaceId};
pub use image::{ClipIndexInfo, Image, ImageCredentialSource};
pub use page::{Page, PageRequest};
pub use secret::{DataKey, Sealed, Secret, SecretRow};
pub use token::{Token, TokenKind};
pub use worker::{Beat, Capacity, Registration, Worker};
pub use workspace::Workspace;
