//! Files that are rewritten, replaced, too large, or no files.

use std::fs;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;

/// A request whose image credentials have this password.
pub(in crate::credentials) fn request_json(password: &str) -> String {
    let credentials = serde_json::json!({
        "registry": "r.example.com", "type": "basic",
        "credentials": {"USERNAME": "pl4nted-user", "PASSWORD": password},
    });
    serde_json::json!({"container_id": "c1", "image_credentials": credentials.to_string()}).to_string()
}

/// The same, filled up to this many bytes with what nobody understands.
pub(in crate::credentials) fn request_of(password: &str, size: usize) -> String {
    let request = request_json(password);
    let around = r#"{"of_later":"","#.len() - 1;
    let filler = "x".repeat(size - request.len() - around);
    request.replacen('{', &format!(r#"{{"of_later":"{filler}","#), 1)
}

fn password_of(read: &ReadRequest) -> String {
    let text = read.request.image_credentials.expose_secret();
    let parsed = credplugin::parse_credentials(text).unwrap().unwrap();
    parsed.credentials.get("PASSWORD").unwrap().expose_secret().to_owned()
}

/// Writes it as it should be: private, by rename.
pub(in crate::credentials) fn write_request(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn a_rotated_request_is_seen() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("request.json");
    write_request(&path, &request_json("pl4nted-old"));
    let file = RequestFile::open(&path).unwrap();
    let old = file.version();
    assert_eq!(file.version(), old);
    assert_eq!(password_of(&file.read().unwrap()), "pl4nted-old");
    // Same length, another file.
    write_request(&path, &request_json("pl4nted-new"));
    assert_ne!(file.version(), old);
    assert_eq!(password_of(&file.read().unwrap()), "pl4nted-new");
    let new = file.version();
    fs::remove_file(&path).unwrap();
    assert_ne!(file.version(), new);
    let error = file.read().unwrap_err();
    assert_eq!(
        error,
        CredentialError::Configuration(format!(
            "container request {}: there is no such file",
            path.display()
        ))
    );
}

#[test]
fn a_rewrite_in_place_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("request.json");
    let text = request_json("pl4nted-whole");
    let (first, rest) = text.split_at(40);
    fs::write(&path, first).unwrap();
    let file = RequestFile { path: path.clone(), warned: AtomicBool::new(true) };
    let mut pauses = 0;
    let read = file.read_twice(|| {
        pauses += 1;
        let mut end = fs::File::options().append(true).open(&path).unwrap();
        end.write_all(rest.as_bytes()).unwrap();
    });
    assert_eq!((password_of(&read.unwrap()).as_str(), pauses), ("pl4nted-whole", 1));
    assert!(file.read_twice(|| panic!("there is nothing to wait for")).is_ok());
    fs::write(&path, first).unwrap();
    assert!(matches!(file.read(), Err(CredentialError::Malformed(_))), "it stays half a request");
}

#[test]
fn mounted_secrets_are_links_that_are_swapped() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (version, password) in [("v1", "pl4nted-v1"), ("v2", "pl4nted-v2")] {
        fs::create_dir(at(version)).unwrap();
        write_request(&at(version).join("request"), &request_json(password));
    }
    std::os::unix::fs::symlink("v1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/request", at("request")).unwrap();
    let file = RequestFile::open(&at("request")).unwrap();
    let old = file.version();
    std::os::unix::fs::symlink("v2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    assert_ne!(file.version(), old);
    assert_eq!(password_of(&file.read().unwrap()), "pl4nted-v2");
}

#[test]
fn a_memory_file_is_read_from_its_beginning_each_time() {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut memory = fs::File::from(memfd_create("request", flags).unwrap());
    memory.write_all(request_json("pl4nted-memory").as_bytes()).unwrap();
    let seals = nix::fcntl::SealFlag::all();
    nix::fcntl::fcntl(&memory, nix::fcntl::FcntlArg::F_ADD_SEALS(seals)).unwrap();
    let file = RequestFile::open(Path::new(&format!("/proc/self/fd/{}", memory.as_raw_fd()))).unwrap();
    for _ in 0..3 {
        assert_eq!(password_of(&file.read().unwrap()), "pl4nted-memory");
    }
    assert_eq!(memory.stream_position().unwrap(), request_json("pl4nted-memory").len() as u64);
    assert!(!file.warned.load(Ordering::Relaxed), "nobody else can open it");
}

#[test]
fn what_is_no_request_is_told_with_file_and_path() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("directory")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let huge = request_json(&"p".repeat(MAX_REQUEST));
    let deep = format!("{{\"env\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (name, text) in [
        ("empty", ""),
        ("text", "pl4nted-text"),
        ("trailing", "{} pl4nted-tail"),
        ("mark", "\u{feff}{}"),
        ("type", r#"{"image_credentials":{"pl4nted-key":"pl4nted-value"}}"#),
        ("huge", &huge),
        ("deep", &deep),
    ] {
        write_request(&at(name), text);
    }
    let table = [
        ("directory", "it is a directory"),
        ("fifo", "it is not a regular file"),
        ("socket", ""),
        ("empty", ""),
        ("text", ""),
        ("trailing", ""),
        ("mark", ""),
        ("type", "image_credentials"),
        ("huge", "larger than 1 MiB"),
        ("deep", ""),
    ];
    for (name, expected) in table {
        let error = RequestFile::open(&at(name)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&*at(name).to_string_lossy()) && text.contains(expected), "{text}");
        assert!(!text.contains("pl4nted"), "{text}");
        let is_file = !["directory", "fifo", "socket"].contains(&name);
        assert_eq!(matches!(error, CredentialError::Malformed(_)), is_file, "{name}: {error:?}");
    }
}

#[test]
fn a_request_open_to_others_is_complained_about_once() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("request.json");
    write_request(&path, &request_json("pl4nted-open"));
    let file = RequestFile::open(&path).unwrap();
    assert!(!file.warned.load(Ordering::Relaxed));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    file.read().unwrap();
    assert!(file.warned.load(Ordering::Relaxed));
}

#[test]
fn debug_shows_no_request() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("request.json");
    write_request(&path, &request_json("pl4nted-debug"));
    let text = format!("{:?}", RequestFile::open(&path).unwrap().read().unwrap());
    assert!(!text.contains("pl4nted") && !text.contains("112, 108"), "{text}");
}

#[test]
fn what_others_may_replace_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("request.json");
    write_request(&path, &request_json("pl4nted-mode"));
    let file = RequestFile::open(&path).unwrap();
    let refused = |what: &str| {
        for result in [RequestFile::open(&path).map(drop), file.read().map(drop)] {
            let text = match result {
                Err(CredentialError::Configuration(text)) => text,
                other => panic!("{what}: {other:?}"),
            };
            assert!(text.contains("may replace the credentials") && text.contains("chown root"), "{text}");
        }
    };
    for mode in [0o620, 0o602, 0o666, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        refused(&format!("{mode:o}"));
    }
    // Readers have the secrets, which is told; they cannot choose others.
    for mode in [0o600, 0o400, 0o640, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(file.read().is_ok(), "{mode:o}");
    }
    assert!(file.warned.load(Ordering::Relaxed));
    if geteuid().is_root() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        refused("another user's");
    }
}
