//! Layers that random ones do not reach: limits, odd endings, long frames, hostile streams.

use super::*;

/// Text-like noise: compresses to about half.
fn noise(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| rng.u8(..) & 0x3f).take(len).collect()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    member(plain, 6, headers(0), 0)
}

fn resumes(scanned: &Scanned) -> Vec<Resume> {
    scanned.recorder.checkpoints.iter().map(|checkpoint| checkpoint.resume).collect()
}

fn reason(result: Result<Scanned, DecodeError>) -> String {
    match result {
        Err(DecodeError::Corrupt { reason, .. }) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn an_empty_layer_has_no_chunks() {
    for blob in [vec![], gzip(b""), [gzip(b""), gzip(b"")].concat(), zstd_frame(b"", 3, true, true)] {
        let scanned = try_scan(&blob, 1, usize::MAX).unwrap();
        assert_eq!((scanned.len(), scanned.summary.plain, scanned.summary.comp_end), (0, 0, 0));
        assert_eq!(scanned.summary.compressed, to_u64(blob.len()));
    }
}

#[test]
fn members_start_chunks_without_windows() {
    let plain = noise(100_000);
    let blob = [gzip(&plain[..50_000]), gzip(b""), gzip(&plain[50_000..])].concat();
    let scanned = check(&blob, &plain, Compression::Gzip, 50_000, 1000);
    assert_eq!(resumes(&scanned), [Resume::Fresh, Resume::Fresh]);
    let second = scanned.recorder.checkpoints[1];
    assert_eq!(second.comp_offset, to_u64(gzip(&plain[..50_000]).len() + gzip(b"").len()));
}

#[test]
fn an_ending_without_content_belongs_to_no_chunk() {
    let plain = noise(10_000);
    let blob = [gzip(&plain), gzip(b"")].concat();
    let scanned = check(&blob, &plain, Compression::Gzip, 1 << 20, 1000);
    assert_eq!(scanned.summary.comp_end, to_u64(gzip(&plain).len()));

    let frame = zstd_frame(&plain, 3, true, true);
    let scanned = check(&[&frame[..], &skippable(500)].concat(), &plain, Compression::Zstd, 1 << 20, 1000);
    assert_eq!(scanned.summary.comp_end, to_u64(frame.len()));
}

#[test]
fn gzip_endings() {
    let member = gzip(b"hello");
    let with = |tail: &[u8]| try_scan(&[&member[..], tail].concat(), 1 << 20, usize::MAX);
    assert_eq!(with(&[0; 70_000]).unwrap().recorder.plain, b"hello");
    assert_eq!(reason(with(b"\0\0x")), "garbage after the last member");
    assert_eq!(reason(with(b"x")), "no gzip member where one should start");
    assert!(matches!(with(b"\x1f"), Err(DecodeError::Truncated { format: "gzip", .. })));

    let mut crc = member.clone();
    let at = member.len() - 8;
    crc[at] ^= 1;
    assert_eq!(reason(try_scan(&crc, 1, usize::MAX)), "checksum mismatch");
    let mut length = member.clone();
    length[at + 4] ^= 1;
    assert_eq!(reason(try_scan(&length, 1, usize::MAX)), "length mismatch");
}

#[test]
fn long_layers_in_many_reads() {
    let plain = noise(3 << 20);
    let scanned = check(&gzip(&plain), &plain, Compression::Gzip, 500_000, 100_000);
    assert!(scanned.len() >= 5);
    assert!(scanned.recorder.checkpoints.iter().any(|checkpoint| checkpoint.bit > 0), "never inside a byte");

    // Members that end and begin in the middle of the output buffer.
    let blob: Vec<u8> = plain.chunks(700_000).flat_map(gzip).collect();
    check(&blob, &plain, Compression::Gzip, 100_000, 100_000);

    let frame = zstd_frame(&plain, 3, false, true);
    let blob = [&frame[..], &frame].concat();
    let twice = plain.repeat(2);
    let scanned = check(&blob, &twice, Compression::Zstd, 1 << 20, 100_000);
    let expected = [Resume::Fresh, Resume::Continue, Resume::Continue].repeat(2);
    assert_eq!(resumes(&scanned), expected);
    assert_eq!(scanned.recorder.checkpoints[3].comp_offset, to_u64(frame.len()));
}

#[test]
fn small_frames_share_chunks() {
    let plain = noise(100_000);
    let blob: Vec<u8> = plain.chunks(1000).flat_map(|part| zstd_frame(part, 3, true, false)).collect();
    let scanned = check(&blob, &plain, Compression::Zstd, 20_000, 100);
    assert_eq!(resumes(&scanned), [Resume::Fresh; 5]);
    assert!((0..5).all(|n| scanned.plain_range(n).len() == 20_000));
}

#[test]
fn zstd_refusals() {
    // Frame header descriptor and window descriptor: RFC 8878 section 3.1.1.1.
    let huge_window = b"\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00";
    let dictionary = b"\x28\xb5\x2f\xfd\x21\x07\x00\x01\x00\x00";
    let plain = zstd_frame(b"hello", 3, true, true);
    let mut sum = plain.clone();
    *sum.last_mut().unwrap() ^= 1;
    let garbage = [&plain[..], b"garbage"].concat();
    for blob in [&huge_window[..], dictionary, &sum, &garbage] {
        assert!(!reason(try_scan(blob, 1, usize::MAX)).is_empty());
    }
    // The same window descriptor one power lower is 2^27: accepted.
    assert_eq!(try_scan(b"\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00", 1, usize::MAX).unwrap().len(), 0);
}

#[test]
fn limits_hold() {
    let blob = gzip(&vec![0; 1 << 20]);
    let mut recorder = Recorder::default();
    let limits = ScanLimits { chunk: 1 << 20, max_plain: (1 << 20) - 1 };
    let result = scan(&mut &blob[..], limits, &mut recorder);
    assert!(matches!(result, Err(DecodeError::TooLarge(_))));
    assert!(recorder.plain.len() < 1 << 20);
}

#[test]
fn empty_blocks_cost_no_chunks() {
    // A stored block, ten thousand empty ones, another one that ends the stream (RFC 1951 section 3.2.4).
    let plain = noise(10_000);
    let stored = |last: u8, bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).unwrap();
        [&[last][..], &len.to_le_bytes(), &(!len).to_le_bytes(), bytes].concat()
    };
    let mut blob = b"\x1f\x8b\x08\0\0\0\0\0\0\0".to_vec();
    blob.extend(stored(0, &plain[..5000]));
    blob.extend(stored(0, b"").repeat(50_000));
    blob.extend(stored(1, &plain[5000..]));
    let trailer = gzip(&plain);
    blob.extend(&trailer[trailer.len() - 8..]);
    let scanned = check(&blob, &plain, Compression::Gzip, 5000, 5000);
    assert_eq!(resumes(&scanned), [Resume::Fresh, Resume::Window]);
    assert_eq!(scanned.recorder.checkpoints[1].comp_offset, 10 + 5 + 5000);
    // More empty blocks than are kept with a window: which of its bytes matter cannot be told.
    let window = scanned.window(1).unwrap();
    assert!(window.bytes == plain[..5000] && window.header.is_none());
}

