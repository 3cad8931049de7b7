//! Making images, through the service, over SQLite and registries that are as real as they can be on one machine.

mod credentials;
mod indexes;
mod making;
mod registries;
mod sharing;
mod support;
