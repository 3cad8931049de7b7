//! What a failure means to whoever called the process: its exit code and a hint. Adds what only the command line knows to
//! the table in [`crate::exit`].

use super::failure::Failure;
use crate::build::{BuildError, verify::VerifyError};
use crate::config::ConfigError;
use crate::credentials::CredentialError;
use crate::decode::DecodeError;
use crate::exit::{self, CANNOT_CREATE, CONFIG, DATA, IO, SOFTWARE, UNAVAILABLE, USAGE};
use crate::index::IndexError;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::worker::WorkerError;

/// The exit code of a failure.
pub(super) fn code(failure: &Failure) -> u8 {
    match failure {
        Failure::Usage(_) | Failure::Reference(_) | Failure::NeedsImage(_) => USAGE,
        Failure::Config(error) => config(error),
        Failure::Registry(error) => exit::registry(error),
        Failure::Credentials(error) => exit::credentials(error),
        Failure::Request { source, .. } => exit::io(source),
        Failure::Index { source, .. } => exit::index(source),
        Failure::OtherImage { .. } => DATA,
        Failure::Build(error) => build(error),
        Failure::Verify { source, .. } => verify(source),
        Failure::Store(error) => exit::store(error),
        Failure::Worker(error) => worker(error),
        Failure::Path { source, .. } => exit::vfs(*source),
        Failure::NotAFile(_) => DATA,
        Failure::Read { source, .. } => exit::read(source),
        Failure::Occupied(_) | Failure::Create { .. } => CANNOT_CREATE,
        Failure::Mount(error) => error.exit_code(),
        Failure::Timeout { .. } => UNAVAILABLE,
        Failure::Output(_) => IO,
        Failure::Runtime(_) => UNAVAILABLE,
        Failure::Panicked => SOFTWARE,
        // As a shell reports a process that the signal has killed.
        Failure::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(SOFTWARE),
    }
}

fn worker(error: &WorkerError) -> u8 {
    match error {
        WorkerError::Options(_) => USAGE,
        WorkerError::NotMemory { .. } | WorkerError::Runtime(_) => CONFIG,
        WorkerError::Taken(_) => UNAVAILABLE,
        WorkerError::Io { source, .. } => exit::io(source),
    }
}

fn config(error: &ConfigError) -> u8 {
    match error {
        ConfigError::Read { .. } | ConfigError::Parse { .. } | ConfigError::Value { .. } => CONFIG,
    }
}

fn build(error: &BuildError) -> u8 {
    match error {
        BuildError::Fetch { source, .. } => exit::registry(source),
        BuildError::Decode { source, .. } => exit::decode(source),
        BuildError::Digest { .. }
        | BuildError::Size { .. }
        | BuildError::DiffId { .. }
        | BuildError::DiffIds { .. }
        | BuildError::Merge(_) => DATA,
        BuildError::Output { .. } => CANNOT_CREATE,
        BuildError::Panicked(_) => SOFTWARE,
    }
}

fn verify(error: &VerifyError) -> u8 {
    match error {
        VerifyError::Build(error) => build(error),
        VerifyError::Compare(error) => exit::index(error),
        VerifyError::Chunk { source, .. } => exit::decode(source),
        VerifyError::OtherImage { .. }
        | VerifyError::Document(_)
        | VerifyError::ChunkDigest { .. }
        | VerifyError::Tree(_) => DATA,
    }
}

