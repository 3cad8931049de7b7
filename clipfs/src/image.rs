//! The merged tree of an image: layers applied one over the other, whiteouts and all.
//!
//! Pure and in memory; the index writer takes the [`Tree`].

pub mod entries;
pub mod merge;
pub(crate) mod nodes;
mod resolve;
mod table;
pub mod tree;
pub(crate) mod xattr;

pub use entries::LayerEntries;
pub use merge::{MergeError, Merger};
pub use tree::Tree;
