//! On-disk layout: sections and fixed-size little-endian records (the header is in [`super::header`]). `docs/INDEX.md` says the same in prose.
//!
//! Records are read and written field by field: no transmutes, no alignment to rely on. With constant offsets into
//! arrays of constant size every access compiles to one load.

use std::ops::Range;

use super::{ChunkRecord, LayerInfo};
use crate::decode::tar::Extent;
use crate::decode::{Blake3, Compression, Resume};
use crate::num::{to_u64, to_usize};
use crate::oci::Digest;

/// Sections, in the order in which they stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Section {
    Meta = 0,
    Inodes = 1,
    Dirents = 2,
    Names = 3,
    Targets = 4,
    XattrSets = 5,
    Xattrs = 6,
    Contents = 7,
    Fragments = 8,
    Extents = 9,
    Layers = 10,
    Chunks = 11,
    Windows = 12,
}

/// How many sections.
pub(super) const SECTIONS: usize = 13;

impl Section {
    pub(super) const ALL: [Self; SECTIONS] = [
        Self::Meta,
        Self::Inodes,
        Self::Dirents,
        Self::Names,
        Self::Targets,
        Self::XattrSets,
        Self::Xattrs,
        Self::Contents,
        Self::Fragments,
        Self::Extents,
        Self::Layers,
        Self::Chunks,
        Self::Windows,
    ];

    /// Name in messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Inodes => "inodes",
            Self::Dirents => "directories",
            Self::Names => "names",
            Self::Targets => "symlink targets",
            Self::XattrSets => "attribute sets",
            Self::Xattrs => "attributes",
            Self::Contents => "contents",
            Self::Fragments => "fragments",
            Self::Extents => "extents",
            Self::Layers => "layers",
            Self::Chunks => "chunks",
            Self::Windows => "windows",
        }
    }

    /// Length of its records; 1 for heaps.
    pub(super) const fn record(self) -> usize {
        match self {
            Self::Meta | Self::Names | Self::Targets | Self::Xattrs | Self::Windows => 1,
            Self::Inodes => Inode::LEN,
            Self::Dirents => Dirent::LEN,
            Self::XattrSets => XattrSet::LEN,
            Self::Contents => Content::LEN,
            Self::Fragments => Fragments::LEN,
            Self::Extents => <Extent as Record<24>>::LEN,
            Self::Layers => Layer::LEN,
            Self::Chunks => <ChunkRecord as Record<72>>::LEN,
        }
    }
}

/// The next multiple of 8: where the next section starts.
pub(super) const fn align(offset: u64) -> u64 {
    offset.next_multiple_of(8)
}

/// Something of `N` bytes in a section.
pub(super) trait Record<const N: usize>: Sized {
    /// Length in the file.
    const LEN: usize = N;

    /// From bytes. `None`: no such value (an enum out of range).
    fn decode(bytes: &[u8; N]) -> Option<Self>;
    /// To bytes.
    fn encode(&self) -> [u8; N];
}

/// The n-th record of a section's bytes.
#[inline]
pub(super) fn record<const N: usize, R: Record<N>>(section: &[u8], n: u32) -> Option<R> {
    let at = to_usize(u64::from(n)).checked_mul(N)?;
    R::decode(section.get(at..)?.first_chunk()?)
}

/// An inode record. What `a`, `b` and `c` mean depends on the kind: see the table in `docs/INDEX.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) secs: i64,
    pub(super) nanos: u32,
    /// 0: none; n: set n − 1.
    pub(super) xattrs: u32,
    pub(super) a: u32,
    pub(super) b: u32,
    pub(super) c: u64,
}

/// [`Inode::flags`]: the file has holes.
pub(super) const SPARSE: u8 = 1;

/// Values of [`Inode::kind`].
pub(super) mod kind {
    pub(in super::super) const FILE: u8 = 0;
    pub(in super::super) const DIR: u8 = 1;
    pub(in super::super) const SYMLINK: u8 = 2;
    pub(in super::super) const CHAR: u8 = 3;
    pub(in super::super) const BLOCK: u8 = 4;
    pub(in super::super) const FIFO: u8 = 5;
}

impl Record<48> for Inode {
    #[inline]
    fn decode(r: &[u8; 48]) -> Option<Self> {
        Some(Self {
            kind: r[0],
            flags: r[1],
            mode: u16::from_le_bytes([r[2], r[3]]),
            uid: u32_at(r, 4),
            gid: u32_at(r, 8),
            nlink: u32_at(r, 12),
            secs: u64_at(r, 16).cast_signed(),
            nanos: u32_at(r, 24),
            xattrs: u32_at(r, 28),
            a: u32_at(r, 32),
            b: u32_at(r, 36),
            c: u64_at(r, 40),
        })
    }