#[test]
fn errors_of_sink_and_input_come_through() {
    struct Refuses([u8; MIN_ROOM]);
    impl ScanSink for Refuses {
        fn compressed(&mut self, _: &[u8]) -> Result<(), DecodeError> {
            Ok(())
        }
        fn checkpoint(&mut self, _: Checkpoint) -> Result<(), DecodeError> {
            Err(DecodeError::TooLarge(42))
        }
        fn plain(&mut self, _: &[u8]) -> Result<(), DecodeError> {
            panic!("called after an error")
        }
        fn room(&mut self) -> Result<&mut [u8], DecodeError> {
            Ok(&mut self.0)
        }
        fn filled(&mut self, _: usize) -> Result<(), DecodeError> {
            panic!("called after an error")
        }
        fn member(&mut self, _: MemberMark) -> Result<(), DecodeError> {
            Ok(())
        }
        fn window(&mut self, _: RawWindow) -> Result<(), DecodeError> {
            panic!("called after an error")
        }
    }
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
    }
    let limits = ScanLimits { chunk: 1 << 20, max_plain: 1 << 30 };
    let result = scan(&mut &gzip(b"hello")[..], limits, &mut Refuses([0; MIN_ROOM]));
    assert!(matches!(result, Err(DecodeError::TooLarge(42))));
    assert!(matches!(scan(&mut Broken, limits, &mut Refuses([0; MIN_ROOM])), Err(DecodeError::Io(_))));
}
