//! Strict JSON for foreign input: size, depth, duplicate keys, trailing data, byte-order marks; errors name paths, never values.
