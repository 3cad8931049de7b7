//! Scans random layers and decodes them again, chunk by chunk and in runs.

mod long_blocks;
mod odd;

use std::io::Write as _;

use proptest::prelude::*;

use super::run::{RunDecoder, decode_chunk};
use super::scan::{
    Checkpoint, Checksums, MIN_ROOM, MemberMark, RawWindow, ScanLimits, ScanSink, ScanSummary, scan,
};
use super::{Compression, DecodeError, Resume, window};
use crate::num::{idx, to_u64, to_usize};

/// Remembers everything, and checks the order of calls.
#[derive(Default)]
struct Recorder {
    compressed: Vec<u8>,
    plain: Vec<u8>,
    checkpoints: Vec<Checkpoint>,
    windows: Vec<Vec<u8>>,
    room: Vec<u8>,
    checksums: Checksums,
}

impl ScanSink for Recorder {
    fn compressed(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.compressed.extend_from_slice(bytes);
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), DecodeError> {
        assert_eq!(checkpoint.plain_offset, to_u64(self.plain.len()));
        if let Some(last) = self.checkpoints.last() {
            assert!(last.plain_offset < checkpoint.plain_offset, "a chunk without plain bytes");
            assert!(last.comp_offset <= checkpoint.comp_offset);
        }
        self.checkpoints.push(checkpoint);
        Ok(())
    }

    fn plain(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        assert!(!bytes.is_empty() && !self.checkpoints.is_empty());
        self.plain.extend_from_slice(bytes);
        self.checksums.update(bytes);
        Ok(())
    }

    fn room(&mut self) -> Result<&mut [u8], DecodeError> {
        self.room.resize(MIN_ROOM, 0);
        Ok(&mut self.room)
    }

    fn filled(&mut self, n: usize) -> Result<(), DecodeError> {
        let room = std::mem::take(&mut self.room);
        self.plain(&room[..n])
    }

    fn member(&mut self, mark: MemberMark) -> Result<(), DecodeError> {
        self.checksums.mark(mark)
    }

    fn window(&mut self, window: RawWindow) -> Result<(), DecodeError> {
        let at = idx(window.chunk);
        assert!(at >= self.windows.len(), "windows out of order");
        let checkpoint = self.checkpoints[at];
        assert_eq!((checkpoint.resume, checkpoint.bit), (Resume::Window, window.bit));
        let plain = to_usize(checkpoint.plain_offset);
        assert!(self.plain[..plain].ends_with(&window.window));
        assert!(self.compressed[to_usize(checkpoint.comp_offset)..].starts_with(&window.following));
        self.windows.resize(at + 1, Vec::new());
        self.windows[at] = window::encode(&window)?;
        Ok(())
    }
}

/// A scanned layer.
struct Scanned {
    recorder: Recorder,
    summary: ScanSummary,
}

/// Reads in pieces of odd lengths.
struct Dribble<'a>(&'a [u8], usize);

