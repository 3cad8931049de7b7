//! The real server, in process, on SQLite: who may call what, what tenants see of each other, limits, TLS, an orderly end.

mod auth;
mod harness;
mod limits;
mod serving;
mod tenants;
