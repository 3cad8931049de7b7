//! clipfs mounts unmodified OCI images lazily: the node's side.
//!
//! The modules form layers, top to bottom; a module imports only what stands below it
//! (`tests/architecture.rs` holds the table, `docs/ARCHITECTURE.md` tells the story):
//!
//! | level | modules |
//! | --- | --- |
//! | 5 | [`cli`] |
//! | 4 | [`mount`], [`build`], [`config`] |
//! | 3 | [`fuse`], [`exit`] |
//! | 2 | [`vfs`], [`read`] |
//! | 1 | [`store`], [`registry`], [`credentials`] |
//! | 0 | [`index`] ▸ [`image`] ▸ [`decode`] ▸ [`oci`] ▸ [`num`] |

pub mod build;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod decode;
pub mod exit;
pub mod fuse;
pub mod image;
pub mod index;
pub mod mount;
pub mod num;
pub mod oci;
pub mod read;
pub mod registry;
pub mod store;
pub mod vfs;
pub mod worker;
