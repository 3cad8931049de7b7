//! Files handed to the kernel for passthrough.

use std::io;

use fuser::{BackingId, ReplyOpen};

use crate::store::ObjectFile;

/// A registered backing file. Dropping it closes the id in the kernel (handles that use it go on working) and unpins the object.
#[derive(Debug)]
pub(crate) struct Backing {
    /// Before `object`: fields drop in order, and the id goes first.
    id: BackingId,
    /// Pins the object in the store; `None` when the id was inherited from an earlier server.
    _object: Option<ObjectFile>,
}

impl Backing {
    /// The id to answer with.
    pub(crate) fn id(&self) -> &BackingId {
        &self.id
    }
}

/// Registers an object with the connection of `reply`. Needs `CAP_SYS_ADMIN` and a file system that is not itself stacked.
pub(crate) fn register(reply: &ReplyOpen, object: ObjectFile) -> io::Result<(u32, Backing)> {
    let raw = reply.open_backing(&object.file)?.into_raw();
    Ok((raw, Backing { id: own(reply, raw), _object: Some(object) }))
}

/// Takes an id into ownership that an earlier server of this connection registered.
pub(crate) fn inherit(reply: &ReplyOpen, raw: u32) -> Backing {
    Backing { id: own(reply, raw), _object: None }
}

/// fuser tells the number of an id only when it is given up, and the next server must know the number.
#[expect(unsafe_code, reason = "the only way to name a backing id across a restart")]
fn own(reply: &ReplyOpen, raw: u32) -> BackingId {
    // SAFETY: `raw` was registered with this connection, by this process a moment ago or by the server before it (its number
    // comes from the ledger), and nobody else owns it: `Modes` holds at most one owner for each id and only that closes it. A
    // wrong number could at worst name another backing file of this connection: no memory depends on it.
    unsafe { reply.wrap_backing(raw) }
}

/// Whether an error of [`register`] will come again for every file: then passthrough is given up for this mount.
pub(crate) fn is_permanent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::ELOOP | libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL | libc::ENOSYS)
    )
}
