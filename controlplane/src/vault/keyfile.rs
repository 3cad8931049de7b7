//! The file that holds key encryption keys: its form, what it must look like, how it is replaced.
//!
//! Text, a key a line: `<kek id> <base64 of 32 bytes>`. The first line is the active one, which wraps; the others open only. A line that
//! ends with the word `next` is a key that was handed out before its time, for hosts that each have their own copy of the file: it opens,
//! and the next rotation makes it active. Empty lines and lines that begin with `#` say nothing. Or exactly 32 raw bytes: one key.
//!
//! A key's identity is a hash of the key: a line that was mistyped, or another key under the same name, is noticed when it is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::envelope::{KEY, Key};

/// Longest file, in bytes: some hundred keys, and far more than a rotation leaves.
const MAX_FILE: usize = 64 << 10;
/// Longest line that is written: `kek-`, 16 digits, a space, 44 characters, ` next`, a line end.
const MAX_LINE: usize = 80;

/// What a key is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Wraps, and opens.
    Active,
    /// Opens; the next rotation makes it active.
    Next,
    /// Opens.
    Old,
}

impl Role {
    /// The word for people and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Next => "next",
            Self::Old => "old",
        }
    }
}

/// A key encryption key.
#[derive(Debug, Clone)]
pub struct Kek {
    /// Identity: a hash of the key.
    pub kek_id: String,
    /// The key.
    pub key: Key,
    /// What it is there for.
    pub role: Role,
}

impl Kek {
    /// A key with its identity.
    #[must_use]
    pub fn new(key: Key, role: Role) -> Self {
        let digest = Sha256::new().chain_update(b"clipfs kek id v1").chain_update(key.expose()).finalize();
        Self { kek_id: format!("kek-{}", hex::encode(&digest[..8])), key, role }
    }
}

/// The keys of a file: exactly one is active, at most one is next, none is there twice.
#[derive(Debug, Clone)]
pub struct Keks(Vec<Kek>);

impl Keks {
    /// One key, active.
    #[must_use]
    pub fn only(key: Key) -> Self {
        Self(vec![Kek::new(key, Role::Active)])
    }

    /// All, the active one first.
    pub fn iter(&self) -> impl Iterator<Item = &Kek> {
        self.0.iter()
    }

    /// The one that wraps.
    #[must_use]
    pub fn active(&self) -> &Kek {
        &self.0[0]
    }

    /// The one that will be active.
    #[must_use]
    pub fn next(&self) -> Option<&Kek> {
        self.0.iter().find(|kek| kek.role == Role::Next)
    }

    /// By identity.
    #[must_use]
    pub fn get(&self, kek_id: &str) -> Option<&Kek> {
        self.0.iter().find(|kek| kek.kek_id == kek_id)
    }

    /// Identities of those that open only.
    pub fn old(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|kek| kek.role == Role::Old).map(|kek| kek.kek_id.as_str())
    }

    /// With a key that will be active, unless there is one.
    #[must_use]
    pub fn with_next(&self, key: Key) -> Self {
        let mut keks = self.0.clone();
        if self.next().is_none() {
            keks.push(Kek::new(key, Role::Next));
        }
        Self(keks)
    }

    /// The next key active, the active one old.
    #[must_use]
    pub fn promoted(&self) -> Self {
        let Some(next) = self.next() else { return self.clone() };
        let mut keks = vec![Kek { role: Role::Active, ..next.clone() }];
        let rest = self.0.iter().filter(|kek| kek.role != Role::Next);
        keks.extend(rest.map(|kek| Kek { role: Role::Old, ..kek.clone() }));
        Self(keks)
    }

    /// Without those that open only.
    #[must_use]
    pub fn without_old(&self) -> Self {
        Self(self.0.iter().filter(|kek| kek.role != Role::Old).cloned().collect())
    }

    /// Reads a file's content. Errors are sentences without a byte of a key.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() == KEY {
            return Key::of_bytes(bytes)
                .ok_or_else(String::new)
                .and_then(|key| checked(key, "it"))
                .map(Self::only);
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| format!("it is neither text nor exactly {KEY} bytes (it has {})", bytes.len()))?;
        let mut keks: Vec<Kek> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let (number, line) = (number + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let kek = parse_line(number, line, keks.is_empty())?;
            if keks.iter().any(|other| other.kek_id == kek.kek_id) {
                return Err(format!("line {number} has the key {} again", kek.kek_id));
            }
            if kek.role == Role::Next && keks.iter().any(|other| other.role == Role::Next) {
                return Err(format!("line {number} is a second key that is next"));
            }
            keks.push(kek);
        }
        if keks.is_empty() {
            return Err(
                "it holds no key; write a line with an identity and 32 bytes in base64, or exactly 32 random bytes"
                    .to_owned(),
            );
        }
        Ok(Self(keks))
    }

    /// A file's content.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        // Never moved while it grows: nothing stays behind.
        let mut text = Zeroizing::new(String::with_capacity(MAX_LINE * self.0.len()));
        for kek in &self.0 {
            text.push_str(&kek.kek_id);
            text.push(' ');
            STANDARD.encode_string(kek.key.expose(), &mut text);
            text.push_str(if kek.role == Role::Next { " next\n" } else { "\n" });
        }
        text
    }
}

