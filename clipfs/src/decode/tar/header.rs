//! One 512-byte header block: v7, ustar, star or GNU.

use super::fault::Fault;
use super::number::{numeric, octal};

/// Unit of a tar.
pub(super) const BLOCK: usize = 512;
/// A block in place.
pub(super) type Block = [u8; BLOCK];
/// What fills a member's last block.
pub(super) const ZERO_BLOCK: Block = [0; BLOCK];

/// Type flags. Links, devices, directories and FIFOs never have data, whatever their size says.
pub(super) mod kind {
    pub(crate) const REGULAR: u8 = b'0';
    pub(crate) const OLD_REGULAR: u8 = 0;
    pub(crate) const HARDLINK: u8 = b'1';
    pub(crate) const SYMLINK: u8 = b'2';
    pub(crate) const CHAR: u8 = b'3';
    pub(crate) const BLOCK: u8 = b'4';
    pub(crate) const DIR: u8 = b'5';
    pub(crate) const FIFO: u8 = b'6';
    pub(crate) const CONTIGUOUS: u8 = b'7';
    pub(crate) const PAX: u8 = b'x';
    pub(crate) const PAX_GLOBAL: u8 = b'g';
    pub(crate) const GNU_SPARSE: u8 = b'S';
    pub(crate) const GNU_LONG_NAME: u8 = b'L';
    pub(crate) const GNU_LONG_LINK: u8 = b'K';

    /// No data follows the header.
    pub(crate) fn is_header_only(flag: u8) -> bool {
        (HARDLINK..=FIFO).contains(&flag)
    }
}

/// Layout of a header, told by its magic. ustar includes pax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// The fields that matter here; names borrow from the block.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) format: Format,
    pub(super) flag: u8,
    /// May be negative for types that have no data.
    pub(super) size: i64,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) mtime: i64,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) name: &'a [u8],
    /// Goes before the name with a slash between, if not empty.
    pub(super) prefix: &'a [u8],
    pub(super) link: &'a [u8],
}

impl<'a> Header<'a> {
    /// Reads a block that is not all zeros.
    pub(super) fn parse(block: &'a Block) -> Result<Self, Fault> {
        if !checksum_matches(block) {
            return Err(Fault::Checksum);
        }
        let number = |at: usize, len: usize, name| numeric(&block[at..at + len]).ok_or(Fault::Number(name));
        let format = Format::of(block);
        let flag = block[156];
        let size = number(124, 12, "size")?;
        if size < 0 && !kind::is_header_only(flag) {
            return Err(Fault::NegativeSize);
        }
        let mut header = Self {
            format,
            flag,
            size,
            mode: number(100, 8, "mode")?,
            uid: number(108, 8, "uid")?,
            gid: number(116, 8, "gid")?,
            mtime: number(136, 12, "mtime")?,
            major: 0,
            minor: 0,
            name: c_string(&block[..100]),
            prefix: &[],
            link: c_string(&block[157..257]),
        };
        if format == Format::V7 {
            return Ok(header);
        }
        header.major = number(329, 8, "devmajor")?;
        header.minor = number(337, 8, "devminor")?;
        match format {
            Format::V7 => {}
            Format::Ustar => header.prefix = c_string(&block[345..500]),
            Format::Star => {
                header.prefix = c_string(&block[345..476]);
                number(476, 12, "atime")?;
                number(488, 12, "ctime")?;
            }
            Format::Gnu => header.prefix = gnu_prefix(block),
        }
        Ok(header)
    }
}

impl Format {
    fn of(block: &Block) -> Self {
        match &block[257..265] {
            [b'u', b's', b't', b'a', b'r', 0, ..] if &block[508..] == b"tar\0" => Self::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Self::Ustar,
            b"ustar  \0" => Self::Gnu,
            _ => Self::V7,
        }
    }
}

/// GNU headers have times where ustar has its prefix. Writers in Go before 1.8 put a prefix there all the same; like
/// Go's reader, take it for one if it cannot be times and is ASCII.
fn gnu_prefix(block: &Block) -> &[u8] {
    let is_time = |at: usize| block[at] == 0 || numeric(&block[at..at + 12]).is_some();
    if is_time(345) && is_time(357) {
        return &[];
    }
    let prefix = c_string(&block[345..500]);
    if prefix.is_ascii() { prefix } else { &[] }
}

/// The sum of all bytes, the checksum itself counting as blanks; some old writers summed signed bytes.
fn checksum_matches(block: &Block) -> bool {
    let Some(stated) = octal(&block[148..156]) else { return false };
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let high = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte >> 7)).sum::<u32>();
    let blanks = 8 * u32::from(b' ');
    let unsigned = i64::from(sum(&block[..148]) + blanks + sum(&block[156..]));
    if stated == unsigned {
        return true;
    }
    stated == unsigned - 256 * i64::from(high(&block[..148]) + high(&block[156..]))
}

/// The bytes before the first NUL.
pub(super) fn c_string(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// How many bytes are missing to a whole block.
pub(super) fn padding(len: u64) -> u64 {
    len.wrapping_neg() % crate::num::to_u64(BLOCK)
}
