//! A writer of headers that lets everything through.

use crate::decode::tar::header::{BLOCK, Block, padding};

/// Two zero blocks.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// A header block in the making.
#[derive(Clone)]
pub(super) struct Head(Block);

impl Head {
    pub(super) fn v7(name: &str) -> Self {
        Self([0; BLOCK])
            .text(0, name)
            .text(100, "0000644\0")
            .text(108, "0001750\0")
            .text(116, "0000144\0")
            .text(124, "00000000000\0")
            .text(136, "07346545000\0")
            .flag(b'0')
    }

    pub(super) fn ustar(name: &str) -> Self {
        Self::v7(name).text(257, "ustar\x0000").text(329, "0000000\x000000000\0")
    }

    pub(super) fn gnu(name: &str) -> Self {
        Self::v7(name).text(257, "ustar  \0")
    }

    pub(super) fn star(name: &str) -> Self {
        Self::ustar(name).text(508, "tar\0")
    }

    pub(super) fn flag(mut self, flag: u8) -> Self {
        self.0[156] = flag;
        self
    }

    pub(super) fn size(self, size: usize) -> Self {
        self.text(124, &format!("{size:011o}\0"))
    }

    pub(super) fn text(self, at: usize, text: &str) -> Self {
        self.bytes(at, text.as_bytes())
    }

    pub(super) fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// The sum of the bytes outside the checksum field, as `byte` counts them, and eight blanks.
    pub(super) fn sum(&self, byte: impl Fn(u8) -> i32) -> i32 {
        let outside = self.0[..148].iter().chain(&self.0[156..]);
        outside.map(|&b| byte(b)).sum::<i32>() + 8 * 32
    }

    /// The block with its checksum.
    pub(super) fn seal(self) -> Block {
        let sum = self.sum(i32::from);
        self.text(148, &format!("{sum:06o}\0 ")).0
    }

    /// The block with whatever checksum it has.
    pub(super) fn raw(self) -> Block {
        self.0
    }

    /// Header with the data's size, data, padding.
    pub(super) fn with(self, data: &[u8]) -> Vec<u8> {
        self.size(data.len()).before(data)
    }

    /// Header as it is, data, padding.
    pub(super) fn before(self, data: &[u8]) -> Vec<u8> {
        let mut bytes = self.seal().to_vec();
        bytes.extend_from_slice(data);
        let fill = usize::try_from(padding(data.len().try_into().unwrap())).unwrap();
        bytes.extend(std::iter::repeat_n(0, fill));
        bytes
    }
}

/// One record of an extended header.
pub(super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let len = (rest..).find(|len| len.to_string().len() + rest == *len).unwrap();
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// An extended header.
pub(super) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    extended(b'x', records)
}

/// An extended header of type `x` or `g`.
pub(super) fn extended(flag: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value.as_bytes())).collect();
    Head::ustar("PaxHeaders.0/x").flag(flag).with(&body)
}

/// GNU's long name or long link.
pub(super) fn long(flag: u8, name: &str) -> Vec<u8> {
    Head::gnu("././@LongLink").flag(flag).with(format!("{name}\0").as_bytes())
}

/// The archive of these members, with its end.
pub(super) fn archive<const N: usize>(members: [Vec<u8>; N]) -> Vec<u8> {
    [members.concat().as_slice(), &END].concat()
}
