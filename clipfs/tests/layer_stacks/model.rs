//! A naive unpack in memory, written from the rules: whole paths in one map, linear searches, everything copied.
//! It knows nothing of how clipfs does it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use clipfs::decode::tar::{Entry, EntryKind, FileData, Timestamp};

pub(crate) type Path = Vec<Vec<u8>>;

/// Why the model refuses a layer, and because of which entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    BadName(usize),
    Dangling(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Dir,
    File {
        layer: u32,
        data: FileData,
    },
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    /// A hard link (entry number) whose target has not come yet.
    Pending(usize),
}

/// A file system as two maps: paths to inodes, inodes to what they are.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) names: BTreeMap<Path, u32>,
    pub(crate) inodes: HashMap<u32, (Meta, Body)>,
    next: u32,
    /// What the layer that is being applied has not made.
    lower: BTreeSet<Path>,
    /// Those of its directories that were there, for which it has an entry.
    described: BTreeSet<Path>,
}

fn synthetic() -> Meta {
    Meta { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: BTreeMap::new() }
}

fn components(path: &[u8]) -> Path {
    path.split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec).collect()
}

fn clean(path: &[u8]) -> Path {
    let mut out = Path::new();
    for c in components(path) {
        if c == b".." {
            out.pop();
        } else {
            out.push(c);
        }
    }
    out
}

