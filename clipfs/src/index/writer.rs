//! Writes a clip index. Deterministic: the same image gives the same bytes.
//!
//! Streams section after section, each hashed on its way out; the header, which needs the lengths and checksums, is
//! written last, over the zeros that held its place. A write that is interrupted leaves a file that no one opens.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use super::LayerIndex;
use super::format::{
    Content, Dirent, Fragments, Inode, Layer, Meta, Record, SECTIONS, SPARSE, Section, XattrSet, align,
};
use super::header::{HEADER_LEN, Header, TableEntry, VERSION};
use crate::image::Tree;
use crate::image::nodes::{Node, NodeKind};
use crate::num::{idx, to_u64};
use crate::oci::Digest;

/// What an index says about its image besides the tree and the layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMeta {
    /// Digest of `manifest`: what the index is bound to.
    pub manifest_digest: Digest,
    /// The raw manifest of the one platform.
    pub manifest: Vec<u8>,
    /// The raw image config.
    pub config: Vec<u8>,
    /// Plain bytes between checkpoints that the index was built with.
    pub chunk: u32,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteSummary {
    /// Length of the index file.
    pub bytes: u64,
    /// Of which windows.
    pub window_bytes: u64,
    /// Inodes in the tree.
    pub files: u64,
}

/// Writes the index of an image to `out` (positioned at its start, empty).
///
/// # Errors
/// Writing `out` or reading a layer's windows fails; something is larger than the format can say.
pub fn write(
    out: &mut File,
    meta: &ImageMeta,
    tree: &Tree,
    layers: &mut [LayerIndex],
) -> io::Result<WriteSummary> {
    let mut w = Writer::new(out)?;
    write_meta(&mut w, meta)?;
    write_tree(&mut w, tree)?;
    write_contents(&mut w, tree)?;
    write_layers(&mut w, tree, layers)?;
    let window_bytes = write_windows(&mut w, layers)?;
    let bytes = w.finish()?;
    Ok(WriteSummary { bytes, window_bytes, files: tree.inodes() })
}

fn write_meta(w: &mut Writer<'_>, meta: &ImageMeta) -> io::Result<()> {
    let head = Meta {
        chunk: meta.chunk,
        manifest_len: small(meta.manifest.len(), "manifest")?,
        config_len: small(meta.config.len(), "config")?,
        manifest_digest: meta.manifest_digest,
    };
    w.begin(Section::Meta);
    w.record(&head)?;
    w.put(&meta.manifest)?;
    w.put(&meta.config)?;
    w.end()
}

/// Inodes, directories, names, symlink targets and attributes.
fn write_tree(w: &mut Writer<'_>, tree: &Tree) -> io::Result<()> {
    // Only what inodes still use is written, in the order of its first use.
    let mut sets = Vec::new();
    let mut set_numbers = vec![0; tree.nodes.xattr_sets.len()];
    let mut dirs = tree.dir_lens.iter();
    let (mut dirent, mut target) = (0, 0);
    w.begin(Section::Inodes);
    for node in tree.iter_nodes() {
        let set = &mut set_numbers[idx(node.xattrs)];
        if node.xattrs != 0 && *set == 0 {
            sets.push(node.xattrs);
            *set = small(sets.len(), "attribute sets")?;
        }
        let mut inode = Inode {
            kind: node.kind as u8,
            flags: 0,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            nlink: node.nlink,
            secs: node.mtime_secs,
            nanos: node.mtime_nanos,
            xattrs: *set,
            a: node.data,
            b: node.aux,
            c: 0,
        };
        match node.kind {
            NodeKind::Dir => {
                let len = dirs.next().copied().unwrap_or_default();
                (inode.a, inode.b) = (dirent, len);
                inode.c = u64::from(parent_number(tree, node));
                dirent += len;
            }
            NodeKind::File => {
                (inode.a, inode.b) = (0, 0);
                if let Some((body, content)) = tree.content(node) {
                    inode.a = content + 1;
                    inode.c = body.size;
                    if tree.fragments(body).is_some_and(|f| f.data != body.size) {
                        inode.flags = SPARSE;
                    }
                }
            }
            NodeKind::Symlink => {
                inode.a = target;
                target = target.checked_add(node.aux).ok_or_else(|| too_large("symlink targets"))?;
            }
            _ => {}
        }
        w.record(&inode)?;
    }
    w.end()?;
    write_names(w, tree)?;
    w.begin(Section::Targets);
    for node in tree.iter_nodes().filter(|n| n.kind == NodeKind::Symlink) {
        w.put(tree.nodes.target(node))?;
    }
    w.end()?;
    w.begin(Section::XattrSets);
    let mut offset = 0u32;
    for &set in &sets {
        let len = small(tree.nodes.xattr_sets[idx(set)].len(), "extended attributes")?;
        w.record(&XattrSet { offset, len })?;
        offset = offset.checked_add(len).ok_or_else(|| too_large("extended attributes"))?;
    }
    w.end()?;
    w.begin(Section::Xattrs);
    for &set in &sets {
        w.put(&tree.nodes.xattr_sets[idx(set)])?;
    }
    w.end()
}

