//! Takes a `/dev/fuse` descriptor into service: the first time with the kernel's own handshake, after a restart by adoption.
//!
//! Adoption: the connection is initialised and the kernel will not send FUSE_INIT again, but [`Session::from_fd`] insists on it. So
//! the session gets one end of a socket pair on which a FUSE_INIT lies queued, with the same words that the kernel sent the first time;
//! then the real descriptor is put over that end, and the kernel is asked to send again what the dead server had read and not
//! answered. All our operations are idempotent.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use fuser::{Config, InitFlags, Session, SessionACL};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use super::ClipFs;
use super::ledger::{KernelInit, halves};

/// FUSE_INIT's opcode (`include/uapi/linux/fuse.h`).
const FUSE_INIT: u32 = 26;
/// Lengths of `fuse_in_header` and `fuse_init_in`.
const INIT_LEN: u32 = 40 + 64;
/// Notification code: send again all requests that were read and not answered (Linux 6.9).
const FUSE_NOTIFY_RESEND: u32 = 7;

/// Requests are served by 2–4 threads: each waits for nothing but the kernel.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 4)
}

/// Starts serving: returns when the kernel and the file system know each other. [`Session::run`] then serves until the mount is gone.
///
/// # Errors
/// The handshake fails, or the ledger cannot be written.
pub fn open(filesystem: ClipFs, fuse: OwnedFd) -> io::Result<Session<ClipFs>> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads());
    // Requests read through a cloned descriptor die with it: they could not be sent again.
    config.clone_fd = false;
    let shared = filesystem.shared();
    match shared.modes.ledger().kernel_init()? {
        None => {
            let session = Session::from_fd(filesystem, fuse, SessionACL::All, config)?;
            let init = shared.kernel_init.get().ok_or_else(|| io::Error::other("no FUSE_INIT came"))?;
            shared.modes.ledger().set_kernel_init(init)?;
            Ok(session)
        }
        Some(init) => adopt(filesystem, &fuse, config, &init),
    }
}

fn adopt(
    filesystem: ClipFs,
    fuse: &OwnedFd,
    config: Config,
    init: &KernelInit,
) -> io::Result<Session<ClipFs>> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let request = init_request(init);
    let sent = nix::sys::socket::send(theirs.as_raw_fd(), &request, MsgFlags::MSG_NOSIGNAL)?;
    if sent != request.len() {
        return Err(io::Error::other("short write to a socket pair"));
    }
    let session = Session::from_fd(filesystem, ours, SessionACL::All, config)?;
    put_over(fuse, &session)?;
    drop(theirs);
    let mut resend = Vec::with_capacity(16);
    for word in [16, FUSE_NOTIFY_RESEND, 0, 0] {
        resend.extend_from_slice(&word.to_ne_bytes());
    }
    nix::unistd::write(fuse, &resend)?;
    Ok(session)
}

/// Makes the session's descriptor number refer to what `real` refers to.
#[expect(unsafe_code, reason = "fuser has no way to exchange a session's descriptor")]
fn put_over(real: &OwnedFd, session: &Session<ClipFs>) -> io::Result<()> {
    let number = session.as_fd().as_raw_fd();
    // SAFETY: the session owns an open descriptor of that number and outlives this function; `ManuallyDrop` keeps this second
    // name for it from closing it.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    nix::unistd::dup3(real, &mut target, nix::fcntl::OFlag::O_CLOEXEC)?;
    Ok(())
}

/// The bytes of a FUSE_INIT request: `fuse_in_header`, then `fuse_init_in`.
fn init_request(init: &KernelInit) -> Vec<u8> {
    let mut request = Vec::new();
    for word in [INIT_LEN, FUSE_INIT] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    // unique, nodeid
    for word in [1_u64, 0] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    let (low, high) = halves(init.flags | InitFlags::FUSE_INIT_EXT.bits());
    // uid, gid, pid, padding; then the body.
    for word in [0, 0, 0, 0, init.major, init.minor, init.max_readahead, low, high] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    request.resize(crate::num::idx(INIT_LEN), 0);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_made_up_init_is_laid_out_as_the_kernel_does() {
        let init = KernelInit { major: 7, minor: 45, max_readahead: 0x2_0000, flags: (1 << 37) | 1 };
        let request = init_request(&init);
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        assert_eq!(request.len(), 104);
        assert_eq!((word(0), word(4)), (104, 26));
        assert_eq!((word(40), word(44), word(48)), (7, 45, 0x2_0000));
        assert_eq!((word(52), word(56)), (1 | (1 << 30), 1 << 5));
    }
}
