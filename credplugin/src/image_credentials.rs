//! `image_credentials`: a string that holds JSON, a flat map, or `user:password`.
//!
//! What a value may contain is not checked here but where it is used: a service account has line ends, a password in a header must not.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use crate::json::{self, Kind, Members, Path, Value};
use crate::request::MAX_REQUEST;
use crate::{Code, CredentialType, Error, normalize_registry};

/// What errors call credentials whose field is not known.
const FIELD: &str = "image_credentials";

/// Credentials by key (`USERNAME`, `AWS_ACCESS_KEY_ID`, …). An empty value counts as missing.
#[derive(Clone, Default)]
pub struct CredentialMap(pub BTreeMap<String, SecretString>);

impl CredentialMap {
    /// A value; `None` = missing or empty.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&SecretString> {
        self.0.get(key).filter(|value| !value.expose_secret().is_empty())
    }

    /// A value that there must be.
    ///
    /// # Errors
    /// [`Code::BadRequest`]: `X not found or empty`.
    pub fn require(&self, key: &str) -> Result<&SecretString, Error> {
        self.get(key).ok_or_else(|| missing(key))
    }

    /// Two values that belong together; `None` = neither is there.
    ///
    /// # Errors
    /// [`Code::BadRequest`]: `both X and Y must be provided together`.
    pub fn get_pair(&self, a: &str, b: &str) -> Result<Option<(&SecretString, &SecretString)>, Error> {
        match (self.get(a), self.get(b)) {
            (Some(a), Some(b)) => Ok(Some((a, b))),
            (None, None) => Ok(None),
            _ => Err(Error::new(Code::BadRequest, format!("both {a} and {b} must be provided together"))),
        }
    }

    /// Whether nothing but empty values is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    /// The values that are not empty, sorted by key.
    pub fn values(&self) -> impl Iterator<Item = (&str, &SecretString)> {
        self.0
            .iter()
            .filter(|(_, value)| !value.expose_secret().is_empty())
            .map(|(key, value)| (key.as_str(), value))
    }
}

/// Keys only.
impl fmt::Debug for CredentialMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values().map(|(key, _)| key)).finish()
    }
}

impl<K: Into<String>, V: Into<SecretString>> FromIterator<(K, V)> for CredentialMap {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// Credentials, parsed.
#[derive(Debug, Clone)]
pub struct ImageCredentials {
    /// The registry they are for, normalised by [`crate::parse_registry`]; `None` = a form that does not say: then they are for the image's.
    pub registry: Option<String>,
    /// The type that they say they have; `None` = to be detected, once the registry is known.
    pub kind: Option<CredentialType>,
    /// The values.
    pub credentials: CredentialMap,
}

impl ImageCredentials {
    /// Credentials of a form that names neither registry nor type.
    const fn unnamed(credentials: CredentialMap) -> Self {
        Self { registry: None, kind: None, credentials }
    }
}

/// Parses all forms. `None` = empty: anonymous.
///
/// # Errors
/// [`Code::BadRequest`], which names the path below `image_credentials` and never a value.
pub fn parse_credentials(text: &str) -> Result<Option<ImageCredentials>, Error> {
    parse_credentials_at(FIELD, text)
}

/// [`parse_credentials`] of another field, which errors name.
///
/// # Errors
/// See there.
pub fn parse_credentials_at(field: &str, text: &str) -> Result<Option<ImageCredentials>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    // JSON of a wrong shape must not be taken for a user name: `["a:b"]`, `"a:b"`, a byte-order mark.
    if text.trim_start().starts_with(['{', '[', '"', '\u{feff}']) {
        let path = Path::root(field);
        let members = json::parse(text.as_bytes(), MAX_REQUEST, field)?.into_object(&path)?;
        return from_object(&path, members);
    }
    match text.split_once(':') {
        Some((user, password)) => {
            let map: CredentialMap = [("USERNAME", user), ("PASSWORD", password)].into_iter().collect();
            map.get_pair("USERNAME", "PASSWORD").map_err(|error| Path::root(field).error(&error.message))?;
            with_values(&Path::root(field), &map)?;
            Ok(Some(ImageCredentials::unnamed(map)))
        }
        None => Err(Path::root(field).error("expected a JSON object or user:password")),
    }
}

