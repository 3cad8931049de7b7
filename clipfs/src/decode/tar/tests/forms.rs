//! What good archives mean.

use super::build::{END, Head, archive, extended, long, pax, record};
use super::{content, file, scan, scan_one};
use crate::decode::tar::{Entry, EntryKind, Timestamp};

fn path(entry: &Entry) -> &str {
    std::str::from_utf8(&entry.path).unwrap()
}

#[test]
fn every_format_is_read() {
    let data = b"some data\n";
    for (what, member, want) in [
        ("v7", Head::v7("a/b").with(data), "a/b"),
        ("v7 knows no prefix", Head::v7("b").text(345, "a").with(data), "b"),
        ("ustar", Head::ustar("b").text(345, "prefix/a").with(data), "prefix/a/b"),
        ("ustar version is not looked at", Head::ustar("b").text(263, "xy").text(345, "a").with(data), "a/b"),
        ("full fields", Head::ustar(&"n".repeat(100)).with(data), &"n".repeat(100)),
        ("star", Head::star("b").text(345, "a").with(data), "a/b"),
        ("gnu", Head::gnu("b").text(345, "00000000017\x0000000000017\0").with(data), "b"),
        ("go before 1.8", Head::gnu("b").text(345, "prefix").with(data), "prefix/b"),
        ("gnu garbage", Head::gnu("b").text(345, "prefäx").with(data), "b"),
        ("gnu's magic, not its version", Head::gnu("b").text(263, "00").text(345, "prefix").with(data), "b"),
        ("an empty size is 0", Head::ustar("b").text(124, "\0\0\0\0\0\0\0\0\0\0\0\0").before(b""), "b"),
        ("blanks for zeros", Head::v7("b").text(100, "   644 \0").with(data), "b"),
    ] {
        let archive = archive([member]);
        let entry = scan_one(&archive);
        assert_eq!(path(&entry), want, "{what}");
        assert_eq!((entry.mode, entry.uid, entry.gid), (0o644, 1000, 100), "{what}");
        assert_eq!(entry.mtime, Timestamp { secs: 1_000_000_000, nanos: 0 }, "{what}");
        let size = file(&entry).size;
        assert_eq!(content(&archive, &entry), data[..usize::try_from(size).unwrap()], "{what}");
    }
}

#[test]
fn data_is_where_extents_say_and_digests_are_of_it() {
    let big: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let archive =
        archive([Head::ustar("a").with(b"x"), Head::gnu("big").with(&big), Head::v7("z").with(&[7; 512])]);
    let entries = scan(&archive);
    assert_eq!(entries.len(), 3);
    for (entry, want) in entries.iter().zip([&b"x"[..], &big, &[7; 512]]) {
        assert_eq!(content(&archive, entry), want);
        assert_eq!(&file(entry).digest, blake3::hash(want).as_bytes());
        assert_eq!(file(entry).extents.len(), 1);
    }
    let empty = scan_one(&Head::ustar("e").with(b""));
    assert_eq!((&file(&empty).digest, file(&empty).extents.len()), (blake3::hash(b"").as_bytes(), 0));
}

#[test]
fn types() {
    let device = |flag| Head::ustar("n").flag(flag).text(329, "0000010\x000000005\0");
    for (head, want) in [
        (Head::v7("n/").flag(0), Some(EntryKind::Dir)),
        (Head::ustar("n/").flag(0), Some(EntryKind::Dir)),
        (Head::v7("n").flag(0), None),
        (Head::ustar("n/").flag(b'0'), None),
        (Head::ustar("n/").flag(b'7'), None),
        (Head::ustar("n").flag(b'7'), None),
        (Head::ustar("n").flag(b'1').text(157, "t"), Some(EntryKind::Hardlink(b"t".to_vec()))),
        (Head::ustar("n").flag(b'2').text(157, "../t"), Some(EntryKind::Symlink(b"../t".to_vec()))),
        (device(b'3'), Some(EntryKind::Char { major: 8, minor: 5 })),
        (device(b'4'), Some(EntryKind::Block { major: 8, minor: 5 })),
        (Head::v7("n").flag(b'3').text(329, "0000010\0"), Some(EntryKind::Char { major: 0, minor: 0 })),
        (Head::ustar("n").flag(b'5'), Some(EntryKind::Dir)),
        (Head::ustar("n/").flag(b'5'), Some(EntryKind::Dir)),
        (Head::ustar("n").flag(b'6'), Some(EntryKind::Fifo)),
    ] {
        // Where Go sees no data, a size means nothing: the next header follows at once.
        let first = if want.is_some() { head.size(700).seal().to_vec() } else { head.with(&[1; 700]) };
        let entries = scan(&archive([first, Head::ustar("next").with(b"next")]));
        assert_eq!(entries.len(), 2, "{want:?}");
        assert_eq!(path(&entries[1]), "next");
        match want {
            Some(kind) => assert_eq!(entries[0].kind, kind),
            None => assert_eq!(file(&entries[0]).size, 700),
        }
    }
}