/// What can be done about a failure, if anything.
pub(super) fn hint(failure: &Failure) -> Option<String> {
    let text = match failure {
        Failure::NeedsImage(_) => "say where to fetch from with --image IMAGE",
        Failure::Occupied(_) => "replace it with --force, or choose another file with -o",
        Failure::Index { source: IndexError::NotAnIndex, .. } => "make an index with `clipfs index IMAGE`",
        Failure::Index { source: IndexError::Version { .. } | IndexError::Checksum(_), .. } => {
            "build it again with `clipfs index --force IMAGE`"
        }
        Failure::OtherImage { .. } => "build an index of this image with `clipfs index IMAGE`",
        Failure::Registry(error) | Failure::Build(BuildError::Fetch { source: error, .. }) => {
            registry_hint(error)?
        }
        Failure::Verify { source, .. } => match source.as_ref() {
            VerifyError::Build(BuildError::Fetch { source, .. }) => registry_hint(source)?,
            VerifyError::Tree(_) | VerifyError::Chunk { .. } | VerifyError::ChunkDigest { .. } => {
                "do not use this index; build it again with `clipfs index --force IMAGE`"
            }
            _ => return None,
        },
        Failure::Build(BuildError::Decode { source: DecodeError::UnknownCompression(_), .. }) => {
            "layers may be plain tar, gzip or zstd; encrypted layers cannot be mounted"
        }
        Failure::Build(BuildError::Digest { .. }) => {
            "the registry serves other bytes than the manifest names: push the image again"
        }
        Failure::Build(BuildError::Output { .. })
        | Failure::Create { .. }
        | Failure::Store(StoreError::Open { .. }) => {
            "choose a writable place with -o FILE or --cache-dir DIR"
        }
        Failure::Credentials(error) => credentials_hint(error),
        Failure::Request { .. } => "name a file with the ContainerRequest as JSON, or - for standard input",
        Failure::Timeout { .. } => "wait longer with --mount-timeout",
        Failure::Reference(_) => {
            "an image is registry/repo[:tag][@digest], oci:DIR[:ref], oci-archive:FILE or docker-archive:FILE"
        }
        Failure::Mount(error) => return error.hint().map(Into::into),
        Failure::Build(BuildError::Panicked(_)) | Failure::Panicked => {
            "this is a bug: please report it with the lines above"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

fn registry_hint(error: &RegistryError) -> Option<&'static str> {
    match error {
        RegistryError::NotFound(_) => {
            Some("check name and tag; a registry also says so of images that one may not see")
        }
        RegistryError::Denied { .. } => Some(
            "check the credentials (or give some with --request or --credential-plugin), and the name of the image",
        ),
        RegistryError::Credentials(error) => Some(credentials_hint(error)),
        RegistryError::UnknownHost { .. } => Some("check the registry's name and this machine's DNS"),
        RegistryError::TooManyRequests { .. } => Some("try again later"),
        RegistryError::NotTls { .. } => Some("for a registry without TLS, say --plain-http"),
        RegistryError::NoPlatform { .. } => Some("for another platform, say --platform OS/ARCH"),
        _ => None,
    }
}

/// Every failure of a source of credentials has something that somebody can mend.
const fn credentials_hint(error: &CredentialError) -> &'static str {
    match error {
        CredentialError::NotFound { .. } => {
            "give the credentials of this registry, or a request with empty image_credentials for anonymous access"
        }
        CredentialError::Denied { .. } => {
            "the credentials are wrong or were revoked: put new ones into the request, or log in again"
        }
        CredentialError::Configuration(_) => {
            "check --request and --credential-plugin (or CLIPFS_CREDENTIAL_PLUGIN, or credential_plugin in the settings file)"
        }
        CredentialError::Malformed(_) => "mend the request: docs/CREDENTIALS.md says what it may hold",
        CredentialError::Unavailable(_) => {
            "try again; if it stays so, check the plugin and the endpoints that it asks"
        }
        CredentialError::TryLater { .. } => "try again later",
        CredentialError::Refused(_) => {
            "the plugin's answer must not be used: check that it is made for this registry"
        }
        CredentialError::Broken(_) => {
            "this is a bug of the plugin, or of clipfs: run the plugin by hand to see more"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::mount::MountError;
    use crate::oci::Digest;
    use crate::read::ReadError;
    use crate::vfs::VfsError;

    fn layer() -> Digest {
        Digest::of(b"layer")
    }

    #[test]
    fn failures_have_the_codes_of_the_contract() {
        let text = String::new;
        let denied = || RegistryError::Denied { host: text(), what: text(), reason: text() };
        let no_platform = || RegistryError::NoPlatform { what: text(), platform: text(), detail: text() };
        let unavailable = || RegistryError::Unavailable { host: text(), reason: text() };
        let fetch = |source| Failure::Build(BuildError::Fetch { layer: layer(), source });
        let undecodable = |source| Failure::Build(BuildError::Decode { layer: layer(), source });
        let index = |source| Failure::Index { path: "/i".into(), source };
        let read = |source| Failure::Read { path: text(), source };
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        let registry = Failure::Registry;
        let local = |kind| RegistryError::Io { what: text(), source: io::Error::from(kind) };
        let table = [
            (64, Failure::Usage(text())),
            (64, Failure::NeedsImage("/a.clip".into())),
            (65, index(IndexError::NotAnIndex)),
            (65, index(IndexError::Version { found: 9, supported: 1 })),
            (66, index(IndexError::Io(io(io::ErrorKind::NotFound)))),
            (74, index(IndexError::Io(io(io::ErrorKind::Other)))),
            (65, Failure::OtherImage { path: "/i".into(), index: layer(), image: layer() }),
            (65, Failure::Registry(RegistryError::NotAnImage { what: text(), reason: text() })),
            (65, Failure::Registry(RegistryError::Mismatch { what: text() })),
            (66, Failure::Registry(RegistryError::NotFound(text()))),
            (66, Failure::Registry(CredentialError::NotFound { registry: text(), reason: text() }.into())),
            (77, Failure::Registry(CredentialError::Denied { registry: text(), reason: text() }.into())),
            (78, Failure::Registry(CredentialError::Configuration(text()).into())),
            (69, Failure::Registry(CredentialError::Unavailable(text()).into())),
            (65, Failure::Credentials(CredentialError::Malformed(text()))),
            (70, Failure::Credentials(CredentialError::Broken(text()))),
            (75, Failure::Credentials(CredentialError::TryLater { reason: text(), after: None })),
            (76, Failure::Credentials(CredentialError::Refused(text()))),
            (78, Failure::Credentials(CredentialError::Configuration(text()))),
            (74, Failure::Request { path: "/r".into(), source: io(io::ErrorKind::Other) }),
            (68, Failure::Registry(RegistryError::UnknownHost { host: text() })),
            (69, Failure::Registry(unavailable())),
            (75, Failure::Registry(RegistryError::TooManyRequests { host: text(), retry_after: None })),
            (76, Failure::Registry(RegistryError::Protocol { host: text(), reason: text() })),
            (76, Failure::Registry(RegistryError::NotTls { host: text() })),
            (78, Failure::Registry(RegistryError::Configuration { what: text(), reason: text() })),
            (65, Failure::Registry(no_platform())),
            (77, Failure::Registry(denied())),
            (77, fetch(denied())),
            (66, fetch(RegistryError::NotFound(text()))),
            (65, undecodable(DecodeError::Truncated { format: "gzip", offset: 1 })),
            (65, undecodable(DecodeError::UnknownCompression(text()))),
            (65, undecodable(DecodeError::TooLarge(1))),
            (65, Failure::Build(BuildError::Digest { layer: layer(), found: layer() })),
            (65, Failure::Build(BuildError::DiffId { layer: layer(), expected: layer(), found: layer() })),
            (70, Failure::Build(BuildError::Panicked(text()))),
            (
                73,
                Failure::Build(BuildError::Output {
                    path: "/x".into(),
                    source: io(io::ErrorKind::StorageFull),
                }),
            ),
            (73, Failure::Occupied("/x".into())),
            (65, Failure::Verify { path: "/i".into(), source: Box::new(VerifyError::Tree(text())) }),
            (
                69,
                Failure::Verify {
                    path: "/i".into(),
                    source: Box::new(BuildError::Fetch { layer: layer(), source: unavailable() }.into()),
                },
            ),
            (
                73,
                Failure::Store(StoreError::Open {
                    dir: "/c".into(),
                    source: io(io::ErrorKind::PermissionDenied),
                }),
            ),
            (66, Failure::Path { path: text(), source: VfsError::NotFound }),
            (65, Failure::NotAFile(text())),
            (69, read(ReadError::Deadline(Duration::from_secs(1)))),
            (65, read(ReadError::Mismatch(Arc::from("a chunk")))),
            (77, read(ReadError::Registry(Arc::from("a chunk"), Arc::new(denied())))),
            (69, Failure::Timeout { image: text(), seconds: 30 }),
            (64, registry(RegistryError::InvalidReference { reference: text(), reason: text() })),
            (66, registry(local(io::ErrorKind::NotFound))),
            (77, registry(local(io::ErrorKind::PermissionDenied))),
            (74, registry(local(io::ErrorKind::Other))),
            (74, Failure::Output(io(io::ErrorKind::StorageFull))),
            (77, Failure::Mount(MountError::NotRoot)),
            (69, Failure::Mount(MountError::NoFuse(io(io::ErrorKind::NotFound)))),
            (66, Failure::Mount(MountError::NoMountpoint("/m".into()))),
            (66, Failure::Mount(MountError::NotMounted("/m".into()))),
            (73, Failure::Mount(MountError::NotADirectory("/m".into()))),
            (73, Failure::Mount(MountError::AlreadyMounted("/m".into()))),
            // The server's own code comes through keeper and pipe as it is.
            (76, Failure::Mount(MountError::Refused { message: text(), code: 76 })),
            (70, Failure::Mount(MountError::CrashLoop { path: "/m".into(), times: 10 })),
            (75, Failure::Mount(MountError::Timeout { path: "/m".into(), after: Duration::from_secs(1) })),
            (74, Failure::Mount(MountError::Unmount { path: "/m".into(), source: io(io::ErrorKind::Other) })),
            (78, Failure::Config(ConfigError::Value { key: "k", reason: text() })),
            (130, Failure::Interrupted(2)),
            (143, Failure::Interrupted(15)),
        ];
        for (expected, failure) in table {
            assert_eq!(code(&failure), expected, "{failure:?}");
        }
    }

    #[test]
    fn hints_say_what_to_do() {
        let hint = |failure| hint(&failure).unwrap_or_default();
        assert!(hint(Failure::NeedsImage("/a.clip".into())).contains("--image"));
        assert!(hint(Failure::Occupied("/a.clip".into())).contains("--force"));
        let fetch = BuildError::Fetch { layer: layer(), source: RegistryError::NotFound(String::new()) };
        assert!(hint(Failure::Build(fetch)).contains("tag"));
        assert_eq!(hint(Failure::Interrupted(2)), "");
        // Credentials that cannot be used can always be mended, wherever that was found out.
        let text = String::new;
        for error in [
            CredentialError::NotFound { registry: text(), reason: text() },
            CredentialError::Denied { registry: text(), reason: text() },
            CredentialError::Configuration(text()),
            CredentialError::Malformed(text()),
            CredentialError::Unavailable(text()),
            CredentialError::TryLater { reason: text(), after: None },
            CredentialError::Refused(text()),
            CredentialError::Broken(text()),
        ] {
            let told = hint(Failure::Credentials(error.clone()));
            assert!(!told.is_empty(), "{error:?}");
            assert_eq!(hint(Failure::Registry(error.into())), told);
        }
        // Advice to give up TLS or to choose another image only where it is the answer.
        let (text, registry) = (String::new, |error| hint(Failure::Registry(error)));
        assert!(registry(RegistryError::NotTls { host: text() }).contains("--plain-http"));
        assert_eq!(registry(RegistryError::Protocol { host: text(), reason: text() }), "");
        let missing = RegistryError::NoPlatform { what: text(), platform: text(), detail: text() };
        assert!(registry(missing).contains("--platform"));
        assert_eq!(registry(RegistryError::NotAnImage { what: text(), reason: text() }), "");
    }
}
