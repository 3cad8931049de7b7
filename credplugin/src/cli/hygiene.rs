//! What a process that holds secrets does first.

use credplugin::{Code, Error};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// No core dumps, and no other process of this user reads our memory or environment.
pub(super) fn harden() -> Result<(), Error> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
        .and_then(|()| set_dumpable(false))
        .map_err(|error| Error::new(Code::Internal, format!("core dumps cannot be turned off: {error}")))
}