fn allowed_xattrs(entry: &Entry) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let dropped = |n: &[u8]| n.starts_with(b"trusted.overlay.") || n.starts_with(b"user.overlay.");
    entry.xattrs.iter().filter(|(n, _)| !dropped(n)).cloned().collect()
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            names: BTreeMap::from([(Path::new(), 0)]),
            inodes: HashMap::from([(0, (synthetic(), Body::Dir))]),
            next: 1,
            lower: BTreeSet::new(),
            described: BTreeSet::new(),
        }
    }

    pub(crate) fn body(&self, path: &Path) -> Option<&Body> {
        self.names.get(path).map(|ino| &self.inodes[ino].1)
    }

    fn add(&mut self, path: Path, meta: Meta, body: Body) {
        self.names.insert(path, self.next);
        self.inodes.insert(self.next, (meta, body));
        self.next += 1;
    }

    fn remove(&mut self, path: &Path) {
        self.names.retain(|p, _| !p.starts_with(path));
        self.lower.retain(|p| !p.starts_with(path));
    }

    /// Follows all symlinks of a path. `Err(true)`: a non-directory in the middle; `Err(false)`: too many links, or a
    /// name too long.
    pub(crate) fn follow(&self, path: &[Vec<u8>]) -> Result<Path, bool> {
        let mut todo: VecDeque<Vec<u8>> = path.iter().cloned().collect();
        let mut at = Path::new();
        let mut links = 0;
        while let Some(c) = todo.pop_front() {
            if self.body(&at).is_some_and(|b| *b != Body::Dir) {
                return Err(true);
            }
            if c == b".." {
                at.pop();
                continue;
            }
            if c.len() > 255 {
                return Err(false);
            }
            let mut child = at.clone();
            child.push(c);
            if let Some(Body::Symlink(target)) = self.body(&child) {
                links += 1;
                if links > 255 {
                    return Err(false);
                }
                if target.starts_with(b"/") {
                    at = Path::new();
                }
                for c in components(target).into_iter().rev() {
                    todo.push_front(c);
                }
            } else {
                at = child;
            }
        }
        Ok(at)
    }

    /// What a hard link names. `Ok(None)`: nothing.
    fn link_target(&self, target: &[u8]) -> Result<Option<u32>, ()> {
        let cut = target.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        let (parent, name) = target.split_at(cut);
        let path = if matches!(name, b"" | b"." | b"..") {
            self.follow(&components(target))
        } else {
            self.follow(&components(parent)).map(|mut p| {
                p.push(name.to_vec());
                p
            })
        };
        match path {
            Err(true) => Ok(None),
            Err(false) => Err(()),
            Ok(path) => match self.body(&path) {
                None | Some(Body::Pending(_)) => Ok(None),
                Some(Body::Dir) => Err(()),
                Some(_) => Ok(self.names.get(&path).copied()),
            },
        }
    }

    fn set(&mut self, ino: u32, meta: Meta) {
        let (own, body) = self.inodes.get_mut(&ino).unwrap();
        let symlink = matches!(body, Body::Symlink(_));
        *own = Meta { mode: if symlink { 0o777 } else { meta.mode }, ..meta };
    }

    /// Owner, mode and time of the link's entry, its attributes added.
    fn set_link(&mut self, ino: u32, meta: Meta) {
        let mut xattrs = self.inodes[&ino].0.xattrs.clone();
        xattrs.extend(meta.xattrs.clone());
        self.set(ino, Meta { xattrs, ..meta });
    }

    /// Applies a layer, entry by entry in archive order.
    pub(crate) fn apply(&mut self, layer: u32, entries: &[Entry]) -> Result<(), Refusal> {
        self.lower = self.names.keys().cloned().collect();
        self.described.clear();
        for (n, entry) in entries.iter().enumerate() {
            let mut path = clean(&entry.path);
            if path.iter().any(|c| c.len() > 255 || c.contains(&0)) {
                return Err(Refusal::BadName(n));
            }
            let last = path.pop().unwrap_or_default();
            if path.iter().any(|c| c.starts_with(b".wh..wh.")) {
                continue;
            }
            if !last.starts_with(b".wh.") {
                self.entry(layer, n, entry)?;
                continue;
            }
            if matches!(last.as_slice(), b".wh." | b".wh.." | b".wh...") {
                return Err(Refusal::BadName(n));
            }
            if last.starts_with(b".wh..wh.") && last != b".wh..wh..opq" {
                continue;
            }
            let dir = match self.follow(&path) {
                Ok(dir) => dir,
                Err(true) => continue,
                Err(false) => return Err(Refusal::BadName(n)),
            };
            if last == b".wh..wh..opq" {
                self.hide(|p| p.starts_with(&dir) && p.len() > dir.len());
            } else {
                let mut hidden = dir;
                hidden.push(last[4..].to_vec());
                self.hide(|p| p.starts_with(&hidden));
            }
        }
        self.settle(entries)
    }

    /// Removes those of the paths that are still what lower layers made of them. A directory that this layer has
    /// described or put something into becomes this layer's.
    fn hide(&mut self, concerned: impl Fn(&Path) -> bool) {
        // Children before their parents.
        let lower: Vec<Path> = self.lower.iter().rev().filter(|p| concerned(p)).cloned().collect();
        for path in lower {
            self.lower.remove(&path);
            let described = self.described.contains(&path);
            let holds = |p: &Path| p.len() > path.len() && p.starts_with(&path) && !self.lower.contains(p);
            if described {
                continue;
            }
            if self.names.keys().any(holds) {
                let ino = self.names[&path];
                self.set(ino, synthetic());
            } else {
                self.names.remove(&path);
            }
        }
    }

    fn entry(&mut self, layer: u32, n: usize, entry: &Entry) -> Result<(), Refusal> {
        let mut path = clean(&entry.path);
        let meta = Meta {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: allowed_xattrs(entry),
        };
        let Some(name) = path.pop() else {
            if entry.kind == EntryKind::Dir {
                self.set(0, meta);
            }
            return Ok(());
        };
        let mut place = self.follow(&path).map_err(|_| Refusal::BadName(n))?;
        for len in 1..=place.len() {
            match self.body(&place[..len].to_vec()) {
                Some(Body::Dir) => {}
                Some(_) => return Err(Refusal::BadName(n)),
                None => self.add(place[..len].to_vec(), synthetic(), Body::Dir),
            }
        }
        place.push(name);
        if let Some(&ino) = self.names.get(&place) {
            if entry.kind == EntryKind::Dir && self.inodes[&ino].1 == Body::Dir {
                self.set(ino, meta);
                self.described.insert(place);
                return Ok(());
            }
            self.remove(&place);
        }
        let body = match &entry.kind {
            EntryKind::Hardlink(target) => {
                match self.link_target(target).map_err(|()| Refusal::BadName(n))? {
                    Some(ino) => {
                        self.names.insert(place, ino);
                        self.set_link(ino, meta);
                    }
                    None => self.add(place, meta, Body::Pending(n)),
                }
                return Ok(());
            }
            EntryKind::File(data) => Body::File { layer, data: data.clone() },
            EntryKind::Dir => Body::Dir,
            EntryKind::Symlink(t) if t.is_empty() || t.len() > 4095 => return Err(Refusal::BadName(n)),
            EntryKind::Symlink(t) => Body::Symlink(t.clone()),
            EntryKind::Char { major, minor } => Body::Char(*major, *minor),
            EntryKind::Block { major, minor } => Body::Block(*major, *minor),
            EntryKind::Fifo => Body::Fifo,
        };
        let mode = if matches!(body, Body::Symlink(_)) { 0o777 } else { meta.mode };
        self.add(place, Meta { mode, ..meta }, body);
        Ok(())
    }

    /// Links what waits for its target, in archive order, again and again while that helps.
    fn settle(&mut self, entries: &[Entry]) -> Result<(), Refusal> {
        loop {
            let mut waiting: Vec<(usize, Path)> = self
                .names
                .keys()
                .filter_map(|p| match self.body(p) {
                    Some(Body::Pending(n)) => Some((*n, p.clone())),
                    _ => None,
                })
                .collect();
            waiting.sort();
            let Some(&(first, _)) = waiting.first() else { return Ok(()) };
            let mut linked = 0;
            for (n, path) in waiting {
                let EntryKind::Hardlink(target) = &entries[n].kind else { unreachable!() };
                if let Some(ino) = self.link_target(target).map_err(|()| Refusal::BadName(n))? {
                    let (meta, _) = self.inodes[&self.names[&path]].clone();
                    self.names.insert(path, ino);
                    self.set_link(ino, meta);
                    linked += 1;
                }
            }
            if linked == 0 {
                return Err(Refusal::Dangling(first));
            }
        }
    }
}
