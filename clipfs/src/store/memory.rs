//! Decoded chunks in memory: an LRU with a byte budget.
