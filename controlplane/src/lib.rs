//! The control plane: workspaces, secrets, images, workers and containers.
//!
//! The modules form layers, top to bottom; a module imports only what stands below it (`tests/architecture.rs` holds the table):
//!
//! | level | modules |
//! | --- | --- |
//! | 6 | [`cli`]: commands: the server, the operator's, and clients' |
//! | 5 | [`server`]: listening, TLS, who is calling, metrics, shutdown |
//! | 4 | [`service`]: the RPCs |
//! | 3 | [`scheduler`]: places containers, finds lost workers · [`imaging`]: tries credentials, builds indexes |
//! | 2 | [`credentials`]: an image's credentials as they are now |
//! | 1 | [`vault`]: secrets at rest · [`store`]: what is known, in SQLite or PostgreSQL |
//! | 0 | [`model`]: identities, records, clock |
//!
//! A secret's value exists in three places: in the request that brings it, sealed in the database, and in what is sent to the worker
//! that runs its container.

pub mod cli;
pub mod credentials;
pub mod imaging;
pub mod model;
pub mod scheduler;
pub mod server;
pub mod service;
pub mod store;
pub mod vault;
