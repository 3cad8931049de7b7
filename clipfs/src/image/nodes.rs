//! The tree while it is being merged: inodes, names, contents, in flat arrays (about 140 bytes a file with its name
//! and content). Removing a subtree never recurses on the stack: paths may be 10⁵ deep.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::MergeError;
use super::table::{MAX_ELEMENT, Names, Table};
use crate::decode::Blake3;
use crate::decode::tar::{Extent, Timestamp};
use crate::num::idx;

/// "None" among numbers.
pub(super) const NONE: u32 = u32::MAX;

/// The root directory's inode.
pub(super) const ROOT: u32 = 0;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum NodeKind {
    /// Regular file; `data` = content or [`NONE`].
    File = 0,
    /// Directory; `data` = first name in it, `aux` = its own name ([`NONE`] for the root).
    Dir = 1,
    /// Symbolic link; `data`, `aux` = offset and length in `targets`.
    Symlink = 2,
    /// Character device; `data`, `aux` = major, minor.
    Char = 3,
    /// Block device; `data`, `aux` = major, minor.
    Block = 4,
    /// FIFO.
    Fifo = 5,
    /// A hard link that waits for its target; `data` = its number among the waiting.
    Pending = 6,
}

/// An inode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) mtime_secs: i64,
    pub(crate) mtime_nanos: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Names of a file; 2 + subdirectories of a directory.
    pub(crate) nlink: u32,
    /// Number of its attribute set.
    pub(crate) xattrs: u32,
    pub(crate) data: u32,
    pub(crate) aux: u32,
    pub(crate) mode: u16,
    pub(crate) kind: NodeKind,
}

/// What an entry says of its inode whatever its type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attrs {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    /// Number of the attribute set.
    pub(super) xattrs: u32,
}

impl Attrs {
    /// A directory that no entry describes: 0755 root:root at the epoch.
    pub(super) const SYNTHETIC: Self =
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp { secs: 0, nanos: 0 }, xattrs: 0 };
}

/// A name in a directory; its siblings form a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) parent: u32,
    pub(crate) name: u32,
    pub(crate) node: u32,
    pub(super) next: u32,
    prev: u32,
}

/// A file body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    pub(crate) digest: Blake3,
    pub(crate) size: u64,
    /// Stream offset of the first extent; `u64::MAX` if the file is one hole.
    pub(crate) stream: u64,
    pub(crate) layer: u32,
    /// [`NONE`]: one extent that covers the file; else the number of its [`Fragments`].
    pub(crate) fragments: u32,
}

/// The extents of a body that is not one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fragments {
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// Bytes of data.
    pub(crate) data: u64,
}

/// The arrays.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node>,
    free_nodes: Vec<u32>,
    pub(crate) slots: Vec<Slot>,
    free_slots: Vec<u32>,
    slot_table: Table,
    hash: RandomState,
    pub(super) names: Names,
    /// Symlink targets, one behind the other.
    targets: Vec<u8>,
    pub(crate) bodies: Vec<Body>,
    free_bodies: Vec<u32>,
    pub(crate) fragments: Vec<Fragments>,
    pub(crate) extents: Vec<Extent>,
    /// Attribute sets as `xattr` encodes them; number 0 is the empty one.
    pub(crate) xattr_sets: Vec<Arc<[u8]>>,
    xattr_ids: HashMap<Arc<[u8]>, u32>,
}

impl Nodes {
    /// A tree that has only its root.
    pub(super) fn new() -> Self {
        let empty: Arc<[u8]> = Arc::from([]);
        let mut tree = Self {
            nodes: Vec::new(),
            free_nodes: Vec::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            slot_table: Table::default(),
            hash: RandomState::new(),
            names: Names::default(),
            targets: Vec::new(),
            bodies: Vec::new(),
            free_bodies: Vec::new(),
            fragments: Vec::new(),
            extents: Vec::new(),
            xattr_sets: vec![empty.clone()],
            xattr_ids: HashMap::from([(empty, 0)]),
        };
        let root = Node {
            mtime_secs: 0,
            mtime_nanos: 0,
            uid: 0,
            gid: 0,
            nlink: 2,
            xattrs: 0,
            data: NONE,
            aux: NONE,
            mode: 0o755,
            kind: NodeKind::Dir,
        };
        tree.nodes.push(root);
        tree
    }

    pub(crate) fn node(&self, node: u32) -> &Node {
        &self.nodes[idx(node)]
    }

