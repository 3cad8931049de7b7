//! Where indexes are built: few at a time, first come, first served, each in a directory that goes with its build.
//!
//! A build that is killed leaves its directory; the lock on it tells the next process that nobody works there any more.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::progress::say;
use super::{Event, ImagingError};

/// Name of the directories of builds, with something random behind it.
const PREFIX: &str = "build-";

/// How often who waits hears how many are before him.
const WORD: Duration = Duration::from_secs(1);

/// Places to build at, and who waits for one.
#[derive(Debug)]
pub(super) struct Workshop {
    dir: PathBuf,
    places: Arc<Semaphore>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    waiting: BTreeSet<u64>,
}

/// A place to build at. Dropping it frees the place and deletes what is in its directory.
#[derive(Debug)]
pub(super) struct Work {
    // In this order: the directory goes before the lock, and both before the place.
    dir: TempDir,
    _lock: File,
    _place: OwnedSemaphorePermit,
}

impl Work {
    /// A file in the directory of the build.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Workshop {
    /// Makes the directory if it is missing, and deletes what dead builds have left in it.
    pub(super) fn open(dir: &Path, places: usize) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        clear(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            places: Arc::new(Semaphore::new(places.max(1))),
            queue: Mutex::default(),
        })
    }

    /// Waits for a place, and says how many wait before.
    pub(super) async fn enter(&self, events: &mpsc::Sender<Event>) -> Result<Work, ImagingError> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => self.wait(events).await?,
        };
        let dir = self.dir.clone();
        let made = tokio::task::spawn_blocking(move || make(&dir)).await;
        let (dir, lock) = made
            .map_err(|error| ImagingError::Internal(error.to_string()))?
            .map_err(|error| ImagingError::Internal(format!("{}: {error}", self.dir.display())))?;
        Ok(Work { dir, _lock: lock, _place: place })
    }

    async fn wait(&self, events: &mpsc::Sender<Event>) -> Result<OwnedSemaphorePermit, ImagingError> {
        let ticket = Ticket::draw(&self.queue);
        // The semaphore is fair: its order is that of the tickets, but for two who come in the same moment.
        let mut place = std::pin::pin!(Arc::clone(&self.places).acquire_owned());
        let mut told = None;
        loop {
            let before = ticket.before();
            if told != Some(before) {
                told = Some(before);
                say(events, format!("waiting for other builds: {before} wait before this one")).await;
            }
            if let Ok(place) = tokio::time::timeout(WORD, &mut place).await {
                return place.map_err(|error| ImagingError::Internal(error.to_string()));
            }
        }
    }
}

/// A place in the queue.
struct Ticket<'a> {
    queue: &'a Mutex<Queue>,
    number: u64,
}

impl<'a> Ticket<'a> {
    fn draw(queue: &'a Mutex<Queue>) -> Self {
        let mut locked = queue.lock().unwrap_or_else(PoisonError::into_inner);
        let number = locked.next;
        locked.next += 1;
        locked.waiting.insert(number);
        Self { queue, number }
    }

    fn before(&self) -> usize {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.range(..self.number).count()
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.remove(&self.number);
    }
}

/// A directory for a build, locked. Who clears the workshop waits until it is.
fn make(dir: &Path) -> io::Result<(TempDir, File)> {
    let whole = File::open(dir)?;
    whole.lock_shared()?;
    let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(dir)?;
    let lock = File::open(made.path())?;
    lock.lock()?;
    Ok((made, lock))
}

/// Deletes directories of builds that nobody works in.
fn clear(dir: &Path) -> io::Result<()> {
    let whole = File::open(dir)?;
    whole.lock()?;
    for entry in std::fs::read_dir(dir)? {
        let (name, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
        if name.to_string_lossy().starts_with(PREFIX) && File::open(&path)?.try_lock().is_ok() {
            tracing::info!(dir = %path.display(), "deleting what a build has left");
            std::fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_dead_builds_left_goes_and_what_is_worked_on_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("build-dead")).unwrap();
        std::fs::write(dir.path().join("build-dead/index.clip"), "half").unwrap();
        std::fs::write(dir.path().join("other"), "").unwrap();
        let (events, _heard) = mpsc::channel(1);
        let work = Workshop::open(dir.path(), 1).unwrap().enter(&events).await.unwrap();
        std::fs::write(work.file("index.clip"), "half").unwrap();
        let before = names(dir.path());
        assert_eq!(before.len(), 2, "{before:?}");
        drop(Workshop::open(dir.path(), 1).unwrap());
        assert_eq!(names(dir.path()), before);
        drop(work);
        assert_eq!(names(dir.path()), ["other"]);
    }

    #[tokio::test]
    async fn who_waits_hears_his_place_and_who_goes_frees_it() {
        let dir = tempfile::tempdir().unwrap();
        let shop = Arc::new(Workshop::open(dir.path(), 1).unwrap());
        let (events, mut heard) = mpsc::channel(100);
        let first = shop.enter(&events).await.unwrap();
        assert!(heard.try_recv().is_err(), "who does not wait hears nothing");
        let wait = |events: mpsc::Sender<Event>| {
            let shop = Arc::clone(&shop);
            tokio::spawn(async move { shop.enter(&events).await.map(drop) })
        };
        let message =
            |before: u32| Event::Message(format!("waiting for other builds: {before} wait before this one"));
        let second = wait(events.clone());
        assert_eq!(heard.recv().await, Some(message(0)));
        let third = wait(events.clone());
        assert_eq!(heard.recv().await, Some(message(1)));
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        assert_eq!(heard.recv().await, Some(message(0)), "the one before has gone");
        drop(first);
        third.await.unwrap().unwrap();
        assert!(names(dir.path()).is_empty());
    }
}
