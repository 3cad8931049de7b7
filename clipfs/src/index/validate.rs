//! Validates an untrusted index in O(size), without allocating by its numbers.
