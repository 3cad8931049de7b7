//! Partial objects: see [`Partial`] and, for the format of maps, `segments`.
//!
//! Any number of processes may have the same partial open and write to it: data goes to its place in the sparse file and
//! then a record is appended to the map; both may be done twice without harm. Locks, all `flock`, none ever waited for:
//!
//! * shared on the data file, as long as a [`Partial`] lives: it is not evicted;
//! * shared on the map, while a segment is written: the data file is not an object yet;
//! * exclusive on the map, while the partial is created, or verified as a whole and renamed. Who comes then finds it
//!   taken and does not write; who comes later finds a map without a name and looks for the object.
//!
//! Lock order in the process: `writing`, then `state`. Reads take `state` only, and not while they read.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::disk::{Dirs, Tree, hex_name, is, open_at, stat, try_flock};
use super::evict::removed;
use super::memo::Pin;
use super::object::{hash_file, span};
use super::scan::{MAP, remove};
use super::segments::{HEADER, Identity, MAX_MAP, MAX_SEGMENT, SLOT, Segment, Segments};
use super::usage::{Change, signed};
use super::{Inner, ObjectFile, lock};
use crate::num::{idx, to_u64, to_usize};

/// A content of which parts are on disk. Parts (*segments*) are written as chunks are decoded, each with its own digest,
/// and verified again on every read from disk.
#[derive(Debug)]
pub struct Partial {
    inner: Arc<Inner>,
    identity: Identity,
    name: String,
    /// One writer (or completer) at a time: the map's lock belongs to the open file, not to a thread.
    writing: Mutex<()>,
    state: Mutex<State>,
    _pin: Pin,
}

#[derive(Debug, Default)]
struct State {
    files: Option<Arc<Files>>,
    segments: Segments,
    /// Bytes of the map that have been read.
    parsed: u64,
    /// It is an object now: nothing is missing and nothing may be written.
    done: bool,
}

/// The two open files; the data file is locked shared.
#[derive(Debug)]
struct Files {
    data: File,
    map: File,
}

impl Files {
    /// Takes the map's lock, if nobody has it in the way.
    fn lock_map(&self, exclusive: bool) -> Option<MapLock<'_>> {
        try_flock(&self.map, exclusive).then_some(MapLock(&self.map))
    }

    /// Whether both files still have names: they are neither evicted nor an object by now.
    fn linked(&self) -> bool {
        [&self.data, &self.map].into_iter().all(|file| stat(file).is_ok_and(|stat| stat.linked))
    }
}

struct MapLock<'a>(&'a File);

impl Drop for MapLock<'_> {
    fn drop(&mut self) {
        // Cannot fail on a lock that is held; closing would release it anyway.
        let _ = self.0.unlock();
    }
}

impl Partial {
    pub(super) fn open(inner: &Arc<Inner>, identity: Identity) -> Self {
        let name = identity.name();
        let pin = inner.pins.pin(name);
        let partial = Self {
            inner: Arc::clone(inner),
            identity,
            name: hex_name(&name),
            writing: Mutex::new(()),
            state: Mutex::default(),
            _pin: pin,
        };
        partial.refresh(&mut lock(&partial.state));
        partial
    }

    /// The recorded segment that contains `offset`, read and verified: its file offset and bytes. Blocking.
    #[must_use]
    pub fn read(&self, offset: u64) -> Option<(u64, Bytes)> {
        // A segment that turns out corrupt may hide a sound one that overlaps it.
        for _ in 0..3 {
            let (files, segment) = self.find(offset)?;
            let mut bytes = vec![0; idx(segment.len)];
            let read = files.data.read_exact_at(&mut bytes, segment.offset);
            if read.is_ok() && segment.matches(&bytes) {
                return Some((segment.offset, bytes.into()));
            }
            self.drop_corrupt(&segment);
        }
        None
    }

    fn find(&self, offset: u64) -> Option<(Arc<Files>, Segment)> {
        let mut state = lock(&self.state);
        let mut found = state.segments.find(offset);
        if found.is_none() {
            // Perhaps another process has it by now.
            self.refresh(&mut state);
            found = state.segments.find(offset);
        }
        Some((Arc::clone(state.files.as_ref()?), found?))
    }

    fn drop_corrupt(&self, segment: &Segment) {
        self.inner.counters.corrupt.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(partial = self.name, segment.offset, segment.len, "corrupt segment in the cache");
        lock(&self.state).segments.remove(segment);
    }

    /// Opens the files if there are any, and reads records appended since the last time.
    fn refresh(&self, state: &mut State) {
        if state.files.is_none() {
            state.files = self.open_files().map(Arc::new);
            state.segments.clear();
            state.parsed = to_u64(HEADER);
        }
        let Some(files) = state.files.clone() else { return };
        if let Err(error) = self.parse(state, &files.map) {
            tracing::debug!(partial = self.name, %error, "cannot read the map of a partial object");
        }
    }

