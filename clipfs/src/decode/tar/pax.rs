//! Extended headers of type `x`: `"<length> <key>=<value>\n"` records.
//!
//! A key that comes twice counts with its last value; an empty value means: as in the header block. Both as in Go.

use std::collections::BTreeMap;

use super::Timestamp;
use super::fault::{Fault, show};
use super::number::decimal;

/// The records of one extended header that mean something to us, raw. Empty = not there.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Vec<u8>,
    pub(super) linkpath: Vec<u8>,
    size: Vec<u8>,
    uid: Vec<u8>,
    gid: Vec<u8>,
    mtime: Vec<u8>,
    atime: Vec<u8>,
    ctime: Vec<u8>,
    pub(super) sparse: SparseRecords,
    /// Here an empty value is a value.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// `GNU.sparse.*`.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) major: Vec<u8>,
    pub(super) minor: Vec<u8>,
    pub(super) name: Vec<u8>,
    pub(super) size: Vec<u8>,
    pub(super) realsize: Vec<u8>,
    pub(super) numblocks: Vec<u8>,
    pub(super) map: Vec<u8>,
}

impl Records {
    /// Forgets everything but keeps the buffers: archives have an extended header per member.
    pub(super) fn clear(&mut self) {
        let Self { path, linkpath, size, uid, gid, mtime, atime, ctime, sparse, xattrs } = self;
        let SparseRecords { major, minor, name, size: sparse_size, realsize, numblocks, map } = sparse;
        for value in [path, linkpath, size, uid, gid, mtime, atime, ctime] {
            value.clear();
        }
        for value in [major, minor, name, sparse_size, realsize, numblocks, map] {
            value.clear();
        }
        xattrs.clear();
    }

    /// Replaces the records by those in an extended header's body.
    pub(super) fn parse(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        self.clear();
        // Version 0.0 of GNU's sparse format repeats two keys; put together they are 0.1's map.
        let mut pieces = 0_usize;
        let mut map = Vec::new();
        while !body.is_empty() {
            let (key, value, rest) = split_record(body)?;
            body = rest;
            let expected = match key {
                b"GNU.sparse.offset" => 0,
                b"GNU.sparse.numbytes" => 1,
                _ => {
                    self.set(key, value);
                    continue;
                }
            };
            if pieces % 2 != expected || value.contains(&b',') {
                return Err(Fault::Pax("GNU.sparse.offset and GNU.sparse.numbytes out of order"));
            }
            if pieces > 0 {
                map.push(b',');
            }
            map.extend_from_slice(value);
            pieces += 1;
        }
        if pieces > 0 {
            self.sparse.map = map;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        let field = match key {
            b"path" => &mut self.path,
            b"linkpath" => &mut self.linkpath,
            b"size" => &mut self.size,
            b"uid" => &mut self.uid,
            b"gid" => &mut self.gid,
            b"mtime" => &mut self.mtime,
            b"atime" => &mut self.atime,
            b"ctime" => &mut self.ctime,
            b"GNU.sparse.major" => &mut self.sparse.major,
            b"GNU.sparse.minor" => &mut self.sparse.minor,
            b"GNU.sparse.name" => &mut self.sparse.name,
            b"GNU.sparse.size" => &mut self.sparse.size,
            b"GNU.sparse.realsize" => &mut self.sparse.realsize,
            b"GNU.sparse.numblocks" => &mut self.sparse.numblocks,
            b"GNU.sparse.map" => &mut self.sparse.map,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
                return;
            }
        };
        field.clear();
        field.extend_from_slice(value);
    }

    /// Size of the data in the archive.
    pub(super) fn size(&self) -> Result<Option<i64>, Fault> {
        number("size", &self.size)
    }

    /// Owner.
    pub(super) fn uid(&self) -> Result<Option<i64>, Fault> {
        number("uid", &self.uid)
    }

    /// Group.
    pub(super) fn gid(&self) -> Result<Option<i64>, Fault> {
        number("gid", &self.gid)
    }

    /// Modification time. The other times are checked, as Go does, and not used.
    pub(super) fn mtime(&self) -> Result<Option<Timestamp>, Fault> {
        let parse = |key, value: &[u8]| match value {
            [] => Ok(None),
            _ => time(value).map(Some).ok_or_else(|| bad_value(key, value)),
        };
        parse("atime", &self.atime)?;
        parse("ctime", &self.ctime)?;
        parse("mtime", &self.mtime)
    }
}

/// Checks the form of a body whose records are not used: global headers.
pub(super) fn check(body: &[u8]) -> Result<(), Fault> {
    Records::default().parse(body)
}

/// A record's value that is a number; `None` if it is empty.
pub(super) fn number(key: &'static str, value: &[u8]) -> Result<Option<i64>, Fault> {
    match value {
        [] => Ok(None),
        _ => decimal(value).map(Some).ok_or_else(|| bad_value(key, value)),
    }
}

fn bad_value(key: &'static str, value: &[u8]) -> Fault {
    Fault::PaxValue { key, value: show(value) }
}

