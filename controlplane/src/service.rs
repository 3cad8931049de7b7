//! The RPCs: from messages to repositories and back.
//!
//! One file a service. What they share: [`caller`] (who is it), [`status`] (what an error means), [`page`], [`validate`],
//! [`convert`] (records and messages), [`change`] (audit and retries).

pub mod caller;
pub mod change;
pub mod convert;
pub mod image;
pub mod page;
pub mod status;
pub mod validate;

pub use caller::{Caller, caller};
