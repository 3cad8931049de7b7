//! Images' mounts, one for each workspace and image: shared by the containers of that workspace, never beyond.
//!
//! `<run-dir>/.mounts/<id>/`: `lock` (held while somebody mounts or unmounts), `users/<key>` (a file for each job that uses it), `request.json`
//! (the ContainerRequest, which the mount's credential plugin reads at every question), `root` (the mountpoint). A user is written down
//! before it mounts, and forgotten after it has unmounted its own: whoever dies in between leaves a user that [`reap`] finds.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use secrecy::{ExposeSecret as _, SecretString};

use super::job::{self, Job};
use super::overlay::private_dir;
use super::{RuntimeError, RuntimeOptions};
use crate::mount::{self, MountError, mountinfo};

/// What `clipfs mount` may take longer than its own limit: starting, giving up, building no index.
const SLACK: Duration = Duration::from_secs(30);
/// Grace for a mount that is in use.
const UNMOUNT: Duration = Duration::from_secs(5);
/// Longest reason that is taken over.
const MAX_REASON: usize = 4000;
/// Variables of this process that `clipfs mount` gets besides those that the options name: no token of ours.
const ENVIRONMENT: [&str; 5] = ["PATH", "HOME", "CLIPFS_CONFIG", "CLIPFS_LOG_LEVEL", "CLIPFS_LOG_FORMAT"];

/// One image's mount for one workspace.
pub(super) struct Shared {
    dir: PathBuf,
    keepers: PathBuf,
}

/// Held while the mount changes.
pub(super) struct Lock(#[expect(dead_code, reason = "held until dropped")] Flock<File>);

/// Where all of them are.
fn mounts(run_dir: &Path) -> PathBuf {
    run_dir.join(".mounts")
}

/// The run directory of `clipfs mount`.
fn keepers(run_dir: &Path) -> PathBuf {
    run_dir.join(".keepers")
}

impl Shared {
    pub(super) fn of(run_dir: &Path, job: &Job) -> Self {
        let mut hash = blake3::Hasher::new();
        for part in [&job.workspace_id, &job.digest] {
            hash.update(&crate::num::to_u64(part.len()).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let id = hex::encode(&hash.finalize().as_bytes()[..12]);
        Self { dir: mounts(run_dir).join(id), keepers: keepers(run_dir) }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn request(&self) -> PathBuf {
        self.dir.join("request.json")
    }

    fn users(&self) -> PathBuf {
        self.dir.join("users")
    }

    /// Waits until nobody else changes this mount. Blocks.
    pub(super) fn lock(&self) -> Result<Lock, RuntimeError> {
        let path = self.dir.join("lock");
        loop {
            private_dir(&self.dir)?;
            let failed = RuntimeError::io("lock", &path);
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let file = match options.open(&path) {
                Ok(file) => file,
                // Removed between the two calls.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(e)),
            };
            let lock =
                Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno));
            let lock = lock.map_err(failed)?;
            let ours = lock.metadata().map_err(RuntimeError::io("lock", &path))?;
            if fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Lock(lock));
            }
        }
    }

    /// Writes down a user, and its request for the mount.
    pub(super) fn enter(&self, _: &Lock, job: &Job) -> Result<(), RuntimeError> {
        private_dir(&self.users())?;
        let user = self.users().join(&job.key);
        fs::write(&user, "").map_err(RuntimeError::io("write", &user))?;
        self.take_request(job)
    }

    /// Copies a job's request for the mount's plugin: what is newest is right.
    fn take_request(&self, job: &Job) -> Result<(), RuntimeError> {
        let file = job.request_file();
        let request =
            fs::read(&file).map(zeroize::Zeroizing::new).map_err(RuntimeError::io("read", &file))?;
        write_private(&self.request(), &request)
    }

    /// Copies a user's newer request. Not while somebody mounts, who may be about to write an older one.
    pub(super) fn renew(&self, job: &Job) -> Result<(), RuntimeError> {
        if !self.has_user(&job.key) {
            return Ok(());
        }
        let lock = self.lock()?;
        if self.has_user(&job.key) { self.take_request(job) } else { self.close_unused(lock) }
    }

    /// Whether a job is written down as a user.
    fn has_user(&self, key: &str) -> bool {
        self.users().join(key).exists()
    }

    /// Whether the image is mounted and somebody serves it.
    pub(super) fn serves(&self) -> Result<bool, RuntimeError> {
        let root = self.root();
        let entry = mountinfo::at(&root).map_err(RuntimeError::io("look for a mount at", &root))?;
        Ok(entry.is_some_and(|entry| entry.is_ours()) && !mountinfo::is_dead(&root))
    }

    /// Runs `clipfs mount`.
    pub(super) async fn mount(&self, options: &RuntimeOptions, job: &Job) -> Result<(), RuntimeError> {
        let root = self.root();
        private_dir(&root)?;
        private_dir(&self.keepers)?;
        let mut command = tokio::process::Command::new(&options.clipfs);
        command
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let names = ENVIRONMENT.iter().copied().chain(options.environment.iter().map(String::as_str));
        command.envs(names.filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.arg("mount").arg("--index").arg(&job.index).arg("--request").arg(self.request());
        command.arg("--run-dir").arg(&self.keepers).arg("--cache-dir").arg(&options.cache_dir);
        command.arg("--mount-timeout").arg(format!("{}s", options.mount_timeout.as_secs()));
        if let Some(bytes) = options.cache_size {
            command.arg("--cache-size").arg(bytes.to_string());
        }
        if let Some(plugin) = &options.credential_plugin {
            command.arg("--credential-plugin").arg(plugin);
        }
        // After a `--`, nothing in a reference can be taken for an option.
        command.args(&options.mount_options).arg("--").arg(&job.image).arg(&root).kill_on_drop(true);
        let limit = options.mount_timeout + SLACK;
        let output = match tokio::time::timeout(limit, command.output()).await {
            Ok(output) => output.map_err(RuntimeError::io("run", &options.clipfs))?,
            Err(_) => {
                return Err(RuntimeError::MountTimeout {
                    image: job.image.clone(),
                    seconds: limit.as_secs(),
                });
            }
        };
        if output.status.success() {
            return Ok(());
        }
        let exit = output.status.code().and_then(|code| u8::try_from(code).ok());
        let reason = reason(&output.stderr).unwrap_or_else(|| output.status.to_string());
        Err(RuntimeError::Mount { image: job.image.clone(), reason, exit })
    }

    /// Compressed bytes that were fetched for this mount so far; 0 if nobody tells.
    pub(super) fn fetched_bytes(&self) -> u64 {
        mount::status(&self.keepers, &self.root()).map_or(0, |status| status.counters.fetched_bytes)
    }

    /// Unmounts, whoever uses it.
    pub(super) fn unmount(&self) -> Result<(), RuntimeError> {
        // More than one: a worker may have been killed while its `clipfs mount` went on, and the next has mounted too.
        loop {
            match mount::unmount(&self.keepers, &self.root(), UNMOUNT) {
                Ok(()) => {}
                Err(MountError::NotMounted(_)) => return Ok(()),
                Err(error) => {
                    let reason = mount::error::sentence(&error);
                    return Err(RuntimeError::Unmount { path: self.root(), reason });
                }
            }
        }
    }

    /// Forgets a user; the last one unmounts first: if that fails, it is a user still, and may try again.
    fn leave(&self, lock: Lock, key: &str) -> Result<(), RuntimeError> {
        if names(&self.users()).iter().all(|user| user == key) {
            return self.close(lock);
        }
        let user = self.users().join(key);
        match fs::remove_file(&user) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(RuntimeError::io("remove", &user)(e)),
            _ => Ok(()),
        }
    }

    fn close_unused(&self, lock: Lock) -> Result<(), RuntimeError> {
        if !names(&self.users()).is_empty() {
            return Ok(());
        }
        self.close(lock)
    }

    fn close(&self, lock: Lock) -> Result<(), RuntimeError> {
        self.unmount()?;
        super::overlay::remove(&self.dir)?;
        drop(lock);
        Ok(())
    }
}

