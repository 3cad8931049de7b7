//! What a process that holds secrets does first.

use credplugin::{Code, Error};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limit for core files, in bytes: the only one that the kernel goes by where cores are piped to a program
/// (`fs/coredump.c`: `cprm.limit == 1`; zero is passed over), and too little to begin a file for.
const CORE_LIMIT: u64 = 1;

/// No core dumps, and no other process of this user reads our memory or environment.
pub(super) fn harden() -> Result<(), Error> {
    let limited = setrlimit(Resource::RLIMIT_CORE, CORE_LIMIT, CORE_LIMIT).or_else(|_| {
        // A hard limit of zero, which an ordinary user cannot raise.
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
        let limit = hard.min(CORE_LIMIT);
        setrlimit(Resource::RLIMIT_CORE, limit, limit)
    });
    limited
        .and_then(|()| set_dumpable(false))
        .map_err(|error| Error::new(Code::Internal, format!("core dumps cannot be turned off: {error}")))
}
