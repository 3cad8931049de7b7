//! Opens and reads: what FUSE threads and the tasks that answer for them have in common.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fuser::{Errno, FileHandle, FopenFlags, ReplyData, ReplyOpen};
use tokio::sync::Semaphore;

use super::backing::{self, Backing};
use super::ledger::{KernelInit, Ledger};
use super::modes::{Held, Modes};
use super::stats::Stats;
use super::{FuseOptions, errno};
use crate::index::ContentId;
use crate::read::{Opened, ReadError, Reader};
use crate::vfs::Vfs;

/// Handles of files: all that a handle says is how it was opened.
const FH_CACHED: FileHandle = FileHandle(1);
const FH_PASSTHROUGH: FileHandle = FileHandle(2);
pub(super) const FH_EMPTY: FileHandle = FileHandle(3);

/// Reads that wait for disk or network at the same time. More wait their turn, within their deadline.
const CONCURRENT_READS: usize = 512;

/// What FUSE threads, tasks and `status` share.
#[derive(Debug)]
pub struct Shared {
    pub(super) vfs: Vfs,
    pub(super) reader: Reader,
    pub(super) modes: Modes<Backing>,
    stats: Stats,
    errors: errno::ReadErrorLog,
    pub(super) kernel_init: OnceLock<KernelInit>,
    pub(super) passthrough: AtomicBool,
    deadline: Duration,
    permits: Semaphore,
}

impl Shared {
    pub(super) fn new(vfs: Vfs, reader: Reader, options: FuseOptions, ledger: Ledger) -> io::Result<Self> {
        Ok(Self {
            vfs,
            reader,
            modes: Modes::new(ledger)?,
            stats: Stats::default(),
            errors: errno::ReadErrorLog::default(),
            kernel_init: OnceLock::new(),
            passthrough: AtomicBool::new(options.passthrough),
            deadline: options.deadline,
            permits: Semaphore::new(CONCURRENT_READS),
        })
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Handles open now.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        self.modes.open_files()
    }

    /// Whether complete objects are handed to the kernel.
    #[must_use]
    pub fn passes_through(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    /// Leaves backing ids to the next server: before exiting without unmounting.
    pub fn abandon(&self) {
        self.modes.abandon();
    }

    pub(super) fn answer_open(&self, reply: ReplyOpen, held: &Held<Backing>) {
        match held {
            Held::Cached => {
                Stats::add(&self.stats.opens_cached, 1);
                reply.opened(FH_CACHED, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            }
            Held::Passthrough(backing) => {
                Stats::add(&self.stats.opens_passthrough, 1);
                reply.opened_passthrough(FH_PASSTHROUGH, FopenFlags::FOPEN_NOFLUSH, backing.id());
            }
        }
    }

    pub(super) async fn open(&self, ino: u64, content: ContentId, reply: ReplyOpen) {
        let held = match self.reader.open(content).await {
            Ok(Opened::Object(object)) if self.passes_through() => {
                let register = || backing::register(&reply, object);
                self.modes.enter_passthrough(ino, |raw| backing::inherit(&reply, raw), register)
            }
            Ok(Opened::Object(_) | Opened::Cached) => {
                Ok(self.modes.enter_cached(ino, |raw| backing::inherit(&reply, raw)))
            }
            Err(error) => {
                self.refuse_read(ino, 0, &error);
                return reply.error(errno::of_read(&error));
            }
        };
        let held = held.unwrap_or_else(|error| {
            if backing::is_permanent(&error) && self.passthrough.swap(false, Ordering::Relaxed) {
                tracing::warn!(%error, "passthrough is not possible with this cache directory: serving reads instead");
            }
            self.modes.enter_cached(ino, |raw| backing::inherit(&reply, raw))
        });
        self.answer_open(reply, &held);
    }

    pub(super) async fn read(
        &self,
        ino: u64,
        content: ContentId,
        offset: u64,
        len: u32,
        reply: ReplyData,
        since: Instant,
    ) {
        let bytes = tokio::time::timeout(self.deadline, async {
            let _permit = self.permits.acquire().await.map_err(|_| ReadError::NoContent)?;
            self.reader.read(content, offset, len).await
        });
        let bytes = bytes.await.unwrap_or(Err(ReadError::Deadline(self.deadline)));
        match bytes {
            Ok(bytes) => self.answer_read(ino, offset, len, &bytes, reply, since),
            Err(error) => {
                self.refuse_read(ino, offset, &error);
                reply.error(errno::of_read(&error));
            }
        }
    }

    pub(super) fn answer_read(
        &self,
        ino: u64,
        offset: u64,
        len: u32,
        bytes: &Bytes,
        reply: ReplyData,
        since: Instant,
    ) {
        if bytes.len() != crate::num::idx(len) {
            // The kernel would fill up with zeros.
            tracing::error!(ino, offset, len, got = bytes.len(), "short read");
            Stats::add(&self.stats.read_errors, 1);
            return reply.error(Errno::EIO);
        }
        reply.data(bytes);
        Stats::add(&self.stats.reads, 1);
        Stats::add(&self.stats.read_bytes, u64::from(len));
        self.stats.read_latency.record(since.elapsed());
    }

    fn refuse_read(&self, ino: u64, offset: u64, error: &ReadError) {
        Stats::add(&self.stats.read_errors, 1);
        self.errors.log(ino, offset, error);
    }
}
