//! Behaviour on the wire, against a server that answers as it is told; and images on disk.

mod auth;
mod local;
mod names;
mod proof;
mod provider;
mod redirects;
mod refusals;
mod renewal;
mod server;
mod wire;
