//! From a header block and the extended headers before it to an entry.

use super::fault::Fault;
use super::header::{Block, Format, Header, kind};
use super::number::numeric;
use super::pax::Records;
use super::sparse::{self, OldMap, PaxMap, Run, TextMap};
use super::{Entry, EntryKind, Extent, FileData, Timestamp};
use crate::num::to_u64;

/// Longest name or link target: Linux's `PATH_MAX` without its NUL. No reader could create a longer one.
const MAX_PATH: usize = 4095;
/// Linux's `XATTR_NAME_MAX` and `XATTR_SIZE_MAX`.
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 64 << 10;

/// What the special members before a member say about it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) records: Records,
    /// GNU `L`; empty = none.
    pub(super) long_name: Vec<u8>,
    /// GNU `K`; empty = none.
    pub(super) long_link: Vec<u8>,
}

impl Pending {
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.long_name.clear();
        self.long_link.clear();
    }
}

/// A member whose header has been read.
#[derive(Debug)]
pub(super) enum Member {
    /// Nothing follows.
    Plain(Entry),
    /// Data follow.
    File(File),
    /// The rest of a sparse map follows, then data.
    Sparse(Sparse),
}

/// A regular file before its data.
#[derive(Debug)]
pub(super) struct File {
    /// The entry, its digest still zeros.
    pub(super) entry: Entry,
    /// Logical size.
    pub(super) size: u64,
    /// As in [`FileData`].
    pub(super) extents: Vec<Extent>,
    /// Bytes of data in the archive.
    pub(super) stored: u64,
}

/// A sparse file before the rest of its map.
#[derive(Debug)]
pub(super) struct Sparse {
    entry: Entry,
    size: u64,
    /// Bytes in the archive that count as the member's data.
    stored: u64,
    map: Map,
}

#[derive(Debug)]
enum Map {
    /// Its blocks come before the data.
    Old(OldMap),
    /// Its blocks are the beginning of the data.
    Text(TextMap),
}

/// Reads a member. `data_at` is the plain offset behind the header block, `limit` bounds sparse maps.
pub(super) fn read(
    block: &Block,
    header: &Header<'_>,
    pending: &Pending,
    data_at: u64,
    limit: u64,
) -> Result<Member, Fault> {
    let records = &pending.records;
    let stored = records.size()?.unwrap_or(header.size);
    let mut entry = entry(header, pending)?;
    if !matches!(entry.kind, EntryKind::File(_)) {
        return match PaxMap::of(records) {
            PaxMap::None => Ok(Member::Plain(entry)),
            PaxMap::InHeader | PaxMap::InData => Err(Fault::SparseType),
        };
    }
    let data = unsigned(stored)?;
    if header.flag == kind::GNU_SPARSE {
        // star has the same type with another layout.
        if header.format != Format::Gnu {
            return Err(Fault::SparseMap("type S is known in GNU's format only"));
        }
        let size = numeric(&block[483..495]).ok_or(Fault::Number("realsize"))?;
        let size = unsigned(size)?;
        let mut map = OldMap::new(limit);
        return match map.start(block)? {
            Some(runs) => File::sparse(entry, &runs, size, data, data_at).map(Member::File),
            None => Ok(Member::Sparse(Sparse { entry, size, stored: data, map: Map::Old(map) })),
        };
    }
    let map = PaxMap::of(records);
    if map == PaxMap::None {
        return Ok(Member::File(File::dense(entry, data, data_at)));
    }
    let size = unsigned(sparse::logical_size(records)?.unwrap_or(stored))?;
    // The only name that Go does not check for NULs on the way.
    check_path("name", &records.sparse.name)?;
    if !records.sparse.name.is_empty() {
        entry.path.clone_from(&records.sparse.name);
    }
    if map == PaxMap::InHeader {
        let runs = sparse::map_in_header(records)?;
        return File::sparse(entry, &runs, size, data, data_at).map(Member::File);
    }
    let map = Map::Text(TextMap::new(limit));
    Ok(Member::Sparse(Sparse { entry, size, stored: data, map }))
}

