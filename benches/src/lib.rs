//! The side-by-side harness.
