//! Secrets at rest in real databases: what was changed behind the control plane's back does not open, and rotations that are killed are gone
//! on with. Each case runs over SQLite and over PostgreSQL.

#[macro_use]
mod bench;

mod killed;
mod rotation;
mod tampering;
