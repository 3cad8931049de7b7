//! What a process does before it holds secrets.

use nix::sys::resource::{Resource, setrlimit};

/// No core files (this process's children have none either), and no other process of the user may look into the memory: only one
/// with CAP_SYS_PTRACE. What fails is told in the log: a mount that cannot be hardened is better than none.
pub fn harden() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(%error, "cannot turn off core files");
    }
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "cannot hide the memory of this process");
    }
}
