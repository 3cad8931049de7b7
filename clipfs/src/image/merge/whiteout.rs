//! Removing what lower layers left, and nothing else: which names are whose, and whiteouts of whole directories.
//!
//! A directory that has been cleared once in a layer has nothing of lower layers any more and is not walked again, so
//! all whiteouts of a layer together cost no more than a walk through the tree.

use super::super::nodes::{Attrs, NONE, Nodes, ROOT};
use crate::num::idx;

/// The layer has made the name.
const OWN: u8 = 1;
/// The layer has an entry for the directory, which lower layers made.
const DESCRIBED: u8 = 2;
/// Every name in the directory and below is the layer's own.
const CLEARED: u8 = 4;

/// What the layer that is being applied has done to names, by slot.
#[derive(Debug, Default)]
pub(super) struct Marks {
    slots: Vec<u8>,
    root_cleared: bool,
}

impl Marks {
    /// The layer has made a name.
    pub(super) fn own(&mut self, slot: u32) {
        // Slots are used again: whatever was known of the one before is void.
        *self.entry(slot) = OWN | CLEARED;
    }

    /// The layer has an entry for a directory that was there.
    pub(super) fn described(&mut self, slot: u32) {
        *self.entry(slot) |= DESCRIBED;
    }

    fn entry(&mut self, slot: u32) -> &mut u8 {
        let at = idx(slot);
        if at >= self.slots.len() {
            self.slots.resize(at + 1, 0);
        }
        &mut self.slots[at]
    }

    fn has(&self, slot: u32, mark: u8) -> bool {
        self.slots.get(idx(slot)).is_some_and(|marks| marks & mark != 0)
    }

    /// Marks a directory as cleared; `false` if it was.
    fn clear(&mut self, tree: &Nodes, dir: u32) -> bool {
        if dir == ROOT {
            return !std::mem::replace(&mut self.root_cleared, true);
        }
        let slot = tree.node(dir).aux;
        let cleared = self.has(slot, CLEARED);
        *self.entry(slot) |= CLEARED;
        !cleared
    }
}

/// Removes what lower layers have under a name.
pub(super) fn hide(tree: &mut Nodes, marks: &mut Marks, slot: u32) {
    let node = tree.slot(slot).node;
    if tree.is_dir(node) {
        clear(tree, marks, node);
    }
    settle(tree, marks, slot);
}

/// Removes what lower layers have in a directory. Directories of theirs that hold something of this layer stay.
pub(super) fn clear(tree: &mut Nodes, marks: &mut Marks, dir: u32) {
    let mut dirs = Vec::new();
    let mut todo = vec![dir];
    while let Some(dir) = todo.pop() {
        if !marks.clear(tree, dir) {
            continue;
        }
        dirs.push(dir);
        let mut child = tree.node(dir).data;
        while child != NONE {
            let slot = tree.slot(child);
            if tree.is_dir(slot.node) {
                todo.push(slot.node);
            }
            child = slot.next;
        }
    }
    // Parents came first; what is left in a directory is known once those below it are done.
    for dir in dirs.into_iter().rev() {
        let mut child = tree.node(dir).data;
        while child != NONE {
            let next = tree.slot(child).next;
            settle(tree, marks, child);
            child = next;
        }
    }
}

/// Decides on a name, below which nothing is of lower layers any more.
fn settle(tree: &mut Nodes, marks: &mut Marks, slot: u32) {
    if marks.has(slot, OWN) {
        return;
    }
    let node = tree.slot(slot).node;
    let described = marks.has(slot, DESCRIBED);
    if !tree.is_dir(node) || (!described && tree.node(node).data == NONE) {
        tree.remove(slot);
        return;
    }
    // As if the directory had been removed and made again, by its entry or for what is in it.
    if !described {
        tree.set_attrs(node, &Attrs::SYNTHETIC);
    }
    marks.own(slot);
}
