//! The `clipfs` binary end to end: real mounts, real registries, real containers. Needs root and `/dev/fuse`, and says so at
//! once where they are missing: nothing here is ever skipped.

mod bad_input;
mod containers;
mod credentials;
mod debian;
mod hygiene;
mod lazy;
mod oddities;
mod offline;
mod operations;
mod requests;
mod rotation;
mod slow_sources;
mod support;
mod survival;
mod trust;
