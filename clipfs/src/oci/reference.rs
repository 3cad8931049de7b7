//! How a user names an image.

use std::path::PathBuf;

use super::Digest;

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