fn parse_line(number: usize, line: &str, first: bool) -> Result<Kek, String> {
    let form = || format!("line {number} is not a key's identity and {KEY} bytes in base64");
    let mut words = line.split_whitespace();
    let (Some(kek_id), Some(base64)) = (words.next(), words.next()) else { return Err(form()) };
    let role = match (words.next(), words.next()) {
        (None, None) if first => Role::Active,
        (None, None) => Role::Old,
        (Some("next"), None) if first => {
            return Err(format!("line {number} is next, but the first key is active"));
        }
        (Some("next"), None) => Role::Next,
        _ => return Err(form()),
    };
    // 44 characters; room for what a wrong line decodes to, so that nothing is moved.
    let mut bytes = Zeroizing::new(Vec::with_capacity(base64.len()));
    STANDARD.decode_vec(base64, &mut bytes).map_err(|_| form())?;
    let key = checked(Key::of_bytes(&bytes).ok_or_else(form)?, &format!("line {number}"))?;
    let kek = Kek::new(key, role);
    if kek.kek_id != kek_id {
        return Err(format!("line {number} holds the key {}, not the one that it names", kek.kek_id));
    }
    Ok(kek)
}

/// A file of zeros is a mistake, not a key.
fn checked(key: Key, what: &str) -> Result<Key, String> {
    let bytes = key.expose();
    if bytes.iter().all(|byte| *byte == bytes[0]) {
        return Err(format!("{what} holds one byte, repeated: that is no key"));
    }
    Ok(key)
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Opened {
    /// The open file.
    pub(super) file: File,
    /// Its keys.
    pub(super) keks: Keks,
}

/// What was found at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file: it may be read again, locked, replaced.
    File,
    /// A file by an inherited descriptor: it may be read again.
    Inherited,
    /// A pipe: what it gave is gone.
    Pipe,
}

/// Opens and reads a key file. A pipe is waited for.
///
/// # Errors
/// A sentence: it is not there, is not ours alone, or is no key file.
pub(super) fn read(path: &Path) -> Result<(Opened, Kind), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let kind = check(path, &file)?;
    let opened = read_open(file)?;
    Ok((opened, kind))
}

/// Whose it is, and who may read it.
///
/// What came by descriptor was chosen by whoever started us, who may own it: only its mode is looked at, where it has a name.
fn check(path: &Path, file: &File) -> Result<Kind, String> {
    let meta = file.metadata().map_err(|error| error.to_string())?;
    let kind = meta.file_type();
    let inherited = is_descriptor(path);
    if !kind.is_file() && !kind.is_fifo() {
        return Err("it is neither a file nor a pipe".to_owned());
    }
    // A memfd has mode 0777 and no name by which anybody could open it.
    let named = meta.nlink() > 0;
    if named && meta.mode() & 0o077 != 0 {
        return Err(format!(
            "others may read or write it (mode {:04o}); take that away with chmod 600",
            meta.mode() & 0o7777
        ));
    }
    let me = nix::unistd::geteuid().as_raw();
    if !inherited && meta.uid() != me {
        return Err(format!("it belongs to user {}, and this is user {me}", meta.uid()));
    }
    Ok(match (kind.is_fifo(), inherited) {
        (true, _) => Kind::Pipe,
        (false, true) => Kind::Inherited,
        (false, false) => Kind::File,
    })
}

fn is_descriptor(path: &Path) -> bool {
    path.starts_with("/dev/fd") || path.starts_with("/proc") || path == Path::new("/dev/stdin")
}

fn read_open(file: File) -> Result<Opened, String> {
    let mut bytes = Zeroizing::new(vec![0; MAX_FILE + 1]);
    let mut length = 0;
    loop {
        match (&file).read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
        if length > MAX_FILE {
            return Err(format!("it is longer than {MAX_FILE} bytes"));
        }
    }
    let keks = Keks::parse(&bytes[..length])?;
    Ok(Opened { file, keks })
}

/// Locks and reads the file that stands at a path now. The lock ends when the file is closed, also by death.
///
/// # Errors
/// As [`read`].
pub(super) fn lock(path: &Path, exclusive: bool) -> Result<Opened, String> {
    loop {
        let file = File::open(path).map_err(|error| error.to_string())?;
        check(path, &file)?;
        let locked = if exclusive { file.lock() } else { file.lock_shared() };
        locked.map_err(|error| format!("it cannot be locked: {error}"))?;
        // Whoever held the lock may have put another file in its place.
        let now = std::fs::metadata(path).map_err(|error| error.to_string())?;
        let ours = file.metadata().map_err(|error| error.to_string())?;
        if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) {
            return read_open(file);
        }
    }
}

/// Puts keys in the place of a file's, whole or not at all; its exclusive lock is held. When it returns they are on the disk.
///
/// # Errors
/// Of the file system.
pub(super) fn replace(path: &Path, keks: &Keks) -> io::Result<()> {
    // Not the link, where it is one: the file that it points to.
    let path = path.canonicalize()?;
    let new = beside(&path);
    // Of somebody who was killed: its keys were never used, as it never got its name.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(keks.to_text().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    sync_directory(&path)
}

/// Where a new content is written before it gets the file's name.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// Makes a file with a new key, unless there is one meanwhile. When it returns the key is on the disk.
///
/// # Errors
/// Of the file system.
pub(super) fn generate(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".kek.").tempfile_in(directory)?;
    file.write_all(Keks::only(Key::generate()).to_text().as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => sync_directory(path),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests;
