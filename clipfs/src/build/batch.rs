//! From the decode thread to the digest thread: what the scan finds, in recycled buffers.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use bytes::Bytes;

use crate::decode::DecodeError;
use crate::decode::scan::{Checkpoint, MIN_ROOM, MemberMark, RawWindow, ScanSink};

/// Plain bytes per batch: it is hashed three times over and should stay in the second-level cache while it is.
const BATCH: usize = 256 << 10;

/// Batches in circulation: enough for the decoder to go on while windows are encoded or a run of small files, which take
/// BLAKE3 longer, is hashed. Fewer or smaller ones in a second-level cache are no faster (measured, 0.5–4 MiB).
const BATCHES: usize = 16;

/// Windows per batch, each up to 100 KiB with what follows it: with small chunks they come often.
const MAX_WINDOWS: usize = 8;

/// Starts and ends of gzip members per batch: a layer may hold empty members without end.
const MAX_MEMBERS: usize = 1024;

/// What the digest thread gets.
#[derive(Debug)]
pub(super) enum Work {
    /// The next compressed bytes.
    Compressed(Vec<Bytes>),
    /// The next plain bytes.
    Batch(Batch),
}

/// A run of the plain stream, and what was found in it.
#[derive(Debug)]
pub(super) struct Batch {
    /// Room for the bytes: the decoder writes where the digester reads.
    room: Box<[u8]>,
    /// How many of them there are.
    len: usize,
    /// Checkpoints and where in [`Batch::plain`] they are.
    pub(super) checkpoints: Vec<(usize, Checkpoint)>,
    /// Starts and ends of gzip members and where in [`Batch::plain`] they are.
    pub(super) members: Vec<(usize, MemberMark)>,
    /// Windows of earlier checkpoints (or of one in this batch).
    pub(super) windows: Vec<RawWindow>,
}

impl Batch {
    fn new() -> Self {
        Self {
            room: vec![0; BATCH].into_boxed_slice(),
            len: 0,
            checkpoints: Vec::new(),
            members: Vec::new(),
            windows: Vec::new(),
        }
    }

    /// The bytes.
    pub(super) fn plain(&self) -> &[u8] {
        &self.room[..self.len]
    }

    fn clear(&mut self) {
        self.len = 0;
        self.members.clear();
        self.checkpoints.clear();
        self.windows.clear();
    }
}

/// The digest thread's end.
#[derive(Debug)]
pub(super) struct Inbox {
    work: Receiver<Work>,
    spare: Sender<Batch>,
}

impl Inbox {
    /// The next work; `None`: the decoder has ended.
    pub(super) fn next(&self) -> Option<Work> {
        self.work.recv().ok()
    }

    /// Gives a batch back.
    pub(super) fn recycle(&self, mut batch: Batch) {
        batch.clear();
        // A decoder that has ended needs no buffers.
        let _ = self.spare.send(batch);
    }
}

/// The decode thread's end: gathers what the scan says into batches.
#[derive(Debug)]
pub(super) struct BatchSink {
    current: Batch,
    work: SyncSender<Work>,
    spare: Receiver<Batch>,
}

/// A pair of ends.
pub(super) fn pair() -> (BatchSink, Inbox) {
    let (work_tx, work) = sync_channel(BATCHES);
    let (spare, spare_rx) = channel();
    for _ in 1..BATCHES {
        // Cannot fail: both ends are here.
        let _ = spare.send(Batch::new());
    }
    (BatchSink { current: Batch::new(), work: work_tx, spare: spare_rx }, Inbox { work, spare })
}

impl BatchSink {
    /// A second way to the digest thread, for the compressed bytes.
    pub(super) fn sender(&self) -> SyncSender<Work> {
        self.work.clone()
    }

