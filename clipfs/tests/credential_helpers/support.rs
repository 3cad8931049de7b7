//! What the tests share: scripts as plugins, an answer in one line, and everything that is logged.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clipfs::credentials::{Credential, CredentialError, CredentialProvider, CredentialRequest};
use secrecy::ExposeSecret as _;
use tracing_subscriber::fmt::MakeWriter;

/// What marks all secrets that tests plant.
pub(crate) const MARK: &str = "pl4nted-";

/// Everything that was logged, at the level TRACE.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Runs something on this thread with everything logged, and makes sure that no secret was.
pub(crate) fn logged<T>(work: impl Future<Output = T>) -> (T, String) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    let result = tracing::subscriber::with_default(subscriber, || {
        // Proves that the log is one.
        tracing::trace!("the log works");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    });
    let text = log.text();
    assert!(text.contains("the log works"), "{text}");
    assert!(!text.contains(MARK), "a secret was logged:\n{text}");
    (result, text)
}

/// Asks, and shows the answer in one line; errors by their kind and text, which never hold a secret.
pub(crate) async fn ask(provider: &dyn CredentialProvider, registry: &str, image: &str) -> String {
    let request = CredentialRequest { registry: registry.into(), image: image.into(), scope: String::new() };
    match provider.credential(&request).await {
        Ok(answer) => {
            assert!(!format!("{answer:?}").contains(MARK), "{answer:?}");
            match answer.credential {
                Credential::Basic { username, password } => {
                    format!("{username}|{}", password.expose_secret())
                }
                Credential::RefreshToken(token) => format!("refresh|{}", token.expose_secret()),
                Credential::Bearer(token) => format!("bearer|{}", token.expose_secret()),
                Credential::Anonymous => "anonymous".into(),
            }
        }
        Err(error) => shown(&error),
    }
}

/// `Kind: text` of an error.
pub(crate) fn shown(error: &CredentialError) -> String {
    let debug = format!("{error:?}");
    let kind = debug.split([' ', '(']).next().unwrap();
    let text = format!("{kind}: {error}");
    assert!(!debug.contains(MARK) && !text.contains(MARK), "a secret in an error: {text} / {debug}");
    text
}

/// An executable script.
pub(crate) fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A program of this machine that a test cannot do without.
pub(crate) fn needed(name: &str) {
    let path = std::env::var_os("PATH").unwrap();
    assert!(
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file()),
        "these tests need {name}: run fixtures/scripts/deps.sh"
    );
}
