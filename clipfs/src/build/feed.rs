//! From the async side to the decoder: a blob's bytes in portions, as a blocking [`Read`].

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::SyncSender;

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::batch::Work;
use super::progress::Progress;
use crate::num::to_u64;
use crate::oci::Descriptor;
use crate::registry::{ImageSource, RegistryError};

/// Bytes per portion: large enough that waking the decoder costs nothing, small enough to stay in its cache.
const PORTION: usize = 256 << 10;

/// Portions under way: one being decoded, one waiting, one being received.
pub(super) const PORTIONS: usize = 2;

/// What travels from the transfer to the decoder.
#[derive(Debug)]
pub(super) enum Portion {
    /// The next bytes.
    Bytes(Vec<Bytes>),
    /// The blob was delivered in full. Without it the end of the channel means that the transfer failed or was
    /// cancelled, which must not look like the end of the layer.
    End,
}

/// Streams a blob into `decoder` until it ends, or until the decoder has gone (which then says why).
///
/// # Errors
/// The transfer failed.
pub(super) async fn feed(
    source: &ImageSource,
    blob: &Descriptor,
    decoder: mpsc::Sender<Portion>,
    position: usize,
    progress: &dyn Progress,
) -> Result<(), RegistryError> {
    let mut stream = source.blob(blob).await?;
    let mut portion = Vec::new();
    let mut gathered = 0;
    while let Some(bytes) = stream.next().await? {
        progress.advanced(position, to_u64(bytes.len()));
        gathered += bytes.len();
        portion.push(bytes);
        if gathered >= PORTION {
            gathered = 0;
            if decoder.send(Portion::Bytes(std::mem::take(&mut portion))).await.is_err() {
                return Ok(());
            }
        }
    }
    if !portion.is_empty() && decoder.send(Portion::Bytes(portion)).await.is_err() {
        return Ok(());
    }
    // Nobody waiting for the end any more is the decoder's business.
    let _ = decoder.send(Portion::End).await;
    Ok(())
}

/// The decoder's end. Each portion also goes to the digest thread as it arrives (shared, not copied): a decoder that
/// fails has read bytes which it has not passed on, and the blob's digest tells whose fault that is.
#[derive(Debug)]
pub(super) struct FeedReader {
    portions: mpsc::Receiver<Portion>,
    digester: SyncSender<Work>,
    current: VecDeque<Bytes>,
    ended: bool,
}

impl FeedReader {
    pub(super) fn new(portions: mpsc::Receiver<Portion>, digester: SyncSender<Work>) -> Self {
        Self { portions, digester, current: VecDeque::new(), ended: false }
    }

    /// Reads on without decoding, at most `limit` bytes; `true`: the end was reached.
    pub(super) fn drain(&mut self, limit: u64) -> bool {
        self.current.clear();
        let mut drained = 0;
        while drained <= limit {
            match self.refill() {
                Ok(true) => drained += self.current.drain(..).map(|b| to_u64(b.len())).sum::<u64>(),
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
        false
    }

    /// Waits for the next portion; `false` at the end of the blob.
    fn refill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        match self.portions.blocking_recv() {
            Some(Portion::Bytes(bytes)) => {
                let gone = |_| io::Error::other("the digest thread has stopped");
                self.digester.send(Work::Compressed(bytes.clone())).map_err(gone)?;
                self.current = bytes.into();
                Ok(true)
            }
            Some(Portion::End) => {
                self.ended = true;
                Ok(false)
            }
            None => Err(io::Error::other("the transfer was cut off")),
        }
    }
}

impl Read for FeedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            while let Some(bytes) = self.current.front_mut() {
                let n = bytes.len().min(buf.len());
                if n > 0 || buf.is_empty() {
                    bytes.copy_to_slice(&mut buf[..n]);
                    return Ok(n);
                }
                self.current.pop_front();
            }
            if !self.refill()? {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    fn portions(items: Vec<Portion>) -> mpsc::Receiver<Portion> {
        let (tx, rx) = mpsc::channel(items.len().max(1));
        for item in items {
            tx.try_send(item).expect("room for all");
        }
        rx
    }

    #[test]
    fn reads_every_byte_and_shares_it_with_the_digester() {
        let (tx, rx) = sync_channel(8);
        let pieces = vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"cde")];
        let fed = vec![Portion::Bytes(pieces), Portion::Bytes(vec![Bytes::from_static(b"f")]), Portion::End];
        let mut reader = FeedReader::new(portions(fed), tx);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("complete");
        assert_eq!(all, b"abcdef");
        assert_eq!(reader.read(&mut [0; 4]).expect("still at the end"), 0);
        drop(reader);
        let shared: Vec<u8> = rx
            .iter()
            .flat_map(|work| match work {
                Work::Compressed(pieces) => pieces.concat(),
                Work::Batch(_) => panic!("no batch was sent"),
            })
            .collect();
        assert_eq!(shared, b"abcdef");
    }

    #[test]
    fn a_cut_transfer_is_an_error_not_the_end() {
        let (tx, _rx) = sync_channel(8);
        let mut reader = FeedReader::new(portions(vec![Portion::Bytes(vec![Bytes::from_static(b"ab")])]), tx);
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn draining_tells_whether_the_end_was_reached() {
        let fed = || {
            let piece = || Portion::Bytes(vec![Bytes::from_static(&[0; 100])]);
            portions(vec![piece(), piece(), piece(), Portion::End])
        };
        for (limit, end) in [(0, false), (150, false), (300, true), (1000, true)] {
            let (tx, _rx) = sync_channel(8);
            assert_eq!(FeedReader::new(fed(), tx).drain(limit), end, "{limit}");
        }
    }
}
