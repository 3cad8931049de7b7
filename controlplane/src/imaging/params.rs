//! What is wanted, checked before anybody is asked.

use std::collections::BTreeMap;

use clipfs::oci::{ImageSpec, Platform, Reference};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::ImagingError;
use crate::model::ImageId;

/// Where nobody says one.
const PLATFORM: &str = "linux/amd64";

/// Bytes of the hash that a derived identity shows: enough that nobody meets another by chance, short enough for a command line.
const ID_BYTES: usize = 10;

/// Longest identity.
const MAX_ID: usize = 128;

/// No type of credentials has more keys, by far.
const MAX_KEYS: usize = 64;

/// Longest credentials, keys and values. A worker's request of 1 MiB must have room for them.
const MAX_CREDENTIALS: usize = 64 << 10;

/// Longest name of a key or a secret.
const MAX_NAME: usize = 128;

/// Parameters of CreateImage. `Debug` shows no value.
#[derive(Debug, Default)]
pub struct CreateParams {
    /// A reference to an image in a registry.
    pub base_image: String,
    /// Credentials by key.
    pub credentials: BTreeMap<String, SecretString>,
    /// Instead: names of secrets of the workspace.
    pub credential_secrets: Vec<String>,
    /// Empty: [`derived_image_id`].
    pub image_id: String,
    /// Empty: `linux/amd64`.
    pub platform: String,
}

/// [`CreateParams`], checked.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) base_image: String,
    pub(super) reference: Reference,
    /// Normalised.
    pub(super) registry: String,
    pub(super) platform: Platform,
    pub(super) image_id: ImageId,
    pub(super) credentials: Credentials,
}

/// What was given to pull the image with.
#[derive(Debug)]
pub(super) enum Credentials {
    Nothing,
    /// At least one, none of them empty.
    Values(Vec<(String, SecretString)>),
    /// At least one.
    Named(Vec<String>),
}

impl Wanted {
    pub(super) fn parse(params: CreateParams) -> Result<Self, ImagingError> {
        let CreateParams { base_image, credentials, credential_secrets, image_id, platform } = params;
        let reference = match ImageSpec::parse(&base_image) {
            Ok(ImageSpec::Registry(reference)) => reference,
            Ok(_) => {
                return Err(ImagingError::Invalid(
                    "base_image must be an image in a registry: layouts and archives would be files of the control plane".into(),
                ));
            }
            Err(error) => return Err(ImagingError::Invalid(format!("base_image: {error}"))),
        };
        let registry = credplugin::parse_registry(&reference.to_string())
            .map_err(|error| ImagingError::Invalid(format!("base_image: {}", error.message)))?;
        let platform = Platform::parse(if platform.is_empty() { PLATFORM } else { &platform })
            .map_err(|error| ImagingError::Invalid(format!("platform: {error}")))?;
        let image_id = if image_id.is_empty() {
            derived_image_id(&reference, &platform)
        } else {
            check_id(&image_id)?;
            image_id.as_str().into()
        };
        let credentials = given(credentials, credential_secrets)?;
        Ok(Self { base_image, reference, registry, platform, image_id, credentials })
    }
}

