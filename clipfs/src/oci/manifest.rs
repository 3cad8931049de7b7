//! Manifests, manifest lists and image configs (OCI image spec 1.1 and Docker schema 2).
//!
//! Parses bytes that come from anywhere: everything has a limit, and what is not an image says what it is.

use serde::Deserialize;

use super::Digest;
pub use super::platform::Platform;

mod keys;

/// Largest manifest or manifest list; what registries and containerd accept.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Largest image config. Configs hold a line of history per layer; real ones are some KiB.
pub const MAX_CONFIG: u64 = 8 << 20;
/// Most layers of an image. Docker stops at 127, overlayfs at 500; buildah and tools that merge can go further.
pub const MAX_LAYERS: usize = 1000;
/// Most entries of a manifest list.
pub const MAX_ENTRIES: usize = 10_000;
/// How deep manifest lists may be nested in each other, the outermost one included.
pub const MAX_NESTING: usize = 2;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A Docker layer that is not compressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// A pointer to a blob: what it is, how long, and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type as written in the manifest; empty if absent.
    pub media_type: String,
    /// Digest of the blob as stored (compressed).
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
}

/// One platform's image: its config and layers, lowest layer first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image config blob.
    pub config: Descriptor,
    /// Layers, base first.
    pub layers: Vec<Descriptor>,
}

/// What clipfs reads from an image config; the raw bytes are kept in the clip index as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Platform the image is for.
    pub platform: Platform,
    /// Digest of each layer's *plain* tar stream, base first; as many as the manifest has layers.
    pub diff_ids: Vec<Digest>,
}

