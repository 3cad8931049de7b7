//! How much is on disk: what the quota is checked against.
//!
//! Several processes share a directory, some hundreds of them perhaps, and each must know what all have written without
//! scanning half a million files. So the tally is shared: a small file `usage` holds the last full count plus what every
//! process has added or removed since. A process merges its own changes when they reach [`Usage::flush_at`] or are a
//! second old, and so the quota can be exceeded by that much per writing process. What a killed process had not merged
//! is lost from the tally; a full count, which every eviction and every [`RECOUNT_AFTER`] of writing brings, sets it
//! right. A missing or damaged file means: unknown, count.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::disk::{Dirs, try_flock};
use super::memo::now;

/// A count older than this is taken again (in the background) by a process that opens the store or writes to it.
pub(super) const RECOUNT_AFTER: Duration = Duration::from_secs(600);
/// Changes older than this are merged.
const MERGE_AFTER: Duration = Duration::from_secs(1);
/// And larger ones at once.
const MERGE_BYTES: u64 = 4 << 20;

const MAGIC: &[u8; 8] = b"clipuse1";
const RECORD: usize = 56;

/// What is on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Allocated bytes of objects, partials and maps; directories are not counted.
    pub(super) bytes: u64,
    pub(super) objects: u64,
    pub(super) partials: u64,
}

/// A change of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) bytes: i64,
    pub(super) objects: i64,
    pub(super) partials: i64,
}

impl Tally {
    fn plus(self, change: Change) -> Self {
        Self {
            bytes: self.bytes.saturating_add_signed(change.bytes),
            objects: self.objects.saturating_add_signed(change.objects),
            partials: self.partials.saturating_add_signed(change.partials),
        }
    }

    /// What has grown since `earlier`.
    fn growth(self, earlier: Self) -> Change {
        let grown = |now: u64, then: u64| signed(now.saturating_sub(then));
        Change {
            bytes: grown(self.bytes, earlier.bytes),
            objects: grown(self.objects, earlier.objects),
            partials: grown(self.partials, earlier.partials),
        }
    }
}

impl std::ops::AddAssign for Change {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.objects = self.objects.saturating_add(other.objects);
        self.partials = self.partials.saturating_add(other.partials);
    }
}

/// A size as a change.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The process's view of the shared tally.
#[derive(Debug)]
pub(super) struct Usage {
    quota: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The shared tally as last seen.
    total: Tally,
    /// Our changes that are not merged into it.
    pending: Change,
    /// Bytes that are being written now.
    reserved: u64,
    /// Whether `total` rests on a full count.
    known: bool,
    /// When that count was taken, nanoseconds since 1970.
    counted_at: u64,
    merged: Option<Instant>,
}

/// Answer to a wish to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Reserved. `tight`: time to evict before it is urgent.
    Granted { tight: bool },
    /// First bring the store down to `target` bytes.
    Full { target: u64 },
    /// First count.
    Unknown,
}

impl State {
    fn view(&self) -> Tally {
        self.total.plus(self.pending)
    }
}

