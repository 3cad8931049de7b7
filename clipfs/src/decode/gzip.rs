//! gzip: finding checkpoints, and inflating from them.