/// One line of a manifest list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// The manifest, or a nested list.
    pub descriptor: Descriptor,
    /// Whom it is for; `None` = its config will tell.
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.ref.name`: the name inside an image layout.
    pub ref_name: Option<String>,
}

/// What a registry serves under a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Image(Manifest),
    /// A manifest list (an OCI image index).
    List(Vec<ListEntry>),
}

/// Why a document is not an image that can be mounted.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct NotAnImage(pub String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
    blobs: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: Option<String>,
    digest: Digest,
    size: u64,
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl RawPlatform {
    fn normalised(&self) -> Platform {
        Platform::normalised(&self.os, &self.architecture, self.variant.as_deref().unwrap_or(""))
    }
}

impl RawDescriptor {
    fn descriptor(self) -> Result<Descriptor, NotAnImage> {
        if i64::try_from(self.size).is_err() {
            return Err(NotAnImage(format!("the size of {} is not one", self.digest)));
        }
        Ok(Descriptor {
            media_type: self.media_type.unwrap_or_default(),
            digest: self.digest,
            size: self.size,
        })
    }
}

impl Document {
    /// Parses a manifest or a manifest list. `served_as` is the `Content-Type` it came with, used only when the document
    /// does not say itself what it is.
    ///
    /// # Errors
    /// Anything that is not an image: schema 1, artifacts, foreign or encrypted layers, over a limit, malformed.
    pub fn parse(bytes: &[u8], served_as: Option<&str>) -> Result<Self, NotAnImage> {
        let refuse = |reason: &str| Err(NotAnImage(reason.to_owned()));
        if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_MANIFEST) {
            return refuse("the manifest is larger than 4 MiB");
        }
        let raw: RawDocument = serde_json::from_slice(bytes)
            .map_err(|e| NotAnImage(format!("the manifest is malformed: {}", printable(&e.to_string()))))?;
        keys::check(bytes, "its manifest is ambiguous", &keys::DOCUMENT)?;
        let served_as = served_as.map(|s| s.split(';').next().unwrap_or("").trim());
        let media_type = raw.media_type.as_deref().or(served_as).unwrap_or("");
        if raw.schema_version == Some(1)
            || raw.fs_layers.is_some()
            || media_type.contains("manifest.v1+") && raw.schema_version != Some(2)
        {
            return refuse(
                "it has a Docker schema 1 manifest, which has no verifiable layers: push it again with a current tool",
            );
        }
        if raw.schema_version != Some(2) {
            return refuse("its manifest does not say schemaVersion 2");
        }
        match (raw.manifests, raw.config, raw.layers) {
            // A document that is both would be read differently by different tools.
            (Some(_), None, None) if matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST) => {
                refuse("its manifest says it is one image and lists several")
            }
            (Some(entries), None, None) => Self::list(entries),
            (None, Some(_), Some(_)) if matches!(media_type, OCI_INDEX | DOCKER_LIST) => {
                refuse("its manifest says it is a list and has layers")
            }
            (None, Some(config), Some(layers)) => {
                Manifest::from_raw(config, layers, raw.artifact_type.as_deref()).map(Self::Image)
            }
            (Some(_), _, _) => refuse("its manifest has both layers and manifests"),
            _ if raw.blobs.is_some() || raw.artifact_type.is_some() => {
                refuse("it is an artifact, not an image")
            }
            _ => refuse("its manifest has no config or no layers"),
        }
    }

    fn list(entries: Vec<RawDescriptor>) -> Result<Self, NotAnImage> {
        if entries.len() > MAX_ENTRIES {
            return Err(NotAnImage(format!(
                "its manifest list has {} entries, more than {MAX_ENTRIES}",
                entries.len()
            )));
        }
        let entry = |mut raw: RawDescriptor| {
            let platform = raw.platform.as_ref().map(RawPlatform::normalised);
            let ref_name =
                raw.annotations.take().and_then(|mut a| a.remove("org.opencontainers.image.ref.name"));
            Ok(ListEntry { descriptor: raw.descriptor()?, platform, ref_name })
        };
        entries.into_iter().map(entry).collect::<Result<_, _>>().map(Self::List)
    }
}

/// The entries that may hold an image for `want`, best first: by platform, then those that do not name one, each group in
/// the order of the list.
#[must_use]
pub fn candidates<'a>(entries: &'a [ListEntry], want: &Platform) -> Vec<&'a ListEntry> {
    let mut ranked: Vec<(usize, &ListEntry)> = entries
        .iter()
        .filter_map(|entry| match &entry.platform {
            Some(platform) => want.rank(platform).map(|rank| (rank, entry)),
            None => Some((usize::MAX, entry)),
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, entry)| entry).collect()
}

impl Manifest {
    fn from_raw(
        config: RawDescriptor,
        layers: Vec<RawDescriptor>,
        artifact_type: Option<&str>,
    ) -> Result<Self, NotAnImage> {
        let config_type = config.media_type.as_deref().unwrap_or("");
        if !matches!(config_type, "" | OCI_CONFIG | DOCKER_CONFIG) {
            let kind = artifact_type.unwrap_or(config_type);
            return Err(NotAnImage(format!("it is an artifact of type {}, not an image", printable(kind))));
        }
        if layers.len() > MAX_LAYERS {
            return Err(NotAnImage(format!("it has {} layers, more than {MAX_LAYERS}", layers.len())));
        }
        if config.size > MAX_CONFIG {
            return Err(NotAnImage(format!("its config of {} bytes is larger than 8 MiB", config.size)));
        }
        let layers = layers.into_iter().map(RawDescriptor::descriptor).collect::<Result<Vec<_>, _>>()?;
        for layer in &layers {
            check_layer_type(layer)?;
        }
        Ok(Self { config: config.descriptor()?, layers })
    }

    /// Checks that the config belongs to this manifest: one diff_id per layer.
    ///
    /// # Errors
    /// The numbers differ.
    pub fn check_config(&self, config: &ImageConfig) -> Result<(), NotAnImage> {
        let (layers, diff_ids) = (self.layers.len(), config.diff_ids.len());
        if layers == diff_ids {
            return Ok(());
        }
        Err(NotAnImage(format!("its manifest has {layers} layers, its config {diff_ids}")))
    }
}

fn check_layer_type(layer: &Descriptor) -> Result<(), NotAnImage> {
    let kind = layer.media_type.as_str();
    let refuse = |why: &str| Err(NotAnImage(format!("layer {} {why}", layer.digest)));
    if kind.contains("nondistributable") || kind.contains(".foreign.") {
        return refuse("is a foreign layer, which registries do not hold");
    }
    if kind.contains("encrypted") {
        return refuse("is encrypted");
    }
    let known = kind.is_empty()
        || kind.starts_with("application/vnd.oci.image.layer.v1.tar")
        || kind.starts_with(DOCKER_LAYER);
    if known { Ok(()) } else { refuse(&format!("has the type {}, not a tar", printable(kind))) }
}

impl ImageConfig {
    /// Parses an image config.
    ///
    /// # Errors
    /// Malformed JSON, no or odd diff_ids, over a limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAnImage> {
        #[derive(Deserialize)]
        struct RawConfig {
            #[serde(flatten)]
            platform: RawPlatform,
            rootfs: Option<RawRootfs>,
        }
        #[derive(Deserialize)]
        struct RawRootfs {
            #[serde(rename = "type")]
            kind: Option<String>,
            #[serde(default)]
            diff_ids: Option<Vec<Digest>>,
        }
        if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_CONFIG) {
            return Err(NotAnImage("its config is larger than 8 MiB".into()));
        }
        let raw: RawConfig = serde_json::from_slice(bytes)
            .map_err(|e| NotAnImage(format!("its config is malformed: {}", printable(&e.to_string()))))?;
        keys::check(bytes, "its config is ambiguous", &keys::CONFIG)?;
        let rootfs = raw.rootfs.ok_or_else(|| NotAnImage("its config has no rootfs".into()))?;
        if rootfs.kind.as_deref().is_some_and(|kind| kind != "layers") {
            return Err(NotAnImage("its config's rootfs is not made of layers".into()));
        }
        let diff_ids = rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > MAX_LAYERS {
            return Err(NotAnImage(format!(
                "its config has {} layers, more than {MAX_LAYERS}",
                diff_ids.len()
            )));
        }
        Ok(Self { platform: raw.platform.normalised(), diff_ids })
    }
}

/// Foreign text fit for an error message.
fn printable(text: &str) -> String {
    super::printable::printable(text, '?', 200)
}

#[cfg(test)]
mod tests;
