//! What an error of the HTTP client means.

use std::error::Error;
use std::io;

use super::RegistryError;
use super::guard::ForbiddenAddress;
use super::retry::Failure;

/// Turns the client's error into ours. The client's own text is never used as it is: it names the whole URL.
pub(super) fn classify(error: &reqwest::Error, host: &str) -> Failure {
    let host = host.to_owned();
    let mut cause = error.source();
    let mut last_io = None;
    let mut innermost = None;
    while let Some(current) = cause {
        if let Some(forbidden) = current.downcast_ref::<ForbiddenAddress>() {
            return Failure::definite(RegistryError::Protocol {
                host,
                reason: format!("refuses to go there: {forbidden}"),
            });
        }
        innermost = Some(current);
        cause = match current.downcast_ref::<io::Error>() {
            Some(io) => {
                last_io = Some(io.kind());
                // `source` of a wrapping io::Error skips what it wraps.
                io.get_ref().map(|inner| inner as &(dyn Error + 'static))
            }
            None => current.source(),
        };
    }
    let text = innermost.map(ToString::to_string).unwrap_or_default();
    if error.is_dns() {
        return Failure::transient(RegistryError::UnknownHost { host });
    }
    if error.is_builder() {
        return Failure::definite(RegistryError::Protocol {
            host,
            reason: "the request cannot be made".into(),
        });
    }
    // rustls reports every failed handshake as InvalidData; nothing else in a connect does.
    if error.is_connect() && last_io == Some(io::ErrorKind::InvalidData) {
        // rustls' word for a record whose first byte no TLS record has: the `H` of `HTTP/1.1`.
        if text.contains("InvalidContentType") {
            return Failure::definite(RegistryError::NotTls { host });
        }
        return Failure::definite(RegistryError::Protocol { host, reason: format!("TLS failed: {text}") });
    }
    let reason = if error.is_timeout() {
        "timed out".to_owned()
    } else {
        match last_io {
            Some(io::ErrorKind::ConnectionRefused) => "connection refused".into(),
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => "connection reset".into(),
            _ if text.is_empty() => "the connection failed".into(),
            _ => text,
        }
    };
    Failure::transient(RegistryError::Unavailable { host, reason })
}
