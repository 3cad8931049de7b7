//! The whole story, with processes as they are in production: registry, control plane, workers, containers.
//!
//! Needs root, `/dev/fuse`, docker-registry, skopeo, crun, PostgreSQL, and the programs `clipfs` and `credplugin` beside `controlplane`. Fails
//! where one is missing.

mod credential;
mod death;
mod ledger;
mod python;
mod replicas;
mod whole;
mod world;
