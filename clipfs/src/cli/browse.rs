//! `clipfs ls` and `clipfs stat`: the tree, from the index alone.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;

use serde::Serialize;

use super::args::{LsArgs, StatArgs};
use super::context::{Context, OpenedImage};
use super::failure::Failure;
use super::output::{Output, printable};
use super::tree::{FileReport, long_columns};
use crate::index::{ClipIndex, Ino, Inode, Kind};
use crate::vfs::Vfs;

/// Resolves a path of the image.
pub(super) fn resolve(
    opened: &OpenedImage,
    path: &OsStr,
    follow: bool,
) -> Result<(Vfs, Ino, Inode), Failure> {
    let vfs = Vfs::new(opened.index.clone(), &opened.name);
    let refuse = |source| Failure::Path { path: printable(path.as_bytes()), source };
    let ino = vfs.resolve(path.as_bytes(), follow).map_err(refuse)?;
    let inode = vfs.attr(ino).map_err(refuse)?;
    Ok((vfs, ino, inode))
}

/// Runs `clipfs ls`.
pub(super) async fn ls(context: &Context, args: &LsArgs) -> Result<(), Failure> {
    let opened = context.open(&args.target.target, None).await?;
    // As ls does: a symlink to a directory is listed as that directory, unless with -l.
    let (_, ino, inode) = resolve(&opened, &args.path, !args.long)?;
    let mut listing = Listing { index: &opened.index, out: Output::new(), args };
    let path = args.path.as_bytes();
    if inode.kind == Kind::Dir {
        listing.tree(path, ino)?;
    } else {
        listing.entries(&[(path.to_vec(), path.to_vec(), ino, inode)])?;
    }
    Ok(listing.out.flush()?)
}

struct Listing<'a> {
    index: &'a ClipIndex,
    out: Output,
    args: &'a LsArgs,
}

/// Name to print, whole path, inode number, inode.
type Item = (Vec<u8>, Vec<u8>, Ino, Inode);

impl Listing<'_> {
    /// A directory, and those below it if asked: depth first, without recursion, as the tree is untrusted.
    fn tree(&mut self, path: &[u8], dir: Ino) -> io::Result<()> {
        let mut pending = vec![(path.to_vec(), dir)];
        let mut first = true;
        while let Some((path, dir)) = pending.pop() {
            if self.args.recursive && !self.args.json {
                if !first {
                    self.out.write_all(b"\n")?;
                }
                self.out.name(&path)?;
                self.out.write_all(b":\n")?;
            }
            first = false;
            let items: Vec<Item> = (0..self.index.dir_len(dir))
                .filter_map(|n| {
                    let (name, ino) = self.index.dir_entry(dir, n)?;
                    Some((name.to_vec(), join(&path, name), ino, self.index.inode(ino)?))
                })
                .collect();
            self.entries(&items)?;
            if self.args.recursive {
                let dirs = items.into_iter().rev().filter(|(.., inode)| inode.kind == Kind::Dir);
                pending.extend(dirs.map(|(_, path, ino, _)| (path, ino)));
            }
        }
        Ok(())
    }

    fn entries(&mut self, items: &[Item]) -> io::Result<()> {
        if self.args.json {
            return items.iter().try_for_each(|(_, path, ino, inode)| {
                self.out.json(&FileReport::new(self.index, path, *ino, inode))
            });
        }
        if !self.args.long {
            for (name, ..) in items {
                self.out.name(name)?;
                self.out.write_all(b"\n")?;
            }
            return Ok(());
        }
        let rows: Vec<_> = items.iter().map(|(.., inode)| long_columns(inode)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let [_, links, uid, gid, size, _] = std::array::from_fn(width);
        for ((name, _, ino, _), row) in items.iter().zip(&rows) {
            let [mode, l, u, g, s, time] = row;
            write!(self.out, "{mode} {l:>links$} {u:>uid$} {g:>gid$} {s:>size$} {time} ")?;
            self.out.name(name)?;
            if let Some(target) = self.index.symlink(*ino) {
                self.out.write_all(b" -> ")?;
                self.out.name(target)?;
            }
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.ends_with(b"/") { b"" } else { b"/" };
    [dir, slash, name].concat()
}

/// Everything about one file.
#[derive(Debug, Serialize)]
struct StatReport {
    #[serde(flatten)]
    file: FileReport,
    /// Values lossy where they are not UTF-8.
    xattrs: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<ContentReport>,
}

/// Where a file's bytes are.
#[derive(Debug, Serialize)]
struct ContentReport {
    /// Its name in the store.
    object: String,
    sparse: bool,
    /// Layer that holds it.
    layer: u32,
    layer_digest: String,
    extents: u32,
    /// Chunks of the layer that must be decoded to read all of it.
    chunks: u32,
    /// Compressed bytes that are fetched for it if nothing is cached.
    fetch_bytes: u64,
}

impl ContentReport {
    fn new(index: &ClipIndex, inode: &Inode) -> Option<Self> {
        let Kind::File(Some(id)) = inode.kind else { return None };
        let content = index.content(id)?;
        let mut needed = std::collections::BTreeSet::new();
        for extent in (0..index.extent_count(id)).filter_map(|n| index.extent(id, n)) {
            let last = extent.stream_offset.saturating_add(extent.len).saturating_sub(1);
            let first = index.chunk_at(content.layer, extent.stream_offset)?;
            needed.extend(first..=index.chunk_at(content.layer, last)?);
        }
        let fetched = needed.iter().filter_map(|n| index.chunk(content.layer, *n));
        Some(Self {
            object: hex::encode(content.digest),
            sparse: content.sparse,
            layer: content.layer,
            layer_digest: index.layer(content.layer)?.digest.to_string(),
            extents: index.extent_count(id),
            chunks: u32::try_from(needed.len()).unwrap_or(u32::MAX),
            fetch_bytes: fetched.map(|chunk| u64::from(chunk.comp_len)).sum(),
        })
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("object", self.object.clone()),
            ("layer", format!("{} ({})", self.layer, self.layer_digest)),
            ("extents", format!("{}{}", self.extents, if self.sparse { ", sparse" } else { "" })),
            ("chunks", format!("{} ({} compressed)", self.chunks, super::output::size(self.fetch_bytes))),
        ]
    }
}

/// Runs `clipfs stat`.
pub(super) async fn stat(context: &Context, args: &StatArgs) -> Result<(), Failure> {
    let opened = context.open(&args.target.target, None).await?;
    let (_, ino, inode) = resolve(&opened, &args.path, args.dereference)?;
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let report = StatReport {
        file: FileReport::new(&opened.index, args.path.as_bytes(), ino, &inode),
        xattrs: opened.index.xattrs(ino).map(|(name, value)| (lossy(name), lossy(value))).collect(),
        content: ContentReport::new(&opened.index, &inode),
    };
    let mut out = Output::new();
    if args.json {
        out.json(&report)?;
    } else {
        let mut rows = report.file.rows();
        rows.extend(report.content.iter().flat_map(ContentReport::rows));
        for (name, value) in &report.xattrs {
            rows.push(("xattr", format!("{}={}", printable(name.as_bytes()), printable(value.as_bytes()))));
        }
        out.fields(&rows)?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_by_one_slash() {
        assert_eq!(join(b"/", b"etc"), b"/etc");
        assert_eq!(join(b"/etc", b"motd"), b"/etc/motd");
        assert_eq!(join(b"etc/", b"motd"), b"etc/motd");
    }
}