impl std::io::Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.len().min(buf.len()).min(self.1);
        buf[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

fn try_scan(blob: &[u8], chunk: u32, piece: usize) -> Result<Scanned, DecodeError> {
    let mut recorder = Recorder::default();
    let limits = ScanLimits { chunk, max_plain: 64 << 20 };
    let summary = scan(&mut Dribble(blob, piece), limits, &mut recorder)?;
    Ok(Scanned { recorder, summary })
}

impl Scanned {
    fn len(&self) -> usize {
        self.recorder.checkpoints.len()
    }

    fn plain_range(&self, chunk: usize) -> std::ops::Range<usize> {
        let checkpoints = &self.recorder.checkpoints;
        let end = checkpoints.get(chunk + 1).map_or(self.summary.plain, |next| next.plain_offset);
        to_usize(checkpoints[chunk].plain_offset)..to_usize(end)
    }

    /// The compressed bytes as an index would say, next chunk's shared byte included.
    fn comp_range(&self, chunk: usize) -> std::ops::Range<usize> {
        let checkpoints = &self.recorder.checkpoints;
        let end = checkpoints
            .get(chunk + 1)
            .map_or(self.summary.comp_end, |next| next.comp_offset + u64::from(next.bit > 0));
        to_usize(checkpoints[chunk].comp_offset)..to_usize(end)
    }

    fn window(&self, chunk: usize) -> Option<window::Window> {
        let window = self.recorder.checkpoints[chunk].resume == Resume::Window;
        window.then(|| window::decode(&self.recorder.windows[chunk]).unwrap())
    }

    /// Decodes `chunks` in one run, input in pieces.
    fn run(&self, blob: &[u8], chunks: std::ops::Range<usize>, piece: usize) -> Vec<Vec<u8>> {
        let lens = chunks.clone().map(|n| u32::try_from(self.plain_range(n).len()).unwrap()).collect();
        let window = self.window(chunks.start);
        let bit = self.recorder.checkpoints[chunks.start].bit;
        let mut run = RunDecoder::new(self.summary.compression, bit, window.as_ref(), lens).unwrap();
        let mut out = Vec::new();
        let comp = self.comp_range(chunks.start).start..self.comp_range(chunks.end - 1).end;
        for part in blob[comp].chunks(piece) {
            run.push(part, &mut |n, plain| {
                assert_eq!(n, out.len());
                out.push(plain);
                Ok(())
            })
            .unwrap();
        }
        assert!(run.is_done());
        out
    }
}

/// Scans `blob` and holds it to everything that the contract promises.
fn check(blob: &[u8], plain: &[u8], compression: Compression, chunk: u32, piece: usize) -> Scanned {
    let scanned = try_scan(blob, chunk, usize::MAX).unwrap();
    assert!(scanned.recorder.plain == plain, "plain bytes differ");
    assert!(scanned.recorder.compressed == blob, "compressed bytes differ");
    let sizes = (scanned.summary.compressed, scanned.summary.plain);
    assert_eq!(sizes, (to_u64(blob.len()), to_u64(plain.len())));
    assert_eq!(scanned.summary.compression, compression);

    let again = try_scan(blob, chunk, 1 + piece).unwrap();
    assert_eq!(again.recorder.checkpoints, scanned.recorder.checkpoints, "depends on read sizes");
    assert!(again.recorder.windows == scanned.recorder.windows, "depends on read sizes");
    assert_eq!(again.summary, scanned.summary);

    for n in 0..scanned.len() {
        let checkpoint = scanned.recorder.checkpoints[n];
        let expected = &plain[scanned.plain_range(n)];
        assert!(scanned.comp_range(n).len() > usize::from(checkpoint.bit > 0));
        if checkpoint.resume == Resume::Continue {
            assert!(n > 0);
            continue;
        }
        let bytes = decode_chunk(
            compression,
            checkpoint.bit,
            scanned.window(n).as_ref(),
            &blob[scanned.comp_range(n)],
            u32::try_from(expected.len()).unwrap(),
        );
        assert!(bytes.unwrap() == expected, "chunk {n} differs");
        let to = scanned.len().min(n + 1 + piece % 7);
        for (at, bytes) in scanned.run(blob, n..to, 1 + piece).into_iter().enumerate() {
            assert!(bytes == plain[scanned.plain_range(n + at)], "chunk {at} of the run from {n} differs");
        }
    }
    if scanned.len() > 0 {
        let all = scanned.run(blob, 0..scanned.len(), 1 << 16).concat();
        assert!(all == plain, "the run of all chunks differs");
    }
    scanned
}

/// Plain bytes; a failing test prints how many they are instead of all of them.
#[derive(Clone)]
struct Plain(Vec<u8>);

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Plain bytes like a layer's: text that repeats near and far, noise, zeros.
fn plain() -> impl Strategy<Value = Plain> {
    let part = (0_u8..4, 1_usize..40_000, any::<u64>());
    prop::collection::vec(part, 0..12).prop_map(|parts| {
        let mut out: Vec<u8> = Vec::new();
        for (kind, len, seed) in parts {
            let mut rng = fastrand::Rng::with_seed(seed);
            match kind {
                0 => out.extend(std::iter::repeat_with(|| rng.u8(..)).take(len)),
                1 => out.extend(std::iter::repeat_with(|| b"etaoin shrdlu"[rng.usize(..13)]).take(len)),
                2 => out.resize(out.len() + len, 0),
                _ => {
                    while out.len() < len && !out.is_empty() {
                        let from = rng.usize(..out.len());
                        let to = out.len().min(from + rng.usize(1..300));
                        out.extend_from_within(from..to);
                        out.push(rng.u8(..));
                    }
                    if let Some(far) = out.len().checked_sub(rng.usize(1..32_768)) {
                        out.extend_from_within(far..out.len().min(far + 5_000));
                    }
                }
            }
        }
        Plain(out)
    })
}

/// One gzip member; flushed now and then, as pigz does, when `flush` > 0.
fn member(plain: &[u8], level: u32, header: flate2::GzBuilder, flush: usize) -> Vec<u8> {
    let mut writer = header.write(Vec::new(), flate2::Compression::new(level));
    for part in plain.chunks(flush.max(1 << 10)) {
        writer.write_all(part).unwrap();
        if flush > 0 {
            writer.flush().unwrap();
        }
    }
    writer.finish().unwrap()
}

fn headers(kind: u8) -> flate2::GzBuilder {
    let plain = flate2::GzBuilder::new();
    match kind {
        0 => plain,
        1 => plain.filename("layer.tar"),
        2 => plain.extra(vec![7; 3000]).comment("a comment"),
        _ => plain.extra(Vec::new()).filename("n".repeat(511)).comment("").mtime(1),
    }
}

/// `plain` as several members.
fn members(plain: &[u8], level: u32, cuts: &[prop::sample::Index], flush: usize) -> Vec<u8> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(plain.len() + 1)).collect();
    at.extend([0, plain.len()]);
    at.sort_unstable();
    let parts = at.windows(2).map(|ends| &plain[ends[0]..ends[1]]);
    let kinds = [0, 1, 2, 3].into_iter().cycle();
    parts.zip(kinds).flat_map(|(part, kind)| member(part, level, headers(kind), flush)).collect()
}