impl File {
    fn dense(entry: Entry, size: u64, data_at: u64) -> Self {
        let extent = Extent { file_offset: 0, stream_offset: data_at, len: size };
        let extents = if size == 0 { Vec::new() } else { vec![extent] };
        Self { entry, size, extents, stored: size }
    }

    fn sparse(entry: Entry, runs: &[Run], size: u64, stored: u64, data_at: u64) -> Result<Self, Fault> {
        let extents = sparse::extents(runs, size, stored, data_at)?;
        Ok(Self { entry, size, extents, stored })
    }
}

impl Sparse {
    /// Whether the member's data suffice for another block of the map.
    pub(super) fn expects_block(&self) -> Result<(), Fault> {
        match self.map {
            Map::Text(_) if self.stored < to_u64(super::header::BLOCK) => {
                Err(Fault::SparseMap("longer than the member's data"))
            }
            _ => Ok(()),
        }
    }

    /// Takes the next block, behind which the plain offset is `data_at`; the extents when the map is complete.
    pub(super) fn extend(&mut self, block: &Block, data_at: u64) -> Result<Option<Vec<Extent>>, Fault> {
        let runs = match &mut self.map {
            Map::Old(map) => map.extend(block)?,
            Map::Text(map) => {
                self.stored = self.stored.saturating_sub(to_u64(block.len()));
                map.extend(block)?
            }
        };
        runs.map(|runs| sparse::extents(&runs, self.size, self.stored, data_at)).transpose()
    }

    /// The file, once the map is complete.
    pub(super) fn into_file(self, extents: Vec<Extent>) -> File {
        File { entry: self.entry, size: self.size, extents, stored: self.stored }
    }

    /// The member's name, for messages.
    pub(super) fn name(&self) -> &[u8] {
        &self.entry.path
    }
}

fn unsigned(size: i64) -> Result<u64, Fault> {
    u64::try_from(size).map_err(|_| Fault::NegativeSize)
}

/// The member's name: GNU's long name over the extended header's over the header's own.
pub(super) fn name(header: &Header<'_>, pending: &Pending) -> Vec<u8> {
    if !pending.long_name.is_empty() {
        return pending.long_name.clone();
    }
    if !pending.records.path.is_empty() {
        return pending.records.path.clone();
    }
    if header.prefix.is_empty() { header.name.to_vec() } else { [header.prefix, b"/", header.name].concat() }
}

fn link_target(header: &Header<'_>, pending: &Pending) -> Result<Vec<u8>, Fault> {
    let target = [&pending.long_link, &pending.records.linkpath]
        .into_iter()
        .find(|target| !target.is_empty())
        .map_or(header.link, Vec::as_slice);
    if target.is_empty() {
        return Err(Fault::NoTarget);
    }
    check_path("link target", target)?;
    Ok(target.to_vec())
}

/// The entry without what only files have.
fn entry(header: &Header<'_>, pending: &Pending) -> Result<Entry, Fault> {
    let records = &pending.records;
    let path = name(header, pending);
    check_path("name", &path)?;
    let kind = match header.flag {
        // Archives from before ustar have directories as files whose name ends in a slash. This holds for the
        // old type alone: Go takes `dir/` of type 0 for a file.
        kind::OLD_REGULAR if path.ends_with(b"/") => EntryKind::Dir,
        kind::OLD_REGULAR | kind::REGULAR | kind::CONTIGUOUS | kind::GNU_SPARSE => {
            EntryKind::File(FileData { size: 0, extents: Vec::new(), digest: [0; 32] })
        }
        kind::HARDLINK => EntryKind::Hardlink(link_target(header, pending)?),
        kind::SYMLINK => EntryKind::Symlink(link_target(header, pending)?),
        kind::CHAR => {
            let (major, minor) = device(header)?;
            EntryKind::Char { major, minor }
        }
        kind::BLOCK => {
            let (major, minor) = device(header)?;
            EntryKind::Block { major, minor }
        }
        kind::DIR => EntryKind::Dir,
        kind::FIFO => EntryKind::Fifo,
        flag => return Err(Fault::Type(flag)),
    };
    let mtime = records.mtime()?.unwrap_or(Timestamp { secs: header.mtime, nanos: 0 });
    Ok(Entry {
        mode: mode(header.mode),
        uid: owner("uid", records.uid()?.unwrap_or(header.uid))?,
        gid: owner("gid", records.gid()?.unwrap_or(header.gid))?,
        xattrs: xattrs(records, &kind)?,
        path,
        kind,
        mtime,
    })
}

