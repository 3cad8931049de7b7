//! What is refused, and in which words.

use super::build::{Head, extended, long, pax, record};
use super::{reason, scan};

/// Header, then enough for whoever would read on.
fn lone(head: Head) -> Vec<u8> {
    [&head.seal()[..], &[0; 4096]].concat()
}

fn with_pax(records: &[(&str, &str)], head: Head) -> Vec<u8> {
    [pax(records), lone(head)].concat()
}

fn with_body(body: &[u8]) -> Vec<u8> {
    [Head::ustar("x").flag(b'x').with(body), lone(Head::ustar("f"))].concat()
}

fn f() -> Head {
    Head::ustar("dir/f")
}

#[test]
fn headers() {
    let minus_one = [0xff; 12];
    for (archive, want) in [
        (f().text(148, "0000000\0").raw().to_vec(), "header checksum does not match"),
        (f().text(148, "zzz").raw().to_vec(), "header checksum does not match"),
        (b"\x1f\x8b\x08".repeat(200), "header checksum does not match"),
        ([&[0; 512][..], &lone(f())].concat(), "offset 512: a zero block is followed by something else"),
        (lone(f().text(100, "rw-r--r-")), "header field mode is not a number"),
        (lone(f().text(108, "-1")), "header field uid is not a number"),
        (lone(f().text(116, "0x10")), "header field gid is not a number"),
        (lone(f().text(124, "00000000009\0")), "header field size is not a number"),
        (
            lone(f().bytes(124, b"\x80\x01\0\0\0\0\0\0\0\0\0\0")),
            "header field size is not a number, or one out of range",
        ),
        (lone(f().text(136, "yesterday\0")), "header field mtime is not a number"),
        (lone(f().text(329, "eight")), "header field devmajor is not a number"),
        (lone(f().text(337, "eight")), "header field devminor is not a number"),
        (lone(Head::star("f").text(476, "never")), "header field atime is not a number"),
        (lone(Head::star("f").text(488, "never")), "header field ctime is not a number"),
        (lone(f().bytes(124, &minus_one)), "negative size"),
        (lone(f().flag(b'x').bytes(124, &minus_one)), "negative size"),
        (lone(f().flag(b'2')), "member \"dir/f\": link without a target"),
        (lone(f().flag(b'1')), "member \"dir/f\": link without a target"),
        (
            lone(f().bytes(108, b"\x80\0\0\x01\0\0\0\0")),
            "member \"dir/f\": uid 4294967296 does not fit 32 bits",
        ),
        (lone(f().bytes(108, b"\x80\0\0\0\xff\xff\xff\xff")), "uid 4294967295 does not fit 32 bits"),
        (lone(f().bytes(116, &[0xff; 8])), "gid -1 does not fit 32 bits"),
        (lone(f().flag(b'3').bytes(329, b"\x80\0\0\0\0\0\x10\0")), "device number 4096:0 out of range"),
        (lone(f().flag(b'4').bytes(337, b"\x80\0\0\0\0\x10\0\0")), "device number 0:1048576 out of range"),
        (lone(f().flag(b'3').bytes(329, &[0xff; 8])), "device number -1:0 out of range"),
        (lone(f().flag(b'S')), "type S is known in GNU's format only"),
        (lone(Head::star("f").flag(b'S')), "type S is known in GNU's format only"),
    ] {
        let reason = reason(&archive);
        assert!(
            reason.starts_with("bad tar at plain offset ") && reason.contains(want),
            "{want:?}: {reason}"
        );
    }
}

#[test]
fn unknown_types() {
    let known = b"\x0001234567xgLKS";
    for flag in (0..=255).filter(|flag| !known.contains(flag)) {
        let reason = reason(&lone(f().flag(flag)));
        let want = format!("member \"dir/f\": unhandled tar header type {:?}", char::from(flag));
        assert!(reason.contains(&want), "{reason}");
    }
}