    fn open_files(&self) -> Option<Files> {
        let dirs = self.inner.disk.dirs()?;
        let shard = dirs.shard(Tree::Partial, &self.name).ok()?;
        let open = |name: &str, flags: OFlag| match open_at(&shard, name, OFlag::O_RDWR | flags) {
            Err(e) if is(&e, Errno::EROFS) => open_at(&shard, name, OFlag::O_RDONLY),
            other => other,
        };
        let files = Files {
            map: open(&format!("{}{MAP}", self.name), OFlag::O_APPEND).ok()?,
            data: open(&self.name, OFlag::empty()).ok()?,
        };
        // If somebody has the lock, he is removing it.
        let ours = try_flock(&files.data, false)
            && files.linked()
            && stat(&files.data).is_ok_and(|stat| stat.regular)
            && self.has_header(&files.map);
        ours.then_some(files)
    }

    fn has_header(&self, map: &File) -> bool {
        let mut header = [0; HEADER];
        map.read_exact_at(&mut header, 0).is_ok() && header == self.identity.header()
    }

    fn parse(&self, state: &mut State, map: &File) -> io::Result<()> {
        let size = stat(map)?.ident.size.min(MAX_MAP);
        if size < state.parsed {
            // Made anew by another process.
            state.segments.clear();
            state.parsed = to_u64(HEADER);
        }
        let whole = size.saturating_sub(state.parsed) / to_u64(SLOT) * to_u64(SLOT);
        let mut slots = vec![0; to_usize(whole)];
        map.read_exact_at(&mut slots, state.parsed)?;
        for segment in slots.chunks(SLOT).filter_map(|slot| self.identity.parse(slot)) {
            state.segments.insert(segment);
        }
        state.parsed += whole;
        Ok(())
    }

