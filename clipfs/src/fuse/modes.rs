//! Which way the open handles of each inode are served.
//!
//! Kernel fact (`fs/fuse/iomode.c`): an inode is either in cached or in passthrough mode while it has handles. An open in the
//! other mode, or with another backing id, fails with EIO. So an open joins the mode that is there, whatever it
//! would have preferred; the last release frees the choice. The kernel leaves a mode before it sends the
//! release, so our counts never fall below its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::{Ledger, RecordedMode};
use crate::index::Ino;

/// How an open was counted, and so has to be answered.
#[derive(Debug)]
pub(crate) enum Held<B> {
    /// Cached mode.
    Cached,
    /// Passthrough under this backing.
    Passthrough(Arc<B>),
}

#[derive(Debug)]
enum Mode<B> {
    Cached,
    Passthrough(u32, Arc<B>),
    /// Passthrough under a backing id that an earlier server registered. It stays even without handles: to take it into
    /// ownership (and close it) needs the reply of an open.
    Inherited(u32),
}

impl<B> Mode<B> {
    fn recorded(&self) -> RecordedMode {
        match self {
            Self::Cached => RecordedMode::Cached,
            Self::Passthrough(id, _) | Self::Inherited(id) => RecordedMode::Passthrough(*id),
        }
    }
}

#[derive(Debug)]
struct Entry<B> {
    count: u32,
    mode: Mode<B>,
}

/// The table. `B` is what keeps a backing id alive: dropping it closes the id.
#[derive(Debug)]
pub(crate) struct Modes<B> {
    inodes: Mutex<HashMap<Ino, Entry<B>>>,
    ledger: Ledger,
}

