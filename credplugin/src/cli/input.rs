//! Reads what is foreign: bounded in bytes and in time, in buffers that are wiped.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use credplugin::{Code, Error};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zeroize::Zeroizing;

fn late() -> Error {
    bad("standard input did not end in time")
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadRequest, message)
}

/// All of standard input. What it wrote is read up to `limit` and one byte more, never further.
///
/// # Errors
/// [`Code::BadRequest`]: larger than `limit`, not complete before `deadline`, not readable.
pub(super) fn stdin(limit: usize, deadline: Instant) -> Result<Zeroizing<Vec<u8>>, Error> {
    let stdin = std::io::stdin();
    // Not through the standard library's own buffer, which is never wiped.
    let file = stdin.as_fd().try_clone_to_owned().map_err(|error| unreadable(&error))?;
    stream(file.into(), limit, deadline)
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    bad(format!("standard input cannot be read: {error}"))
}

fn stream(mut file: File, limit: usize, deadline: Instant) -> Result<Zeroizing<Vec<u8>>, Error> {
    read(&mut file, limit, "standard input", |file| {
        let rest = deadline.saturating_duration_since(Instant::now());
        // Rounded up, or the last millisecond would be spent in a loop.
        let timeout = PollTimeout::try_from(rest.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => Err(late()),
            // Who writes a byte now and then is late, too.
            Ok(_) | Err(nix::Error::EINTR) if rest.is_zero() => Err(late()),
            Ok(_) => Ok(true),
            Err(nix::Error::EINTR) => Ok(false),
            Err(error) => Err(unreadable(&error)),
        }
    })
}

/// A regular file, up to `limit`.
///
/// # Errors
/// [`Code::BadRequest`] as [`stdin`]; [`Code::Usage`]: no such file, or not a regular one.
pub(super) fn file(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    let name = path.display();
    let usage = |error: &dyn std::fmt::Display| Error::new(Code::Usage, format!("{name}: {error}"));
    // Never waits for the other end of a pipe.
    let flags = OFlag::O_NONBLOCK.bits();
    let mut file =
        OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| usage(&error))?;
    if !file.metadata().map_err(|error| usage(&error))?.is_file() {
        return Err(usage(&"not a regular file"));
    }
    read(&mut file, limit, &name.to_string(), |_| Ok(true))
}

/// Reads to the end. `ready` waits; it says whether there is something to read.
fn read(
    file: &mut File,
    limit: usize,
    name: &str,
    ready: impl Fn(&File) -> Result<bool, Error>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    // All the room at once, since a vector that grows leaves copies behind. The kernel gives zeroed pages as they are touched.
    let mut buffer = Zeroizing::new(vec![0; limit + 1]);
    let mut filled = 0;
    loop {
        if !ready(file)? {
            continue;
        }
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(error) => return Err(bad(format!("{name} cannot be read: {error}"))),
        }
        if filled > limit {
            return Err(bad(format!("{name} is larger than {limit} bytes")));
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    fn pipe() -> (File, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        (reader.into(), writer.into())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[test]
    fn nothing_comes() {
        let (reader, writer) = pipe();
        let error = stream(reader, 10, soon()).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (Code::BadRequest, "standard input did not end in time")
        );
        drop(writer);
    }

    #[test]
    fn the_end_never_comes() {
        let (reader, mut writer) = pipe();
        // Ends when nobody reads any more.
        let drip = std::thread::spawn(move || {
            while writer.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let error = stream(reader, 1 << 20, soon()).unwrap_err();
        assert_eq!(error.message, "standard input did not end in time");
        drip.join().unwrap();
    }

    #[test]
    fn up_to_the_limit() {
        for (text, limit, fits) in [("", 0, true), ("abc", 3, true), ("abcd", 3, false)] {
            let (reader, mut writer) = pipe();
            writer.write_all(text.as_bytes()).unwrap();
            drop(writer);
            let read = stream(reader, limit, Instant::now() + Duration::from_secs(60));
            assert_eq!(read.ok().as_deref().map(Vec::as_slice), fits.then_some(text.as_bytes()), "{text}");
        }
    }
}