#[test]
fn sizes_of_members_without_data_may_be_negative() {
    let dir = Head::ustar("d").flag(b'5').bytes(124, &[0xff; 12]).seal();
    assert_eq!(scan_one(&dir).kind, EntryKind::Dir);
    let dir = [pax(&[("size", "-5")]), Head::ustar("d").flag(b'5').seal().to_vec()].concat();
    assert_eq!(scan_one(&dir).kind, EntryKind::Dir);
}

#[test]
fn numbers_in_base_256() {
    let mut size = [0; 12];
    size[0] = 0x80;
    size[11] = 3;
    let archive = Head::gnu("f")
        .bytes(100, b"\x80\0\0\0\0\0\x81\xed")
        .bytes(108, b"\x80\0\0\0\xff\xff\xff\xfe")
        .bytes(116, b"\x80\0\0\0\0\x01\0\0")
        .bytes(124, &size)
        .bytes(136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe")
        .before(b"abc");
    let entry = scan_one(&archive);
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o755, 4_294_967_294, 65_536));
    assert_eq!(entry.mtime, Timestamp { secs: -2, nanos: 0 });
    assert_eq!(content(&archive, &entry), b"abc");
}

#[test]
fn mode_is_cut_to_twelve_bits() {
    assert_eq!(scan_one(&Head::ustar("f").text(100, "0106755\0").seal()).mode, 0o6755);
    assert_eq!(scan_one(&Head::ustar("f").bytes(100, &[0xff; 8]).seal()).mode, 0o7777);
}

#[test]
fn extended_headers_override() {
    let header = Head::ustar("short").text(345, "prefix").text(157, "to").flag(b'2');
    let plain = scan_one(&header.clone().seal());
    let with = |records: &[(&str, &str)]| scan_one(&[pax(records), header.clone().seal().to_vec()].concat());
    assert_eq!(with(&[]), plain);
    assert_eq!(with(&[("comment", "x"), ("SCHILY.dev", "7"), ("GNU.sparse.size", "9")]), plain);
    for key in ["path", "linkpath", "size", "uid", "gid", "mtime", "atime", "ctime"] {
        assert_eq!(with(&[(key, "7"), (key, "")]), plain, "an empty value stands for the header's {key}");
    }
    let long = "x/".repeat(1000);
    let entry = with(&[
        ("path", &long),
        ("linkpath", "über"),
        ("uid", "4294967294"),
        ("gid", "3000000000"),
        ("mtime", "-1.25"),
        ("atime", "1"),
    ]);
    assert_eq!(path(&entry), long);
    assert_eq!(entry.kind, EntryKind::Symlink("über".into()));
    assert_eq!((entry.uid, entry.gid), (4_294_967_294, 3_000_000_000));
    assert_eq!(entry.mtime, Timestamp { secs: -2, nanos: 750_000_000 });
    assert_eq!(with(&[("uid", "1"), ("uid", "2")]).uid, 2);
    assert_eq!(with(&[("uid", "no number"), ("uid", "2")]).uid, 2);
}

#[test]
fn size_of_an_extended_header_counts() {
    let file = Head::ustar("f").size(1).before(&[5; 1000]);
    let archive = archive([pax(&[("size", "1000")]), file, Head::ustar("g").with(b"g")]);
    let entries = scan(&archive);
    assert_eq!(content(&archive, &entries[0]), [5; 1000]);
    assert_eq!(content(&archive, &entries[1]), b"g");
}

#[test]
fn extended_headers_concern_one_member() {
    let entries = scan(&archive([
        pax(&[("path", "a"), ("uid", "1")]),
        pax(&[("gid", "2")]),
        Head::ustar("b").with(b""),
        Head::ustar("c").with(b""),
    ]));
    let seen: Vec<_> = entries.iter().map(|entry| (path(entry), entry.uid, entry.gid)).collect();
    assert_eq!(seen, [("b", 1000, 2), ("c", 1000, 100)], "the second replaces the first and ends at b");
}

#[test]
fn global_headers_are_ignored_and_end_what_came_before() {
    let file = || Head::ustar("f").with(b"");
    let global = || extended(b'g', &[("path", "g"), ("uid", "7"), ("mtime", "no time")]);
    let local = || pax(&[("path", "x")]);
    let plain = scan(&file());
    assert_eq!(scan(&archive([global(), file()])), plain);
    assert_eq!(scan(&archive([local(), global(), file()])), plain);
    assert_eq!(scan(&archive([long(b'L', "long"), global(), file()])), plain);
    assert_eq!(path(&scan_one(&archive([global(), local(), file()]))), "x");
}

