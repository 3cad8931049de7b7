//! A hash table of numbers whose keys live elsewhere: 4–8 bytes per element instead of the 30 and more of a map
//! that owns its keys.
//!
//! Open addressing with linear probing. Callers hash with a randomly keyed hash: names come from strangers.

use crate::num::{idx, to_usize};

const EMPTY: u32 = u32::MAX;
const GONE: u32 = u32::MAX - 1;

/// Largest number that may be an element.
pub(super) const MAX_ELEMENT: u32 = u32::MAX - 2;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Table {
    cells: Vec<u32>,
    /// Cells that are not `EMPTY`.
    used: usize,
    /// Elements.
    len: usize,
}

impl Table {
    /// The element with this hash for which `eq` holds.
    pub(super) fn find(&self, hash: u64, eq: impl Fn(u32) -> bool) -> Option<u32> {
        self.cell_of(hash, eq).and_then(|cell| self.cells.get(cell).copied())
    }

    /// Adds an element that is not there yet; `hash_of` gives the hash of any element.
    pub(super) fn insert(&mut self, hash: u64, element: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.used + 1) * 4 > self.cells.len() * 3 {
            let size = ((self.len + 1) * 2).next_power_of_two().max(16);
            let old = std::mem::replace(&mut self.cells, vec![EMPTY; size]);
            self.used = self.len;
            for element in old.into_iter().filter(|&e| e <= MAX_ELEMENT) {
                let cell = self.free_cell(hash_of(element));
                self.cells[cell] = element;
            }
        }
        let cell = self.free_cell(hash);
        self.cells[cell] = element;
        self.used += 1;
        self.len += 1;
    }

    /// Removes the element with this hash for which `eq` holds.
    pub(super) fn remove(&mut self, hash: u64, eq: impl Fn(u32) -> bool) {
        if let Some(cell) = self.cell_of(hash, eq) {
            self.cells[cell] = GONE;
            self.len -= 1;
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.cells.len() * 4
    }

    fn cell_of(&self, hash: u64, eq: impl Fn(u32) -> bool) -> Option<usize> {
        let mask = self.cells.len().checked_sub(1)?;
        let mut cell = to_usize(hash) & mask;
        loop {
            match self.cells[cell] {
                EMPTY => return None,
                element if element != GONE && eq(element) => return Some(cell),
                _ => cell = (cell + 1) & mask,
            }
        }
    }

    /// The first empty cell for a hash; the table is never full. `GONE` cells are not reused: growing sweeps them.
    fn free_cell(&self, hash: u64) -> usize {
        let mask = self.cells.len() - 1;
        let mut cell = to_usize(hash) & mask;
        while self.cells[cell] != EMPTY {
            cell = (cell + 1) & mask;
        }
        cell
    }
}

/// Byte strings, each kept once; numbered in the order of their first appearance.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    /// Where each name starts in `bytes`, and where the last ends.
    starts: Vec<u32>,
    table: Table,
    state: std::hash::RandomState,
}

impl Names {
    /// The number of a name; `None` if it has none.
    pub(super) fn find(&self, name: &[u8]) -> Option<u32> {
        self.table.find(self.hash(name), |id| self.get(id) == name)
    }

    /// The number of a name, new if need be. `None`: full.
    pub(super) fn intern(&mut self, name: &[u8]) -> Option<u32> {
        let hash = self.hash(name);
        if let Some(id) = self.table.find(hash, |id| self.get(id) == name) {
            return Some(id);
        }
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        let id = u32::try_from(self.starts.len() - 1).ok().filter(|&id| id <= MAX_ELEMENT)?;
        let end = u32::try_from(self.bytes.len() + name.len()).ok()?;
        self.bytes.extend_from_slice(name);
        self.starts.push(end);
        let (bytes, starts, state) = (&self.bytes, &self.starts, &self.state);
        self.table.insert(hash, id, |id| {
            use std::hash::BuildHasher as _;
            state.hash_one(slice(bytes, starts, id))
        });
        Some(id)
    }

    /// A name by its number.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        slice(&self.bytes, &self.starts, id)
    }

    /// How many names.
    pub(super) fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + self.starts.len() * 4 + self.table.bytes()
    }

    /// Frees what only [`Names::find`] and [`Names::intern`] need.
    pub(super) fn freeze(&mut self) {
        self.table = Table::default();
    }

    fn hash(&self, name: &[u8]) -> u64 {
        use std::hash::BuildHasher as _;
        self.state.hash_one(name)
    }
}

fn slice<'a>(bytes: &'a [u8], starts: &[u32], id: u32) -> &'a [u8] {
    match starts.get(idx(id)..) {
        Some([start, end, ..]) => bytes.get(idx(*start)..idx(*end)).unwrap_or_default(),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_there_and_only_that() {
        // A hash that collides all the time, so that probing is tested.
        let hash = |e: u32| u64::from(e % 7);
        let mut table = Table::default();
        for e in 0..500 {
            table.insert(hash(e), e, hash);
        }
        for e in (0..500).step_by(2) {
            table.remove(hash(e), |x| x == e);
        }
        for e in 500..600 {
            table.insert(hash(e), e, hash);
        }
        for e in 0..700 {
            let there = (e % 2 == 1 || e >= 500) && e < 600;
            assert_eq!(table.find(hash(e), |x| x == e).is_some(), there, "{e}");
        }
    }

    #[test]
    fn names_are_kept_once() {
        let mut names = Names::default();
        let ids: Vec<_> =
            ["a", "bc", "a", "", "bc"].iter().map(|n| names.intern(n.as_bytes()).unwrap()).collect();
        assert_eq!(ids, [0, 1, 0, 2, 1]);
        assert_eq!((names.get(0), names.get(1), names.get(2)), (&b"a"[..], &b"bc"[..], &b""[..]));
        assert_eq!(names.find(b"x"), None);
        assert_eq!(names.len(), 3);
    }
}
