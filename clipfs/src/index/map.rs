//! Maps an index file read-only: the one place of the index that needs `unsafe`.