    /// Sends what has been gathered.
    ///
    /// # Errors
    /// The digest thread has stopped; it knows why.
    pub(super) fn flush(&mut self) -> Result<(), DecodeError> {
        let gone = || DecodeError::Io(io::Error::other("the digest thread has stopped"));
        let next = self.spare.recv().map_err(|_| gone())?;
        let full = std::mem::replace(&mut self.current, next);
        self.work.send(Work::Batch(full)).map_err(|_| gone())
    }
}

impl ScanSink for BatchSink {
    fn compressed(&mut self, _bytes: &[u8]) -> Result<(), DecodeError> {
        // They have been sent by the reader, as they arrived: see `FeedReader`.
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), DecodeError> {
        self.current.checkpoints.push((self.current.len, checkpoint));
        Ok(())
    }

    fn plain(&mut self, mut bytes: &[u8]) -> Result<(), DecodeError> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.filled(now.len())?;
            bytes = later;
        }
        Ok(())
    }

    fn room(&mut self) -> Result<&mut [u8], DecodeError> {
        if BATCH - self.current.len < MIN_ROOM {
            self.flush()?;
        }
        Ok(&mut self.current.room[self.current.len..])
    }

    fn filled(&mut self, n: usize) -> Result<(), DecodeError> {
        self.current.len += n;
        Ok(())
    }

    fn member(&mut self, mark: MemberMark) -> Result<(), DecodeError> {
        self.current.members.push((self.current.len, mark));
        if self.current.members.len() >= MAX_MEMBERS { self.flush() } else { Ok(()) }
    }

    fn window(&mut self, window: RawWindow) -> Result<(), DecodeError> {
        self.current.windows.push(window);
        if self.current.windows.len() >= MAX_WINDOWS { self.flush() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Resume;

    #[test]
    fn batches_carry_every_byte_and_the_place_of_every_checkpoint() {
        let (mut sink, inbox) = pair();
        let plain: Vec<u8> = (0..3 * BATCH + 17).map(|i| u8::try_from(i % 251).expect("small")).collect();
        let cuts = [0, 1, BATCH, 2 * BATCH + 5];
        let expected = plain.clone();
        let producer = std::thread::spawn(move || {
            for (i, &cut) in cuts.iter().enumerate() {
                let plain_offset = crate::num::to_u64(cut);
                let checkpoint =
                    Checkpoint { plain_offset, comp_offset: plain_offset, bit: 0, resume: Resume::Fresh };
                sink.checkpoint(checkpoint).expect("inbox is there");
                sink.plain(&plain[cut..cuts.get(i + 1).copied().unwrap_or(plain.len())])
                    .expect("inbox is there");
            }
            sink.flush().expect("inbox is there");
        });
        let (mut all, mut seen) = (Vec::new(), Vec::new());
        while let Some(Work::Batch(batch)) = inbox.next() {
            assert!(batch.plain().len() <= BATCH);
            seen.extend(batch.checkpoints.iter().map(|(at, _)| all.len() + at));
            all.extend_from_slice(batch.plain());
            inbox.recycle(batch);
        }
        producer.join().expect("no panic");
        assert_eq!(all, expected);
        assert_eq!(seen, cuts);
    }

    #[test]
    fn members_without_bytes_do_not_pile_up() {
        let (mut sink, inbox) = pair();
        for _ in 0..3 * MAX_MEMBERS + 1 {
            sink.member(MemberMark::Start).expect("inbox is there");
        }
        drop(sink);
        let batches = std::iter::from_fn(|| inbox.next());
        let members: Vec<_> = batches
            .filter_map(|work| match work {
                Work::Batch(batch) => Some(batch.members.len()),
                Work::Compressed(_) => None,
            })
            .collect();
        assert_eq!(members, [MAX_MEMBERS; 3]);
    }

    #[test]
    fn a_stopped_digester_stops_the_decoder() {
        let (mut sink, inbox) = pair();
        drop(inbox);
        assert!(sink.plain(&vec![0; (BATCHES + 2) * BATCH]).is_err());
    }
}
