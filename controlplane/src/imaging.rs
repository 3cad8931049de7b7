//! Build time: tries an image's credentials against its registry, builds its clip index, and keeps both.