    /// Records verified bytes of the file at `offset`. Failure is counted and otherwise ignored. Blocking.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut at = offset;
        for part in data.chunks(idx(MAX_SEGMENT)) {
            let len = to_u64(part.len());
            if !self.inner.health.may_write() {
                return;
            }
            if !self.identity.admits(at, len) {
                tracing::debug!(partial = self.name, at, len, "not kept: outside of the file");
                return;
            }
            self.write_segment(at, part);
            at += len;
        }
    }

    fn write_segment(&self, offset: u64, data: &[u8]) {
        let _writing = lock(&self.writing);
        {
            let mut state = lock(&self.state);
            self.refresh(&mut state);
            if state.done || state.segments.covers(offset, data.len()) {
                return;
            }
        }
        let segment = Segment {
            offset,
            len: u32::try_from(data.len()).unwrap_or(u32::MAX),
            digest: blake3::hash(data).into(),
        };
        // The map's record, and its first block when it is made.
        let need = span(offset, to_u64(data.len())) + span(0, 1);
        let Some(_room) = self.inner.reserve(need) else { return };
        self.inner.writing("partial object", need, |dirs| {
            // Twice: what was open may have lost its name, to an eviction or by becoming an object.
            match self.try_write(dirs, &segment, data)? {
                true => Ok(()),
                false => self.try_write(dirs, &segment, data).map(drop),
            }
        });
    }

    /// `false`: the files had lost their names and were let go; try again.
    fn try_write(&self, dirs: &Dirs, segment: &Segment, data: &[u8]) -> io::Result<bool> {
        let opened = lock(&self.state).files.clone();
        let files = match opened {
            Some(files) => files,
            None => match self.create(dirs)? {
                Some(files) => files,
                None => return Ok(true),
            },
        };
        // Taken: somebody is just making it an object, so these bytes are there already.
        let Some(_lock) = files.lock_map(false) else { return Ok(true) };
        if !files.linked() {
            self.let_go();
            return Ok(lock(&self.state).done);
        }
        let map_len = stat(&files.map)?.ident.size;
        let record = self.identity.record(segment, map_len);
        if map_len + to_u64(record.len()) > MAX_MAP {
            return Ok(true);
        }
        files.data.write_all_at(data, segment.offset)?;
        // One write, which O_APPEND keeps apart from those of others.
        if (&files.map).write(&record)? != record.len() {
            return Err(Errno::ENOSPC.into());
        }
        let mut bytes = span(segment.offset, to_u64(data.len()));
        bytes += span(map_len, to_u64(record.len())) - span(map_len / 4096 * 4096, map_len % 4096);
        self.inner.usage.add(dirs, Change { bytes: signed(bytes), ..Change::default() });
        self.refresh(&mut lock(&self.state));
        Ok(true)
    }

    /// The files have lost their names: they are an object now, or somebody has cleared the cache.
    fn let_go(&self) {
        let done = self.inner.object(&self.identity.digest, self.identity.size).is_some();
        let mut state = lock(&self.state);
        if done {
            // Still good for reading.
            state.done = true;
        } else {
            *state = State::default();
        }
    }

    /// Makes the files, or takes over those of another process. `None`: somebody else is just at it.
    fn create(&self, dirs: &Dirs) -> io::Result<Option<Arc<Files>>> {
        let shard = dirs.make_shard(Tree::Partial, &self.name)?;
        let open = |name: &str, flags: OFlag| {
            let open = || open_at(&shard, name, OFlag::O_RDWR | OFlag::O_CREAT | flags);
            match open() {
                // A link in its place.
                Err(e) if is(&e, Errno::ELOOP) => {
                    super::disk::remove_at(&shard, name)?;
                    open()
                }
                other => other,
            }
        };
        let map = open(&format!("{}{MAP}", self.name), OFlag::O_APPEND)?;
        if !try_flock(&map, true) {
            return Ok(None);
        }
        let files = Files { data: open(&self.name, OFlag::empty())?, map };
        let lock_held = MapLock(&files.map);
        if !try_flock(&files.data, false) || !files.linked() {
            return Ok(None);
        }
        let had = stat(&files.data)?;
        if !self.has_header(&files.map) || had.ident.size != self.identity.size {
            // New, or half of it was lost: what it claims is worth nothing.
            files.map.set_len(0)?;
            files.data.set_len(0)?;
            files.data.set_len(self.identity.size)?;
            if (&files.map).write(&self.identity.header())? != HEADER {
                return Err(Errno::ENOSPC.into());
            }
            let bytes = signed(span(0, 1)) - signed(had.bytes);
            self.inner.usage.add(dirs, Change { bytes, objects: 0, partials: 1 });
        }
        drop(lock_held);
        let files = Arc::new(files);
        let mut state = lock(&self.state);
        state.files = Some(Arc::clone(&files));
        state.segments.clear();
        state.parsed = to_u64(HEADER);
        self.refresh(&mut state);
        Ok(Some(files))
    }

    /// Ranges of the file that are not yet on disk, in order; memory only. For sparse contents holes count as missing:
    /// the caller knows them.
    #[must_use]
    pub fn missing(&self) -> Vec<Range<u64>> {
        let state = lock(&self.state);
        if state.done { Vec::new() } else { state.segments.missing(self.identity.size) }
    }

    /// If nothing is missing: checks the whole content against its digest and makes it an object. Sparse contents stay
    /// partial. `None`: not complete, just being completed by another process, or corrupt (then what is corrupt is
    /// dropped, and missing again). Blocking.
    #[must_use]
    pub fn complete(&self) -> Option<ObjectFile> {
        let Identity { digest, size, sparse, .. } = self.identity;
        if sparse {
            return None;
        }
        if size == 0 {
            self.inner.put_object(&digest, &[]);
        }
        let _writing = lock(&self.writing);
        if let Some(object) = self.inner.object(&digest, size) {
            lock(&self.state).done = true;
            return Some(object);
        }
        let files = {
            let mut state = lock(&self.state);
            // It was an object, and has been evicted since.
            if state.done {
                *state = State::default();
            }
            self.refresh(&mut state);
            if !state.segments.missing(size).is_empty() {
                return None;
            }
            state.files.clone()?
        };
        let lock_held = files.lock_map(true)?;
        if !files.linked() {
            drop(lock_held);
            self.let_go();
            return self.inner.object(&digest, size);
        }
        if !self.inner.health.may_write() || !self.adopt_if_sound(&files) {
            return None;
        }
        drop(lock_held);
        self.inner.object(&digest, size)
    }

    /// Verifies the whole and renames it. The map's lock is held.
    fn adopt_if_sound(&self, files: &Files) -> bool {
        let Identity { digest, size, .. } = self.identity;
        let Ok(verified) = stat(&files.data) else { return false };
        if hash_file(&files.data, size, &mut |_| {}).ok().flatten() != Some(digest) {
            self.drop_unsound(files);
            return false;
        }
        let renamed = self.inner.writing("object", 0, |dirs| {
            self.inner.adopt(dirs, (&self.name, &files.data), &digest, &verified)?;
            let shard = dirs.shard(Tree::Partial, &self.name)?;
            let map = stat(&files.map)?.bytes;
            if super::disk::remove_at(&shard, &format!("{}{MAP}", self.name)).is_ok() {
                self.inner.usage.add(dirs, Change { bytes: -signed(map), ..Change::default() });
            }
            Ok(())
        });
        lock(&self.state).done = renamed.is_some();
        renamed.is_some()
    }

    /// The whole does not match: the segments that do not match their records go, and if there are none of those, all.
    fn drop_unsound(&self, files: &Files) {
        let all: Vec<Segment> = lock(&self.state).segments.iter().collect();
        let mut found = false;
        for segment in all {
            let mut bytes = vec![0; idx(segment.len)];
            let read = files.data.read_exact_at(&mut bytes, segment.offset);
            if read.is_err() || !segment.matches(&bytes) {
                self.drop_corrupt(&segment);
                found = true;
            }
        }
        if found {
            return;
        }
        // Every part is what was written, yet the whole is not what it should be: the index that they came by is wrong.
        self.inner.counters.corrupt.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(partial = self.name, "a content does not match its digest");
        let bytes = [&files.data, &files.map].into_iter().filter_map(|file| stat(file).ok());
        let bytes = bytes.map(|stat| stat.bytes).sum();
        if let Some(dirs) = self.inner.disk.dirs()
            && remove(&dirs, Tree::Partial, &self.identity.name(), true)
        {
            self.inner.usage.add(&dirs, removed(Tree::Partial, bytes));
        }
        *lock(&self.state) = State::default();
    }
}
