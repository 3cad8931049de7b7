//! Clip indexes: those that are in the cache, and those that the control plane gives.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use api::v1;
use nix::fcntl::{Flock, FlockArg};
use tonic::Code;

use super::WorkerError;
use super::control::Control;
use super::tasks::Record;
use crate::index::ClipIndex;
use crate::num::to_u64;
use crate::oci::Digest;

/// Largest index that is fetched: that of an image with some ten million files.
const MAX_INDEX: u64 = 4 << 30;

/// Most indexes that are kept, and most bytes of them: as many as the control plane looks at.
const MOST: (usize, u64) = (4096, 8 << 30);

/// Longest silence between two pieces.
const SILENCE: Duration = Duration::from_secs(30);

/// Beginning of the names of indexes that are being fetched.
const FETCHED: &str = ".fetch-";

/// Indexes by the digest of their manifest, in `<cache-dir>/index`.
#[derive(Debug)]
pub struct Indexes {
    dir: PathBuf,
    /// Fetched one at a time for each image.
    turns: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// Why an index cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IndexFailure {
    /// The control plane, or the way to it; `true`: asking again may help.
    #[error("the index cannot be fetched: {0}")]
    Fetch(String, bool),
    /// What was sent is not what was announced.
    #[error("the index that was sent {0}")]
    Wrong(String),
    /// The cache directory.
    #[error("the index cannot be kept: {0}")]
    Io(#[from] io::Error),
}

impl IndexFailure {
    /// Whether asking again may help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Fetch(_, true))
    }

    /// The code of gRPC's error model.
    #[must_use]
    pub fn code(&self) -> i32 {
        let code = match self {
            Self::Fetch(..) => Code::FailedPrecondition,
            Self::Wrong(_) => Code::DataLoss,
            Self::Io(_) => Code::Internal,
        };
        code.into()
    }

    fn of(status: &tonic::Status) -> Self {
        let lasting = matches!(
            status.code(),
            Code::NotFound
                | Code::FailedPrecondition
                | Code::DataLoss
                | Code::InvalidArgument
                | Code::Unimplemented
        );
        Self::Fetch(status.message().to_owned(), !lasting)
    }
}

impl Indexes {
    /// Makes the directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(cache_dir: &Path) -> Result<Self, WorkerError> {
        let cache_dir = std::path::absolute(cache_dir).map_err(WorkerError::io("find", cache_dir))?;
        let dir = cache_dir.join("index");
        std::fs::create_dir_all(&dir).map_err(WorkerError::io("make", &dir))?;
        sweep(&dir);
        Ok(Self { dir, turns: Mutex::default() })
    }

    /// Where an image's index is kept.
    #[must_use]
    pub fn path(&self, manifest: &Digest) -> PathBuf {
        self.dir.join(format!("{manifest}.clip"))
    }

    /// Images whose index is here: those of which the store may hold something. Blocking.
    #[must_use]
    pub fn cached(&self) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return BTreeSet::new() };
        let digest = |name: &str| name.strip_suffix(".clip")?.parse::<Digest>().ok().map(|d| d.to_string());
        entries.filter_map(|entry| digest(entry.ok()?.file_name().to_str()?)).collect()
    }

    /// The index of a task's image. Cancel safe: what is half fetched is removed.
    ///
    /// # Errors
    /// See [`IndexFailure`].
    pub(super) async fn get(&self, control: &Control, record: &Record) -> Result<PathBuf, IndexFailure> {
        let manifest: Digest = record
            .digest
            .parse()
            .map_err(|_| IndexFailure::Wrong("is for something that is no digest".to_owned()))?;
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(manifest).or_default().clone()
        };
        let _turn = turn.lock().await;
        let path = self.path(&manifest);
        if is_of(&path, manifest).await {
            let used = path.clone();
            let touched = tokio::task::spawn_blocking(move || touch(&used)).await;
            touched.map_err(io::Error::other)??;
            return Ok(path);
        }
        self.fetch(control, record, manifest, &path).await?;
        Ok(path)
    }

    async fn fetch(
        &self,
        control: &Control,
        record: &Record,
        manifest: Digest,
        path: &Path,
    ) -> Result<(), IndexFailure> {
        let request = v1::GetIndexRequest {
            image_id: record.image_id.clone(),
            workspace_id: record.lease.workspace_id.clone(),
        };
        let silent = |_| IndexFailure::Fetch("the control plane is silent".to_owned(), true);
        let mut images = control.images();
        let answer = tokio::time::timeout(SILENCE, images.get_index(control.request(request))).await;
        let mut pieces = answer.map_err(silent)?.map_err(|status| IndexFailure::of(&status))?.into_inner();
        let mut file = tempfile::Builder::new().prefix(FETCHED).tempfile_in(&self.dir)?;
        // As long as it is ours, nobody sweeps it away.
        let _ours = Flock::lock(file.as_file().try_clone()?, FlockArg::LockSharedNonblock)
            .map_err(|(_, errno)| io::Error::from(errno))?;
        let (mut hash, mut length) = (blake3::Hasher::new(), 0);
        loop {
            let piece = tokio::time::timeout(SILENCE, pieces.message()).await;
            let Some(piece) = piece.map_err(silent)?.map_err(|status| IndexFailure::of(&status))? else {
                break;
            };
            length += to_u64(piece.data.len());
            if length > MAX_INDEX {
                return Err(IndexFailure::Wrong(format!("is longer than {} GiB", MAX_INDEX >> 30)));
            }
            hash.update(&piece.data);
            // Half a MiB into the page cache.
            file.write_all(&piece.data)?;
        }
        if hash.finalize().to_hex().as_str() != record.index_digest {
            return Err(IndexFailure::Wrong("is not the one that was announced".to_owned()));
        }
        let path = path.to_owned();
        let kept = tokio::task::spawn_blocking(move || keep(file, &path, manifest)).await;
        kept.map_err(io::Error::other)?
    }
}

