//! Sparse files in all their spellings.

use super::build::{Head, archive, pax};
use super::{content, file, reason, scan, scan_one};
use crate::decode::tar::{ContentHasher, TarLimits, header::Block, scan_all};

/// Runs of a map: file offset and length.
type Runs = [(u64, u64)];

/// Data for the runs that tells every byte from its neighbours.
fn data_for(runs: &Runs) -> Vec<u8> {
    let len = runs.iter().map(|run| run.1).sum::<u64>();
    (0..len).map(|at| u8::try_from(at % 251).unwrap() + 1).collect()
}

fn pairs(runs: &Runs) -> Vec<u8> {
    runs.iter().flat_map(|(offset, len)| format!("{offset:011o}\0{len:011o}\0").into_bytes()).collect()
}

/// GNU's old format: header, extension blocks, data.
fn old(runs: &Runs, size: u64, data: &[u8]) -> Vec<u8> {
    let (head, rest) = runs.split_at(runs.len().min(4));
    let flag = [u8::from(!rest.is_empty())];
    let header = Head::gnu("sparse")
        .flag(b'S')
        .bytes(386, &pairs(head))
        .bytes(482, &flag)
        .text(483, &format!("{size:011o}\0"))
        .with(data);
    let chunks = rest.chunks(21);
    let last = chunks.len();
    let blocks = chunks.zip(1..).flat_map(|(runs, number)| {
        let mut block: Block = [0; 512];
        let pairs = pairs(runs);
        block[..pairs.len()].copy_from_slice(&pairs);
        block[504] = u8::from(number < last);
        block
    });
    header[..512].iter().copied().chain(blocks).chain(header[512..].iter().copied()).collect()
}

fn pax_0_0(runs: &Runs, size: u64, data: &[u8]) -> Vec<u8> {
    let (size, count) = (size.to_string(), runs.len().to_string());
    let numbers: Vec<_> = runs.iter().map(|run| (run.0.to_string(), run.1.to_string())).collect();
    let mut records = vec![("GNU.sparse.size", size.as_str()), ("GNU.sparse.numblocks", &count)];
    for (offset, len) in &numbers {
        records.extend([("GNU.sparse.offset", offset.as_str()), ("GNU.sparse.numbytes", len.as_str())]);
    }
    [pax(&records), Head::ustar("sparse").with(data)].concat()
}

fn pax_0_1(runs: &Runs, size: u64, data: &[u8]) -> Vec<u8> {
    let map: Vec<_> = runs.iter().map(|(offset, len)| format!("{offset},{len}")).collect();
    let records = [
        ("GNU.sparse.major", "0"),
        ("GNU.sparse.minor", "1"),
        ("GNU.sparse.name", "sparse"),
        ("GNU.sparse.size", &size.to_string()),
        ("GNU.sparse.numblocks", &runs.len().to_string()),
        ("GNU.sparse.map", &map.join(",")),
    ];
    [pax(&records), Head::ustar("GNUSparseFile.0/sparse").with(data)].concat()
}

fn pax_1_0(runs: &Runs, size: u64, data: &[u8]) -> Vec<u8> {
    let lines: String = runs.iter().map(|(offset, len)| format!("{offset}\n{len}\n")).collect();
    text_map(&format!("{}\n{lines}", runs.len()), size, data)
}

fn text_map(map: &str, size: u64, data: &[u8]) -> Vec<u8> {
    let mut stored = map.as_bytes().to_vec();
    stored.resize(stored.len().next_multiple_of(512), 0);
    stored.extend_from_slice(data);
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "sparse"),
        ("GNU.sparse.realsize", &size.to_string()),
    ];
    [pax(&records), Head::ustar("GNUSparseFile.0/sparse").with(&stored)].concat()
}

type Spelling = fn(&Runs, u64, &[u8]) -> Vec<u8>;
const SPELLINGS: [(&str, Spelling); 4] = [("old", old), ("0.0", pax_0_0), ("0.1", pax_0_1), ("1.0", pax_1_0)];