/// The identity of an image to which nobody has given one: `img-` and the first 20 hexadecimal digits of the SHA-256 of the normalised
/// reference, a line feed and the normalised platform. So the same reference is the same image, made again.
#[must_use]
pub fn derived_image_id(reference: &Reference, platform: &Platform) -> ImageId {
    let hash = Sha256::digest(format!("{reference}\n{platform}"));
    format!("img-{}", hex::encode(&hash[..ID_BYTES])).into()
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn check_id(id: &str) -> Result<(), ImagingError> {
    if id.len() <= MAX_ID && id.bytes().all(is_plain) && !matches!(id, "." | "..") {
        return Ok(());
    }
    Err(ImagingError::Invalid(format!("image_id must be 1 to {MAX_ID} of A-Z a-z 0-9 _ - .")))
}

fn given(values: BTreeMap<String, SecretString>, names: Vec<String>) -> Result<Credentials, ImagingError> {
    let refuse = |why: String| Err(ImagingError::Invalid(why));
    match (values.is_empty(), names.is_empty()) {
        (true, true) => return Ok(Credentials::Nothing),
        (false, false) => {
            return refuse(
                "base_image_creds and credential_secrets exclude each other: give one of them".into(),
            );
        }
        (true, false) => {
            if names.len() > MAX_KEYS {
                return refuse(format!("credential_secrets must be at most {MAX_KEYS} names"));
            }
            // As secrets may be named: anything else is none, and might be a value that was put into the wrong field.
            let fine = |name: &String| (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain);
            if !names.iter().all(fine) {
                return refuse(format!(
                    "credential_secrets: a name must be 1 to {MAX_NAME} of A-Z a-z 0-9 _ - ."
                ));
            }
            let mut seen = std::collections::BTreeSet::new();
            return match names.iter().find(|name| !seen.insert(name.as_str())) {
                Some(_) => refuse("credential_secrets names a secret twice".into()),
                None => Ok(Credentials::Named(names)),
            };
        }
        (false, true) => {}
    }
    if values.len() > MAX_KEYS {
        return refuse(format!("base_image_creds must have at most {MAX_KEYS} keys"));
    }
    if values.keys().any(|key| key.is_empty() || key.len() > MAX_NAME) {
        return refuse(format!("base_image_creds: a key must have 1 to {MAX_NAME} characters"));
    }
    let length: usize = values.iter().map(|(key, value)| key.len() + value.expose_secret().len()).sum();
    if length > MAX_CREDENTIALS {
        return refuse(format!("base_image_creds must have at most {} KiB", MAX_CREDENTIALS >> 10));
    }
    let keys = credplugin::key_names(&values.keys().map(|key| (key.as_str(), "x")).collect());
    let values: Vec<_> = values.into_iter().filter(|(_, value)| !value.expose_secret().is_empty()).collect();
    if values.is_empty() {
        return refuse(format!(
            "base_image_creds are all empty ({keys}): give values, or no credentials for a public image"
        ));
    }
    Ok(Credentials::Values(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(base_image: &str) -> CreateParams {
        CreateParams { base_image: base_image.into(), ..CreateParams::default() }
    }

    fn creds(pairs: &[(&str, &str)]) -> BTreeMap<String, SecretString> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), SecretString::from(*value))).collect()
    }

    fn refused(params: CreateParams) -> String {
        match Wanted::parse(params) {
            Err(ImagingError::Invalid(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn references_are_of_registries() {
        for (base_image, registry, reference) in [
            ("alpine", "docker.io", "docker.io/library/alpine:latest"),
            ("docker://Ghcr.io/o/i:1", "ghcr.io", "ghcr.io/o/i:1"),
            ("index.docker.io/o/i", "docker.io", "docker.io/o/i:latest"),
            ("r.example:5000/a", "r.example:5000", "r.example:5000/a:latest"),
            ("[::1]:5000/a", "[::1]:5000", "[::1]:5000/a:latest"),
        ] {
            let wanted = Wanted::parse(params(base_image)).expect(base_image);
            assert_eq!(
                (wanted.registry.as_str(), wanted.reference.to_string().as_str()),
                (registry, reference)
            );
            assert_eq!(wanted.platform.to_string(), PLATFORM);
        }
        for base_image in ["oci:/etc", "oci-archive:/etc/passwd", "docker-archive:/x.tar"] {
            assert!(refused(params(base_image)).contains("must be an image in a registry"), "{base_image}");
        }
        for base_image in ["", "UPPER/case", "file:///etc/passwd", "a b"] {
            assert!(refused(params(base_image)).starts_with("base_image: "), "{base_image}");
        }
        let why = refused(params("https://user:pl4nted-p@r.example/a"));
        assert!(!why.contains("pl4nted"), "{why}");
    }

    #[test]
    fn identities_are_given_or_derived() {
        let id = |base_image: &str, platform: &str| {
            let wanted = Wanted::parse(CreateParams { platform: platform.into(), ..params(base_image) });
            wanted.expect(base_image).image_id
        };
        assert_eq!(id("alpine", ""), id("docker.io/library/alpine:latest", "linux/x86_64"));
        assert_ne!(id("alpine", ""), id("alpine:3", ""));
        assert_ne!(id("alpine", ""), id("alpine", "linux/arm64"));
        assert_eq!(id("alpine", "").as_str().len(), 24);
        let given = CreateParams { image_id: "my.image-1".into(), ..params("alpine") };
        assert_eq!(Wanted::parse(given).expect("a fine name").image_id.as_str(), "my.image-1");
        for image_id in ["..", "a/b", "a b", "\u{e4}", &"x".repeat(129)] {
            let why = refused(CreateParams { image_id: image_id.into(), ..params("alpine") });
            assert!(why.starts_with("image_id"), "{why}");
        }
        assert!(
            refused(CreateParams { platform: "windows".into(), ..params("alpine") }).starts_with("platform")
        );
    }

    #[test]
    fn credentials_are_values_or_names() {
        let with = |values: &[(&str, &str)], names: &[&str]| CreateParams {
            credentials: creds(values),
            credential_secrets: names.iter().map(|name| (*name).to_owned()).collect(),
            ..params("alpine")
        };
        assert!(matches!(Wanted::parse(with(&[], &[])).expect("none").credentials, Credentials::Nothing));
        let some = Wanted::parse(with(&[("USERNAME", "u"), ("PASSWORD", "pl4nted-p"), ("REGION", "")], &[]));
        match some.expect("values").credentials {
            Credentials::Values(values) => assert_eq!(values.len(), 2, "an empty value is a missing one"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            Wanted::parse(with(&[], &["A"])).expect("names").credentials,
            Credentials::Named(_)
        ));
        let many: Vec<String> = (0..65).map(|n| format!("K{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let long = "pl4nted-".repeat(10_000);
        for (params, word) in [
            (with(&[("USERNAME", "u")], &["A"]), "exclude each other"),
            (with(&[("PASSWORD", ""), ("USERNAME", "")], &[]), "all empty (PASSWORD, USERNAME)"),
            (with(&[("", "x")], &[]), "1 to 128"),
            (with(&[("PASSWORD", &long)], &[]), "64 KiB"),
            (with(&[], &[""]), "1 to 128"),
            (with(&[], &["A", "B", "A"]), "twice"),
            (with(&[], &many), "at most 64"),
        ] {
            let why = refused(params);
            assert!(why.contains(word) && !why.contains("pl4nted"), "{why}");
        }
    }

    #[test]
    fn values_are_not_shown() {
        let params = CreateParams { credentials: creds(&[("PASSWORD", "pl4nted-p")]), ..params("alpine") };
        assert!(!format!("{params:?}").contains("pl4nted"));
        let wanted = Wanted::parse(params).expect("values");
        assert!(!format!("{wanted:?}").contains("pl4nted"));
    }
}
