//! Containers on the node: a real OCI runtime over real mounts. Needs root, `/dev/fuse`, crun, runc and a static busybox, and says so
//! at once where they are missing: nothing here is ever skipped.

mod fences;
mod life;
mod process;
mod support;
mod worker;
