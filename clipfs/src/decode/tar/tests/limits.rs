//! Where a stream may break off, and how much it may ask for.

use super::build::{Head, archive, long, pax};
use super::scan;
use crate::decode::DecodeError;
use crate::decode::tar::{TarLimits, TarScanner, scan_all};

#[test]
fn a_stream_may_end_between_members_only() {
    let first = [pax(&[("mtime", "1.5")]), Head::ustar("a").with(&[1; 700])].concat();
    let second = [long(b'L', "long"), Head::gnu("b").with(b"x")].concat();
    let archive = archive([first.clone(), second.clone()]);
    let blocks = archive.len() - 1024;
    // Go takes what breaks off in the padding for a whole archive.
    let padded = |start: usize, data: usize| start + data..=start + data.next_multiple_of(512);
    let whole = [
        0..=0,
        padded(512, 13),
        padded(1024 + 512, 700),
        padded(first.len() + 512, 5),
        padded(first.len() + 1536, 1),
        blocks + 512..=blocks + 512,
        archive.len()..=archive.len(),
    ];
    for end in 0..=archive.len() {
        let result = scan_all(&archive[..end], TarLimits::default());
        if whole.iter().any(|range| range.contains(&end)) {
            assert!(result.is_ok(), "{end}: {result:?}");
        } else {
            let want = u64::try_from(end).unwrap();
            assert!(
                matches!(result, Err(DecodeError::Truncated { format: "tar", offset }) if offset == want),
                "{end}: {result:?}"
            );
        }
    }
}

#[test]
fn entries_are_counted() {
    let archive = archive([Head::ustar("a").with(b""), Head::ustar("b").with(b"")]);
    let limits = |max_entries| TarLimits { max_entries, ..TarLimits::default() };
    assert_eq!(scan_all(&archive, limits(2)).unwrap(), scan(&archive));
    let error = scan_all(&archive, limits(1)).unwrap_err().to_string();
    assert_eq!(error, "bad tar at plain offset 512: more than 1 entries");
}

#[test]
fn special_members_are_bounded() {
    let limits = |max_header| TarLimits { max_header, ..TarLimits::default() };
    let file = || Head::ustar("f").with(b"");
    for (special, len) in [
        (pax(&[("comment", &"c".repeat(986))]), 999),
        (long(b'L', &"n".repeat(998)), 999),
        (long(b'K', &"n".repeat(998)), 999),
    ] {
        let archive = archive([special, file()]);
        assert!(scan_all(&archive, limits(len)).is_ok());
        let error = scan_all(&archive, limits(len - 1)).unwrap_err().to_string();
        assert!(error.ends_with("of 999 bytes exceeds the limit of 998"), "{error}");
    }
    // The header alone suffices: nothing is kept of a body that is too long.
    let huge = Head::ustar("x").flag(b'x').text(124, "77777777777\0").seal();
    let error = scan_all(&huge, TarLimits::default()).unwrap_err().to_string();
    assert!(error.contains("pax header of 8589934591 bytes exceeds the limit of 1048576"), "{error}");
}

#[test]
fn a_dead_scanner_stays_dead() {
    let good = Head::ustar("a").with(b"x");
    let push = |scanner: &mut TarScanner, bytes: &[u8]| scanner.push(bytes, &mut |_| Ok(()));
    let mut scanner = TarScanner::new(TarLimits::default());
    assert!(push(&mut scanner, &[7; 512]).is_err());
    let again = push(&mut scanner, &good).unwrap_err().to_string();
    assert_eq!(again, "bad tar at plain offset 0: an earlier error has ended the scan");
    assert!(scanner.finish().is_err());

    let mut scanner = TarScanner::new(TarLimits::default());
    let refused = scanner.push(&good, &mut |_| Err(DecodeError::TooLarge(5)));
    assert!(matches!(refused, Err(DecodeError::TooLarge(5))), "the receiver's error is passed on");
    assert!(push(&mut scanner, &good).is_err());
    assert!(scanner.finish().is_err());
}