    pub(super) fn node_mut(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[idx(node)]
    }

    pub(crate) fn slot(&self, slot: u32) -> &Slot {
        &self.slots[idx(slot)]
    }

    /// The bytes of a name.
    pub(crate) fn name(&self, name: u32) -> &[u8] {
        self.names.get(name)
    }

    /// How many different names there have been.
    pub(crate) fn name_count(&self) -> usize {
        self.names.len()
    }

    /// Target of a symlink node.
    pub(crate) fn target(&self, node: &Node) -> &[u8] {
        self.targets.get(idx(node.data)..).and_then(|t| t.get(..idx(node.aux))).unwrap_or_default()
    }

    pub(super) fn is_dir(&self, node: u32) -> bool {
        self.node(node).kind == NodeKind::Dir
    }

    /// The directory above; the root's is itself.
    pub(crate) fn parent(&self, dir: u32) -> u32 {
        match self.node(dir).aux {
            NONE => ROOT,
            slot => self.slot(slot).parent,
        }
    }

    /// Finds a name in a directory.
    pub(super) fn lookup(&self, dir: u32, name: &[u8]) -> Option<u32> {
        let name = self.names.find(name)?;
        self.slot_table.find(self.hash.hash_one((dir, name)), |slot| {
            let s = self.slot(slot);
            s.parent == dir && s.name == name
        })
    }

    /// Adds an inode without a name.
    pub(super) fn add_node(
        &mut self,
        kind: NodeKind,
        attrs: &Attrs,
        data: u32,
        aux: u32,
    ) -> Result<u32, MergeError> {
        let node = Node {
            mtime_secs: attrs.mtime.secs,
            mtime_nanos: attrs.mtime.nanos,
            uid: attrs.uid,
            gid: attrs.gid,
            nlink: if kind == NodeKind::Dir { 2 } else { 0 },
            xattrs: attrs.xattrs,
            data,
            aux,
            mode: attrs.mode,
            kind,
        };
        add(&mut self.nodes, &mut self.free_nodes, node, "inodes")
    }

    /// Sets what an entry says of its inode. A symlink's mode is what the kernel says.
    pub(super) fn set_attrs(&mut self, node: u32, attrs: &Attrs) {
        let n = self.node_mut(node);
        if n.kind != NodeKind::Symlink {
            n.mode = attrs.mode;
        }
        n.uid = attrs.uid;
        n.gid = attrs.gid;
        n.mtime_secs = attrs.mtime.secs;
        n.mtime_nanos = attrs.mtime.nanos;
        n.xattrs = attrs.xattrs;
    }

    /// Gives an inode a name and returns its slot; the name must be free.
    pub(super) fn link(&mut self, dir: u32, name: &[u8], node: u32) -> Result<u32, MergeError> {
        let name = self.names.intern(name).ok_or(MergeError::TooLarge("names"))?;
        let next = self.node(dir).data;
        let slot = Slot { parent: dir, name, node, next, prev: NONE };
        let slot = add(&mut self.slots, &mut self.free_slots, slot, "names")?;
        if next != NONE {
            self.slots[idx(next)].prev = slot;
        }
        self.node_mut(dir).data = slot;
        if self.is_dir(node) {
            self.node_mut(node).aux = slot;
            self.node_mut(dir).nlink += 1;
        } else {
            self.node_mut(node).nlink += 1;
        }
        let (slots, state) = (&self.slots, &self.hash);
        self.slot_table.insert(state.hash_one((dir, name)), slot, |s| {
            let s = &slots[idx(s)];
            state.hash_one((s.parent, s.name))
        });
        Ok(slot)
    }

    /// Makes a name stand for another inode that is no directory (nor was the one before).
    pub(super) fn relink(&mut self, slot: u32, node: u32) {
        let before = std::mem::replace(&mut self.slots[idx(slot)].node, node);
        self.node_mut(node).nlink += 1;
        self.unref(before);
    }

    /// Removes a name and everything below it.
    pub(super) fn remove(&mut self, slot: u32) {
        self.detach(slot);
        let mut stack = vec![slot];
        while let Some(slot) = stack.pop() {
            let Slot { parent, name, node, .. } = *self.slot(slot);
            let hash = self.hash.hash_one((parent, name));
            self.slot_table.remove(hash, |s| s == slot);
            self.free_slots.push(slot);
            if self.is_dir(node) {
                let mut child = self.node(node).data;
                while child != NONE {
                    stack.push(child);
                    child = self.slot(child).next;
                }
                self.free_nodes.push(node);
            } else {
                self.unref(node);
            }
        }
    }

