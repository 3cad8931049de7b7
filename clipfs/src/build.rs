//! Builds clip indexes: streams each layer once, layers in parallel, memory bounded.
