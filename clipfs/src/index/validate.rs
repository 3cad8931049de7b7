//! Validates an untrusted index in O(size), without allocating by its numbers (the one allocation counts names per inode
//! record, which the file must hold).
//!
//! After it every accessor of [`super::ClipIndex`] finds what it looks for; they check bounds all the same, for the
//! file might change under the map.

use std::ops::Range;

use super::IndexError;
use super::format::{
    Content, Dirent, Fragments, Inode, Layer, Meta, Record, SECTIONS, SPARSE, Section, XattrSet, align,
    count, kind, name_at, range, record,
};
use super::header::{HEADER_LEN, HEADER_SUM, Header, MAGIC, TableEntry, VERSION};
use super::layer::ChunkRecord;
use crate::decode::tar::Extent;
use crate::decode::window::MAX_WINDOW;
use crate::decode::{Compression, MAX_CHUNK, Resume};
use crate::image::xattr;
use crate::num::{idx, to_u64, to_usize};
use crate::oci::Digest;

/// Where the sections are.
pub(super) type Sections = [Range<usize>; SECTIONS];

/// Longest symlink target.
const MAX_TARGET: u32 = 4095;

/// Longest encoded window: an encoding may cost more than the window, but not much.
const MAX_ENCODED_WINDOW: u64 = 2 * to_u64(MAX_WINDOW);

fn invalid<T>(what: impl Into<String>) -> Result<T, IndexError> {
    Err(IndexError::Invalid(what.into()))
}

/// Fails with `what` unless `ok`.
fn ensure(ok: bool, what: &'static str) -> Result<(), IndexError> {
    if ok { Ok(()) } else { invalid(what) }
}

/// Checks the header and that the sections lie one behind the other and fill the file.
pub(super) fn header(bytes: &[u8]) -> Result<(Header, Sections), IndexError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(IndexError::NotAnIndex);
    }
    if let Some(version) = bytes.get(8..).and_then(|b| b.first_chunk().copied().map(u32::from_le_bytes))
        && version != VERSION
    {
        return Err(IndexError::Version { found: version, supported: VERSION });
    }
    let found = to_u64(bytes.len());
    let Some(raw) = bytes.first_chunk::<HEADER_LEN>() else {
        return Err(IndexError::Length { found, expected: to_u64(HEADER_LEN) });
    };
    let header = Header::decode(raw);
    if blake3::hash(&raw[..HEADER_SUM]).as_bytes() != &raw[HEADER_SUM..] {
        return Err(IndexError::Checksum("header"));
    }
    if header.length != found {
        return Err(IndexError::Length { found, expected: header.length });
    }
    ensure(header.flags == 0, "unknown flags")?;
    ensure(idx(header.sections) == SECTIONS, "wrong number of sections")?;
    let mut sections: Sections = std::array::from_fn(|_| 0..0);
    let mut end = to_u64(HEADER_LEN);
    for (n, entry) in header.table.iter().enumerate() {
        sections[n] = section(bytes, end, Section::ALL[n], entry)?;
        end = to_u64(sections[n].end);
    }
    ensure(end == found, "bytes behind the last section")?;
    Ok((header, sections))
}

/// Checks a section's place: right behind the one before, but for zeros up to a multiple of 8.
fn section(
    bytes: &[u8],
    before: u64,
    section: Section,
    entry: &TableEntry,
) -> Result<Range<usize>, IndexError> {
    let misplaced = || IndexError::Invalid(format!("the {} section is misplaced", section.name()));
    let end = entry.offset.checked_add(entry.len).ok_or_else(misplaced)?;
    let place = to_usize(entry.offset)..to_usize(end);
    let padding = bytes.get(to_usize(before)..place.start).ok_or_else(misplaced)?;
    let sane = idx(entry.kind) == section as usize
        && entry.offset == align(before)
        && bytes.get(place.clone()).is_some()
        && padding.iter().all(|&b| b == 0)
        && place.len() % section.record() == 0;
    let addressable = place.len() / section.record() < idx(u32::MAX) || section == Section::Windows;
    if sane && addressable { Ok(place) } else { Err(misplaced()) }
}