/// Forgets a job wherever it is a user.
pub(super) fn leave_all(run_dir: &Path, key: &str) -> Result<(), RuntimeError> {
    for shared in all(run_dir) {
        if shared.has_user(key) {
            let lock = shared.lock()?;
            shared.leave(lock, key)?;
        }
    }
    Ok(())
}

/// Forgets all users that are not among these keys, and unmounts what has none. Everything is tried; the first error is returned.
pub(super) fn reap(run_dir: &Path, known: &[&str]) -> Result<(), RuntimeError> {
    let mut result = Ok(());
    for shared in all(run_dir) {
        let reaped = shared.lock().and_then(|lock| {
            for user in names(&shared.users()) {
                if !known.contains(&user.as_str()) {
                    let path = shared.users().join(user);
                    fs::remove_file(&path).map_err(RuntimeError::io("remove", &path))?;
                }
            }
            shared.close_unused(lock)
        });
        result = result.and(reaped);
    }
    // Removes what dead keepers have left.
    if let Err(error) = mount::list(&keepers(run_dir)) {
        tracing::warn!(%error, "cannot look through the mounts");
    }
    result
}

/// Keys of all users of all mounts.
pub(super) fn keys(run_dir: &Path) -> Vec<String> {
    all(run_dir).iter().flat_map(|shared| names(&shared.users())).filter(|key| job::is_key(key)).collect()
}