fn check_path(what: &'static str, path: &[u8]) -> Result<(), Fault> {
    if path.len() > MAX_PATH {
        return Err(Fault::TooLong { what, len: path.len(), limit: MAX_PATH });
    }
    if path.contains(&0) { Err(Fault::Nul(what)) } else { Ok(()) }
}

/// Type bits, which some writers add, and whatever else stands there are dropped.
fn mode(mode: i64) -> u32 {
    u32::try_from(mode & 0o7777).unwrap_or_default()
}

/// The kernel has 32-bit ids, the last of which means "none".
fn owner(what: &'static str, id: i64) -> Result<u32, Fault> {
    u32::try_from(id).ok().filter(|&id| id != u32::MAX).ok_or(Fault::Owner { what, id })
}

/// Linux has 12 bits of major and 20 of minor.
fn device(header: &Header<'_>) -> Result<(u32, u32), Fault> {
    let fits = |number: i64, bits: u32| u32::try_from(number).ok().filter(|number| number >> bits == 0);
    let (major, minor) = (header.major, header.minor);
    fits(major, 12).zip(fits(minor, 20)).ok_or(Fault::Device { major, minor })
}

/// Names and values, as in [`Entry`].
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes that containerd sets: it leaves out `trusted.*`, namespaces that the kernel does not know, and
/// `user.*` on what is neither file nor directory (a hard link may be to either).
fn xattrs(records: &Records, kind: &EntryKind) -> Result<Xattrs, Fault> {
    let has_user = matches!(kind, EntryKind::File(_) | EntryKind::Dir | EntryKind::Hardlink(_));
    let mut xattrs = Vec::new();
    for (name, value) in &records.xattrs {
        let namespace = name.split_inclusive(|&byte| byte == b'.').next().unwrap_or_default();
        let is_set = match namespace {
            b"security." | b"system." => true,
            b"user." => has_user,
            _ => false,
        };
        if name.len() == namespace.len() && (is_set || name.is_empty()) {
            return Err(Fault::XattrName);
        }
        if !is_set {
            continue;
        }
        for (what, bytes, limit) in [
            ("name of an extended attribute", name, MAX_XATTR_NAME),
            ("extended attribute", value, MAX_XATTR_VALUE),
        ] {
            if bytes.len() > limit {
                return Err(Fault::TooLong { what, len: bytes.len(), limit });
            }
        }
        xattrs.push((name.clone(), value.clone()));
    }
    Ok(xattrs)
}

/// Whether a name leads to the root by itself: empty, `.`, `a/..`, `..` and the like.
pub(super) fn is_root(path: &[u8]) -> bool {
    let depth = path.split(|&byte| byte == b'/').fold(0_usize, |depth, name| match name {
        b"" | b"." => depth,
        b".." => depth.saturating_sub(1),
        _ => depth + 1,
    });
    depth == 0
}

/// Whether the last component of a name, once it is cleaned, is that of a whiteout.
pub(super) fn is_whiteout(path: &[u8]) -> bool {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.last().is_some_and(|name| name.starts_with(b".wh."))
}