#[test]
fn extended_headers() {
    let long_path = "p".repeat(4096);
    let long_value = "v".repeat(65537);
    let long_key = format!("SCHILY.xattr.user.{}", "k".repeat(251));
    for (archive, want) in [
        (with_body(b"junk"), "malformed pax header: record without a length"),
        (with_body(b"x k=v\n"), "malformed pax header: record with a bad length"),
        (with_body(b"99 k=v\n"), "malformed pax header: record with a bad length"),
        (with_body(b"-6 k=v\n"), "malformed pax header: record with a bad length"),
        (with_body(b"6 k=v\n\0\0"), "malformed pax header: record without a length"),
        (with_body(b"7 key=v\n"), "malformed pax header: record does not end in a newline"),
        (with_body(b"6 key\n"), "malformed pax header: record without a value"),
        (with_body(b"6 =vv\n"), "malformed pax header: record with a bad key"),
        (with_body(&record("k\0", b"v")), "malformed pax header: record with a bad key"),
        (with_body(&record("path", b"a\0b")), "malformed pax header: NUL in a name"),
        (with_body(&record("linkpath", b"a\0b")), "malformed pax header: NUL in a name"),
        (with_body(&record("gname", b"a\0b")), "malformed pax header: NUL in a name"),
        ([extended(b'g', &[("k", "v"), ("path", "a\0")]), lone(f())].concat(), "NUL in a name"),
        (with_pax(&[("size", "1e3")], f()), "member \"dir/f\": pax record size has the bad value \"1e3\""),
        (with_pax(&[("size", "9223372036854775808")], f()), "pax record size has the bad value"),
        (with_pax(&[("size", "x")], f().flag(b'5')), "pax record size has the bad value"),
        (with_pax(&[("size", "-1")], f()), "negative size"),
        (with_pax(&[("uid", "root")], f()), "pax record uid has the bad value \"root\""),
        (with_pax(&[("uid", "4294967296")], f()), "uid 4294967296 does not fit 32 bits"),
        (with_pax(&[("gid", "-1")], f()), "gid -1 does not fit 32 bits"),
        (with_pax(&[("gid", "0x1")], f()), "pax record gid has the bad value"),
        (with_pax(&[("mtime", "1.5s")], f()), "pax record mtime has the bad value \"1.5s\""),
        (with_pax(&[("atime", "now")], f()), "pax record atime has the bad value"),
        (with_pax(&[("ctime", "now")], f()), "pax record ctime has the bad value"),
        (with_pax(&[("path", &long_path)], f()), "name of 4096 bytes is longer than 4095"),
        (
            with_pax(&[("linkpath", &long_path)], f().flag(b'2')),
            "link target of 4096 bytes is longer than 4095",
        ),
        ([long(b'L', &long_path), lone(f())].concat(), "name of 4096 bytes is longer than 4095"),
        (with_pax(&[("SCHILY.xattr.", "v")], f()), "extended attribute without a name"),
        (with_pax(&[("SCHILY.xattr.user.", "v")], f()), "extended attribute without a name"),
        (with_pax(&[(&long_key, "v")], f()), "name of an extended attribute of 256 bytes is longer than 255"),
        (
            with_pax(&[("SCHILY.xattr.user.k", &long_value)], f()),
            "extended attribute of 65537 bytes is longer than 65536",
        ),
    ] {
        let reason = reason(&archive);
        assert!(
            reason.starts_with("bad tar at plain offset ") && reason.contains(want),
            "{want:?}: {reason}"
        );
    }
}

#[test]
fn messages_bear_any_name() {
    let name = "\u{1b}[31m\n".repeat(14);
    let archive = [long(b'L', &name.repeat(50)), lone(f().flag(b'V'))].concat();
    let reason = reason(&archive);
    assert!(reason.len() < 2500 && !reason.contains(['\u{1b}', '\n']), "{reason}");
}

#[test]
fn entries_before_a_refusal_were_good() {
    let good = Head::ustar("good").with(b"data");
    let mut seen = Vec::new();
    let mut scanner = crate::decode::tar::TarScanner::new(crate::decode::tar::TarLimits::default());
    let result = scanner.push(&[good.clone(), lone(f().flag(b'V'))].concat(), &mut |entry| {
        seen.push(entry);
        Ok(())
    });
    assert!(result.is_err());
    assert_eq!(seen, scan(&good));
}

#[test]
fn global_headers_that_pass_for_whiteouts() {
    let global =
        |name: &str| [Head::ustar(name).flag(b'g').with(&record("comment", b"x")), f().with(b"")].concat();
    for name in [".wh.etc", "d/.wh..wh..opq", "/d/./.wh.x/", ".wh.x/.", "a/.wh.x/y/.."] {
        let reason = reason(&global(name));
        assert!(reason.contains("a global pax header with the name of a whiteout"), "{name}: {reason}");
    }
    for name in ["pax_global_header", "", ".wh.x/..", ".wh.x/y", "x.wh.y", ".wh"] {
        assert_eq!(scan(&global(name)).len(), 1, "{name}");
    }
}