fn all(run_dir: &Path) -> Vec<Shared> {
    let top = mounts(run_dir);
    names(&top).into_iter().map(|id| Shared { dir: top.join(id), keepers: keepers(run_dir) }).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let list = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    list.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Writes a file whole or not at all, for root alone, with the content durable before the name.
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), RuntimeError> {
    use std::io::Write as _;
    let write = || {
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        // 0600 from the beginning.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(RuntimeError::io("write", path))
}

/// Puts credentials into a job's request file, which is made if there is none.
pub(super) fn write_request(job: &Job, credentials: &SecretString) -> Result<(), RuntimeError> {
    let file = job.request_file();
    private_dir(&job.run_dir)?;
    let malformed = |e: serde_json::Error| {
        // Where, not what: the document holds secrets.
        RuntimeError::Request {
            field: "document",
            reason: format!("line {} column {}", e.line(), e.column()),
        }
    };
    let mut document: serde_json::Map<String, serde_json::Value> = match fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&zeroize::Zeroizing::new(bytes)).map_err(malformed)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => serde_json::Map::new(),
        Err(e) => return Err(RuntimeError::io("read", &file)(e)),
    };
    document.insert("image_credentials".into(), credentials.expose_secret().into());
    let bytes = serde_json::to_vec(&document).map(zeroize::Zeroizing::new).map_err(malformed)?;
    write_private(&file, &bytes)
}

/// Whether a job's request carries credentials of the image.
pub(super) fn has_credentials(job: &Job) -> bool {
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(default)]
        image_credentials: Option<String>,
    }
    let bytes = fs::read(job.request_file()).map(zeroize::Zeroizing::new).unwrap_or_default();
    let document: Option<Document> = serde_json::from_slice(&bytes).ok();
    let credentials = document.and_then(|document| document.image_credentials).map(zeroize::Zeroizing::new);
    credentials.is_some_and(|credentials| !credentials.is_empty())
}

/// What `clipfs mount` says of its failure: the sentence, and the hint. Log lines are not it.
fn reason(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let sentence = text.lines().rev().find_map(|line| line.strip_prefix("clipfs: "));
    let sentence = sentence.or_else(|| text.lines().rev().find_map(|line| line.strip_prefix("error: ")))?;
    let hint = text.lines().rev().find_map(|line| line.strip_prefix("hint: "));
    let whole = hint.map_or_else(|| sentence.to_owned(), |hint| format!("{sentence}: {hint}"));
    Some(crate::oci::printable::printable(&whole, '?', MAX_REASON))
}

/// Microseconds since then.
pub(super) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(top: &Path, key: &str, workspace: &str, digest: &str) -> Job {
        let mut job = Job::remains(key, top, &top.join("run"));
        (job.workspace_id, job.digest) = (workspace.into(), digest.into());
        job
    }

    #[test]
    fn workspaces_share_nothing() {
        let top = tempfile::tempdir().unwrap();
        let dir = |workspace: &str, digest: &str| {
            Shared::of(top.path(), &job(top.path(), "1", workspace, digest)).dir
        };
        assert_eq!(dir("a", "d"), dir("a", "d"));
        assert_ne!(dir("a", "d"), dir("b", "d"));
        assert_ne!(dir("a", "d"), dir("a", "e"));
        assert_ne!(dir("ab", "c"), dir("a", "bc"), "where one ends and the other begins counts");
        assert!(dir("a", "d").starts_with(top.path()));
    }

    #[test]
    fn the_last_user_leaves_nothing() {
        let top = tempfile::tempdir().unwrap();
        let (one, two) = (job(top.path(), "1", "w", "d"), job(top.path(), "2", "w", "d"));
        let shared = Shared::of(&top.path().join("run"), &one);
        for job in [&one, &two] {
            write_request(job, &"pl4nted-request".into()).unwrap();
            shared.enter(&shared.lock().unwrap(), job).unwrap();
        }
        assert!(has_credentials(&one));
        let mode = fs::metadata(shared.request()).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let mut users = keys(&top.path().join("run"));
        users.sort();
        assert_eq!(users, ["1", "2"]);
        leave_all(&top.path().join("run"), "1").unwrap();
        assert!(shared.dir.exists());
        reap(&top.path().join("run"), &["2"]).unwrap();
        assert!(shared.dir.exists());
        reap(&top.path().join("run"), &[]).unwrap();
        assert!(!shared.dir.exists());
    }

    #[test]
    fn a_request_keeps_its_other_fields() {
        let top = tempfile::tempdir().unwrap();
        let job = job(top.path(), "1", "w", "d");
        fs::create_dir_all(&job.run_dir).unwrap();
        fs::write(job.request_file(), r#"{"container_id":"c","image_credentials":""}"#).unwrap();
        assert!(!has_credentials(&job));
        write_request(&job, &"pl4nted-new".into()).unwrap();
        let document: serde_json::Value =
            serde_json::from_slice(&fs::read(job.request_file()).unwrap()).unwrap();
        assert_eq!(document, serde_json::json!({ "container_id": "c", "image_credentials": "pl4nted-new" }));
        fs::write(job.request_file(), "{pl4nted").unwrap();
        let error = write_request(&job, &"x".into()).unwrap_err();
        assert!(!error.to_string().contains("pl4nted"), "{error}");
    }

    #[test]
    fn the_reason_is_the_sentence_and_not_the_log() {
        let stderr = b"{\"timestamp\":1}\n2026 WARN x\nclipfs: registry.test refuses\nhint: log in\n";
        assert_eq!(reason(stderr).unwrap(), "registry.test refuses: log in");
        assert_eq!(reason(b"error: unexpected argument\n").unwrap(), "unexpected argument");
        assert_eq!(reason(b"noise\n"), None);
    }
}