fn parent_number(tree: &Tree, dir: &Node) -> u32 {
    match tree.nodes.slots.get(idx(dir.aux)) {
        Some(slot) => tree.number_of(slot.parent),
        None => 0,
    }
}

/// Directories, and the names heap: each distinct name once, in the order of its first use.
fn write_names(w: &mut Writer<'_>, tree: &Tree) -> io::Result<()> {
    const UNSEEN: u32 = u32::MAX;
    let mut offsets = vec![UNSEEN; tree.nodes.name_count()];
    let mut heap = Vec::new();
    let mut end = 0u32;
    w.begin(Section::Dirents);
    for slot in tree.iter_slots() {
        let offset = &mut offsets[idx(slot.name)];
        if *offset == UNSEEN {
            *offset = end;
            heap.push(slot.name);
            let len = small(tree.nodes.name(slot.name).len() + 1, "names")?;
            end = end.checked_add(len).filter(|&e| e != UNSEEN).ok_or_else(|| too_large("names"))?;
        }
        w.record(&Dirent { name: *offset, inode: tree.number_of(slot.node) })?;
    }
    w.end()?;
    w.begin(Section::Names);
    for name in heap {
        let name = tree.nodes.name(name);
        let len = u8::try_from(name.len()).map_err(|_| too_large("names"))?;
        w.put(&[len])?;
        w.put(name)?;
    }
    w.end()
}

fn write_contents(w: &mut Writer<'_>, tree: &Tree) -> io::Result<()> {
    let mut fragments = 0;
    w.begin(Section::Contents);
    for body in tree.iter_contents() {
        let mut content = Content {
            digest: body.digest,
            size: body.size,
            stream: body.stream,
            layer: body.layer,
            fragments: 0,
        };
        if tree.fragments(body).is_some() {
            fragments += 1;
            content.fragments = fragments;
        }
        w.record(&content)?;
    }
    w.end()?;
    w.begin(Section::Fragments);
    let mut first = 0u32;
    for f in tree.iter_contents().filter_map(|body| tree.fragments(body)) {
        w.record(&Fragments { first, count: f.count, data: f.data })?;
        first = first.checked_add(f.count).ok_or_else(|| too_large("extents"))?;
    }
    w.end()?;
    w.begin(Section::Extents);
    for f in tree.iter_contents().filter_map(|body| tree.fragments(body)) {
        for extent in tree.nodes.extents.iter().skip(idx(f.first)).take(idx(f.count)) {
            w.record(extent)?;
        }
    }
    w.end()
}

