//! What a failure means to whoever called the process: its exit code (sysexits.h) and a hint. The one place for both.

use std::io;

use super::failure::Failure;
use crate::build::{BuildError, verify::VerifyError};
use crate::config::ConfigError;
use crate::credentials::CredentialError;
use crate::decode::DecodeError;
use crate::index::IndexError;
use crate::read::ReadError;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::vfs::VfsError;

/// Usage.
pub(super) const USAGE: u8 = 64;
/// Bad input: JSON, index, image.
pub(super) const DATA: u8 = 65;
/// Not found: image, blob, file, credentials.
pub(super) const NO_INPUT: u8 = 66;
/// Unknown host.
pub(super) const NO_HOST: u8 = 68;
/// Unavailable.
pub(super) const UNAVAILABLE: u8 = 69;
/// A bug.
pub(super) const SOFTWARE: u8 = 70;
/// Cannot create.
pub(super) const CANNOT_CREATE: u8 = 73;
/// Input or output.
pub(super) const IO: u8 = 74;
/// Try later.
pub(super) const TRY_LATER: u8 = 75;
/// Protocol or security refusal.
pub(super) const PROTOCOL: u8 = 76;
/// Denied.
pub(super) const DENIED: u8 = 77;
/// Configuration.
pub(super) const CONFIG: u8 = 78;
/// What mount(8) calls a failed mount.
pub(super) const MOUNT_FAILED: u8 = 32;

/// The exit code of a failure.
pub(super) fn code(failure: &Failure) -> u8 {
    match failure {
        Failure::Usage(_) | Failure::Reference(_) | Failure::NeedsImage(_) => USAGE,
        Failure::Config(error) => config(error),
        Failure::Registry(error) => registry(error),
        Failure::Index { source, .. } => index(source),
        Failure::OtherImage { .. } => DATA,
        Failure::Build(error) => build(error),
        Failure::Verify { source, .. } => verify(source),
        Failure::Store(error) => store(error),
        Failure::Path { source, .. } => path(*source),
        Failure::NotAFile(_) => DATA,
        Failure::Read { source, .. } => read(source),
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

fn config(error: &ConfigError) -> u8 {
    match error {
        ConfigError::Read { .. } | ConfigError::Parse { .. } | ConfigError::Value { .. } => CONFIG,
    }
}

fn registry(error: &RegistryError) -> u8 {
    match error {
        RegistryError::InvalidReference { .. } => USAGE,
        RegistryError::NotFound(_) => NO_INPUT,
        RegistryError::Denied { .. } => DENIED,
        RegistryError::Credentials(CredentialError::NotFound(_)) => NO_INPUT,
        RegistryError::Credentials(CredentialError::Denied { .. }) => DENIED,
        RegistryError::Credentials(CredentialError::Source(_)) => CONFIG,
        RegistryError::Credentials(CredentialError::Unavailable(_)) | RegistryError::Unavailable { .. } => {
            UNAVAILABLE
        }
        RegistryError::UnknownHost { .. } => NO_HOST,
        RegistryError::TooManyRequests { .. } => TRY_LATER,
        RegistryError::Protocol { .. } => PROTOCOL,
        RegistryError::Mismatch { .. } | RegistryError::NotAnImage { .. } => DATA,
        RegistryError::Io { source, .. } => io(source),
    }
}

fn index(error: &IndexError) -> u8 {
    match error {
        IndexError::Io(error) => io(error),
        IndexError::NotAnIndex
        | IndexError::Version { .. }
        | IndexError::Length { .. }
        | IndexError::Checksum(_)
        | IndexError::Invalid(_) => DATA,
    }
}

fn decode(error: &DecodeError) -> u8 {
    match error {
        DecodeError::Corrupt { .. }
        | DecodeError::Truncated { .. }
        | DecodeError::ChunkTooLong { .. }
        | DecodeError::TooLarge(_)
        | DecodeError::UnknownCompression(_)
        | DecodeError::Tar { .. } => DATA,
        DecodeError::Io(_) => IO,
    }
}

fn build(error: &BuildError) -> u8 {
    match error {
        BuildError::Fetch { source, .. } => registry(source),
        BuildError::Decode { source, .. } => decode(source),
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
        VerifyError::Compare(error) => index(error),
        VerifyError::Chunk { source, .. } => decode(source),
        VerifyError::OtherImage { .. }
        | VerifyError::Document(_)
        | VerifyError::ChunkDigest { .. }
        | VerifyError::Tree(_) => DATA,
    }
}

fn store(error: &StoreError) -> u8 {
    match error {
        StoreError::Open { .. } => CANNOT_CREATE,
        StoreError::Io { .. } => IO,
    }
}

fn path(error: VfsError) -> u8 {
    match error {
        VfsError::NotFound | VfsError::NoAttribute => NO_INPUT,
        VfsError::NotADirectory | VfsError::IsADirectory | VfsError::NotASymlink | VfsError::NameTooLong => {
            DATA
        }
    }
}

fn read(error: &ReadError) -> u8 {
    match error {
        ReadError::Registry(_, error) => registry(error),
        ReadError::Decode(_, error) => decode(error),
        ReadError::Mismatch(_) | ReadError::NoContent => DATA,
        ReadError::Deadline(_) | ReadError::Offline(_) => UNAVAILABLE,
        ReadError::Abandoned => SOFTWARE,
    }
}

fn io(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound => NO_INPUT,
        io::ErrorKind::PermissionDenied => DENIED,
        _ => IO,
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
        RegistryError::Denied { .. } => Some("the image may be private, or its name wrong"),
        RegistryError::UnknownHost { .. } => Some("check the registry's name and this machine's DNS"),
        RegistryError::TooManyRequests { .. } => Some("try again later"),
        RegistryError::Protocol { .. } => Some("for a registry without TLS, say --plain-http"),
        RegistryError::NotAnImage { .. } => Some("for another platform, say --platform OS/ARCH"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::oci::Digest;

    fn layer() -> Digest {
        Digest::of(b"layer")
    }

    #[test]
    fn failures_have_the_codes_of_the_contract() {
        let text = String::new;
        let denied = || RegistryError::Denied { host: text(), what: text(), reason: text() };
        let unavailable = || RegistryError::Unavailable { host: text(), reason: text() };
        let fetch = |source| Failure::Build(BuildError::Fetch { layer: layer(), source });
        let undecodable = |source| Failure::Build(BuildError::Decode { layer: layer(), source });
        let index = |source| Failure::Index { path: "/i".into(), source };
        let read = |source| Failure::Read { path: text(), source };
        let io = |kind: io::ErrorKind| io::Error::from(kind);
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
            (66, Failure::Registry(CredentialError::NotFound(text()).into())),
            (77, Failure::Registry(CredentialError::Denied { registry: text(), reason: text() }.into())),
            (78, Failure::Registry(CredentialError::Source(text()).into())),
            (69, Failure::Registry(CredentialError::Unavailable(text()).into())),
            (68, Failure::Registry(RegistryError::UnknownHost { host: text() })),
            (69, Failure::Registry(unavailable())),
            (75, Failure::Registry(RegistryError::TooManyRequests { host: text(), retry_after: None })),
            (76, Failure::Registry(RegistryError::Protocol { host: text(), reason: text() })),
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
            (74, Failure::Output(io(io::ErrorKind::StorageFull))),
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
    }
}
