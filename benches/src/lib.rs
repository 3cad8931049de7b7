//! The side-by-side harness: each row is a median, its peer was measured in the same run, and anyone can run it again.

pub mod build;
pub mod cold;
pub mod metadata;
pub mod report;
pub mod sandbox;
pub mod warm;
