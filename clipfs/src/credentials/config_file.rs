//! Credentials files of Docker and of the containers tools, where the operator named one.
//!
//! Read again at every ask: who logs in again gives a running mount the new credentials. `credHelpers` come before `credsStore`,
//! which comes before `auths`; what is found first is used or is an error: there is no second choice, and never anonymous access.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use zeroize::Zeroizing;

use super::docker::{DockerHelper, PREFIX};
use super::exec;
use super::provider::{Answer, AnswerFuture};
use super::server::{docker_server, fold};
use super::value::{self, Unfit};
use super::{CredentialError, CredentialProvider, CredentialRequest};

mod document;

pub use document::{Document, parse};
use document::{Entry, Place};

/// Largest file.
pub const MAX_FILE: usize = 1 << 20;

/// Whose rules for keys apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Docker's `config.json`.
    Docker,
    /// containers-auth.json(5).
    Containers,
}

/// A file, read again at every ask.
#[derive(Debug)]
pub struct ConfigFile {
    file: Arc<Source>,
    env: Vec<String>,
}

/// The file itself: also read on threads that may block.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    flavor: Flavor,
    warned: AtomicBool,
}

impl ConfigFile {
    /// Opens and checks it. `env`: names of variables that its helpers get.
    ///
    /// # Errors
    /// [`CredentialError::Configuration`].
    pub fn open(path: &Path, flavor: Flavor, env: &[String]) -> Result<Self, CredentialError> {
        let path = std::path::absolute(path)
            .map_err(|error| CredentialError::Configuration(format!("{}: {error}", path.display())))?;
        let file = Source { path, flavor, warned: AtomicBool::new(false) };
        file.read()?;
        Ok(Self { file: Arc::new(file), env: env.to_vec() })
    }

    async fn answer(&self, request: &CredentialRequest) -> Result<Answer, CredentialError> {
        let registry = fold(&request.registry);
        let repository = request.repository();
        let file = Arc::clone(&self.file);
        // Off the threads that drive connections, with all that walks through foreign text.
        let found = tokio::task::spawn_blocking({
            let registry = registry.clone();
            move || file.find(&registry, repository.as_deref())
        });
        let unread = |_| CredentialError::Unavailable(format!("{} was not read", self.file.path.display()));
        let program = match found.await.map_err(unread)?? {
            Found::Answer(answer) => return Ok(answer),
            Found::Helper(program) => program,
        };
        let helper = DockerHelper::at(program, &self.env);
        // The two tools store under different names, and so they ask.
        let server = match self.file.flavor {
            Flavor::Docker => docker_server(&registry),
            Flavor::Containers => &registry,
        };
        helper.get(&registry, server).await
    }
}

/// What the file says of a registry.
enum Found {
    Answer(Answer),
    /// Whom to ask.
    Helper(PathBuf),
}

impl Source {
    /// Blocking: a small file, looked at whole before anything of it is used.
    fn read(&self) -> Result<Document, CredentialError> {
        let wrong =
            |reason: String| CredentialError::Configuration(format!("{}: {reason}", self.path.display()));
        let (bytes, mode) = read_capped(&self.path).map_err(wrong)?;
        if mode & 0o044 != 0 && !self.warned.swap(true, Ordering::Relaxed) {
            let (path, mode) = (self.path.display(), mode & 0o7777);
            tracing::warn!(%path, mode = format_args!("{mode:03o}"), "others can read the credentials file: chmod 600 it");
        }
        parse(&bytes, self.flavor).map_err(|fault| wrong(fault.to_string()))
    }

    /// Blocking.
    fn find(&self, registry: &str, repository: Option<&str>) -> Result<Found, CredentialError> {
        let document = self.read()?;
        let name = match document.find(registry, repository) {
            Some(Place::Entry(path, entry)) => return self.entry(&path, entry, registry).map(Found::Answer),
            Some(Place::Helper(name)) => format!("{PREFIX}{name}"),
            None => return Err(self.not_found(registry, "says nothing of it: log in there")),
        };
        exec::find_program(Path::new(&name))
            .map_err(|error| match error {
                CredentialError::Configuration(reason) => CredentialError::Configuration(format!(
                    "{} names a helper: {reason}",
                    self.path.display()
                )),
                other => other,
            })
            .map(Found::Helper)
    }

    fn entry(&self, path: &str, entry: &Entry, registry: &str) -> Result<Answer, CredentialError> {
        let source = format!("{}: {path}", self.path.display());
        let stored = |unfit: Unfit| unfit.stored(&source);
        let credential = if !entry.registry_token.is_empty() {
            value::bearer(entry.registry_token.as_str()).map_err(stored)?
        } else if !entry.identity_token.is_empty() {
            value::refresh_token(entry.identity_token.as_str()).map_err(stored)?
        } else {
            match (entry.username.is_empty(), entry.password.is_empty()) {
                (false, false) => value::basic(&entry.username, entry.password.as_str()).map_err(stored)?,
                (true, true) => {
                    return Err(self
                        .not_found(registry, &format!("has an empty entry for it ({path}): log in again")));
                }
                _ => {
                    return Err(CredentialError::Configuration(format!(
                        "{source}: both username and password must be provided together"
                    )));
                }
            }
        };
        Ok(Answer { credential, valid_for: None })
    }

    fn not_found(&self, registry: &str, reason: &str) -> CredentialError {
        CredentialError::NotFound {
            registry: registry.to_owned(),
            reason: format!("{} {reason}", self.path.display()),
        }
    }
}

impl CredentialProvider for ConfigFile {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(self.answer(request))
    }

    fn version(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        if let Ok(found) = fs::metadata(&self.file.path) {
            let changed = (found.ctime(), found.ctime_nsec(), found.mtime(), found.mtime_nsec());
            (found.dev(), found.ino(), found.size(), changed).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Nothing is kept here.
    fn refused(&self, _request: &CredentialRequest) {}
}

/// The bytes and the mode of a small regular file.
fn read_capped(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), String> {
    let error = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file: mend the path, or log in first".to_owned(),
        _ => error.to_string(),
    };
    // Not blocking: it may be a FIFO that nobody writes to.
    let file: File = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(path)
        .map_err(error)?;
    let found = file.metadata().map_err(error)?;
    if !found.is_file() {
        return Err("it is not a regular file".into());
    }
    let too_long = || format!("it is larger than {} KiB", MAX_FILE >> 10);
    let length =
        usize::try_from(found.len()).ok().filter(|length| *length <= MAX_FILE).ok_or_else(too_long)?;
    // One allocation that is not moved while it is read, so that nothing is left behind when it is wiped. A file that has grown
    // since is cut, and then is no JSON.
    let mut bytes = Zeroizing::new(vec![0; length]);
    let mut filled = 0;
    while filled < length {
        match (&file).read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(error(e)),
        }
    }
    bytes.truncate(filled);
    Ok((bytes, found.mode()))
}

#[cfg(test)]
mod tests;
