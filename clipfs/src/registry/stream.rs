//! Bytes of a blob on their way, whatever happens to the connections they come by.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::RegistryError;
use super::classify::classify;
use super::local::FileStream;
use super::remote::{OpenBlob, Remote};
use super::retry::{Budget, Failure};
use super::safe_url::authority;
use crate::num::{to_u64, to_usize};
use crate::oci::Descriptor;

/// Bytes that count as progress: that many since the last failure make up for it, and fewer within the progress timeout
/// (one byte per second, say) are a stall. Bounds the requests for a range to `attempts` per 64 KiB.
const PROGRESS: u64 = 64 << 10;
/// Most that is reserved before bytes arrive: ranges are the caller's numbers.
const MAX_RESERVE: u64 = 8 << 20;

/// A blob's bytes on their way. Ends with an error if the transfer fails for good; lost connections in the middle are
/// resumed inside. Cancel safe: dropping it ends the transfer.
#[derive(Debug)]
pub struct BlobStream {
    source: Source,
    length: u64,
}

#[derive(Debug)]
enum Source {
    Http(Box<HttpStream>),
    File(FileStream),
}

impl BlobStream {
    pub(super) fn http(stream: HttpStream) -> Self {
        Self { length: stream.range.end - stream.range.start, source: Source::Http(Box::new(stream)) }
    }

    pub(super) fn file(stream: FileStream) -> Self {
        Self { length: stream.remaining(), source: Source::File(stream) }
    }

    /// The next bytes; `None` at the end of the asked range, which was then delivered in full.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        match &mut self.source {
            Source::Http(stream) => stream.next().await,
            Source::File(stream) => stream.next().await,
        }
    }

    /// All bytes in one buffer; for ranges of a few chunks.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn collect(mut self) -> Result<Bytes, RegistryError> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        if to_u64(first.len()) == self.length {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(to_usize(self.length.min(MAX_RESERVE)));
        all.extend_from_slice(&first);
        while let Some(chunk) = self.next().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}

/// A range of a blob in a registry.
pub(super) struct HttpStream {
    remote: Arc<Remote>,
    blob: Descriptor,
    /// What is still wanted.
    range: Range<u64>,
    body: Option<OpenBlob>,
    budget: Budget,
    /// Bytes since the last failure.
    progress: u64,
    /// How long was waited for the next `PROGRESS` bytes, and how many of them are there. The time a slow consumer takes
    /// does not count.
    waited: Duration,
    in_window: u64,
}

impl fmt::Debug for HttpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpStream")
            .field("blob", &self.blob.digest)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

impl HttpStream {
    /// Sends the first request: what is definitely wrong is told here.
    pub(super) async fn open(
        remote: Arc<Remote>,
        blob: &Descriptor,
        range: Range<u64>,
    ) -> Result<Self, RegistryError> {
        let budget = Budget::new(remote.attempts);
        let mut stream = Self {
            remote,
            blob: blob.clone(),
            range,
            body: None,
            budget,
            progress: 0,
            waited: Duration::ZERO,
            in_window: 0,
        };
        if !stream.range.is_empty() {
            stream.reopen().await?;
        }
        Ok(stream)
    }

    async fn reopen(&mut self) -> Result<(), RegistryError> {
        let body = self.remote.open_blob(&self.blob, &self.range, &mut self.budget).await?;
        self.body = Some(body);
        self.restart_window();
        Ok(())
    }

    fn restart_window(&mut self) {
        self.waited = Duration::ZERO;
        self.in_window = 0;
    }

    async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.range.is_empty() {
                self.body = None;
                return Ok(None);
            }
            let Some(body) = &mut self.body else {
                self.reopen().await?;
                continue;
            };
            let patience = self.remote.timeouts.progress.saturating_sub(self.waited);
            let since = Instant::now();
            let outcome = tokio::time::timeout(patience, body.response.chunk()).await;
            self.waited += since.elapsed();
            let failure = match outcome {
                Ok(Ok(Some(chunk))) => {
                    self.remote.counters.blob_bytes.fetch_add(to_u64(chunk.len()), Relaxed);
                    if let Some(wanted) = self.take(chunk) {
                        return Ok(Some(wanted));
                    }
                    continue;
                }
                Ok(Ok(None)) => self.interrupted("the connection ended early"),
                Ok(Err(error)) => classify(&error, &authority(body.response.url())),
                Err(_) => self.interrupted("the transfer stalled"),
            };
            self.body = None;
            self.progress = 0;
            let remote = Arc::clone(&self.remote);
            remote.pause(&mut self.budget, failure).await?;
        }
    }

    fn interrupted(&self, reason: &str) -> Failure {
        let host = self
            .body
            .as_ref()
            .map_or_else(|| self.remote.reference.registry.clone(), |b| authority(b.response.url()));
        Failure::transient(RegistryError::Unavailable { host, reason: reason.into() })
    }

    /// Drops what stands before and after the wanted bytes; keeps count.
    fn take(&mut self, mut chunk: Bytes) -> Option<Bytes> {
        let received = to_u64(chunk.len());
        self.progress += received;
        self.in_window += received;
        if self.progress >= PROGRESS {
            self.budget.refresh();
        }
        if self.in_window >= PROGRESS {
            self.restart_window();
        }
        if let Some(body) = &mut self.body {
            let skipped = body.skip.min(to_u64(chunk.len()));
            body.skip -= skipped;
            chunk = chunk.split_off(to_usize(skipped));
        }
        chunk.truncate(to_usize(self.range.end - self.range.start));
        self.range.start += to_u64(chunk.len());
        (!chunk.is_empty()).then_some(chunk)
    }
}
