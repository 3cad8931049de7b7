//! Applies layers in order: OCI whiteouts (to lower layers only, whatever their order in the tar), hard links
//! before or after their target and across layers, parents that are symlinks, names that try to escape.
//!
//! A layer's members are applied in archive order, and it is remembered which names are the layer's own: a whiteout
//! takes the others (`whiteout.rs`). What is done follows containerd's `archive/tar.go`, which is what runs most images:
//!
//! * Paths are cleaned as by Go's `filepath.Clean`; symlinks in the parent are followed inside the root.
//! * A path means what it means when its member's turn comes. That holds for whiteouts too: where the layer has
//!   replaced a lower symlink by a directory, a whiteout below concerns that directory and not the symlink's target;
//!   where it has replaced it by another symlink, the new target. A whiteout that comes *before* the member that
//!   replaces the symlink still follows it.
//! * Missing parents are made: 0755, root, mtime 0. Whiteouts make none.
//! * A whiteout of a lower directory that holds something of the layer leaves that, in a directory which is as its
//!   entry in the layer says, or else made anew (containerd removes it all if `.wh.dir` comes after `dir/file`).
//! * An entry replaces what has its name, unless both are directories: then it replaces the metadata.
//! * An entry for the root itself sets the root's metadata if it is a directory (Docker, umoci), else it is ignored
//!   (containerd).
//! * A hard link applies its own owner, mode and time to the shared inode and adds its attributes, as containerd
//!   does; umoci ignores the metadata of a hard link. Tar writers repeat the target's, so the two agree in practice.
//! * A hard link whose target comes later in the layer waits (containerd fails). It holds its place: a later entry
//!   with its name replaces it. What is still waiting at the end of the layer is linked in archive order.
//! * Mode of a symlink is 0777, as the kernel has it, whatever the archive says.
//! * `.wh..wh.*` other than the opaque marker, and what lies below them, is AUFS metadata and ignored.

use super::entries::{Item, ItemKind};
use super::nodes::{Attrs, NONE, NodeKind, Nodes, ROOT};
use super::resolve::{LINK_BUDGET, MAX_NAME, Place, ResolveError, clean, resolve, split};
use super::{LayerEntries, Tree, xattr};
use crate::decode::tar::Timestamp;
use whiteout::Marks;

mod whiteout;