    /// Stores a symlink's target.
    pub(super) fn add_target(&mut self, target: &[u8]) -> Result<(u32, u32), MergeError> {
        let full = MergeError::TooLarge("symlink targets");
        let Ok(at) = u32::try_from(self.targets.len()) else { return Err(full) };
        let Ok(len) = u32::try_from(target.len()) else { return Err(full) };
        self.targets.extend_from_slice(target);
        Ok((at, len))
    }

    /// Stores a file body.
    pub(super) fn add_body(
        &mut self,
        layer: u32,
        digest: Blake3,
        size: u64,
        extents: &[Extent],
    ) -> Result<u32, MergeError> {
        let full = || MergeError::TooLarge("extents");
        let mut body = Body { digest, size, stream: u64::MAX, layer, fragments: NONE };
        if let Some(first) = extents.first() {
            body.stream = first.stream_offset;
        }
        if !matches!(extents, [one] if one.file_offset == 0 && one.len == size) {
            let first = u32::try_from(self.extents.len()).map_err(|_| full())?;
            let count = u32::try_from(extents.len()).map_err(|_| full())?;
            let data = extents.iter().fold(0, |sum: u64, e| sum.saturating_add(e.len));
            self.extents.extend_from_slice(extents);
            body.fragments = u32::try_from(self.fragments.len()).map_err(|_| full())?;
            self.fragments.push(Fragments { first, count, data });
        }
        add(&mut self.bodies, &mut self.free_bodies, body, "file contents")
    }

    /// Number of an encoded attribute set.
    pub(super) fn xattr_set(&mut self, set: &[u8]) -> Result<u32, MergeError> {
        if let Some(&id) = self.xattr_ids.get(set) {
            return Ok(id);
        }
        let id = u32::try_from(self.xattr_sets.len()).ok().filter(|&id| id < NONE);
        let id = id.ok_or(MergeError::TooLarge("extended attributes"))?;
        let set: Arc<[u8]> = set.into();
        self.xattr_sets.push(set.clone());
        self.xattr_ids.insert(set, id);
        Ok(id)
    }

    /// Bytes that the arrays use, for accounting.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of::<Node>() * self.nodes.len()
            + size_of::<Slot>() * self.slots.len()
            + self.slot_table.bytes()
            + self.names.bytes()
            + self.targets.len()
            + size_of::<Body>() * self.bodies.len()
            + size_of::<Fragments>() * self.fragments.len()
            + size_of::<Extent>() * self.extents.len()
    }

    /// Frees what only merging needs.
    pub(super) fn freeze(&mut self) {
        self.slot_table = Table::default();
        self.names.freeze();
        self.free_nodes = Vec::new();
        self.free_slots = Vec::new();
        self.free_bodies = Vec::new();
        self.xattr_ids = HashMap::new();
    }

    /// Takes a name out of its directory's list.
    fn detach(&mut self, slot: u32) {
        let Slot { parent, node, next, prev, .. } = *self.slot(slot);
        match prev {
            NONE => self.node_mut(parent).data = next,
            prev => self.slots[idx(prev)].next = next,
        }
        if next != NONE {
            self.slots[idx(next)].prev = prev;
        }
        if self.is_dir(node) {
            self.node_mut(parent).nlink -= 1;
        }
    }

    /// A name of a non-directory is gone; with the last one goes the inode.
    fn unref(&mut self, node: u32) {
        let n = self.node_mut(node);
        n.nlink -= 1;
        if n.nlink > 0 {
            return;
        }
        let (kind, data) = (n.kind, n.data);
        // Whoever still holds the number of a waiting link must not take another inode for it.
        n.kind = NodeKind::Fifo;
        self.free_nodes.push(node);
        if kind == NodeKind::File && data != NONE {
            self.free_bodies.push(data);
        }
    }
}

/// Puts an element where another has been freed, or at the end.
fn add<T>(all: &mut Vec<T>, free: &mut Vec<u32>, element: T, what: &'static str) -> Result<u32, MergeError> {
    if let Some(id) = free.pop() {
        all[idx(id)] = element;
        return Ok(id);
    }
    let id = u32::try_from(all.len()).ok().filter(|&id| id <= MAX_ELEMENT);
    let id = id.ok_or(MergeError::TooLarge(what))?;
    all.push(element);
    Ok(id)
}