/// Removes what killed processes have half fetched: what nobody holds.
fn sweep(dir: &Path) {
    let list = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    for entry in list.filter(|entry| entry.file_name().to_string_lossy().starts_with(FETCHED)) {
        let held = File::open(entry.path()).map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
        if let Ok(Ok(_lock)) = held {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Checks an index and puts it at its place. Blocking.
fn keep(file: tempfile::NamedTempFile, path: &Path, manifest: Digest) -> Result<(), IndexFailure> {
    let index =
        ClipIndex::open(file.path()).map_err(|e| IndexFailure::Wrong(format!("cannot be used: {e}")))?;
    if index.manifest_digest() != manifest {
        return Err(IndexFailure::Wrong(format!("is of {}", index.manifest_digest())));
    }
    drop(index);
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    let dir = path.parent().unwrap_or(path);
    File::open(dir)?.sync_all()?;
    evict(dir, MOST);
    Ok(())
}

/// Notes that an index is used now.
fn touch(path: &Path) -> io::Result<()> {
    File::open(path)?.set_modified(SystemTime::now())
}

/// Removes the indexes that were not used for the longest time, beyond a number and a number of bytes; the last used one stays. Mounts hold theirs open.
fn evict(dir: &Path, (most, most_bytes): (usize, u64)) {
    let list = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<_> = list
        .filter(|entry| Path::new(&entry.file_name()).extension().is_some_and(|kind| kind == "clip"))
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len(), entry.path()))
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    let mut bytes: u64 = 0;
    for (n, (_, length, path)) in found.into_iter().enumerate() {
        bytes = bytes.saturating_add(length);
        if n > 0 && (n >= most || bytes > most_bytes) {
            tracing::debug!(path = %path.display(), "an index that was not used for long is removed");
            // It is fetched again.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether there is a good index of that image.
async fn is_of(path: &Path, manifest: Digest) -> bool {
    let path = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || match ClipIndex::open(&path) {
        Ok(index) => index.manifest_digest() == manifest,
        Err(crate::index::IndexError::Io(e)) if e.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the cached index cannot be used, fetching it again");
            false
        }
    });
    looked.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let past = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let path = |name: &str| dir.path().join(name);
        for (age, name) in [(5, "a.clip"), (3, "b.clip"), (4, "c.clip"), (1, ".fetch-x")] {
            std::fs::write(path(name), [0; 10]).unwrap();
            File::open(path(name)).unwrap().set_modified(past(age)).unwrap();
        }
        let names = || {
            let list = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
            list.collect::<BTreeSet<_>>()
                .into_iter()
                .map(|name| name.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        evict(dir.path(), (3, 30));
        assert_eq!(names(), [".fetch-x", "a.clip", "b.clip", "c.clip"]);
        touch(&path("b.clip")).unwrap();
        evict(dir.path(), (2, 30));
        assert_eq!(names(), [".fetch-x", "a.clip", "b.clip"]);
        evict(dir.path(), (2, 5));
        assert_eq!(names(), [".fetch-x", "b.clip"], "the last one stays, however large");
    }

    #[test]
    fn half_fetched_indexes_of_dead_workers_go() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index");
        std::fs::create_dir(&index).unwrap();
        for name in [".fetch-dead", ".fetch-alive", "sha256:x.clip"] {
            std::fs::write(index.join(name), "").unwrap();
        }
        let held = File::open(index.join(".fetch-alive")).unwrap();
        let _held = Flock::lock(held, FlockArg::LockShared).unwrap();
        Indexes::open(dir.path()).unwrap();
        assert!(!index.join(".fetch-dead").exists());
        assert!(index.join(".fetch-alive").exists() && index.join("sha256:x.clip").exists());
    }
}