/// Why layers cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A hard link whose target exists in no layer.
    #[error("layer {layer}: hard link {path:?} points to {target:?}, which does not exist")]
    DanglingHardlink {
        /// Layer number, base = 0.
        layer: u32,
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A name that cannot be (component over 255 bytes, whiteout of `.` or `..`, too many symlinks…).
    #[error("layer {layer}: bad name {path:?}: {reason}")]
    BadName {
        /// Layer number, base = 0.
        layer: u32,
        /// The name.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// More entries, names or data than the index format can address.
    #[error("image too large for a clip index: {0}")]
    TooLarge(&'static str),
}

/// Longest chain of hard links, each of which names the next and comes before it: writers of tar name the first, and
/// without a limit a hostile layer could make us look at a million links a million times.
const MAX_ROUNDS: usize = 64;

/// Longest symlink target (`PATH_MAX` with its NUL).
const MAX_TARGET: usize = 4095;

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name asks for.
#[derive(Debug, PartialEq, Eq)]
enum Role<'a> {
    Entry,
    Whiteout(&'a [u8]),
    Opaque,
    Ignored,
    Bad,
}

/// Merges layers into a [`Tree`].
#[derive(Debug)]
pub struct Merger {
    tree: Nodes,
    /// What is left of the work that symlinks may make.
    budget: u64,
}

impl Default for Merger {
    fn default() -> Self {
        Self { tree: Nodes::new(), budget: LINK_BUDGET }
    }
}

impl Merger {
    /// Applies the next layer (the first call is the base); `layer` is its number from 0. Consumes the entries so that
    /// their memory is freed.
    ///
    /// # Errors
    /// See [`MergeError`].
    pub fn apply(&mut self, layer: u32, mut entries: LayerEntries) -> Result<(), MergeError> {
        let sets = entries.take_xattr_sets();
        let mut xattrs = Vec::with_capacity(sets.len());
        for set in sets {
            // A set that the kernel cannot have is refused where an entry uses it, so that the error names it.
            xattrs.push(if xattr::check(&set) { Some(self.tree.xattr_set(&set)?) } else { None });
        }
        let (tree, budget) = (&mut self.tree, &mut self.budget);
        let mut pass = Pass { tree, budget, layer, xattrs, marks: Marks::default(), waiting: Vec::new() };
        let mut path = Vec::new();
        let mut cursor = entries.drain();
        while let Some(item) = cursor.next() {
            clean(item.path, &mut path);
            match pass.role(&path)? {
                Role::Entry => pass.entry(&item, &path)?,
                Role::Whiteout(name) => pass.whiteout(&path, Some(name))?,
                Role::Opaque => pass.whiteout(&path, None)?,
                Role::Ignored | Role::Bad => {}
            }
        }
        pass.settle()
    }

    /// The merged tree.
    ///
    /// # Errors
    /// [`MergeError::TooLarge`].
    pub fn finish(self) -> Result<Tree, MergeError> {
        Tree::new(self.tree)
    }
}

/// A hard link whose target was not there yet.
#[derive(Debug)]
struct Waiting {
    /// Directory and name that hold its place.
    dir: u32,
    name: Vec<u8>,
    /// The inode that holds its place.
    node: u32,
    path: Vec<u8>,
    target: Vec<u8>,
    attrs: Attrs,
}

/// One layer being applied.
#[derive(Debug)]
struct Pass<'t> {
    tree: &'t mut Nodes,
    budget: &'t mut u64,
    layer: u32,
    /// Layer's attribute sets → the tree's; `None`: not allowed.
    xattrs: Vec<Option<u32>>,
    marks: Marks,
    waiting: Vec<Waiting>,
}

impl Pass<'_> {
    fn bad(&self, path: &[u8], reason: &'static str) -> MergeError {
        MergeError::BadName { layer: self.layer, path: printable(path), reason }
    }

    fn unresolved(&self, path: &[u8], error: ResolveError) -> MergeError {
        let reason = match error {
            ResolveError::TooMuch => return MergeError::TooLarge("symbolic links to follow"),
            ResolveError::NotADirectory => "a parent is not a directory",
            ResolveError::TooManyLinks => "too many symbolic links in its path",
            ResolveError::NameTooLong => "a parent leads to a name of more than 255 bytes",
        };
        self.bad(path, reason)
    }

    /// Checks a cleaned path's components and tells what it asks for.
    fn role<'p>(&self, path: &'p [u8]) -> Result<Role<'p>, MergeError> {
        if path.contains(&0) {
            return Err(self.bad(path, "it contains a NUL byte"));
        }
        if path.split(|&b| b == b'/').any(|c| c.len() > MAX_NAME) {
            return Err(self.bad(path, "a component is longer than 255 bytes"));
        }
        match role(path) {
            Role::Bad => Err(self.bad(path, "a whiteout of nothing, `.` or `..`")),
            role => Ok(role),
        }
    }

    /// Removes what lower layers left under a name beside the whiteout; `None`: in its whole directory.
    fn whiteout(&mut self, path: &[u8], name: Option<&[u8]>) -> Result<(), MergeError> {
        let place = match resolve(self.tree, split(path).0, self.budget) {
            Ok(place) => place,
            // The layer replaces a file by a directory: nothing there to hide.
            Err(ResolveError::NotADirectory) => return Ok(()),
            Err(e) => return Err(self.unresolved(path, e)),
        };
        if !place.missing.is_empty() || !self.tree.is_dir(place.node) {
            return Ok(());
        }
        let Some(name) = name else {
            whiteout::clear(self.tree, &mut self.marks, place.node);
            return Ok(());
        };
        if let Some(slot) = self.tree.lookup(place.node, name) {
            whiteout::hide(self.tree, &mut self.marks, slot);
        }
        Ok(())
    }

    /// Applies an entry.
    fn entry(&mut self, item: &Item<'_>, path: &[u8]) -> Result<(), MergeError> {
        let attrs = self.attrs(item, path)?;
        if path.is_empty() {
            if item.kind == ItemKind::Dir {
                self.tree.set_attrs(ROOT, &attrs);
            }
            return Ok(());
        }
        let (parent, name) = split(path);
        let dir = self.make_dirs(path, parent)?;
        if let Some(slot) = self.tree.lookup(dir, name) {
            let node = self.tree.slot(slot).node;
            if item.kind == ItemKind::Dir && self.tree.is_dir(node) {
                self.tree.set_attrs(node, &attrs);
                self.marks.described(slot);
                return Ok(());
            }
            self.tree.remove(slot);
        }
        let (kind, data, aux) = match &item.kind {
            ItemKind::Hardlink(target) => return self.hard_link(dir, name, path, target, attrs),
            ItemKind::File { size: 0, .. } => (NodeKind::File, NONE, 0),
            ItemKind::File { size, digest, extents } => {
                (NodeKind::File, self.tree.add_body(self.layer, *digest, *size, extents)?, 0)
            }
            ItemKind::Dir => (NodeKind::Dir, NONE, NONE),
            ItemKind::Symlink(target) => {
                if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
                    return Err(self.bad(path, "its target is empty, longer than 4095 bytes or has a NUL"));
                }
                let (at, len) = self.tree.add_target(target)?;
                (NodeKind::Symlink, at, len)
            }
            ItemKind::Char(major, minor) => (NodeKind::Char, *major, *minor),
            ItemKind::Block(major, minor) => (NodeKind::Block, *major, *minor),
            ItemKind::Fifo => (NodeKind::Fifo, 0, 0),
        };
        let node = self.tree.add_node(kind, &attrs, data, aux)?;
        if kind == NodeKind::Symlink {
            self.tree.node_mut(node).mode = 0o777;
        }
        self.link(dir, name, node)
    }

    fn attrs(&self, item: &Item<'_>, path: &[u8]) -> Result<Attrs, MergeError> {
        let set = self.xattrs.get(crate::num::idx(item.xattrs)).copied().flatten();
        let xattrs =
            set.ok_or_else(|| self.bad(path, "its extended attributes are longer than Linux allows"))?;
        let mode = u16::try_from(item.mode & 0o7777).unwrap_or_default();
        // A reader of tar that broke its word would make an index that no one opens.
        let Timestamp { secs, nanos } = item.mtime;
        let mtime = Timestamp { secs, nanos: nanos.min(999_999_999) };
        Ok(Attrs { mode, uid: item.uid, gid: item.gid, mtime, xattrs })
    }

    /// Gives an inode a name of this layer.
    fn link(&mut self, dir: u32, name: &[u8], node: u32) -> Result<(), MergeError> {
        let slot = self.tree.link(dir, name, node)?;
        self.marks.own(slot);
        Ok(())
    }

    /// Resolves an entry's parent and makes what is missing of it.
    fn make_dirs(&mut self, path: &[u8], parent: &[u8]) -> Result<u32, MergeError> {
        let Place { node: mut dir, missing } =
            resolve(self.tree, parent, self.budget).map_err(|e| self.unresolved(path, e))?;
        if !self.tree.is_dir(dir) {
            return Err(self.unresolved(path, ResolveError::NotADirectory));
        }
        for name in missing {
            let made = self.tree.add_node(NodeKind::Dir, &Attrs::SYNTHETIC, NONE, NONE)?;
            self.link(dir, &name, made)?;
            dir = made;
        }
        Ok(dir)
    }

    /// Links, or leaves a place-holder that waits for the target.
    fn hard_link(
        &mut self,
        dir: u32,
        name: &[u8],
        path: &[u8],
        target: &[u8],
        attrs: Attrs,
    ) -> Result<(), MergeError> {
        if let Some(node) = self.link_target(path, target)? {
            self.link(dir, name, node)?;
            return self.add_attrs(node, &attrs);
        }
        let number = u32::try_from(self.waiting.len()).map_err(|_| MergeError::TooLarge("hard links"))?;
        let node = self.tree.add_node(NodeKind::Pending, &attrs, number, 0)?;
        self.link(dir, name, node)?;
        let (name, path, target) = (name.to_vec(), path.to_vec(), target.to_vec());
        self.waiting.push(Waiting { dir, name, node, path, target, attrs });
        Ok(())
    }

    /// The inode that a hard link names: symlinks are followed in its parent, not at its end. `None`: not there (yet).
    fn link_target(&mut self, path: &[u8], target: &[u8]) -> Result<Option<u32>, MergeError> {
        let (parent, name) = split(target);
        // A path that ends in a slash or dots has no last name: all of it is the parent.
        let whole = matches!(name, b"" | b"." | b"..");
        let place = match resolve(self.tree, if whole { target } else { parent }, self.budget) {
            Ok(place) => place,
            Err(ResolveError::NotADirectory) => return Ok(None),
            Err(e) => return Err(self.unresolved(path, e)),
        };
        if !place.missing.is_empty() {
            return Ok(None);
        }
        let node = if whole {
            place.node
        } else {
            match self.tree.lookup(place.node, name) {
                Some(slot) if self.tree.is_dir(place.node) => self.tree.slot(slot).node,
                _ => return Ok(None),
            }
        };
        match self.tree.node(node).kind {
            NodeKind::Dir => Err(self.bad(path, "a hard link to a directory")),
            NodeKind::Pending => Ok(None),
            _ => Ok(Some(node)),
        }
    }

    /// What creating a hard link does to the shared inode: owner, mode and time are set, attributes added.
    fn add_attrs(&mut self, node: u32, attrs: &Attrs) -> Result<(), MergeError> {
        let below = self.tree.node(node).xattrs;
        let sets = &self.tree.xattr_sets;
        let set = match (below, attrs.xattrs) {
            (below, above) if below == above || above == 0 => below,
            (0, above) => above,
            (below, above) => {
                let merged = xattr::overlay(&sets[crate::num::idx(below)], &sets[crate::num::idx(above)]);
                self.tree.xattr_set(&merged)?
            }
        };
        self.tree.set_attrs(node, &Attrs { xattrs: set, ..*attrs });
        Ok(())
    }

    /// The layer has ended: links what waits, in archive order, as long as that makes more targets appear.
    fn settle(mut self) -> Result<(), MergeError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut number = 0;
        // What was replaced meanwhile does not wait any more.
        waiting.retain(|w| {
            let node = self.tree.node(w.node);
            let waits = node.kind == NodeKind::Pending && node.data == number;
            number += 1;
            waits
        });
        for _ in 0..MAX_ROUNDS {
            let mut left = Vec::new();
            let before = waiting.len();
            for w in waiting {
                let Some(node) = self.link_target(&w.path, &w.target)? else {
                    left.push(w);
                    continue;
                };
                if let Some(slot) = self.tree.lookup(w.dir, &w.name) {
                    self.tree.relink(slot, node);
                }
                self.add_attrs(node, &w.attrs)?;
            }
            let Some(first) = left.first() else { return Ok(()) };
            if left.len() == before {
                let (path, target) = (printable(&first.path), printable(&first.target));
                return Err(MergeError::DanglingHardlink { layer: self.layer, path, target });
            }
            waiting = left;
        }
        let path = waiting.first().map_or(&b""[..], |w| &w.path);
        Err(self.bad(path, "a hard link at the end of a chain of more than 64"))
    }
}

/// What a cleaned path asks for.
fn role(path: &[u8]) -> Role<'_> {
    let (parent, name) = split(path);
    if parent.split(|&b| b == b'/').any(|c| c.starts_with(AUFS)) {
        return Role::Ignored;
    }
    match name {
        OPAQUE => Role::Opaque,
        b".wh." | b".wh.." | b".wh..." => Role::Bad,
        _ if name.starts_with(AUFS) => Role::Ignored,
        _ => name.strip_prefix(WHITEOUT).map_or(Role::Entry, Role::Whiteout),
    }
}

/// A path for a message.
fn printable(path: &[u8]) -> String {
    String::from_utf8_lossy(path.get(..1024).unwrap_or(path)).into_owned()
}

#[cfg(test)]
mod tests;
