//! Docker's `config.json` and containers-auth.json(5), parsed. Pure.

use std::cmp::Reverse;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::super::json::{self, Fault, Value, member};
use super::super::server::{DOCKER_HUB_SERVER, Server};
use super::{Flavor, MAX_FILE};
use crate::oci::reference::DOCKER_HUB;

/// As lenient as Docker's decoder, and then about padding: people make these strings by hand.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Paths of keys that mean a whole registry, as Docker wrote them at some time.
const API_PATHS: [&str; 3] = ["", "v1", "v2"];

/// A credentials file.
pub struct Document {
    flavor: Flavor,
    auths: Vec<(String, Entry)>,
    helpers: Vec<(String, String)>,
    store: Option<String>,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither keys nor values: both may hold secrets.
        f.debug_struct("Document")
            .field("flavor", &self.flavor)
            .field("auths", &self.auths.len())
            .field("helpers", &self.helpers.len())
            .field("store", &self.store.is_some())
            .finish()
    }
}

/// An entry of `auths`. Empty strings are missing ones.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) username: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
    pub(super) identity_token: Zeroizing<String>,
    pub(super) registry_token: Zeroizing<String>,
}

/// Where a file says that a registry's credentials are.
pub(super) enum Place<'a> {
    /// With `docker-credential-NAME`.
    Helper(&'a str),
    /// In the file itself, at this path.
    Entry(String, &'a Entry),
}

/// Parses and checks a file: all of it, since a file that is half understood is not understood.
///
/// # Errors
/// No JSON, the same key twice, a wrong type, an `auth` that is not `user:password` in Base64, a name of a helper that is none.
pub fn parse(bytes: &[u8], flavor: Flavor) -> Result<Document, Fault> {
    let root = json::parse(bytes, MAX_FILE)?;
    let mut document = Document { flavor, auths: Vec::new(), helpers: Vec::new(), store: None };
    for (key, value) in json::members(&root, "")? {
        match (key.as_str(), flavor) {
            ("auths", _) => {
                for (key, value) in json::members(value, "auths")? {
                    let path = member("auths", key);
                    document.auths.push((key.to_string(), Entry::parse(value, &path)?));
                }
            }
            ("credHelpers", _) => {
                for (key, value) in json::members(value, "credHelpers")? {
                    let path = member("credHelpers", key);
                    let name = helper_name(value, &path)?;
                    if name.is_empty() && flavor == Flavor::Containers {
                        return Err(Fault::new(path, "it must name a helper"));
                    }
                    document.helpers.push((key.to_string(), name));
                }
            }
            ("credsStore", Flavor::Docker) => {
                document.store = Some(helper_name(value, "credsStore")?).filter(|name| !name.is_empty());
            }
            // The containers tools know no store; and both keep much else in these files.
            _ => {}
        }
    }
    Ok(document)
}

/// What stands after `docker-credential-`: nothing that leads to another directory.
fn helper_name(value: &Value, path: &str) -> Result<String, Fault> {
    let name = json::text(value, path)?;
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(Fault::new(
            path,
            "it must be what follows docker-credential- in a program's name: letters, digits, '.', '_', '-'",
        ));
    }
    Ok(name.to_owned())
}

impl Entry {
    fn parse(value: &Value, path: &str) -> Result<Self, Fault> {
        let mut entry = Self::default();
        let mut auth = None;
        for (key, value) in json::members(value, path)? {
            let path = member(path, key);
            let text = || json::text(value, &path).map(|text| Zeroizing::new(text.to_owned()));
            match key.as_str() {
                "auth" => auth = Some((json::text(value, &path)?, path.clone())),
                "username" => entry.username = text()?,
                "password" => entry.password = text()?,
                "identitytoken" => entry.identity_token = text()?,
                "registrytoken" => entry.registry_token = text()?,
                _ => {}
            }
        }
        // As in Docker, `auth` counts before the two members.
        if let Some((auth, path)) = auth.filter(|(auth, _)| !auth.is_empty()) {
            (entry.username, entry.password) =
                decode_auth(auth).map_err(|reason| Fault::new(path, reason))?;
        }
        Ok(entry)
    }
}

