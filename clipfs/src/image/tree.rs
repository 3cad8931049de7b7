//! The merged tree in memory, on its way into a clip index: numbered, sorted, identical contents collapsed.
//!
//! Nothing is copied: the arrays of the merge stay, and permutations (12 bytes a file) say in what order they are
//! written.

use std::cmp::Ordering;

use super::MergeError;
use super::nodes::{Body, Fragments, NONE, Node, NodeKind, Nodes, ROOT, Slot};
use crate::num::{idx, to_u64};

/// A merged image: inodes, sorted directories, names, contents, xattrs.
#[derive(Debug)]
pub struct Tree {
    pub(crate) nodes: Nodes,
    /// Inode numbers (from 0) → nodes: breadth first, names sorted, so that siblings are neighbours and every
    /// directory comes before what is in it. A hard-linked inode stands where its first name does.
    pub(crate) order: Vec<u32>,
    /// Nodes → inode numbers; [`NONE`] for nodes that are gone.
    pub(crate) numbers: Vec<u32>,
    /// Slots: the directories' names, directory after directory in inode order, sorted.
    pub(crate) entries: Vec<u32>,
    /// How many names each directory has, in inode order.
    pub(crate) dir_lens: Vec<u32>,
    /// Content numbers → bodies, ordered by layer and stream offset.
    pub(crate) contents: Vec<u32>,
    /// Bodies → content numbers: several bodies may be one content.
    pub(crate) content_of: Vec<u32>,
}

impl Tree {
    pub(super) fn new(mut nodes: Nodes) -> Result<Self, MergeError> {
        nodes.freeze();
        let mut numbers = vec![NONE; nodes.nodes.len()];
        let mut order = vec![ROOT];
        numbers[idx(ROOT)] = 0;
        let mut entries = Vec::new();
        let mut dir_lens = Vec::new();
        let mut children = Vec::new();
        let mut at = 0;
        while let Some(&node) = order.get(at) {
            at += 1;
            if nodes.node(node).kind != NodeKind::Dir {
                continue;
            }
            children.clear();
            let mut slot = nodes.node(node).data;
            while slot != NONE {
                children.push(slot);
                slot = nodes.slot(slot).next;
            }
            children.sort_unstable_by_key(|&slot| nodes.name(nodes.slot(slot).name));
            for &slot in &children {
                let child = nodes.slot(slot).node;
                if numbers[idx(child)] == NONE {
                    numbers[idx(child)] = number(order.len(), "inodes")?;
                    order.push(child);
                }
            }
            dir_lens.push(number(children.len(), "names")?);
            entries.extend_from_slice(&children);
        }
        number(entries.len(), "names")?;
        let (contents, content_of) = number_contents(&nodes, &order)?;
        Ok(Self { nodes, order, numbers, entries, dir_lens, contents, content_of })
    }

    /// Number of inodes.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        to_u64(self.order.len())
    }

    /// The inodes in order.
    pub(crate) fn iter_nodes(&self) -> impl Iterator<Item = &Node> {
        self.order.iter().map(|&node| self.nodes.node(node))
    }

    /// The names in order.
    pub(crate) fn iter_slots(&self) -> impl Iterator<Item = &Slot> {
        self.entries.iter().map(|&slot| self.nodes.slot(slot))
    }

    /// The contents in order.
    pub(crate) fn iter_contents(&self) -> impl Iterator<Item = &Body> {
        self.contents.iter().map(|&body| &self.nodes.bodies[idx(body)])
    }

    /// Inode number of a node.
    pub(crate) fn number_of(&self, node: u32) -> u32 {
        self.numbers[idx(node)]
    }

    /// A file's body, and the number of the content that it is.
    pub(crate) fn content(&self, node: &Node) -> Option<(&Body, u32)> {
        if node.kind != NodeKind::File || node.data == NONE {
            return None;
        }
        Some((&self.nodes.bodies[idx(node.data)], self.content_of[idx(node.data)]))
    }

    /// The extents of a body that is not one run.
    pub(crate) fn fragments(&self, body: &Body) -> Option<&Fragments> {
        self.nodes.fragments.get(idx(body.fragments))
    }
}

/// Collapses identical bodies to the first, and orders what is left.
fn number_contents(nodes: &Nodes, order: &[u32]) -> Result<(Vec<u32>, Vec<u32>), MergeError> {
    let body = |id: u32| &nodes.bodies[idx(id)];
    let place = |a: &Body, b: &Body| -> Ordering {
        (a.layer, a.stream, &a.digest, a.size).cmp(&(b.layer, b.stream, &b.digest, b.size))
    };
    let mut live: Vec<u32> = order
        .iter()
        .map(|&node| nodes.node(node))
        .filter(|node| node.kind == NodeKind::File && node.data != NONE)
        .map(|node| node.data)
        .collect();
    live.sort_unstable_by(|&a, &b| {
        let (x, y) = (body(a), body(b));
        (&x.digest, x.size).cmp(&(&y.digest, y.size)).then_with(|| place(x, y))
    });
    // For now, each body → the first of its equals.
    let mut content_of = vec![NONE; nodes.bodies.len()];
    let mut contents: Vec<u32> = Vec::new();
    for &id in &live {
        let first = match contents.last() {
            Some(&last) if body(last).digest == body(id).digest && body(last).size == body(id).size => last,
            _ => {
                contents.push(id);
                id
            }
        };
        content_of[idx(id)] = first;
    }
    contents.sort_unstable_by(|&a, &b| place(body(a), body(b)));
    let mut numbers = vec![NONE; nodes.bodies.len()];
    for (n, &id) in contents.iter().enumerate() {
        numbers[idx(id)] = number(n, "file contents")?;
    }
    for first in &mut content_of {
        if *first != NONE {
            *first = numbers[idx(*first)];
        }
    }
    Ok((contents, content_of))
}

/// A position as the index stores it, with room for "none" and for counting from 1.
fn number(n: usize, what: &'static str) -> Result<u32, MergeError> {
    u32::try_from(n).ok().filter(|&n| n < u32::MAX - 1).ok_or(MergeError::TooLarge(what))
}
