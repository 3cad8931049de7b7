//! What a process does before it holds secrets: no core files, of it and of the plugins that it runs, and no looking into its memory.
//!
//! Both are needed. `PR_SET_DUMPABLE` 0 stops every core file of this process, wherever `core_pattern` leads, but ends with an
//! `execve`: plugins of others begin without it. Limits are inherited. A limit of **one byte** stops them:
//! no file is begun for less than a page, and for a core that is piped to a program (`core_pattern` with a `|`) the kernel passes over
//! every limit, zero too, but this one (`fs/coredump.c`: `cprm.limit == 1`). What remains are cores of others' plugins
//! that a kernel since 6.16 sends to a socket (`core_pattern` with an `@`): no limit stops these.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limit for core files, in bytes.
pub const CORE_LIMIT: u64 = 1;

/// No core files (this process's children have none either), and no other process of the user may look into the memory: only one
/// with CAP_SYS_PTRACE. What fails is told in the log: a mount that cannot be hardened is better than none.
pub fn harden() {
    if let Err(error) = limit_cores() {
        tracing::warn!(%error, "cannot turn off core files");
    }
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "cannot hide the memory of this process");
    }
}

/// Soft and hard limit of this process and of all that it starts from now on. Where the hard one is zero already and this process
/// may not raise it, zero it stays.
pub(super) fn limit_cores() -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, CORE_LIMIT, CORE_LIMIT).or_else(|_| {
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
        let limit = hard.min(CORE_LIMIT);
        setrlimit(Resource::RLIMIT_CORE, limit, limit)
    })
}

#[cfg(test)]
pub(super) mod tests;
