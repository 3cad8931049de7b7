//! Zstandard: frames, skippable frames, and long frames that only decode from their start.
