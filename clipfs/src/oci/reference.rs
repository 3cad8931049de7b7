//! How a user names an image: references as Docker normalises them, and the transports of the contract.
//!
//! The grammar is that of the distribution project's `reference` package: host, repository path, tag, digest.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use super::Digest;

/// Registry that an unqualified name belongs to.
pub const DOCKER_HUB: &str = "docker.io";
/// Host that serves Docker Hub's API.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// Longest repository path; distribution's `NameTotalLengthMax`.
const MAX_REPOSITORY: usize = 255;
/// Longest tag.
const MAX_TAG: usize = 128;
/// Longest string worth looking at: host (255), repository, tag and digest.
const MAX_REFERENCE: usize = 1024;

/// How much of an invalid reference is repeated.
const SHOWN: usize = 200;
/// Why a reference with a user name in it is none.
const CREDENTIALS: &str =
    "credentials do not belong into a reference: give them with --request or --credential-plugin";

/// An image in a registry, normalised as Docker does (`alpine` = `docker.io/library/alpine:latest`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host and optional port, lower-cased; `docker.io` for Docker Hub's aliases.
    pub registry: String,
    /// Repository path, without leading slash.
    pub repository: String,
    /// Tag; `None` only when a digest is given without a tag.
    pub tag: Option<String>,
    /// Digest, when pinned.
    pub digest: Option<Digest>,
}

/// Where an image comes from: the contract's `IMAGE` argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSpec {
    /// `[docker://]registry/repo[:tag][@digest]`.
    Registry(Reference),
    /// `oci:DIR[:ref]`: an OCI image layout directory.
    OciLayout {
        /// The layout's directory.
        dir: PathBuf,
        /// `org.opencontainers.image.ref.name` to look for; `None` = the only one.
        name: Option<String>,
    },
    /// `oci-archive:FILE[:ref]`: a tar of an OCI image layout.
    OciArchive {
        /// The archive.
        file: PathBuf,
        /// As in `OciLayout`.
        name: Option<String>,
    },
    /// `docker-archive:FILE[:ref]`: what `docker save` writes.
    DockerArchive {
        /// The archive.
        file: PathBuf,
        /// `RepoTags` entry to look for; `None` = the only one.
        name: Option<String>,
    },
}

/// Why a string names no image.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("invalid image reference {reference:?}: {reason}")]
pub struct InvalidReference {
    /// As given, cut to a sane length; without what stands before an `@` that no digest follows.
    pub reference: String,
    /// What is wrong.
    pub reason: String,
}

impl InvalidReference {
    /// What stands where a user name and a password do is not repeated.
    fn new(input: &str, reason: &str) -> Self {
        let Some(at) = credentials_end(input) else {
            return Self { reference: input.chars().take(SHOWN).collect(), reason: reason.into() };
        };
        let is_scheme = |scheme: &&str| scheme.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
        let scheme = input.split_once("://").map(|(scheme, _)| scheme).filter(is_scheme);
        let scheme = scheme.map_or(String::new(), |scheme| format!("{scheme}://"));
        let rest: String = input[at..].chars().take(SHOWN).collect();
        // `alpine@3` is no attempt to log in.
        let meant = input[..at].contains(':') || rest.contains(['.', ':', '/']);
        let reason = if meant { CREDENTIALS } else { reason };
        Self { reference: format!("{scheme}…{rest}"), reason: reason.into() }
    }
}

