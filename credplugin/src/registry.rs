//! Names of registries: what an image reference says, normalised so that two names can be compared.
//!
//! Two readings exist, because `postgres:16` is an image of Docker Hub while `registry:5000` may be the name of a registry:
//! [`parse_registry`] reads a **reference**, [`normalize_registry`] reads a **name** (or its URL). The result of either is a name,
//! and is to be compared, stored and read again as a name.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Code, Error};

/// The registry of references that name none.
const DOCKER_HUB: &str = "docker.io";

/// Longest host name (RFC 1035, section 2.3.4), and longest label in it.
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// Shortest digest of a reference: hexadecimal digits after the algorithm.
const MIN_DIGEST: usize = 32;

/// The registry host (with port) of an image reference: see `docs/CREDENTIALS.md`.
///
/// Lower case; Docker Hub's aliases become `docker.io`; ports are kept, default ones too. A bare name with a dot (`gcr.io`) or
/// `localhost` is that host; a bare `name:tag` is an image of Docker Hub, even where the tag looks like a port.
///
/// # Errors
/// [`Code::BadRequest`]: an empty reference, or one whose host is none. The message does not repeat the reference, which may hold a
/// password (`https://user:password@…`).
pub fn parse_registry(reference: &str) -> Result<String, Error> {
    let (kind, rest) = scheme(reference)?;
    if kind == Scheme::Web {
        return name(authority(rest));
    }
    if let Some((first, _)) = rest.split_once('/') {
        let host = first.contains(['.', ':', '[', '@']) || is_localhost(first);
        return if host { name(first) } else { hub_component(first) };
    }
    let (image, digest) = match rest.split_once('@') {
        Some((image, digest)) if is_digest(digest) => (image, true),
        Some(_) => return Err(user_information()),
        None => (rest, false),
    };
    if image.starts_with('[') {
        return name(image);
    }
    let (host, suffix) = match image.split_once(':') {
        Some((host, suffix)) => (host, Some(suffix)),
        None => (image, None),
    };
    let addressed = host.contains('.') || is_localhost(host);
    if addressed && !digest && suffix.is_none_or(|suffix| port(suffix).is_some()) {
        return name(image);
    }
    match suffix {
        Some(tag) if tag.is_empty() || !tag.bytes().all(is_tag_byte) => Err(malformed("its tag is none")),
        _ => hub_component(host),
    }
}

/// A registry's name, or a URL with it, in the form that [`parse_registry`] answers: `Registry:5000` → `registry:5000`,
/// `https://index.docker.io/v1/` → `docker.io`.
///
/// # Errors
/// [`Code::BadRequest`]: no host, or one without a dot and without a port, which no reference can name (`ubuntu`).
pub fn normalize_registry(registry: &str) -> Result<String, Error> {
    let (_, rest) = scheme(registry)?;
    name(authority(rest))
}

/// The display name of the secret of a registry: `oci-registry-` and the host with `-` for `.`, `:` and `/`.
///
/// For display only: `a.b` and `a-b` have the same one.
#[must_use]
pub fn secret_name(registry: &str) -> String {
    let host = normalize_registry(registry).unwrap_or_else(|_| registry.to_lowercase());
    format!("oci-registry-{}", host.replace(['.', ':', '/'], "-"))
}

/// Whether a registry is on this machine: `localhost`, `127.0.0.0/8`, `[::1]`, with any port.
#[must_use]
pub fn is_loopback(registry: &str) -> bool {
    let Ok(name) = normalize_registry(registry) else { return false };
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.0.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    let host = name.split_once(':').map_or(name.as_str(), |(host, _)| host);
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// What stands before `://`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// Nothing, or a scheme of image references.
    Reference,
    /// http(s): what follows is a host, whatever it looks like.
    Web,
}

/// Splits off the scheme; checks that all is visible ASCII, as every reference and URL is.
fn scheme(text: &str) -> Result<(Scheme, &str), Error> {
    if text.is_empty() {
        return Err(malformed("it is empty"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed("it has spaces, control characters or letters beyond ASCII"));
    }
    let Some((word, rest)) = text.split_once("://") else { return Ok((Scheme::Reference, text)) };
    match word.to_ascii_lowercase().as_str() {
        "http" | "https" => Ok((Scheme::Web, rest)),
        "docker" | "oci" => Ok((Scheme::Reference, rest)),
        _ => Err(malformed("its scheme is not https, http, docker or oci")),
    }
}

/// A URL up to its path, query or fragment.
fn authority(url: &str) -> &str {
    url.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Normalises `host[:port]`.
fn name(text: &str) -> Result<String, Error> {
    if text.contains('@') {
        return Err(user_information());
    }
    let text = text.to_ascii_lowercase();
    let (host, suffix) = if let Some(text) = text.strip_prefix('[') {
        let (literal, rest) = text.split_once(']').ok_or_else(|| malformed("its address has no ]"))?;
        let address: Ipv6Addr = literal.parse().map_err(|_| malformed("its address is not one of IPv6"))?;
        let suffix = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return Err(malformed("something other than a port follows its address")),
            Some(suffix) => Some(suffix),
        };
        (format!("[{address}]"), suffix)
    } else {
        let (host, suffix) = match text.split_once(':') {
            Some((host, suffix)) => (host, Some(suffix)),
            None => (text.as_str(), None),
        };
        check_host(host)?;
        if suffix.is_none() && !host.contains('.') && host != "localhost" {
            return Err(malformed("a host without a dot needs a port"));
        }
        (host.to_owned(), suffix)
    };
    match suffix {
        Some(suffix) => {
            let port = port(suffix).ok_or_else(|| malformed("its port is none"))?;
            Ok(format!("{host}:{port}"))
        }
        None if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") => {
            Ok(DOCKER_HUB.to_owned())
        }
        None => Ok(host),
    }
}

/// Checks a host name or IPv4 address in lower case.
fn check_host(host: &str) -> Result<(), Error> {
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > MAX_HOST || !host.split('.').all(label) {
        return Err(malformed("its host is none"));
    }
    // What ends like a number is an address to every URL library (`127.1`, `0x7f.0.0.1`): only the plain form is let through, so that
    // what is compared here is what is dialled there.
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(malformed("its address is not a plain one of IPv4"));
    }
    Ok(())
}

/// A port in canonical decimal digits.
fn port(text: &str) -> Option<u16> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if canonical { text.parse().ok() } else { None }
}

fn is_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
}

/// Docker Hub, if this can be the first component of a repository there.
fn hub_component(component: &str) -> Result<String, Error> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if component.is_empty()
        || !component.bytes().all(known)
        || !component.bytes().any(|b| b.is_ascii_alphanumeric())
    {
        return Err(malformed("its first component is none"));
    }
    Ok(DOCKER_HUB.to_owned())
}

/// Bytes of tags.
fn is_tag_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Whether a text is a digest, and not the host behind a user name.
fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'_' | b'-'))
            && hex.len() >= MIN_DIGEST
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn malformed(reason: &str) -> Error {
    Error::new(Code::BadRequest, format!("not an image reference or registry: {reason}"))
}

fn user_information() -> Error {
    malformed("it has a user name (@); credentials stand in image_credentials")
}

#[cfg(test)]
mod tests;