/// User and password, split at the first colon. Docker pads passwords with NUL at times, and its decoder passes over line ends.
fn decode_auth(auth: &str) -> Result<(Zeroizing<String>, Zeroizing<String>), &'static str> {
    let mut text = Zeroizing::new(Vec::with_capacity(auth.len()));
    text.extend(auth.bytes().filter(|b| !matches!(b, b'\r' | b'\n')));
    let mut decoded = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let length = BASE64.decode_slice(text.as_slice(), &mut decoded).map_err(|_| "it is no Base64")?;
    let decoded = str::from_utf8(&decoded[..length]).map_err(|_| "it is not UTF-8 in Base64")?;
    let (username, password) = decoded.split_once(':').ok_or("it is not user:password in Base64")?;
    Ok((Zeroizing::new(username.to_owned()), Zeroizing::new(password.trim_matches('\0').to_owned())))
}

impl Document {
    /// Where the credentials for a registry (folded) are, or for a repository in it. `None` = the file says nothing of it.
    pub(super) fn find(&self, registry: &str, repository: Option<&str>) -> Option<Place<'_>> {
        let helper = best(&self.helpers, |key| match self.flavor {
            Flavor::Docker => docker_rank(key, registry),
            // Helpers are not by namespace.
            Flavor::Containers => containers_rank(key, registry, None),
        });
        match (helper, &self.store) {
            (Some((_, name)), _) if !name.is_empty() => return Some(Place::Helper(name)),
            // An empty name is how a registry is kept out of the store.
            (None, Some(name)) => return Some(Place::Helper(name)),
            _ => {}
        }
        let entry = best(&self.auths, |key| match self.flavor {
            Flavor::Docker => docker_rank(key, registry),
            Flavor::Containers => containers_rank(key, registry, repository),
        });
        entry.map(|(key, entry)| Place::Entry(member("auths", key), entry))
    }
}

/// How well a key fits, best first: its class, and within it the length of its namespace.
type Rank = (u8, Reverse<usize>);

/// The entry of the best rank; of equal ones the one whose key comes first, so that no chance is in it.
fn best<T>(entries: &[(String, T)], rank: impl Fn(&str) -> Option<Rank>) -> Option<(&str, &T)> {
    let ranked = entries.iter().filter_map(|(key, value)| Some((rank(key)?, key.as_str(), value)));
    ranked.min_by_key(|(rank, key, _)| (*rank, *key)).map(|(_, key, value)| (key, value))
}

/// Docker: the key that it writes itself, then all that name the same host.
fn docker_rank(key: &str, registry: &str) -> Option<Rank> {
    let server = Server::parse(key);
    let hub = registry == DOCKER_HUB;
    let whole = API_PATHS.contains(&server.path);
    // Docker keeps its own login's tokens below the hub's URL: they are not for the registry.
    if server.registry != registry || (hub && !whole) {
        return None;
    }
    let own = if hub { key == DOCKER_HUB_SERVER } else { key == registry };
    let class = match (own, whole) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    Some((class, Reverse(0)))
}

/// The containers tools: the longest namespace that the repository is in, then the host, then URLs of the host.
fn containers_rank(key: &str, registry: &str, repository: Option<&str>) -> Option<Rank> {
    let server = Server::parse(key);
    if server.registry != registry {
        return None;
    }
    if server.is_url {
        return Some((2, Reverse(0)));
    }
    let rest = repository.unwrap_or_default().strip_prefix(server.path)?;
    // Not in the middle of a component.
    let inside = server.path.is_empty() || rest.is_empty() || rest.starts_with('/');
    let exact = key.starts_with(registry);
    inside.then_some((u8::from(!exact && server.path.is_empty()), Reverse(server.path.len())))
}