fn zstd_frame(plain: &[u8], level: i32, sized: bool, checksum: bool) -> Vec<u8> {
    let mut writer = zstd::Encoder::new(Vec::new(), level).unwrap();
    writer.include_checksum(checksum).unwrap();
    if sized {
        writer.set_pledged_src_size(Some(to_u64(plain.len()))).unwrap();
    }
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

fn skippable(len: usize) -> Vec<u8> {
    let size = u32::try_from(len).unwrap();
    [&0x184d_2a57_u32.to_le_bytes()[..], &size.to_le_bytes(), &vec![0xfd; len]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gzip_decodes_from_every_checkpoint(
        Plain(plain) in plain(),
        level in prop::sample::select(vec![0_u32, 1, 6, 9]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        flush in prop::sample::select(vec![0_usize, 5_000, 70_000]),
        chunk in prop::sample::select(vec![1_u32, 10_000, 60_000]),
        padding in prop::sample::select(vec![0_usize, 512]),
        piece in 0_usize..9_000,
    ) {
        let mut blob = members(&plain, level, &cuts, flush);
        blob.resize(blob.len() + padding, 0);
        check(&blob, &plain, Compression::Gzip, chunk, piece);
    }

    #[test]
    fn zstd_decodes_from_every_frame(
        parts in prop::collection::vec((plain(), any::<bool>(), any::<bool>(), 0_usize..3), 0..5),
        chunk in prop::sample::select(vec![1_u32, 10_000, 300_000]),
        piece in 0_usize..9_000,
    ) {
        let mut blob = skippable(3);
        let mut plain = Vec::new();
        for (Plain(part), sized, checksum, skip) in &parts {
            // Repeated, so that some frames are longer than the least chunk inside a frame.
            let part = part.repeat(1 + skip * 2);
            blob.extend(zstd_frame(&part, 3, *sized, *checksum));
            if *skip > 0 {
                blob.extend(skippable(*skip * 1000));
            }
            plain.extend(part);
        }
        check(&blob, &plain, Compression::Zstd, chunk, piece);
    }

    #[test]
    fn plain_tar_decodes_anywhere(Plain(bytes) in plain(), chunk in 1_u32..100_000, piece in 0_usize..9_000) {
        let mut blob = vec![0; 512];
        blob[257..262].copy_from_slice(b"ustar");
        blob.extend(bytes);
        let scanned = check(&blob, &blob, Compression::None, chunk, piece);
        let fits = |n| scanned.plain_range(n) == scanned.comp_range(n);
        prop_assert!((0..scanned.len()).all(fits));
    }

    #[test]
    fn corruption_is_found(
        Plain(plain) in plain().prop_filter("something to damage", |plain| plain.0.len() > 1000),
        gzip in any::<bool>(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        cut in any::<prop::sample::Index>(),
    ) {
        let blob = if gzip { member(&plain, 6, headers(0), 0) } else { zstd_frame(&plain, 3, true, true) };
        let mut flipped = blob.clone();
        flipped[at.index(blob.len())] ^= 1 << bit;
        // Some bits mean nothing to a decoder (a gzip header's time, padding to a byte, a zstd frame's window size): then
        // the bytes are the same.
        if let Ok(scanned) = try_scan(&flipped, 10_000, usize::MAX) {
            prop_assert!(scanned.recorder.plain == plain, "damage not found");
        }
        let short = &blob[..1 + cut.index(blob.len() - 1)];
        let cut = try_scan(short, 10_000, usize::MAX);
        prop_assert!(
            matches!(cut, Err(DecodeError::Truncated { .. } | DecodeError::UnknownCompression(_))),
            "{:?}", cut.err()
        );
    }

    #[test]
    fn decoding_damaged_chunks_never_panics(
        Plain(plain) in plain(),
        chunk in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        len in 1_u32..200_000,
    ) {
        let blob = members(&plain, 6, &[], 5_000);
        let scanned = try_scan(&blob, 10_000, usize::MAX).unwrap();
        prop_assume!(scanned.len() > 0);
        let chunk = chunk.index(scanned.len());
        let mut bytes = blob[scanned.comp_range(chunk)].to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let from = scanned.recorder.checkpoints[chunk].bit;
        if let Ok(out) = decode_chunk(Compression::Gzip, from, scanned.window(chunk).as_ref(), &bytes, len) {
            prop_assert_eq!(out.len(), idx(len));
        }
        let mut window = scanned.recorder.windows.get(chunk).cloned().unwrap_or_default();
        if let Some(byte) = window.get_mut(at % 64) {
            *byte ^= 1 << bit;
            prop_assert!(window::decode(&window).map_or(0, |window| window.bytes.len()) <= window::MAX_WINDOW);
        }
    }

    #[test]
    fn garbage_never_panics(
        magic in prop::sample::select(vec![&b"\x1f\x8b\x08\x00"[..], b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\x1e", b""]),
        garbage in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let blob = [magic, &garbage].concat();
        if let Ok(scanned) = try_scan(&blob, 1, usize::MAX) {
            prop_assert_eq!(to_u64(blob.len()), scanned.summary.compressed);
        }
        for compression in [Compression::Gzip, Compression::Zstd] {
            if let Ok(chunk) = decode_chunk(compression, 0, None, &blob, 1000) {
                prop_assert_eq!(chunk.len(), 1000);
            }
        }
    }
}