impl<B> Modes<B> {
    /// Begins with what the ledger says that an earlier server had open.
    pub(crate) fn new(ledger: Ledger) -> io::Result<Self> {
        let mut inodes = HashMap::new();
        for handles in ledger.recorded()? {
            let mode = match handles.mode {
                RecordedMode::Cached => Mode::Cached,
                RecordedMode::Passthrough(id) => Mode::Inherited(id),
            };
            inodes.insert(handles.ino, Entry { count: handles.count, mode });
        }
        Ok(Self { inodes: Mutex::new(inodes), ledger })
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ino, Entry<B>>> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles open now.
    pub(crate) fn open_files(&self) -> u64 {
        self.lock().values().map(|entry| u64::from(entry.count)).sum()
    }

    /// Counts an open in the mode that the inode is in; `None` = it is in none, nothing is counted. `wrap` takes an inherited
    /// backing id into ownership.
    pub(crate) fn join(&self, ino: Ino, wrap: impl FnOnce(u32) -> B) -> Option<Held<B>> {
        let mut inodes = self.lock();
        let entry = inodes.get_mut(&ino)?;
        Some(self.count(ino, entry, wrap))
    }

    /// Counts an open in cached mode, or in the mode that another open has chosen in the meantime.
    pub(crate) fn enter_cached(&self, ino: Ino, wrap: impl FnOnce(u32) -> B) -> Held<B> {
        let mut inodes = self.lock();
        let entry = inodes.entry(ino).or_insert(Entry { count: 0, mode: Mode::Cached });
        self.count(ino, entry, wrap)
    }

    /// Counts an open in passthrough mode, registering a backing file with `register` (id and owner); or in the mode that another
    /// open has chosen in the meantime. If registering fails nothing is counted.
    pub(crate) fn enter_passthrough(
        &self,
        ino: Ino,
        wrap: impl FnOnce(u32) -> B,
        register: impl FnOnce() -> io::Result<(u32, B)>,
    ) -> io::Result<Held<B>> {
        let mut inodes = self.lock();
        let entry = match inodes.entry(ino) {
            MapEntry::Occupied(there) => there.into_mut(),
            MapEntry::Vacant(place) => {
                let (id, owner) = register()?;
                place.insert(Entry { count: 0, mode: Mode::Passthrough(id, Arc::new(owner)) })
            }
        };
        Ok(self.count(ino, entry, wrap))
    }

    fn count(&self, ino: Ino, entry: &mut Entry<B>, wrap: impl FnOnce(u32) -> B) -> Held<B> {
        if let Mode::Inherited(id) = entry.mode {
            entry.mode = Mode::Passthrough(id, Arc::new(wrap(id)));
        }
        entry.count = entry.count.saturating_add(1);
        self.record(ino, Some((entry.count, entry.mode.recorded())));
        match &entry.mode {
            Mode::Passthrough(_, owner) => Held::Passthrough(Arc::clone(owner)),
            Mode::Cached | Mode::Inherited(_) => Held::Cached,
        }
    }

    /// A handle is gone. The release must have been answered before (see [`super::ledger`]).
    pub(crate) fn release(&self, ino: Ino) {
        let mut inodes = self.lock();
        let MapEntry::Occupied(mut place) = inodes.entry(ino) else { return };
        let entry = place.get_mut();
        entry.count = entry.count.saturating_sub(1);
        let gone = if entry.count > 0 || matches!(entry.mode, Mode::Inherited(_)) {
            self.record(ino, Some((entry.count, entry.mode.recorded())));
            None
        } else {
            self.record(ino, None);
            Some(place.remove())
        };
        // Closing a backing id is a system call: not under the lock.
        drop(inodes);
        drop(gone);
    }

    /// Leaves all backing ids open in the kernel: the next server inherits them.
    pub(crate) fn abandon(&self) {
        for (_, entry) in self.lock().drain() {
            if let Mode::Passthrough(_, owner) = entry.mode {
                std::mem::forget(owner);
            }
        }
    }

    /// A ledger that cannot be written costs the next server, not this one: at worst an open after a restart fails.
    fn record(&self, ino: Ino, handles: Option<(u32, RecordedMode)>) {
        if let Err(error) = self.ledger.record(ino, handles) {
            tracing::warn!(ino, %error, "cannot record open handles");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts how many backing ids are open.
    #[derive(Debug)]
    struct Owner<'a>(u32, &'a AtomicU32);

    impl<'a> Owner<'a> {
        fn new(id: u32, open: &'a AtomicU32) -> Self {
            open.fetch_add(1, Ordering::Relaxed);
            Self(id, open)
        }
    }

    impl Drop for Owner<'_> {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn id(held: &Held<Owner<'_>>) -> Option<u32> {
        match held {
            Held::Cached => None,
            Held::Passthrough(owner) => Some(owner.0),
        }
    }

    #[test]
    fn opens_join_the_mode_that_is_there_until_the_last_release() {
        let open = AtomicU32::new(0);
        let wrap = |_| unreachable!("nothing is inherited");
        let modes: Modes<Owner<'_>> = Modes::new(Ledger::none()).unwrap();
        assert!(modes.join(5, wrap).is_none());
        let first = modes.enter_passthrough(5, wrap, || Ok((7, Owner::new(7, &open)))).unwrap();
        assert_eq!(id(&first), Some(7));
        assert_eq!(id(&modes.enter_cached(5, wrap)), Some(7));
        let raced = modes.enter_passthrough(5, wrap, || unreachable!("one backing id for an inode"));
        assert_eq!(id(&raced.unwrap()), Some(7));
        drop(first);
        assert_eq!(modes.open_files(), 3);
        modes.release(5);
        modes.release(5);
        assert_eq!(open.load(Ordering::Relaxed), 1);
        modes.release(5);
        assert_eq!(open.load(Ordering::Relaxed), 0);
        assert!(modes.join(5, wrap).is_none());

        assert_eq!(id(&modes.enter_cached(5, wrap)), None);
        let held = modes.enter_passthrough(5, wrap, || unreachable!("joins the cached handles"));
        assert_eq!(id(&held.unwrap()), None);
        assert_eq!(id(&modes.join(5, wrap).unwrap()), None);
    }

    #[test]
    fn a_failed_registration_counts_nothing() {
        let modes: Modes<Owner<'_>> = Modes::new(Ledger::none()).unwrap();
        let failed = modes.enter_passthrough(5, |_| unreachable!(), || Err(io::Error::other("no")));
        assert!(failed.is_err());
        assert_eq!(modes.open_files(), 0);
        assert!(modes.join(5, |_| unreachable!()).is_none());
    }

    #[test]
    fn unknown_releases_do_not_underflow() {
        let modes: Modes<Owner<'_>> = Modes::new(Ledger::none()).unwrap();
        modes.release(9);
        modes.enter_cached(9, |_| unreachable!());
        modes.release(9);
        modes.release(9);
        assert_eq!(modes.open_files(), 0);
    }

    #[test]
    fn a_restarted_server_knows_the_modes_of_the_one_before() {
        let file = tempfile::tempfile().unwrap();
        let open = AtomicU32::new(0);
        let before: Modes<Owner<'_>> = Modes::new(Ledger::new(file.try_clone().unwrap())).unwrap();
        before.enter_passthrough(2, |_| unreachable!(), || Ok((40, Owner::new(40, &open)))).unwrap();
        before.enter_cached(3, |_| unreachable!());
        before.enter_cached(4, |_| unreachable!());
        before.release(4);
        before.abandon();
        assert_eq!(open.load(Ordering::Relaxed), 1, "the kernel still knows the id");

        let after: Modes<Owner<'_>> = Modes::new(Ledger::new(file.try_clone().unwrap())).unwrap();
        assert_eq!(after.open_files(), 2);
        assert!(after.join(4, |_| unreachable!()).is_none());
        assert_eq!(id(&after.enter_cached(2, |raw| Owner::new(raw, &open))), Some(40));
        let held = after.enter_passthrough(3, |_| unreachable!(), || unreachable!("3 is cached"));
        assert_eq!(id(&held.unwrap()), None);

        // Without an open nobody owns the inherited id: it stays for the next open.
        let third: Modes<Owner<'_>> = Modes::new(Ledger::new(file)).unwrap();
        third.release(2);
        third.release(2);
        assert_eq!(id(&third.join(2, |raw| Owner::new(raw, &open)).unwrap()), Some(40));
    }
}