/// Checks a section's checksum.
fn checksum(bytes: &[u8], header: &Header, sections: &Sections, which: Section) -> Result<(), IndexError> {
    let content = bytes.get(sections[which as usize].clone()).unwrap_or_default();
    if blake3::hash(content).as_bytes() == &header.table[which as usize].sum {
        Ok(())
    } else {
        Err(IndexError::Checksum(which.name()))
    }
}

/// An index that is larger than this has its checksums computed on a second thread: starting one takes about 50 µs.
const TWO_THREADS: usize = 1 << 20;

/// Checks all checksums (of the windows only if asked) and the structure. Both at once in large indexes; checking the
/// structure of damaged bytes is harmless. That bits have flipped is told first.
pub(super) fn all(
    bytes: &[u8],
    header: &Header,
    sections: &Sections,
    windows: bool,
) -> Result<Facts, IndexError> {
    let checksums = || {
        let wanted = Section::ALL.into_iter().filter(|&s| windows || s != Section::Windows);
        wanted.into_iter().try_for_each(|s| checksum(bytes, header, sections, s))
    };
    let (summed, facts) = std::thread::scope(|scope| {
        let large = sections[Section::Windows as usize].start > TWO_THREADS;
        let thread = large.then(|| std::thread::Builder::new().spawn_scoped(scope, checksums));
        match thread {
            Some(Ok(thread)) => {
                let facts = structure(bytes, sections);
                (thread.join().unwrap_or(Err(IndexError::Checksum("whole"))), facts)
            }
            // Small, or no thread to be had.
            _ => (checksums(), structure(bytes, sections)),
        }
    });
    summed?;
    facts
}

/// What validation has found out on the way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) meta: Meta,
    /// Sum of the sizes of all contents.
    pub(super) content_bytes: u64,
}

/// Checks everything but the windows' bytes.
fn structure(bytes: &[u8], sections: &Sections) -> Result<Facts, IndexError> {
    let part = |s: Section| bytes.get(sections[s as usize].clone()).unwrap_or_default();
    let view = View {
        inodes: part(Section::Inodes),
        dirents: part(Section::Dirents),
        names: part(Section::Names),
        targets: part(Section::Targets),
        xattr_sets: part(Section::XattrSets),
        xattrs: part(Section::Xattrs),
        contents: part(Section::Contents),
        fragments: part(Section::Fragments),
        extents: part(Section::Extents),
        layers: part(Section::Layers),
        chunks: part(Section::Chunks),
        windows_len: to_u64(sections[Section::Windows as usize].len()),
    };
    let meta = meta(part(Section::Meta))?;
    view.xattrs()?;
    view.layers()?;
    let content_bytes = view.contents()?;
    view.tree()?;
    Ok(Facts { meta, content_bytes })
}

fn meta(section: &[u8]) -> Result<Meta, IndexError> {
    let Some(meta) = section.first_chunk().and_then(Meta::decode) else {
        return invalid("the meta section is too short");
    };
    let (manifest, config) = meta.ranges();
    ensure(config.end == section.len(), "manifest and config do not fill the meta section")?;
    ensure((1..=MAX_CHUNK).contains(&meta.chunk), "impossible chunk size")?;
    let manifest = section.get(manifest).unwrap_or_default();
    ensure(Digest::of(manifest) == meta.manifest_digest, "the manifest does not match its digest")?;
    Ok(meta)
}

struct View<'a> {
    inodes: &'a [u8],
    dirents: &'a [u8],
    names: &'a [u8],
    targets: &'a [u8],
    xattr_sets: &'a [u8],
    xattrs: &'a [u8],
    contents: &'a [u8],
    fragments: &'a [u8],
    extents: &'a [u8],
    layers: &'a [u8],
    chunks: &'a [u8],
    windows_len: u64,
}

/// All records of a section. `None` elements are records that do not decode.
fn records<const N: usize, R: Record<N>>(section: &[u8]) -> impl Iterator<Item = (u32, Option<R>)> {
    let (all, _) = section.as_chunks::<N>();
    (0..).zip(all.iter().map(R::decode))
}

