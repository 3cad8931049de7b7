//! Exchanges that fail: what the operator is told, and whether another try may help.

use std::error::Error as _;
use std::io;

use crate::{Code, Error};

/// A failed exchange.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether it may have been bad luck.
    pub(super) passing: bool,
}

impl Failure {
    pub(super) fn lasting(error: Error) -> Self {
        Self { error, passing: false }
    }
}

/// The failure of an exchange with a host. The URL is left out: a message needs no more than the host.
pub(super) fn of(error: &reqwest::Error, host: &str) -> Failure {
    let mut cause = error.source();
    let (mut kind, mut innermost) = (None, None);
    while let Some(current) = cause {
        innermost = Some(current);
        cause = match current.downcast_ref::<io::Error>() {
            Some(error) => {
                kind = Some(error.kind());
                // `source` of an io::Error skips what it wraps.
                error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static))
            }
            None => current.source(),
        };
    }
    let text = innermost.map(ToString::to_string).unwrap_or_default();
    let (reason, passing) = if error.is_dns() {
        ("its name cannot be resolved".to_owned(), true)
    } else if error.is_timeout() {
        // What took the whole time would take it again.
        ("no answer in time".to_owned(), error.is_connect())
    } else if error.is_connect() && kind == Some(io::ErrorKind::InvalidData) {
        // rustls reports every failed handshake as InvalidData; nothing else in a connect does.
        (format!("TLS failed: {}", super::scrub::one_line(&text)), false)
    } else {
        match kind {
            Some(io::ErrorKind::ConnectionRefused) => ("connection refused".to_owned(), true),
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                ("connection reset".to_owned(), true)
            }
            Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => {
                ("no route to it".to_owned(), true)
            }
            // Not hyper's text: it quotes what it could not parse.
            _ if error.is_connect() => ("no connection".to_owned(), true),
            _ => ("the connection broke".to_owned(), true),
        }
    };
    Failure { error: Error::new(Code::Unavailable, format!("cannot reach {host}: {reason}")), passing }
}

/// The failure to set up TLS at all.
pub(super) fn unusable_tls(error: &reqwest::Error) -> Failure {
    let cause = error.source().map(|source| super::scrub::one_line(&source.to_string())).unwrap_or_default();
    Failure::lasting(Error::new(
        Code::Unavailable,
        format!("no TLS on this machine (are CA certificates installed?): {cause}"),
    ))
}