impl Usage {
    pub(super) fn new(quota: u64) -> Self {
        Self { quota, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts over with the tally of a directory that was just opened.
    pub(super) fn attach(&self, dirs: &Dirs) {
        let mut state = self.lock();
        let reserved = state.reserved;
        *state = State { reserved, ..State::default() };
        if dirs.fresh {
            state.known = true;
            state.counted_at = now();
        }
        self.merge(&mut state, dirs);
    }

    /// Exchanges changes with the shared tally. When another process is just doing so: next time.
    fn merge(&self, state: &mut State, dirs: &Dirs) {
        state.merged = Some(Instant::now());
        let Some(file) = &dirs.usage else { return };
        if !try_flock(file, true) {
            return;
        }
        match read(file) {
            Some((total, counted_at)) => {
                let merged = total.plus(state.pending);
                state.total = total;
                state.counted_at = counted_at;
                state.known |= counted_at > 0;
                if merged == total || write(file, merged, counted_at) {
                    state.total = merged;
                    state.pending = Change::default();
                }
            }
            None if state.known && write(file, state.view(), state.counted_at) => {
                state.total = state.view();
                state.pending = Change::default();
            }
            None => {}
        }
        let _ = file.unlock();
    }

    /// Records what was written or removed.
    pub(super) fn add(&self, dirs: &Dirs, change: Change) {
        let mut state = self.lock();
        state.pending += change;
        self.merge_if_due(&mut state, dirs);
    }

    fn merge_if_due(&self, state: &mut State, dirs: &Dirs) {
        let old = !state.known || state.merged.is_none_or(|at| at.elapsed() >= MERGE_AFTER);
        if old || state.pending.bytes.unsigned_abs() >= self.flush_at() {
            self.merge(state, dirs);
        }
    }

    /// Bytes of change that are merged at once.
    fn flush_at(&self) -> u64 {
        MERGE_BYTES.min(self.quota / 256)
    }

    /// Reserves `need` bytes if they fit. Until the first count is known a twentieth of the quota may be written
    /// without: less than what an eviction leaves free.
    pub(super) fn try_reserve(&self, dirs: &Dirs, need: u64) -> Verdict {
        let mut state = self.lock();
        self.merge_if_due(&mut state, dirs);
        if !state.known {
            let ours = u64::try_from(state.pending.bytes).unwrap_or(0) + state.reserved + need;
            if ours > self.quota / 20 {
                return Verdict::Unknown;
            }
            state.reserved += need;
            return Verdict::Granted { tight: false };
        }
        let mut after = state.view().bytes.saturating_add(state.reserved).saturating_add(need);
        if after > self.quota {
            // Somebody else may have made room.
            self.merge(&mut state, dirs);
            after = state.view().bytes.saturating_add(state.reserved).saturating_add(need);
            if after > self.quota {
                let target = self.quota.saturating_sub(state.reserved).saturating_sub(need);
                return Verdict::Full { target };
            }
        }
        state.reserved += need;
        Verdict::Granted { tight: after > self.quota - self.quota / 50 }
    }

    pub(super) fn release(&self, need: u64) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_sub(need);
    }

    /// The tally as far as known, merged if possible.
    pub(super) fn tally(&self, dirs: Option<&Dirs>) -> Tally {
        let mut state = self.lock();
        if let Some(dirs) = dirs {
            self.merge(&mut state, dirs);
        }
        state.view()
    }

    /// Whether the directory has been counted, by whomever.
    pub(super) fn is_known(&self, dirs: &Dirs) -> bool {
        let mut state = self.lock();
        if !state.known {
            self.merge(&mut state, dirs);
        }
        state.known
    }

    /// Whether a full count is due.
    pub(super) fn is_stale(&self) -> bool {
        let state = self.lock();
        let limit = u64::try_from(RECOUNT_AFTER.as_nanos()).unwrap_or(u64::MAX);
        // A count from the future (the clock was set back) is stale as well.
        !state.known || now().checked_sub(state.counted_at).is_none_or(|age| age > limit)
    }

    /// The tally before a count starts: see [`Usage::set_counted`].
    pub(super) fn begin_count(&self, dirs: &Dirs) -> Tally {
        let mut state = self.lock();
        self.merge(&mut state, dirs);
        if !state.known
            && let Some(file) = &dirs.usage
            && try_flock(file, true)
        {
            // So that the others' changes from here on are not lost; time 0 says that it is no count.
            if read(file).is_none() && write(file, state.view(), 0) {
                state.total = state.view();
                state.pending = Change::default();
            }
            let _ = file.unlock();
        }
        state.view()
    }

    /// Takes a full count over. What has been added since it began may or may not be in it and is added: rather too much
    /// than too little, until the next count.
    pub(super) fn set_counted(&self, dirs: &Dirs, began: Tally, counted: Tally) {
        let mut state = self.lock();
        self.merge(&mut state, dirs);
        let total = counted.plus(state.view().growth(began));
        state.total = total;
        state.pending = Change::default();
        state.known = true;
        state.counted_at = now();
        if let Some(file) = &dirs.usage {
            // Held for microseconds by others; a stopped process must not stop us, though.
            for _ in 0..100 {
                if try_flock(file, true) {
                    write(file, total, state.counted_at);
                    let _ = file.unlock();
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Merges what is left, at the end.
    pub(super) fn flush(&self, dirs: &Dirs) {
        let mut state = self.lock();
        self.merge(&mut state, dirs);
    }
}

fn read(file: &File) -> Option<(Tally, u64)> {
    let mut record = [0; RECORD];
    file.read_exact_at(&mut record, 0).ok()?;
    let (fields, check) = record.split_last_chunk::<16>()?;
    if !fields.starts_with(MAGIC) || !blake3::hash(fields).as_bytes().starts_with(check) {
        return None;
    }
    let field = |n: usize| {
        let bytes = fields.get(8 * n..8 * n + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes)
    };
    Some((Tally { bytes: field(1)?, objects: field(2)?, partials: field(3)? }, field(4)?))
}

/// One write, so that a reader sees all or (after a crash) a record that fails its check.
fn write(file: &File, tally: Tally, counted_at: u64) -> bool {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(MAGIC);
    for (n, field) in [tally.bytes, tally.objects, tally.partials, counted_at].into_iter().enumerate() {
        record[8 * (n + 1)..][..8].copy_from_slice(&field.to_le_bytes());
    }
    let check = blake3::hash(&record[..RECORD - 16]);
    record[RECORD - 16..].copy_from_slice(&check.as_bytes()[..16]);
    file.write_all_at(&record, 0).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_or_refused() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(read(&file), None, "empty");
        let tally = Tally { bytes: 1 << 40, objects: 2, partials: 3 };
        assert!(write(&file, tally, 77));
        assert_eq!(read(&file), Some((tally, 77)));
        for byte in 0..u64::try_from(RECORD).unwrap() {
            let mut one = [0];
            file.read_exact_at(&mut one, byte).unwrap();
            file.write_all_at(&[one[0] ^ 1], byte).unwrap();
            assert_eq!(read(&file), None, "byte {byte}");
            file.write_all_at(&one, byte).unwrap();
        }
        file.set_len(20).unwrap();
        assert_eq!(read(&file), None, "truncated");
    }

    #[test]
    fn growth_never_shrinks_a_count() {
        let then = Tally { bytes: 10, objects: 5, partials: 1 };
        let now = Tally { bytes: 15, objects: 2, partials: 1 };
        assert_eq!(now.growth(then), Change { bytes: 5, objects: 0, partials: 0 });
        let gone = Change { bytes: -20, objects: -9, partials: 0 };
        assert_eq!(then.plus(gone), Tally { bytes: 0, objects: 0, partials: 1 });
    }
}
