//! Maps an index file read-only: the one place of the index that needs `unsafe`.
//!
//! An index file is made under a temporary name, renamed when it is complete, and never modified in place; whoever
//! replaces it renames another one over it, and this map keeps the old inode. Against somebody who breaks that rule:
//!
//! * Bytes that change after validation make accessors answer nonsense or `None`, never a panic or an access outside of the
//!   file: every offset is checked again at every access. File data stays safe, for it is verified by digest.
//! * A file that is cut shorter makes an access fault (SIGBUS). Only who may write to the index can do that, and they
//!   could stop the daemon more easily; copying the file instead would make mount time and memory grow with the image.
#![expect(unsafe_code, reason = "mmap and madvise have no safe form")]

use std::fs::File;
use std::ops::Deref;

use memmap2::{Mmap, UncheckedAdvice};

/// The bytes of an index.
#[derive(Debug)]
pub(super) enum Bytes {
    /// A mapped file.
    Mapped(Mmap),
    /// In memory.
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a whole file. An empty one is no map but empty bytes.
    pub(super) fn map(file: &File) -> std::io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::Owned(Vec::new()));
        }
        // SAFETY: the map is read-only and private to this process' reading; index files are never modified in place
        // (see above), and all reads go through bounds-checked slices of bytes, for which every bit pattern is valid.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self::Mapped(map))
    }

    /// Lets the kernel take the pages that validation has touched out of this process: they stay in the page cache, and
    /// come back one by one when they are needed. Keeps the memory of a mount independent of the image's size.
    pub(super) fn release(&self) {
        if let Self::Mapped(map) = self {
            // SAFETY: `DontNeed` is destructive for private writable memory only; this is a read-only map of a file,
            // whose pages are read again from the file.
            let advised = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
            // Advice only: without it more memory is resident, nothing else.
            drop(advised);
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