/// Bytes of the file that a map describes.
fn expected(runs: &Runs, size: u64, mut data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    for &(offset, len) in runs {
        let (offset, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
        let (piece, rest) = data.split_at(len);
        bytes[offset..offset + len].copy_from_slice(piece);
        data = rest;
    }
    bytes
}

#[test]
fn all_spellings_mean_the_same() {
    let every_third: Vec<_> = (0..100).map(|n| (n * 30, 10)).collect();
    let many: Vec<_> = (0..2000).map(|n| (n * 9, 1)).collect();
    let cases: [(&str, &Runs, u64, usize); 10] = [
        ("hole at both ends", &[(512, 512)], 2048, 1),
        ("data at both ends", &[(0, 5), (2043, 5)], 2048, 2),
        ("empty last run, as tar writes it", &[(0, 512), (2048, 0)], 2048, 1),
        ("empty runs anywhere", &[(0, 0), (10, 0), (10, 5), (15, 0), (20, 0), (100, 1)], 101, 2),
        ("adjacent runs", &[(10, 5), (15, 5), (30, 5), (35, 1)], 36, 2),
        ("no data", &[(1000, 0)], 1000, 0),
        ("more than fit in a header", &[(0, 1), (2, 1), (4, 1), (6, 1), (8, 1)], 9, 5),
        ("several blocks", &every_third, 3000, 100),
        ("many blocks", &many, 18_000, 2000),
        ("dense after all", &[(0, 700), (700, 300)], 1000, 1),
    ];
    for (what, runs, size, extents) in cases {
        let data = data_for(runs);
        let want = expected(runs, size, &data);
        for (spelling, write) in SPELLINGS {
            let archive = archive([write(runs, size, &data), Head::ustar("next").with(b"next")]);
            let entries = scan(&archive);
            let [entry, next] = entries.as_slice() else { panic!("{what}, {spelling}: {entries:?}") };
            assert_eq!(entry.path, b"sparse", "{what}, {spelling}");
            assert!(content(&archive, entry) == want, "{what}, {spelling}: content");
            let found = &file(entry).extents;
            assert_eq!(found.len(), extents, "{what}, {spelling}");
            assert!(found.iter().all(|extent| extent.len > 0));
            let mut hasher =
                ContentHasher::new(size, found.iter().map(|extent| (extent.file_offset, extent.len)));
            hasher.update(&data);
            assert_eq!(file(entry).digest, hasher.finish(), "{what}, {spelling}");
            if want.len() == data.len() {
                assert_eq!(&file(entry).digest, blake3::hash(&want).as_bytes(), "{what}, {spelling}");
            }
            assert_eq!(content(&archive, next), b"next");
        }
    }
}

#[test]
fn files_may_be_larger_than_any_disk() {
    let end = u64::try_from(i64::MAX).unwrap();
    for (spelling, write) in &SPELLINGS[1..] {
        let archive = write(&[(0, 3), (end - 3, 3)], end, b"abcdef");
        let entry = scan_one(&archive);
        assert_eq!(file(&entry).size, end, "{spelling}");
        assert_eq!(file(&entry).extents[1].file_offset, end - 3, "{spelling}");
    }
}

#[test]
fn the_map_of_an_old_header_ends_at_a_nul() {
    let map = [&pairs(&[(0, 1)])[..], &[0; 24], &pairs(&[(9, 1)])].concat();
    let head = Head::gnu("f").flag(b'S').bytes(386, &map).text(483, "00000000012\0");
    let archive = head.clone().with(b"x");
    assert_eq!(content(&archive, &scan_one(&archive)), b"x\0\0\0\0\0\0\0\0\0");
    // An extension without entries is read all the same.
    let mut archive = head.bytes(482, &[1]).with(b"x");
    archive.splice(512..512, [0; 512]);
    assert_eq!(content(&archive, &scan_one(&archive)), b"x\0\0\0\0\0\0\0\0\0");
}

#[test]
fn unknown_versions_are_plain_files() {
    for (major, minor) in [("2", "0"), ("1", "1"), ("0", "2"), ("1", ""), ("", "1")] {
        let records = [
            ("GNU.sparse.major", major),
            ("GNU.sparse.minor", minor),
            ("GNU.sparse.name", "other"),
            ("GNU.sparse.realsize", "100"),
        ];
        let archive = [pax(&records), Head::ustar("f").with(b"data")].concat();
        let entry = scan_one(&archive);
        assert_eq!((entry.path.as_slice(), content(&archive, &entry)), (&b"f"[..], b"data".to_vec()));
    }
}

#[test]
fn size_is_optional() {
    let records =
        [("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "0,4"), ("GNU.sparse.size", ""), ("size", "4")];
    let archive = [pax(&records), Head::ustar("f").before(b"data")].concat();
    assert_eq!(content(&archive, &scan_one(&archive)), b"data");
}

#[test]
fn bad_maps_are_refused() {
    let overlap = "entries overlap or are out of order";
    let beyond = "entry reaches beyond the end of the file";
    let cases: [(&Runs, u64, usize, &str); 7] = [
        (&[(0, 10), (5, 10)], 100, 20, overlap),
        (&[(50, 10), (0, 10)], 100, 20, overlap),
        (&[(50, 0), (0, 10)], 100, 10, overlap),
        (&[(95, 10)], 100, 10, beyond),
        (&[(101, 0)], 100, 0, beyond),
        (&[(0, 10)], 100, 11, "sparse map describes 10 bytes of data, the archive holds 11"),
        (&[(0, 10)], 100, 9, "sparse map describes 10 bytes of data, the archive holds 9"),
    ];
    for (runs, size, stored, want) in cases {
        for (spelling, write) in SPELLINGS {
            let reason = reason(&write(runs, size, &vec![1; stored]));
            assert!(reason.contains("member \"") && reason.contains(want), "{spelling}, {want}: {reason}");
        }
    }
}

#[test]
fn bad_spellings_are_refused() {
    let in_header = |records: &[(&str, &str)]| {
        let version = [("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1")];
        [pax(&[&version, records].concat()), Head::ustar("f").with(b"data")].concat()
    };
    let [blocks, map, size] = ["GNU.sparse.numblocks", "GNU.sparse.map", "GNU.sparse.size"];
    let old_head = || Head::gnu("f").flag(b'S').text(483, "00000000012\0");
    let dir = |version: (&str, &str)| {
        let records = [("GNU.sparse.major", version.0), ("GNU.sparse.minor", version.1), (blocks, "0")];
        [pax(&records), Head::ustar("d").flag(b'5').seal().to_vec()].concat()
    };
    for (archive, want) in [
        (in_header(&[(map, "0,4")]), "bad number of entries"),
        (in_header(&[(map, "0,4"), (blocks, "-1")]), "bad number of entries"),
        (in_header(&[(map, "0,4"), (blocks, "2")]), "not as many entries as stated"),
        (in_header(&[(map, "0,4"), (blocks, "9223372036854775807")]), "not as many entries as stated"),
        (in_header(&[(map, "0,4,9"), (blocks, "1")]), "not as many entries as stated"),
        (in_header(&[(blocks, "1")]), "not as many entries as stated"),
        (in_header(&[(map, "0,x"), (blocks, "1")]), "malformed sparse map: not a number"),
        (in_header(&[(map, "0,"), (blocks, "1")]), "malformed sparse map: not a number"),
        (in_header(&[(map, "-1,4"), (blocks, "1")]), "malformed sparse map: negative number"),
        (in_header(&[(map, "0,4"), (blocks, "1"), (size, "x")]), "GNU.sparse.size has the bad value"),
        (in_header(&[(map, "0,4"), (blocks, "1"), (size, "-1")]), "negative size"),
        (in_header(&[(map, "0,4"), (blocks, "1"), ("GNU.sparse.name", "a\0b")]), "name holds a NUL"),
        (text_map("1\n0\nx\n", 9, b"d"), "malformed sparse map: not a number"),
        (text_map("1\n0\n\n", 9, b"d"), "malformed sparse map: not a number"),
        (text_map("x\n0\n1\n", 9, b"d"), "bad number of entries"),
        (text_map("-1\n0\n1\n", 9, b"d"), "bad number of entries"),
        (text_map("999999999\n0\n1\n", 9, b"d"), "too many entries"),
        (text_map("2\n0\n1\n", 9, b"d"), "longer than the member's data"),
        (text_map("", 9, b"d"), "longer than the member's data"),
        (text_map("", 9, &[7; 2 << 20]), "malformed sparse map: too long"),
        (old_head().text(386, "0000000000x\x000000000001\0").with(b"d"), "sparse offset is not a number"),
        (old_head().text(386, "00000000001\x00000000000x\0").with(b"d"), "sparse length is not a number"),
        (old_head().text(386, "00000000001\0").bytes(398, &[0xff; 12]).with(b""), "negative number"),
        (old_head().text(483, "many").with(b""), "realsize is not a number"),
        (old_head().bytes(483, &[0xff; 12]).with(b""), "negative size"),
        (dir(("0", "1")), "only regular files can be sparse"),
        (dir(("1", "0")), "only regular files can be sparse"),
    ] {
        let reason = reason(&archive);
        assert!(
            reason.starts_with("bad tar at plain offset ") && reason.contains(want),
            "{want:?}: {reason}"
        );
    }
}

#[test]
fn maps_are_bounded() {
    let runs: Vec<_> = (0..5000).map(|n| (n * 9, 1)).collect();
    let data = data_for(&runs);
    let limits = TarLimits { max_header: 10_000, ..TarLimits::default() };
    for (spelling, write) in SPELLINGS {
        let archive = write(&runs, 100_000, &data);
        assert!(scan_all(&archive, TarLimits::default()).is_ok(), "{spelling}");
        assert!(scan_all(&archive, limits).is_err(), "{spelling}");
    }
    // A chain of extension blocks without end.
    let head = Head::gnu("f").flag(b'S').bytes(482, &[1]).text(483, "00000000012\0").seal();
    let mut block = [0; 512];
    block[504] = 1;
    let archive = [head.as_slice(), &block.repeat(3000)].concat();
    assert!(reason(&archive).ends_with("malformed sparse map: too long"));
}
