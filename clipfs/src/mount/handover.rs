//! What the keeper hands to each of its servers besides the connection: the clip index and, where it is in memory only, the
//! ContainerRequest, both open. They go over the socket on which the server reports.
//!
//! Not by a name below the keeper's `/proc`: a keeper that has seen secrets hides its own from everybody without CAP_SYS_PTRACE.
//! Nothing is inherited but standard descriptors, so whatever else the server starts has neither.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The byte that the descriptors travel with: without one nothing is sent.
const HERE: u8 = b'h';

/// Most descriptors that are handed over.
const MOST: usize = 2;

/// What a server has been handed, under names that only it can open. The descriptors stay open as long as it lives.
#[derive(Debug)]
pub(super) struct Held {
    /// The clip index: the same bytes, whoever removes or replaces the file.
    pub(super) index: PathBuf,
    /// The ContainerRequest.
    pub(super) request: Option<PathBuf>,
}

/// Puts the descriptors into a socket; whoever reads from the other end takes them out. Does not wait for that.
pub(super) fn give(socket: &UnixStream, index: &File, request: Option<&OwnedFd>) -> io::Result<()> {
    let mut held = vec![index.as_raw_fd()];
    held.extend(request.map(|request| request.as_raw_fd()));
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&[HERE])],
        &[ControlMessage::ScmRights(&held)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent == 1 { Ok(()) } else { Err(io::Error::other("the socket takes nothing")) }
}

/// Takes them out. They are closed on exec: no plugin has them.
///
/// # Errors
/// No keeper, or one that hands over something else.
pub(super) fn take(socket: &UnixStream, with_request: bool) -> io::Result<Held> {
    let (mut byte, mut space) = ([0], nix::cmsg_space!([RawFd; MOST]));
    let mut into = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), flags)?;
    let mut found = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(held) = part {
            found.extend(held);
        }
    }
    let name = |fd: RawFd| PathBuf::from(format!("/proc/self/fd/{fd}"));
    match (found.as_slice(), with_request) {
        (&[index], false) => Ok(Held { index: name(index), request: None }),
        (&[index, request], true) => Ok(Held { index: name(index), request: Some(name(request)) }),
        _ => Err(io::Error::other("the keeper has not handed over what it holds")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn both_arrive_in_order_and_can_be_read_again() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (index, request) = (file("index"), OwnedFd::from(file("request")));
        give(&ours, &index, Some(&request)).unwrap();
        give(&ours, &index, None).unwrap();
        drop((ours, index, request));
        let held = take(&theirs, true).unwrap();
        for _ in 0..2 {
            assert_eq!(std::fs::read(&held.index).unwrap(), b"index");
            assert_eq!(std::fs::read(held.request.as_ref().unwrap()).unwrap(), b"request");
        }
        let held = take(&theirs, false).unwrap();
        assert_eq!(std::fs::read(&held.index).unwrap(), b"index");
        assert_eq!(held.request, None);
    }

    #[test]
    fn what_is_missing_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        give(&ours, &file("index"), None).unwrap();
        assert!(take(&theirs, true).is_err(), "a request that is not there is never none");
        (&ours).write_all(b"x").unwrap();
        assert!(take(&theirs, false).is_err());
        drop(ours);
        assert!(take(&theirs, false).is_err());
    }
}
