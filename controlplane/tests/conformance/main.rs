//! What every database must do: each case runs over SQLite and over PostgreSQL.
//!
//! PostgreSQL is Debian's: the package `postgresql` must be installed.

#[macro_use]
mod database;

mod announcements;
mod audit;
mod containers;
mod data_keys;
mod faults;
mod housekeeping;
mod idempotency;
mod images;
mod indexes;
mod logs;
mod lookups;
mod outbox;
mod queue;
mod random;
mod replicas;
mod schema;
mod secrets;
mod tokens;
mod workers;
mod workspaces;
mod yard;
