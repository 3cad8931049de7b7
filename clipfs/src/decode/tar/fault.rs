//! Why a tar is refused, before it is known where.

/// A reason; [`super::DecodeError::Tar`] adds the place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("header checksum does not match")]
    Checksum,
    #[error("a zero block is followed by something else")]
    LoneZeroBlock,
    #[error("header field {0} is not a number, or one out of range")]
    Number(&'static str),
    #[error("negative size")]
    NegativeSize,
    #[error("{what} of {len} bytes exceeds the limit of {limit}")]
    HeaderTooLong { what: &'static str, len: u64, limit: u64 },
    #[error("malformed pax header: {0}")]
    Pax(&'static str),
    #[error("pax record {key} has the bad value {value:?}")]
    PaxValue { key: &'static str, value: String },
    #[error("malformed sparse map: {0}")]
    SparseMap(&'static str),
    #[error("sparse map describes {mapped} bytes of data, the archive holds {stored}")]
    SparseData { mapped: u64, stored: u64 },
    #[error("only regular files can be sparse")]
    SparseType,
    #[error("unhandled tar header type {:?}", char::from(*.0))]
    Type(u8),
    #[error("{what} {id} does not fit 32 bits, of which the last value means none")]
    Owner { what: &'static str, id: i64 },
    #[error("device number {major}:{minor} out of range")]
    Device { major: i64, minor: i64 },
    #[error("{0} holds a NUL")]
    Nul(&'static str),
    #[error("{what} of {len} bytes is longer than {limit}")]
    TooLong { what: &'static str, len: usize, limit: usize },
    #[error("link without a target")]
    NoTarget,
    #[error("extended attribute without a name")]
    XattrName,
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    #[error("a global pax header with the name of a whiteout, which some readers take for one")]
    GlobalWhiteout,
    #[error("an earlier error has ended the scan")]
    Dead,
}

/// Foreign bytes for a message: escaped, and no longer than a line can bear.
pub(super) fn show(bytes: &[u8]) -> String {
    const MOST: usize = 200;
    let head = bytes.get(..MOST).unwrap_or(bytes);
    let dots = if head.len() < bytes.len() { "…" } else { "" };
    format!("{}{dots}", String::from_utf8_lossy(head))
}