impl View<'_> {
    /// Attribute sets fill their heap, one behind the other.
    fn xattrs(&self) -> Result<(), IndexError> {
        let mut end = 0;
        for (_, set) in records::<8, XattrSet>(self.xattr_sets) {
            let Some(set) = set.filter(|s| u64::from(s.offset) == end && s.len > 0) else {
                return invalid("attribute sets do not follow each other");
            };
            let bytes = range(self.xattrs, end, u64::from(set.len));
            ensure(bytes.is_some_and(xattr::check), "an attribute set is malformed")?;
            end += u64::from(set.len);
        }
        ensure(end == to_u64(self.xattrs.len()), "attribute sets do not fill their section")
    }

    /// Layers, and that chunks, contents and windows are shared out among them without a rest.
    fn layers(&self) -> Result<(), IndexError> {
        let (mut chunk, mut content, mut windows) = (0u64, 0u64, 0u64);
        for (_, layer) in records::<120, Layer>(self.layers) {
            let Some(layer) = layer else { return invalid("unknown compression") };
            let follows = u64::from(layer.first_chunk) == chunk
                && u64::from(layer.first_content) == content
                && layer.windows == windows;
            ensure(follows, "a layer's parts do not follow those of the layer before")?;
            chunk += u64::from(layer.chunks);
            content += u64::from(layer.contents);
            windows = windows.saturating_add(layer.windows_len);
            ensure(chunk <= count(self.chunks, Section::Chunks), "a layer has chunks that are not there")?;
            self.layer_chunks(&layer)?;
        }
        ensure(chunk == count(self.chunks, Section::Chunks), "chunks of no layer")?;
        ensure(content == count(self.contents, Section::Contents), "contents of no layer")?;
        ensure(windows == self.windows_len, "windows of no layer")
    }

    /// A layer's chunks cover its plain stream exactly.
    fn layer_chunks(&self, layer: &Layer) -> Result<(), IndexError> {
        let section = range(self.chunks, u64::from(layer.first_chunk) * 72, u64::from(layer.chunks) * 72);
        let (mut plain, mut comp) = (0u64, 0);
        for (n, chunk) in records::<72, ChunkRecord>(section.unwrap_or_default()) {
            let Some(chunk) = chunk else { return invalid("a chunk resumes in an unknown way") };
            ensure(chunk.plain_offset == plain, "chunks do not follow each other")?;
            ensure((1..=MAX_CHUNK).contains(&chunk.plain_len), "impossible chunk length")?;
            plain = plain.saturating_add(u64::from(chunk.plain_len));
            let comp_end = chunk.comp_offset.checked_add(u64::from(chunk.comp_len));
            ensure(comp_end.is_some_and(|end| end <= layer.info.size), "a chunk lies behind its layer")?;
            ensure(chunk.comp_offset >= comp, "chunks lie out of order in their layer")?;
            comp = chunk.comp_offset;
            ensure(chunk.bit < 8, "impossible bit offset")?;
            let possible = match chunk.resume {
                Resume::Fresh => true,
                Resume::Window => layer.info.compression == Compression::Gzip && n > 0,
                Resume::Continue => layer.info.compression == Compression::Zstd && n > 0,
            };
            ensure(possible, "a chunk resumes in a way that its layer does not allow")?;
            if chunk.resume == Resume::Window {
                let end = chunk.window_offset.checked_add(u64::from(chunk.window_len));
                let fits = end.is_some_and(|end| end <= layer.windows_len);
                ensure(fits, "a window lies outside of its layer's")?;
                let possible = (1..=MAX_ENCODED_WINDOW).contains(&u64::from(chunk.window_len));
                ensure(possible, "impossible length of a window")?;
            } else {
                ensure(chunk.window_offset == 0 && chunk.window_len == 0, "a window that no one needs")?;
            }
        }
        ensure(plain == layer.info.plain_size, "chunks do not cover their layer")
    }

    /// Contents are ordered, lie in their layers, and each has its own fragments. Returns the sum of their sizes.
    fn contents(&self) -> Result<u64, IndexError> {
        let mut layers = records::<120, Layer>(self.layers);
        let (mut left, mut layer, mut plain_size) = (0, 0, 0);
        let (mut before, mut sum, mut fragments, mut extents) = (0, 0u64, 0, 0);
        for (_, content) in records::<56, Content>(self.contents) {
            let Some(content) = content else { return invalid("a content is malformed") };
            while left == 0 {
                let Some((n, Some(next))) = layers.next() else { return invalid("contents of no layer") };
                (left, layer, plain_size, before) = (next.contents, n, next.info.plain_size, 0);
            }
            left -= 1;
            ensure(content.layer == layer, "a content is in another layer than the layer says")?;
            ensure(content.stream >= before, "contents are not sorted")?;
            before = content.stream;
            ensure(content.size > 0, "an empty content")?;
            match sum.checked_add(content.size) {
                Some(total) => sum = total,
                None => return invalid("contents of more than 2^64 bytes"),
            }
            if content.fragments == 0 {
                let end = content.stream.checked_add(content.size);
                ensure(end.is_some_and(|end| end <= plain_size), "a content lies behind its layer")?;
                continue;
            }
            fragments += 1;
            ensure(content.fragments == fragments, "fragments do not follow each other")?;
            self.extents(&content, &mut extents, plain_size)?;
        }
        ensure(u64::from(fragments) == count(self.fragments, Section::Fragments), "fragments of no content")?;
        ensure(u64::from(extents) == count(self.extents, Section::Extents), "extents of no content")?;
        Ok(sum)
    }

    /// A content's extents are sorted, do not overlap, lie in the file and in the layer.
    fn extents(&self, content: &Content, next: &mut u32, plain_size: u64) -> Result<(), IndexError> {
        let Some(f) = record::<16, Fragments>(self.fragments, content.fragments - 1) else {
            return invalid("a content has fragments that are not there");
        };
        ensure(f.first == *next, "extents do not follow each other")?;
        let Some(section) = range(self.extents, u64::from(f.first) * 24, u64::from(f.count) * 24) else {
            return invalid("a content has extents that are not there");
        };
        *next += f.count;
        let (mut end, mut data, mut stream) = (0, 0u64, u64::MAX);
        for (n, extent) in records::<24, Extent>(section) {
            let Some(extent) = extent else { return invalid("an extent is malformed") };
            ensure(extent.len > 0 && extent.file_offset >= end, "extents overlap or are empty")?;
            let file_end = extent.file_offset.checked_add(extent.len).filter(|&e| e <= content.size);
            let Some(file_end) = file_end else { return invalid("an extent lies behind its file") };
            let stream_end = extent.stream_offset.checked_add(extent.len);
            ensure(stream_end.is_some_and(|e| e <= plain_size), "an extent lies behind its layer")?;
            end = file_end;
            data += extent.len;
            if n == 0 {
                stream = extent.stream_offset;
            }
        }
        ensure(data == f.data && stream == content.stream, "a content contradicts its extents")
    }

    /// Inodes and directories form a tree in which every inode is reached, numbered breadth first.
    fn tree(&self) -> Result<(), IndexError> {
        let inodes = count(self.inodes, Section::Inodes);
        ensure(inodes > 0, "no root")?;
        let mut names = vec![0u32; to_usize(inodes)];
        let mut walk = Walk { dirent: 0, fresh: 1, names: &mut names };
        for (n, inode) in records::<48, Inode>(self.inodes) {
            let Some(inode) = inode else { return invalid("an inode is malformed") };
            if n == 0 {
                ensure(inode.kind == kind::DIR && inode.c == 0, "the root is not a directory")?;
            } else {
                // Its names stand in directories before it: they have been seen.
                ensure(n < walk.fresh, "an inode that no directory has")?;
            }
            self.inode(&inode)?;
            if inode.kind == kind::DIR {
                self.directory(n, &inode, &mut walk)?;
            }
        }
        ensure(u64::from(walk.dirent) == count(self.dirents, Section::Dirents), "names of no directory")?;
        for (n, inode) in records::<48, Inode>(self.inodes) {
            let Some(inode) = inode else { return invalid("an inode is malformed") };
            let seen = names.get(idx(n)).copied().unwrap_or_default();
            let right = match inode.kind {
                kind::DIR => seen == u32::from(n > 0),
                _ => seen == inode.nlink && seen > 0,
            };
            ensure(right, "an inode has another number of names than it says")?;
        }
        Ok(())
    }

    /// An inode by itself.
    fn inode(&self, inode: &Inode) -> Result<(), IndexError> {
        ensure(inode.mode <= 0o7777, "impossible mode")?;
        ensure(inode.nanos < 1_000_000_000, "impossible time")?;
        let sets = count(self.xattr_sets, Section::XattrSets);
        ensure(u64::from(inode.xattrs) <= sets, "an inode has attributes that are not there")?;
        ensure(inode.flags == 0 || inode.kind == kind::FILE, "unknown flags of an inode")?;
        match inode.kind {
            kind::FILE => self.file(inode),
            kind::DIR => Ok(()),
            kind::SYMLINK => {
                ensure(inode.c == 0 && (1..=MAX_TARGET).contains(&inode.b), "impossible symlink")?;
                let target = range(self.targets, u64::from(inode.a), u64::from(inode.b));
                ensure(target.is_some_and(|t| !t.contains(&0)), "impossible symlink target")
            }
            kind::CHAR | kind::BLOCK => ensure(inode.c == 0, "impossible device"),
            kind::FIFO => ensure((inode.a, inode.b, inode.c) == (0, 0, 0), "impossible FIFO"),
            _ => invalid("unknown type of an inode"),
        }
    }

    fn file(&self, inode: &Inode) -> Result<(), IndexError> {
        ensure(inode.b == 0 && inode.flags & !SPARSE == 0, "impossible file")?;
        let Some(number) = inode.a.checked_sub(1) else {
            return ensure(inode.c == 0 && inode.flags == 0, "an empty file that is not empty");
        };
        let Some(content) = record::<56, Content>(self.contents, number) else {
            return invalid("a file has a content that is not there");
        };
        let sparse = content.fragments != 0
            && record::<16, Fragments>(self.fragments, content.fragments - 1)
                .is_some_and(|f| f.data != content.size);
        let agrees = content.size == inode.c && sparse == (inode.flags & SPARSE != 0);
        ensure(agrees, "a file contradicts its content")
    }

    /// A directory's names are good and sorted; what they stand for is new (and then numbered next) or a file.
    fn directory(&self, number: u32, dir: &Inode, walk: &mut Walk<'_>) -> Result<(), IndexError> {
        ensure(dir.a == walk.dirent, "directories do not follow each other")?;
        let Some(section) = range(self.dirents, u64::from(dir.a) * 8, u64::from(dir.b) * 8) else {
            return invalid("a directory has names that are not there");
        };
        walk.dirent += dir.b;
        let mut before: &[u8] = b"";
        let mut subdirs = 0u32;
        for (_, dirent) in records::<8, Dirent>(section) {
            let Some(dirent) = dirent else { return invalid("a directory entry is malformed") };
            let Some(name) = name_at(self.names, dirent.name) else {
                return invalid("a name lies outside of its section");
            };
            // "" sorts before everything, so that an empty name is never in order.
            ensure(name > before, "names of a directory are not sorted")?;
            before = name;
            let bad = matches!(name, b"." | b"..") || name.iter().any(|&b| b == b'/' || b == 0);
            ensure(!bad, "a name with `/` or NUL, or `.` or `..`")?;
            ensure(dirent.inode <= walk.fresh && dirent.inode > 0, "inodes are not numbered breadth first")?;
            let Some(seen) = walk.names.get_mut(idx(dirent.inode)) else {
                return invalid("a name of an inode that is not there");
            };
            *seen += 1;
            if dirent.inode == walk.fresh {
                walk.fresh += 1;
            }
            let child = record::<48, Inode>(self.inodes, dirent.inode);
            if let Some(child) = child.filter(|c| c.kind == kind::DIR) {
                // The number of a directory is above its parent's, so there is no way back up: no cycles.
                let below = child.c == u64::from(number) && dirent.inode > number;
                ensure(below, "a directory is not where it says")?;
                subdirs += 1;
            }
        }
        ensure(
            subdirs.checked_add(2) == Some(dir.nlink),
            "a directory has another number of links than it says",
        )
    }
}

/// State of the walk over the directories.
struct Walk<'a> {
    /// Next directory entry.
    dirent: u32,
    /// Next inode that has not had a name yet.
    fresh: u32,
    /// Names of each inode.
    names: &'a mut [u32],
}
