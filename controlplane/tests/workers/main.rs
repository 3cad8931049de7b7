//! The worker's service over gRPC, with a real database (SQLite) and a scripted worker.

mod bench;
mod credentials;
mod streams;
