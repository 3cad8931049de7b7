//! Why a command failed, what to do about it, and what to exit with.

use std::io::{self, Write as _};
use std::path::PathBuf;

use tonic::{Code, Status};

use crate::server::ServerError;
use crate::store::StoreError;
use crate::vault::VaultError;

/// Arguments that make no sense.
pub(super) const USAGE: u8 = 64;
const DATA: u8 = 65;
const NOT_FOUND: u8 = 66;
const UNAVAILABLE: u8 = 69;
const SOFTWARE: u8 = 70;
const CANNOT_CREATE: u8 = 73;
const IO: u8 = 74;
const TRY_LATER: u8 = 75;
const DENIED: u8 = 77;
const CONFIG: u8 = 78;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Arguments that parse but make no sense together.
    #[error("{0}")]
    Usage(String),
    /// Settings.
    #[error("{0}")]
    Config(String),
    /// What was given is not what it must be.
    #[error("{0}")]
    Data(String),
    /// A file.
    #[error("cannot {what} {path}")]
    File {
        /// `read`, `write`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The server's answer.
    #[error("{}", said(.0))]
    Status(Box<Status>),
    /// The server cannot be reached.
    #[error("cannot reach {server}")]
    Connect {
        /// Its URL.
        server: String,
        /// Cause.
        #[source]
        source: tonic::transport::Error,
    },
    /// A container that failed.
    #[error("container {id} failed: {reason}")]
    Container {
        /// Which.
        id: String,
        /// Why.
        reason: String,
        /// gRPC's code.
        code: i32,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys and sealed rows.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Standard output.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
    /// The async runtime.
    #[error("cannot start threads")]
    Runtime(#[source] io::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Whether a status was made here, because the server could not be reached.
fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(|cause| cause.is::<tonic::transport::Error>())
}

/// The server's sentence; of a server that has none, the code's; of one that is not reached, the innermost cause.
fn said(status: &Status) -> String {
    if is_transport(status) {
        let mut cause: &dyn std::error::Error = status;
        while let Some(next) = cause.source() {
            cause = next;
        }
        return format!("cannot reach the control plane: {cause}");
    }
    if status.message().is_empty() { status.code().description() } else { status.message() }.to_owned()
}

impl Failure {
    /// The exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Config(_) => CONFIG,
            Self::Data(_) => DATA,
            Self::File { what: "write", .. } => CANNOT_CREATE,
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => NOT_FOUND,
            Self::File { .. } | Self::Output(_) => IO,
            Self::Status(status) => of_code(status.code()),
            Self::Connect { .. } | Self::Runtime(_) => UNAVAILABLE,
            Self::Container { code, .. } => of_code(Code::from_i32(*code)),
            Self::Store(error) => store(error),
            Self::Vault(VaultError::Store(error)) => store(error),
            Self::Vault(error) => error.exit_code(),
            Self::Server(ServerError::Plaintext(_) | ServerError::File { .. } | ServerError::Tls(_)) => {
                CONFIG
            }
            Self::Server(ServerError::Listen { .. }) => UNAVAILABLE,
            Self::Server(ServerError::Serve(_) | ServerError::Reflection(_)) => SOFTWARE,
        }
    }

    /// What can be done, if anything.
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Connect { .. } => {
                "is the control plane running there? say where with --server or CLIPFS_SERVER"
            }
            Self::Status(status) => match status.code() {
                Code::Unauthenticated => "name a file with a token with --token-file or CLIPFS_TOKEN_FILE",
                Code::PermissionDenied => {
                    "this token is of another kind; see `controlplane token create --help`"
                }
                Code::Unavailable if is_transport(status) => {
                    "is the control plane running there? say where with --server or CLIPFS_SERVER"
                }
                Code::Aborted | Code::ResourceExhausted => "try again in a moment",
                _ => return None,
            },
            Self::Container { code, .. } if Code::from_i32(*code) == Code::FailedPrecondition => {
                "give the image credentials again with `controlplane image create`, or update its secret"
            }
            Self::Store(StoreError::Schema(_)) => "bring the tables up to date with `controlplane migrate`",
            Self::Store(StoreError::Unavailable(_)) => {
                "say where the database is with --database or CLIPFS_DATABASE"
            }
            Self::Server(ServerError::Plaintext(_)) => {
                "give --tls-cert and --tls-key, or listen on 127.0.0.1"
            }
            _ => return None,
        })
    }

    /// One sentence on standard error, and a hint.
    pub(super) fn tell(&self) {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let next = error.to_string();
            // Transparent wrappers would say it twice.
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        let mut stderr = io::stderr().lock();
        // Nothing can be done about a terminal that is gone.
        let _ = writeln!(stderr, "error: {}", printable(&text));
        if let Some(hint) = self.hint() {
            let _ = writeln!(stderr, "hint: {hint}");
        }
    }
}

fn store(error: &StoreError) -> u8 {
    match error {
        StoreError::NotFound(_) => NOT_FOUND,
        StoreError::Exists(_) => CANNOT_CREATE,
        StoreError::Conflict(_) | StoreError::Stale(_) | StoreError::Schema(_) => CONFIG,
        StoreError::KeyReused => DATA,
        StoreError::Corrupt { .. } => IO,
        StoreError::Busy(_) => TRY_LATER,
        StoreError::Unavailable(_) => UNAVAILABLE,
        StoreError::Database(_) => SOFTWARE,
    }
}

/// What a status means to whoever called the process.
pub(super) const fn of_code(code: Code) -> u8 {
    match code {
        Code::Ok => 0,
        // As a shell reports a process that was interrupted.
        Code::Cancelled => 130,
        Code::InvalidArgument | Code::OutOfRange => DATA,
        Code::NotFound => NOT_FOUND,
        Code::AlreadyExists => CANNOT_CREATE,
        Code::PermissionDenied | Code::Unauthenticated => DENIED,
        Code::ResourceExhausted | Code::Aborted => TRY_LATER,
        Code::FailedPrecondition => CONFIG,
        Code::Unavailable | Code::DeadlineExceeded => UNAVAILABLE,
        Code::DataLoss => IO,
        Code::Unimplemented => 76,
        Code::Unknown | Code::Internal => SOFTWARE,
    }
}

/// Text for one line of a terminal, whatever a registry or a program has put into it.
pub(super) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| {
        let odd = c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if odd { c.escape_default().collect::<Vec<_>>() } else { vec![c] }
    }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_contract() {
        for (code, exit) in [
            (Code::Unauthenticated, 77),
            (Code::PermissionDenied, 77),
            (Code::NotFound, 66),
            (Code::InvalidArgument, 65),
            (Code::Unavailable, 69),
            (Code::FailedPrecondition, 78),
            (Code::AlreadyExists, 73),
            (Code::ResourceExhausted, 75),
        ] {
            assert_eq!(Failure::from(Status::new(code, "x")).code(), exit, "{code:?}");
        }
    }

    #[test]
    fn nothing_reaches_a_terminal_raw() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{202e}c\u{e4}"), "a\\u{1b}[2Jb\\n\\u{202e}c\u{e4}");
    }
}