    fn encode(&self) -> [u8; 48] {
        let mut r = [0; 48];
        put(&mut r, 0, [self.kind, self.flags]);
        put(&mut r, 2, self.mode.to_le_bytes());
        put(&mut r, 4, self.uid.to_le_bytes());
        put(&mut r, 8, self.gid.to_le_bytes());
        put(&mut r, 12, self.nlink.to_le_bytes());
        put(&mut r, 16, self.secs.to_le_bytes());
        put(&mut r, 24, self.nanos.to_le_bytes());
        put(&mut r, 28, self.xattrs.to_le_bytes());
        put(&mut r, 32, self.a.to_le_bytes());
        put(&mut r, 36, self.b.to_le_bytes());
        put(&mut r, 40, self.c.to_le_bytes());
        r
    }
}

/// A directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dirent {
    /// Offset in the names heap: a length byte, then the name.
    pub(super) name: u32,
    /// Inode number, from 0.
    pub(super) inode: u32,
}

impl Record<8> for Dirent {
    #[inline]
    fn decode(r: &[u8; 8]) -> Option<Self> {
        Some(Self { name: u32_at(r, 0), inode: u32_at(r, 4) })
    }

    fn encode(&self) -> [u8; 8] {
        let mut r = [0; 8];
        put(&mut r, 0, self.name.to_le_bytes());
        put(&mut r, 4, self.inode.to_le_bytes());
        r
    }
}

/// A set of extended attributes: a range of the attributes heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct XattrSet {
    pub(super) offset: u32,
    pub(super) len: u32,
}

impl Record<8> for XattrSet {
    #[inline]
    fn decode(r: &[u8; 8]) -> Option<Self> {
        Some(Self { offset: u32_at(r, 0), len: u32_at(r, 4) })
    }

    fn encode(&self) -> [u8; 8] {
        let mut r = [0; 8];
        put(&mut r, 0, self.offset.to_le_bytes());
        put(&mut r, 4, self.len.to_le_bytes());
        r
    }
}

/// A content record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) digest: Blake3,
    pub(super) size: u64,
    /// Stream offset of the first extent; `u64::MAX` if there is none.
    pub(super) stream: u64,
    pub(super) layer: u32,
    /// 0: one extent that covers the file; n: fragments record n − 1.
    pub(super) fragments: u32,
}

impl Record<56> for Content {
    #[inline]
    fn decode(r: &[u8; 56]) -> Option<Self> {
        Some(Self {
            digest: array_at(r, 0),
            size: u64_at(r, 32),
            stream: u64_at(r, 40),
            layer: u32_at(r, 48),
            fragments: u32_at(r, 52),
        })
    }

    fn encode(&self) -> [u8; 56] {
        let mut r = [0; 56];
        put(&mut r, 0, self.digest);
        put(&mut r, 32, self.size.to_le_bytes());
        put(&mut r, 40, self.stream.to_le_bytes());
        put(&mut r, 48, self.layer.to_le_bytes());
        put(&mut r, 52, self.fragments.to_le_bytes());
        r
    }
}

/// Where the extents of a content that is not one run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fragments {
    /// First of its extents.
    pub(super) first: u32,
    pub(super) count: u32,
    /// Bytes of data: the sum of the extents.
    pub(super) data: u64,
}

impl Record<16> for Fragments {
    #[inline]
    fn decode(r: &[u8; 16]) -> Option<Self> {
        Some(Self { first: u32_at(r, 0), count: u32_at(r, 4), data: u64_at(r, 8) })
    }

    fn encode(&self) -> [u8; 16] {
        let mut r = [0; 16];
        put(&mut r, 0, self.first.to_le_bytes());
        put(&mut r, 4, self.count.to_le_bytes());
        put(&mut r, 8, self.data.to_le_bytes());
        r
    }
}

impl Record<24> for Extent {
    #[inline]
    fn decode(r: &[u8; 24]) -> Option<Self> {
        Some(Self { file_offset: u64_at(r, 0), stream_offset: u64_at(r, 8), len: u64_at(r, 16) })
    }

    fn encode(&self) -> [u8; 24] {
        let mut r = [0; 24];
        put(&mut r, 0, self.file_offset.to_le_bytes());
        put(&mut r, 8, self.stream_offset.to_le_bytes());
        put(&mut r, 16, self.len.to_le_bytes());
        r
    }
}

/// A layer record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) info: LayerInfo,
    pub(super) first_chunk: u32,
    pub(super) chunks: u32,
    pub(super) first_content: u32,
    pub(super) contents: u32,
    /// Range of its windows in the windows section.
    pub(super) windows: u64,
    pub(super) windows_len: u64,
}

impl Record<120> for Layer {
    #[inline]
    fn decode(r: &[u8; 120]) -> Option<Self> {
        let compression = match u64_at(r, 112) {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Zstd,
            _ => return None,
        };
        Some(Self {
            info: LayerInfo {
                digest: Digest::from_bytes(array_at(r, 0)),
                diff_id: Digest::from_bytes(array_at(r, 32)),
                compression,
                size: u64_at(r, 64),
                plain_size: u64_at(r, 72),
            },
            first_chunk: u32_at(r, 80),
            chunks: u32_at(r, 84),
            first_content: u32_at(r, 88),
            contents: u32_at(r, 92),
            windows: u64_at(r, 96),
            windows_len: u64_at(r, 104),
        })
    }