/// Key, value, and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Takes the first record off a body.
fn split_record(body: &[u8]) -> Result<Record<'_>, Fault> {
    let bad = Fault::Pax;
    let blank = body.iter().position(|&byte| byte == b' ').ok_or(bad("record without a length"))?;
    let len = decimal(&body[..blank])
        .and_then(|len| usize::try_from(len).ok())
        .filter(|&len| len >= 5 && len <= body.len() && len > blank + 1)
        .ok_or(bad("record with a bad length"))?;
    let (record, rest) = body.split_at(len);
    let record = record[blank + 1..].strip_suffix(b"\n").ok_or(bad("record does not end in a newline"))?;
    let equals = record.iter().position(|&byte| byte == b'=').ok_or(bad("record without a value"))?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(bad("record with a bad key"));
    }
    if matches!(key, b"path" | b"linkpath" | b"uname" | b"gname") && value.contains(&0) {
        return Err(bad("NUL in a name"));
    }
    Ok((key, value, rest))
}

/// Decimal seconds with an optional fraction, of which nine digits count; the sign is that of the whole number.
fn time(text: &[u8]) -> Option<Timestamp> {
    const DIGITS: usize = 9;
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    let secs = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(DIGITS);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    if whole.first() == Some(&b'-') && nanos > 0 {
        return Some(Timestamp { secs: secs.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Timestamp { secs, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = |secs, nanos| Some(Timestamp { secs, nanos });
        for (text, want) in [
            ("0", at(0, 0)),
            ("1350244992.023960108", at(1_350_244_992, 23_960_108)),
            ("1350244992.02396010", at(1_350_244_992, 23_960_100)),
            ("1350244992.0239601089", at(1_350_244_992, 23_960_108)),
            ("1350244992.", at(1_350_244_992, 0)),
            ("+5.5", at(5, 500_000_000)),
            ("-1", at(-1, 0)),
            ("-1.5", at(-2, 500_000_000)),
            ("-0.5", at(-1, 500_000_000)),
            ("-1.000000001", at(-2, 999_999_999)),
            ("-1.0000000009", at(-1, 0)),
            ("-9223372036854775808", at(i64::MIN, 0)),
            ("-9223372036854775808.5", None),
            ("9223372036854775808", None),
            ("", None),
            (".5", None),
            ("-.5", None),
            ("1.5x", None),
            ("1.-5", None),
            ("1..5", None),
            ("1e5", None),
        ] {
            assert_eq!(time(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn records_split_as_in_go() {
        let good = |key: &'static str, value: &'static str, rest: &'static str| {
            Some((key.as_bytes(), value.as_bytes(), rest.as_bytes()))
        };
        for (body, want) in [
            ("6 k=v\n\n", good("k", "v", "\n")),
            ("6 k=v\n", good("k", "v", "")),
            ("5 k=\n", good("k", "", "")),
            ("19 path=/etc/hosts\nabc", good("path", "/etc/hosts", "abc")),
            ("9 a=b=c=\n", good("a", "b=c=", "")),
            ("10 k=a\nb=\n", good("k", "a\nb=", "")),
            ("+7 k=v\n", good("k", "v", "")),
            ("007 k=v\n", None),
            ("0008 k=v\n", None),
            ("0009 k=v\n", good("k", "v", "")),
            ("+6 k=v\n", None),
            ("6  =v\n", good(" ", "v", "")),
            ("5 =v\n", None),
            ("4 k=\n", None),
            ("50 tooshort=\n", None),
            ("10 k=value", None),
            ("6 nil", None),
            ("0 somelongkey=\n", None),
            ("-9 somelongkey=\n", None),
            ("3 somelongkey=\n", None),
            ("6k=v\n", None),
            ("7 noeq\n", None),
            ("9 noequ\n", None),
            ("17 \0hello=\0world\n", None),
            ("16 hello=\0world\n", good("hello", "\0world", "")),
            ("15 path=\0world\n", None),
            ("19 linkpath=\0world\n", None),
            ("16 uname=\0world\n", None),
            ("99999999999999999999 a=b\n", None),
            ("00000000000000000000000000000005 a=b\n", None),
        ] {
            assert_eq!(split_record(body.as_bytes()).ok(), want, "{body:?}");
        }
    }

    #[test]
    fn last_value_counts_and_buffers_are_cleared() {
        let mut records = Records::default();
        records.parse(b"10 uid=77\n8 uid=5\n8 gid=8\n7 gid=\n").unwrap();
        assert_eq!((records.uid(), records.gid()), (Ok(Some(5)), Ok(None)));
        records.parse(b"8 gid=8\n").unwrap();
        assert_eq!((records.uid(), records.gid()), (Ok(None), Ok(Some(8))));
    }

    #[test]
    fn version_0_0_becomes_a_map() {
        let records = ["23 GNU.sparse.offset=1\n", "25 GNU.sparse.numbytes=2\n", "23 GNU.sparse.offset=5\n"];
        let parse = |order: &[usize]| {
            let body: Vec<u8> = order.iter().flat_map(|&at| records[at].bytes()).collect();
            let mut parsed = Records::default();
            parsed.parse(&body).map(|()| parsed.sparse.map)
        };
        assert_eq!(parse(&[0, 1, 2, 1]).unwrap(), b"1,2,5,2");
        assert_eq!(parse(&[0, 1, 2]).unwrap(), b"1,2,5");
        assert!(parse(&[1]).is_err());
        assert!(parse(&[0, 2]).is_err());
        assert!(parse(&[0, 1, 1]).is_err());
    }
}
