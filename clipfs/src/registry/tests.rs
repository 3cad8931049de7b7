//! Behaviour on the wire, against a server that answers as it is told; and images on disk.

mod auth;
mod local;
mod proof;
mod provider;
mod names;
mod redirects;
mod refusals;
mod renewal;
mod server;
mod wire;
