//! The merged tree in memory, on its way into a clip index.

/// A merged image: inodes, sorted directories, names, contents, xattrs.
#[derive(Debug)]
pub struct Tree {}

impl Tree {
    /// Number of inodes.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        unimplemented!()
    }
}
