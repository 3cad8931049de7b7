//! `--request`: a regular file stays a path, which is read again at every ask. What can be read only once (standard input, a
//! FIFO, `<(…)` of a shell) is read here into sealed memory without a file, and lives as long as somebody holds it.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use credplugin::request::MAX_REQUEST;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::credentials::CredentialError;
use crate::num::to_u64;

/// What `--request` names.
#[derive(Debug)]
pub(super) struct Request {
    /// Where it is read.
    pub(super) path: PathBuf,
    /// The memory behind `path`, if it is no file of its own. Close-on-exec: no plugin inherits it.
    pub(super) held: Option<OwnedFd>,
}

impl Request {
    /// Takes the argument. Blocks until the end of what can be read only once.
    pub(super) fn take(argument: &Path) -> Result<Self, Failure> {
        let refuse = |source| Failure::Request { path: argument.to_owned(), source };
        if argument == Path::new("-") {
            // Not through `std::io::Stdin`, whose buffer would keep a copy.
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(refuse)?;
            return Self::hold(File::from(stdin), "standard input", refuse);
        }
        let path = std::path::absolute(argument).map_err(refuse)?;
        // What is not there is told by whoever reads it.
        let is_file = std::fs::metadata(&path).map_or(true, |found| found.is_file());
        // They are something else in every process. `/dev/shm` is a file system like any other.
        let is_ours_alone = ["/dev/stdin", "/dev/fd", "/proc"].iter().any(|dir| path.starts_with(dir));
        if is_file && !is_ours_alone {
            return Ok(Self { path, held: None });
        }
        Self::hold(File::open(&path).map_err(refuse)?, &argument.display().to_string(), refuse)
    }

    fn hold(source: File, name: &str, refuse: impl Fn(io::Error) -> Failure) -> Result<Self, Failure> {
        // One allocation that never grows leaves no copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_REQUEST + 1));
        source.take(to_u64(MAX_REQUEST) + 1).read_to_end(&mut bytes).map_err(&refuse)?;
        if bytes.len() > MAX_REQUEST {
            let reason = format!("{name} is longer than {} MiB", MAX_REQUEST >> 20);
            return Err(CredentialError::Malformed(reason).into());
        }
        let held = sealed(&bytes).map_err(refuse)?;
        Ok(Self { path: format!("/proc/self/fd/{}", held.as_raw_fd()).into(), held: Some(held) })
    }
}

/// A file that is memory only, and that nobody can change any more.
fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("clipfs-request", flags)?);
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(0o400))?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn a_regular_file_stays_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        std::fs::write(&path, "{}").unwrap();
        let request = Request::take(&path).unwrap();
        assert_eq!(request.path, path);
        assert!(request.held.is_none());
        assert!(Request::take(&dir.path().join("none")).unwrap().held.is_none());
    }

    #[test]
    fn what_is_read_once_is_sealed_and_read_again_at_will() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        let writer = std::thread::spawn({
            let fifo = fifo.clone();
            move || std::fs::write(fifo, "the request").unwrap()
        });
        let request = Request::take(&fifo).unwrap();
        writer.join().unwrap();
        for _ in 0..2 {
            assert_eq!(std::fs::read(&request.path).unwrap(), b"the request");
        }
        let held = File::from(request.held.unwrap());
        assert!(held.write_at(b"x", 0).is_err(), "sealed");
        assert!(held.set_len(1).is_err(), "sealed");
    }

    #[test]
    fn names_of_own_descriptors_are_read_at_once() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"{}", 0).unwrap();
        for dir in ["/dev/fd", "/proc/self/fd"] {
            let request = Request::take(Path::new(&format!("{dir}/{}", file.as_raw_fd()))).unwrap();
            assert!(request.held.is_some() && request.path.starts_with("/proc/self/fd"), "{request:?}");
            assert_eq!(std::fs::read(&request.path).unwrap(), b"{}");
        }
    }

    #[test]
    fn the_cap_holds_for_what_has_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        for (size, fits) in [(1 << 20, true), ((1 << 20) + 1, false)] {
            std::thread::scope(|scope| {
                // Broken off where it is too long.
                scope.spawn(|| drop(std::fs::write(&fifo, vec![b' '; size])));
                assert_eq!(Request::take(&fifo).is_ok(), fits, "{size}");
            });
        }
        let error = Request::take(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(super::super::exit::code(&error), crate::exit::DATA);
        assert!(error.sentence().contains("/dev/zero is longer than 1 MiB"), "{}", error.sentence());
    }
}