fn write_layers(w: &mut Writer<'_>, tree: &Tree, layers: &[LayerIndex]) -> io::Result<()> {
    w.begin(Section::Layers);
    let (mut first_chunk, mut first_content, mut windows) = (0u32, 0u32, 0u64);
    let mut contents = tree.iter_contents().peekable();
    for (n, layer) in layers.iter().enumerate() {
        let chunks = small(layer.chunks.len(), "chunks")?;
        let mut in_layer = 0;
        while contents.next_if(|body| idx(body.layer) == n).is_some() {
            in_layer += 1;
        }
        w.record(&Layer {
            info: layer.info,
            first_chunk,
            chunks,
            first_content,
            contents: in_layer,
            windows,
            windows_len: layer.windows_len,
        })?;
        first_chunk = first_chunk.checked_add(chunks).ok_or_else(|| too_large("chunks"))?;
        first_content += in_layer;
        windows = windows.checked_add(layer.windows_len).ok_or_else(|| too_large("windows"))?;
    }
    if contents.next().is_some() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the tree has files of a layer that is missing",
        ));
    }
    w.end()?;
    w.begin(Section::Chunks);
    for chunk in layers.iter().flat_map(|layer| &layer.chunks) {
        w.record(chunk)?;
    }
    w.end()
}

fn write_windows(w: &mut Writer<'_>, layers: &mut [LayerIndex]) -> io::Result<u64> {
    w.begin(Section::Windows);
    let mut buffer = vec![0; BUFFER];
    for layer in layers {
        layer.windows.seek(SeekFrom::Start(0))?;
        let mut left = layer.windows_len;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            layer.windows.read_exact(&mut buffer[..want])?;
            w.put(&buffer[..want])?;
            left -= to_u64(want);
        }
    }
    let len = w.section_len();
    w.end()?;
    Ok(len)
}

fn too_large(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("image too large for a clip index: {what}"))
}

fn small(n: usize, what: &str) -> io::Result<u32> {
    u32::try_from(n).map_err(|_| too_large(what))
}

/// Bytes that are hashed and written at once: BLAKE3 is several times faster on many chunks than on one.
const BUFFER: usize = 256 << 10;

/// Sections on their way into the file.
struct Writer<'f> {
    out: &'f mut File,
    /// Bytes of the current section that are neither hashed nor written yet.
    buffer: Vec<u8>,
    /// Bytes put so far.
    at: u64,
    table: [TableEntry; SECTIONS],
    section: usize,
    hasher: blake3::Hasher,
}

impl<'f> Writer<'f> {
    fn new(out: &'f mut File) -> io::Result<Self> {
        out.write_all(&[0; HEADER_LEN])?;
        Ok(Self {
            out,
            buffer: Vec::with_capacity(BUFFER),
            at: to_u64(HEADER_LEN),
            table: [TableEntry::default(); SECTIONS],
            section: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    fn begin(&mut self, section: Section) {
        self.section = section as usize;
        self.hasher.reset();
        self.table[self.section].offset = self.at;
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        self.at += to_u64(bytes.len());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn record<const N: usize, R: Record<N>>(&mut self, record: &R) -> io::Result<()> {
        self.put(&record.encode())
    }

    fn section_len(&self) -> u64 {
        self.at - self.table[self.section].offset
    }

    /// Ends a section: its checksum, and zeros up to the next one (the last ends the file).
    fn end(&mut self) -> io::Result<()> {
        self.flush()?;
        let len = self.section_len();
        let kind = u32::try_from(self.section).unwrap_or_default();
        let entry = &mut self.table[self.section];
        entry.kind = kind;
        entry.len = len;
        entry.sum = *self.hasher.finalize().as_bytes();
        if self.section + 1 < SECTIONS {
            let padding = align(self.at) - self.at;
            self.out.write_all(&[0; 8][..crate::num::to_usize(padding)])?;
            self.at += padding;
        }
        Ok(())
    }

    /// Writes the header. Returns the length of the file.
    fn finish(self) -> io::Result<u64> {
        let sections = u32::try_from(SECTIONS).unwrap_or_default();
        let header = Header { version: VERSION, sections, length: self.at, flags: 0, table: self.table };
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&header.encode())?;
        self.out.seek(SeekFrom::End(0))?;
        Ok(self.at)
    }
}
