//! What a build tells while it works.

use crate::oci::Digest;

/// Told how a build proceeds, from several threads and tasks at once. Implementations must not block.
pub trait Progress: Send + Sync {
    /// A layer (its position in the manifest) of so many compressed bytes is going to be read; told again when its
    /// transfer starts over.
    fn layer(&self, position: usize, digest: &Digest, size: u64);
    /// So many more compressed bytes of the layer have arrived.
    fn advanced(&self, position: usize, bytes: u64);
    /// The layer is done.
    fn done(&self, position: usize);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn layer(&self, _position: usize, _digest: &Digest, _size: u64) {}
    fn advanced(&self, _position: usize, _bytes: u64) {}
    fn done(&self, _position: usize) {}
}