#[test]
fn long_names() {
    let link = || Head::gnu("short").flag(b'2').text(157, "to").seal().to_vec();
    let both = |entry: Entry| match entry.kind {
        EntryKind::Symlink(target) => (entry.path, target),
        other => panic!("{other:?}"),
    };
    let name = "n/".repeat(300);
    for (specials, want_name, want_link) in [
        (vec![long(b'L', &name)], name.as_str(), "to"),
        (vec![long(b'K', &name)], "short", &name),
        (vec![long(b'K', "k"), long(b'L', "l")], "l", "k"),
        (vec![long(b'L', "first"), long(b'L', "second")], "second", "to"),
        (vec![long(b'L', "first"), long(b'L', "")], "short", "to"),
        (vec![long(b'L', "l"), Head::gnu("x").flag(b'L').with(b"")], "short", "to"),
        (vec![long(b'L', "cut\0here")], "cut", "to"),
        (vec![Head::gnu("x").flag(b'L').with(b"no NUL at the end")], "no NUL at the end", "to"),
        (vec![long(b'L', "gnu"), pax(&[("path", "pax")])], "gnu", "to"),
        (vec![pax(&[("path", "pax"), ("linkpath", "p")]), long(b'K', "gnu")], "pax", "gnu"),
    ] {
        let entry = scan_one(&[specials.concat(), link()].concat());
        assert_eq!(both(entry), (want_name.into(), want_link.into()));
    }
    let dir = scan_one(&[long(b'L', "old/"), Head::v7("x").flag(0).seal().to_vec()].concat());
    assert_eq!(dir.kind, EntryKind::Dir, "the long name decides about the slash");
}

#[test]
fn xattrs_are_those_that_containerd_sets() {
    let body = [
        record("SCHILY.xattr.user.b", b"2"),
        record("SCHILY.xattr.user.a", b"bin\0\nary=\xff"),
        record("SCHILY.xattr.user.empty", b""),
        record("SCHILY.xattr.user.b", b"last"),
        record("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
        record("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        record("SCHILY.xattr.foo.bar", b"y"),
        record("SCHILY.xattr.nodot", b"y"),
        record("LIBARCHIVE.xattr.user.c", b"y"),
    ]
    .concat();
    let entry = |head: Head| {
        scan_one(&[Head::ustar("x").flag(b'x').with(&body), head.seal().to_vec()].concat()).xattrs
    };
    let all: [(Vec<u8>, Vec<u8>); 4] = [
        (b"security.capability".into(), b"\x01\0\0\x02".into()),
        (b"user.a".into(), b"bin\0\nary=\xff".into()),
        (b"user.b".into(), b"last".into()),
        (b"user.empty".into(), b"".into()),
    ];
    assert_eq!(entry(Head::ustar("f")), all);
    assert_eq!(entry(Head::ustar("f").flag(b'5')), all);
    assert_eq!(entry(Head::ustar("f").flag(b'1').text(157, "t")), all);
    for flag in [b'2', b'3', b'4', b'6'] {
        assert_eq!(entry(Head::ustar("f").flag(flag).text(157, "t")), all[..1]);
    }
    let at_limit = [record(&format!("SCHILY.xattr.user.{}", "n".repeat(250)), &[b'v'; 65536])].concat();
    let archive = [Head::ustar("x").flag(b'x').with(&at_limit), Head::ustar("f").with(b"")].concat();
    assert_eq!(scan_one(&archive).xattrs.len(), 1);
}

#[test]
fn checksums_of_signed_bytes() {
    let head = || Head::v7("nämé");
    let signed = head().sum(|byte| i32::from(byte.cast_signed()));
    assert_ne!(signed, head().sum(i32::from));
    let block = head().text(148, &format!("{signed:06o}\0 ")).raw();
    assert_eq!(path(&scan_one(&block)), "nämé");
}

#[test]
fn names_that_are_the_root_can_only_be_directories() {
    for name in ["", ".", "./", "/", "//", "a/..", "..", "../..", "a/../../b/.."] {
        let [dir, file, link] = [b'5', b'0', b'2'].map(|flag| Head::ustar(name).flag(flag).text(157, "t"));
        let entries = scan(&archive([
            Head::ustar("before").with(b"1"),
            file.with(b"data"),
            link.seal().to_vec(),
            dir.seal().to_vec(),
            Head::ustar("behind").with(b"2"),
        ]));
        let names: Vec<_> = entries.iter().map(path).collect();
        assert_eq!(names, ["before", name, "behind"]);
        assert_eq!(entries[1].kind, EntryKind::Dir);
    }
    for name in ["a", "./a", "../a", "a/../b", "..a", "...", "/a"] {
        assert_eq!(path(&scan_one(&Head::ustar(name).with(b""))), name);
    }
}

#[test]
fn ends() {
    let one = Head::ustar("f").with(b"data");
    let whole = scan(&one);
    let zero = [0_u8; 512];
    for (what, tail) in [
        ("no marker", vec![]),
        ("one block", zero.to_vec()),
        ("two blocks", END.to_vec()),
        ("many blocks", vec![0; 10240]),
        ("garbage behind the marker", [&END[..], &[9; 100]].concat()),
        ("an archive behind the marker", [&END[..], &one].concat()),
        ("an extended header for nobody", pax(&[("path", "x")])),
        ("a long name for nobody", long(b'L', "x")),
        ("an extended header without its padding", pax(&[("path", "x")])[..512 + 10].to_vec()),
    ] {
        assert_eq!(scan(&[one.clone(), tail].concat()), whole, "{what}");
    }
    for padding in [0, 1, 507] {
        assert_eq!(scan(&one[..516 + padding]), whole, "{padding} bytes of padding");
    }
    assert_eq!(scan(b""), []);
    assert_eq!(scan(&END), []);
}
