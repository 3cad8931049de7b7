//! Names and documents of the OCI specifications: digests, references, manifests, image configs.
//!
//! Pure: parses bytes, never fetches them. Who fetches is [`crate::registry`].

pub mod digest;
pub mod manifest;
pub mod platform;
pub mod printable;
pub mod reference;

pub use digest::Digest;
pub use manifest::{Descriptor, ImageConfig, Manifest};
pub use platform::Platform;
pub use reference::{ImageSpec, Reference};