    fn encode(&self) -> [u8; 120] {
        let mut r = [0; 120];
        put(&mut r, 0, *self.info.digest.as_bytes());
        put(&mut r, 32, *self.info.diff_id.as_bytes());
        put(&mut r, 64, self.info.size.to_le_bytes());
        put(&mut r, 72, self.info.plain_size.to_le_bytes());
        put(&mut r, 80, self.first_chunk.to_le_bytes());
        put(&mut r, 84, self.chunks.to_le_bytes());
        put(&mut r, 88, self.first_content.to_le_bytes());
        put(&mut r, 92, self.contents.to_le_bytes());
        put(&mut r, 96, self.windows.to_le_bytes());
        put(&mut r, 104, self.windows_len.to_le_bytes());
        r[112] = self.info.compression as u8;
        r
    }
}

impl Record<72> for ChunkRecord {
    #[inline]
    fn decode(r: &[u8; 72]) -> Option<Self> {
        let resume = match r[69] {
            0 => Resume::Fresh,
            1 => Resume::Window,
            2 => Resume::Continue,
            _ => return None,
        };
        Some(Self {
            digest: array_at(r, 0),
            plain_offset: u64_at(r, 32),
            comp_offset: u64_at(r, 40),
            window_offset: u64_at(r, 48),
            plain_len: u32_at(r, 56),
            comp_len: u32_at(r, 60),
            window_len: u32_at(r, 64),
            bit: r[68],
            resume,
        })
    }

    fn encode(&self) -> [u8; 72] {
        let mut r = [0; 72];
        put(&mut r, 0, self.digest);
        put(&mut r, 32, self.plain_offset.to_le_bytes());
        put(&mut r, 40, self.comp_offset.to_le_bytes());
        put(&mut r, 48, self.window_offset.to_le_bytes());
        put(&mut r, 56, self.plain_len.to_le_bytes());
        put(&mut r, 60, self.comp_len.to_le_bytes());
        put(&mut r, 64, self.window_len.to_le_bytes());
        put(&mut r, 68, [self.bit, self.resume as u8]);
        r
    }
}

/// The meta section: fixed part, then the manifest, then the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) chunk: u32,
    pub(super) manifest_len: u32,
    pub(super) config_len: u32,
    pub(super) manifest_digest: Digest,
}

impl Record<48> for Meta {
    fn decode(r: &[u8; 48]) -> Option<Self> {
        Some(Self {
            chunk: u32_at(r, 0),
            manifest_len: u32_at(r, 4),
            config_len: u32_at(r, 8),
            manifest_digest: Digest::from_bytes(array_at(r, 16)),
        })
    }

    fn encode(&self) -> [u8; 48] {
        let mut r = [0; 48];
        put(&mut r, 0, self.chunk.to_le_bytes());
        put(&mut r, 4, self.manifest_len.to_le_bytes());
        put(&mut r, 8, self.config_len.to_le_bytes());
        put(&mut r, 16, *self.manifest_digest.as_bytes());
        r
    }
}

impl Meta {
    /// Where the manifest and the config stand in the section.
    pub(super) fn ranges(&self) -> (Range<usize>, Range<usize>) {
        let manifest = to_usize(u64::from(self.manifest_len)) + <Self as Record<48>>::LEN;
        let config = manifest + to_usize(u64::from(self.config_len));
        (<Self as Record<48>>::LEN..manifest, manifest..config)
    }
}

/// `offset .. offset + len` of a section; `None` if that is not in it.
#[inline]
pub(super) fn range(section: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    section.get(to_usize(offset)..)?.get(..to_usize(len))
}

/// A name of the names heap.
#[inline]
pub(super) fn name_at(names: &[u8], offset: u32) -> Option<&[u8]> {
    let (&len, rest) = names.get(crate::num::idx(offset)..)?.split_first()?;
    rest.get(..usize::from(len))
}

/// Number of records in a section.
pub(super) fn count(section: &[u8], kind: Section) -> u64 {
    to_u64(section.len() / kind.record())
}

#[inline]
pub(super) fn u32_at<const N: usize>(r: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes(array_at(r, at))
}

#[inline]
pub(super) fn u64_at<const N: usize>(r: &[u8; N], at: usize) -> u64 {
    u64::from_le_bytes(array_at(r, at))
}

/// `M` bytes at a constant offset: the bounds check goes away at compile time.
#[inline]
pub(super) fn array_at<const N: usize, const M: usize>(r: &[u8; N], at: usize) -> [u8; M] {
    let mut out = [0; M];
    out.copy_from_slice(&r[at..at + M]);
    out
}

#[inline]
pub(super) fn put<const N: usize, const M: usize>(r: &mut [u8; N], at: usize, value: [u8; M]) {
    r[at..at + M].copy_from_slice(&value);
}
