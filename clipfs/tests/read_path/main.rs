//! The read path as a whole: index, reader, store and a registry that misbehaves, without a mount.
//!
//! Everything runs as anybody, except what needs a full disk: that mounts a tmpfs and says so where it may not.

mod ahead;
mod bytes;
mod disk;
mod faults;
mod flights;
mod lanes;
mod outage;
mod support;
