//! The RPCs: from messages to repositories and back.
//!
//! One file a service. What they share: `caller` (who is it), `status` (what an error means), `page`, `validate`,
//! `convert` (records and messages), `change` (audit and retries).

pub mod admin;
pub mod caller;
pub mod change;
pub mod container;
pub mod convert;
pub mod image;
pub mod page;
pub mod secret;
pub mod status;
pub mod validate;
pub mod worker;

pub use admin::Admin;
pub use caller::{Caller, caller};
pub use container::Containers;
pub use image::Images;
pub use secret::Secrets;
pub use worker::{WorkerRpc, WorkerSettings};

/// Largest message that is taken: values and requests are small, indexes go in pieces.
pub const MAX_MESSAGE: usize = 1 << 20;