/// The values of names, as a caller's environment has them (never this process's own): for tools that take the names of variables.
///
/// # Errors
/// [`Code::BadRequest`]: `X not found or empty`.
pub fn credentials_from<'a>(
    names: impl IntoIterator<Item = &'a str>,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<CredentialMap, Error> {
    let found = |name: &'a str| {
        let value = lookup(name).filter(|value| !value.is_empty()).ok_or_else(|| missing(name))?;
        Ok((name.to_owned(), SecretString::from(value)))
    };
    names.into_iter().map(found).collect::<Result<_, _>>().map(CredentialMap)
}

/// The stored form, keys sorted: `{"credentials":{…},"registry":"…","type":"…"}`. Empty values are left out.
#[must_use]
pub fn marshal_credentials(
    registry: &str,
    kind: CredentialType,
    credentials: &CredentialMap,
) -> SecretString {
    let text = json::to_string(|out| {
        out.write_str("{\"credentials\":{")?;
        for (index, (key, value)) in credentials.values().enumerate() {
            out.write_str(if index > 0 { "," } else { "" })?;
            json::write_string(out, key)?;
            out.write_char(':')?;
            json::write_string(out, value.expose_secret())?;
        }
        out.write_str("},\"registry\":")?;
        json::write_string(out, registry)?;
        out.write_str(",\"type\":")?;
        json::write_string(out, kind.word())?;
        out.write_char('}')
    });
    SecretString::from(text.as_str())
}

/// The wrapped form, recognised by any of its keys, or the flat map.
fn from_object(path: &Path<'_>, members: Members) -> Result<Option<ImageCredentials>, Error> {
    let wrapped = members.iter().any(|(key, _)| matches!(key.as_str(), "registry" | "type" | "credentials"));
    if !wrapped {
        let map = map(path, members)?;
        if map.0.is_empty() {
            return Ok(None);
        }
        with_values(path, &map)?;
        return Ok(Some(ImageCredentials::unnamed(map)));
    }
    let (mut registry, mut kind, mut credentials) = (None, None, CredentialMap::default());
    for (key, value) in members {
        let path = path.key(&key);
        match key.as_str() {
            _ if value.is_null() => {}
            "registry" => registry = not_empty(&path, &value)?.map(str::to_owned),
            "type" => {
                kind = not_empty(&path, &value)?
                    .map(|word| CredentialType::of_word(word).ok_or_else(|| unknown_type(&path)))
                    .transpose()?;
            }
            "credentials" => credentials = map(&path, value.into_object(&path)?)?,
            _ => return Err(path.error("unknown key beside registry, type and credentials")),
        }
    }
    let at = path.key("registry");
    let registry =
        registry.ok_or_else(|| at.error("not found or empty; name the registry that these are for"))?;
    let registry = normalize_registry(&registry).map_err(|error| at.error(&error.message))?;
    if kind == Some(CredentialType::Public) && !credentials.is_empty() {
        return Err(path.key("type").error("it is public, but there are credentials; remove one of both"));
    }
    if kind != Some(CredentialType::Public) {
        with_values(&path.key("credentials"), &credentials)?;
    }
    Ok(Some(ImageCredentials { registry: Some(registry), kind, credentials }))
}

/// Keys without any value are no wish for anonymous access: somebody's variable was not set.
fn with_values(path: &Path<'_>, map: &CredentialMap) -> Result<(), Error> {
    if map.is_empty() && !map.0.is_empty() {
        return Err(path.error("every value is empty; give them, or leave the keys out"));
    }
    Ok(())
}

fn not_empty<'v>(path: &Path<'_>, value: &'v Value) -> Result<Option<&'v str>, Error> {
    Ok(Some(value.as_str(path)?).filter(|text| !text.is_empty()))
}

fn unknown_type(path: &Path<'_>) -> Error {
    path.error("unknown type; expected basic, aws, gcp, azure, token or public")
}

/// A map of keys to strings; `null` is a missing value.
fn map(path: &Path<'_>, members: Members) -> Result<CredentialMap, Error> {
    let mut map = CredentialMap::default();
    for (key, value) in members {
        let text = match value.kind() {
            Kind::Null => SecretString::default(),
            _ => SecretString::from(value.into_string(&path.key(&key))?.as_str()),
        };
        map.0.insert(key.to_string(), text);
    }
    Ok(map)
}

fn missing(key: &str) -> Error {
    Error::new(Code::BadRequest, format!("{key} not found or empty"))
}

#[cfg(test)]
mod tests;