/// The `@` after what may be credentials: the last one that no digest follows.
fn credentials_end(input: &str) -> Option<usize> {
    let is_digest = |rest: &str| {
        rest.split_once(':').is_some_and(|(name, hex)| {
            matches!(name, "sha256" | "sha512")
                || (hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        })
    };
    input.rmatch_indices('@').map(|(at, _)| at).find(|at| !is_digest(&input[at + 1..]))
}

impl Reference {
    /// Parses a reference; `docker://`, `https://` and `oci://` before the host are accepted and mean nothing.
    ///
    /// # Errors
    /// Whatever the grammar does not allow; the reason says which part.
    pub fn parse(input: &str) -> Result<Self, InvalidReference> {
        parse(input).map_err(|reason| InvalidReference::new(input, reason))
    }

    /// Host (and port) that serves the API: Docker Hub's differs from its name.
    #[must_use]
    pub fn api_host(&self) -> &str {
        if self.registry == DOCKER_HUB { DOCKER_HUB_API } else { &self.registry }
    }

    /// The last component of a manifest's URL: the digest if pinned, else the tag.
    #[must_use]
    pub fn manifest_selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(s: &str) -> Result<Self, InvalidReference> {
        Self::parse(s)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl ImageSpec {
    /// Parses the contract's `IMAGE` argument. A path ends at its first colon, as in skopeo.
    ///
    /// # Errors
    /// A registry reference that makes no sense, or a transport without a path.
    pub fn parse(input: &str) -> Result<Self, InvalidReference> {
        // `oci://host/repo` is Helm's and others' way to name a registry; `oci:///dir` is a directory.
        if input.starts_with("oci://") && !input.starts_with("oci:///") {
            return Ok(Self::Registry(Reference::parse(input)?));
        }
        let path_and_name = |rest: &str| {
            let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
            if path.is_empty() {
                return Err(InvalidReference::new(input, "the path is empty"));
            }
            Ok((PathBuf::from(path), name.filter(|n| !n.is_empty()).map(str::to_owned)))
        };
        if let Some(rest) = input.strip_prefix("oci:") {
            path_and_name(rest).map(|(dir, name)| Self::OciLayout { dir, name })
        } else if let Some(rest) = input.strip_prefix("oci-archive:") {
            path_and_name(rest).map(|(file, name)| Self::OciArchive { file, name })
        } else if let Some(rest) = input.strip_prefix("docker-archive:") {
            path_and_name(rest).map(|(file, name)| Self::DockerArchive { file, name })
        } else {
            Ok(Self::Registry(Reference::parse(input)?))
        }
    }
}

impl FromStr for ImageSpec {
    type Err = InvalidReference;

    fn from_str(s: &str) -> Result<Self, InvalidReference> {
        Self::parse(s)
    }
}

impl fmt::Display for ImageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, name) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::OciLayout { dir, name } => ("oci", dir, name),
            Self::OciArchive { file, name } => ("oci-archive", file, name),
            Self::DockerArchive { file, name } => ("docker-archive", file, name),
        };
        write!(f, "{transport}:{}", path.display())?;
        name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

/// Whether `host` (without port) is this machine: `localhost`, 127.0.0.0/8 or `[::1]`.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// `host[:port]` taken apart; the brackets of an IPv6 address stay with the host.
#[must_use]
pub fn split_port(registry: &str) -> (&str, Option<&str>) {
    let after_brackets = registry.rfind(']').map_or(0, |i| i + 1);
    registry[after_brackets..].find(':').map_or((registry, None), |i| {
        (&registry[..after_brackets + i], Some(&registry[after_brackets + i + 1..]))
    })
}

fn parse(input: &str) -> Result<Reference, &'static str> {
    if input.is_empty() {
        return Err("it is empty");
    }
    if input.len() > MAX_REFERENCE {
        return Err("it is too long");
    }
    if let Some(c) = input.chars().find(|c| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
        return Err(if c.is_whitespace() {
            "it has white space"
        } else {
            "it has characters no reference may have"
        });
    }
    let explicit = ["https://", "oci://"].iter().find_map(|scheme| input.strip_prefix(scheme));
    let name = explicit.or_else(|| input.strip_prefix("docker://")).unwrap_or(input);
    if name.contains("://") {
        return Err("unknown transport");
    }

    let (host, rest) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':', '[']) || first.eq_ignore_ascii_case("localhost") => {
            (first, rest)
        }
        // Written without its scheme, such a host would read as a path on Docker Hub.
        Some(_) if explicit.is_some() => return Err("the registry needs a domain or a port"),
        None if explicit.is_some() => return Err("the repository is missing"),
        _ => (DOCKER_HUB, name),
    };
    let registry = normalise_host(host)?;

    let (named, digest) = match rest.split_once('@') {
        Some((named, digest)) => (
            named,
            Some(digest.parse().map_err(|_| "the digest is not sha256: and 64 lower-case hex digits")?),
        ),
        None => (rest, None),
    };
    let last = named.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match named[last..].find(':') {
        Some(colon) => (&named[..last + colon], Some(&named[last + colon + 1..])),
        None => (named, None),
    };
    check_repository(path)?;
    if host == DOCKER_HUB
        && name.len() >= 64
        && path.len() == 64
        && path.bytes().all(|b| b.is_ascii_hexdigit())
    {
        return Err("64 hex digits are an image id, not a name");
    }
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let repository = if registry == DOCKER_HUB && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    if repository.len() > MAX_REPOSITORY {
        return Err("the repository name is too long");
    }
    let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(Reference { registry, repository, tag, digest })
}

fn normalise_host(host: &str) -> Result<String, &'static str> {
    let lower = host.to_ascii_lowercase();
    let (name, port) = split_port(&lower);
    if let Some(port) = port
        && (port.starts_with('+') || port.parse::<u16>().ok().is_none_or(|p| p == 0))
    {
        return Err("the port is not a number from 1 to 65535");
    }
    if let Some(v6) = name.strip_prefix('[') {
        let ok = v6.strip_suffix(']').is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
        return if ok { Ok(lower) } else { Err("the host is not an IPv6 address") };
    }
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if name.len() > 253 || !name.split('.').all(label_ok) {
        return Err("the registry is not a host name");
    }
    Ok(match lower.as_str() {
        "index.docker.io" | DOCKER_HUB_API => DOCKER_HUB.into(),
        _ => lower,
    })
}

fn check_repository(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the repository is missing");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if path.split('/').all(is_path_component) { Ok(()) } else { Err("the repository is malformed") }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_path_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|b| alnum(*b)) || !bytes.last().is_some_and(|b| alnum(*b)) {
        return false;
    }
    bytes
        .split(|b| alnum(*b))
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if ok { Ok(()) } else { Err("the tag is malformed") }
}

#[cfg(test)]
mod tests;
