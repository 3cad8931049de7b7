//! The one place where errors become errnos; counted and logged here and nowhere else.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use fuser::Errno;

use crate::read::ReadError;
use crate::vfs::VfsError;

/// What a caller did wrong. Not logged: looking for a name that is not there is no event.
pub(crate) fn of_vfs(error: VfsError) -> Errno {
    match error {
        VfsError::NotFound => Errno::ENOENT,
        VfsError::NotADirectory => Errno::ENOTDIR,
        VfsError::IsADirectory => Errno::EISDIR,
        VfsError::NotASymlink => Errno::EINVAL,
        VfsError::NoAttribute => Errno::ENODATA,
        VfsError::NameTooLong => Errno::ENAMETOOLONG,
    }
}

/// Bytes that cannot be had or cannot be proved: always EIO. The kernel caches no page of a failed read, so the next
/// read asks again.
pub(crate) fn of_read(error: &ReadError) -> Errno {
    match error {
        ReadError::Registry(..)
        | ReadError::Decode(..)
        | ReadError::Mismatch(_)
        | ReadError::Deadline(_)
        | ReadError::NoContent
        | ReadError::Offline(_)
        | ReadError::Abandoned => Errno::EIO,
    }
}

/// At most one line a second: a registry that is down under a thousand readers must not fill a disk with logs.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Logs failed reads, now and then.
#[derive(Debug, Default)]
pub(crate) struct ReadErrorLog {
    state: Mutex<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    last: Option<Instant>,
    suppressed: u64,
}

impl ReadErrorLog {
    /// Whether a line is due now, and how many were left out since the last one.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.last.is_some_and(|last| now.duration_since(last) < LOG_EVERY) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }

    /// Logs the error with its causes if a line is due.
    pub(crate) fn log(&self, ino: u64, offset: u64, error: &ReadError) {
        let Some(suppressed) = self.due(Instant::now()) else { return };
        let causes = crate::read::sentence(error);
        tracing::error!(ino, offset, suppressed, "read failed: {causes}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn vfs_errors_have_their_errno() {
        let table = [
            (VfsError::NotFound, libc::ENOENT),
            (VfsError::NotADirectory, libc::ENOTDIR),
            (VfsError::IsADirectory, libc::EISDIR),
            (VfsError::NotASymlink, libc::EINVAL),
            (VfsError::NoAttribute, libc::ENODATA),
            (VfsError::NameTooLong, libc::ENAMETOOLONG),
        ];
        for (error, errno) in table {
            assert_eq!(of_vfs(error).code(), errno, "{error}");
        }
    }

    #[test]
    fn every_read_error_is_eio() {
        for error in [
            ReadError::Mismatch(Arc::from("chunk")),
            ReadError::Deadline(Duration::from_secs(1)),
            ReadError::NoContent,
        ] {
            assert_eq!(of_read(&error).code(), libc::EIO);
        }
    }

    #[test]
    fn logs_once_a_second_and_counts_the_rest() {
        let log = ReadErrorLog::default();
        let start = Instant::now();
        assert_eq!(log.due(start), Some(0));
        assert_eq!(log.due(start + Duration::from_millis(10)), None);
        assert_eq!(log.due(start + Duration::from_millis(900)), None);
        assert_eq!(log.due(start + Duration::from_millis(1001)), Some(2));
        assert_eq!(log.due(start + Duration::from_millis(2500)), Some(0));
    }
}
