//! What every command works with: settings, platform, and the way from an argument to an opened index.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::args::SourceArgs;
use super::failure::Failure;
use super::progress;
use super::request::Request;
use crate::build::{self, BuildOptions};
use crate::config::Settings;
use crate::credentials::{CredentialError, CredentialProvider, CredentialSource, PluginSpec, exec, harden};
use crate::index::ClipIndex;
use crate::oci::{Digest, ImageSpec, Platform};
use crate::registry::{ImageSource, Reach, RegistryError, RegistryOptions, ResolvedImage, within};

/// Time to a connection: three lost SYNs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest silence of a registry: some take their time to find a blob.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(20);

/// Attempts per request: with the backoff between them about half a minute, as long as people wait.
const ATTEMPTS: u32 = 5;

/// Longest wait for credentials where nobody waits for a mount: a plugin that takes all of its minute, and another attempt.
const AUTHENTICATE: Duration = Duration::from_secs(90);

/// Settings, resolved, and who answers for credentials.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) platform: Platform,
    pub(super) credentials: Arc<dyn CredentialProvider>,
    /// Where its answers come from, to be told to other processes.
    pub(super) source: CredentialSource,
    /// The request, where it is in memory only.
    pub(super) held_request: Option<OwnedFd>,
}

/// An `IMAGE|FILE.clip` argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// An image somewhere.
    Image(ImageSpec),
    /// A clip index.
    File(PathBuf),
}

impl Target {
    /// What ends in `.clip` or looks like a path is a file; `docker://` before it makes it an image.
    pub(super) fn parse(argument: &str) -> Result<Self, Failure> {
        let is_path = ["/", "./", "../"].iter().any(|prefix| argument.starts_with(prefix));
        if is_path || (argument.ends_with(".clip") && !argument.contains("://")) {
            return Ok(Self::File(argument.into()));
        }
        Ok(Self::Image(ImageSpec::parse(argument)?))
    }
}

/// An index, opened, and where its image is.
#[derive(Debug)]
pub(super) struct OpenedImage {
    pub(super) index: Arc<ClipIndex>,
    pub(super) path: PathBuf,
    /// `None`: a file of which nobody said where its image is.
    pub(super) source: Option<ImageSource>,
    /// Reference with digest, for people.
    pub(super) name: String,
}

impl Context {
    /// Opens the source of credentials, for commands that may need one: what is wrong with it is told before anything else
    /// is done. Blocking.
    pub(super) fn new(settings: Settings, args: Option<&SourceArgs>) -> Result<Self, Failure> {
        let platform = args.and_then(|args| args.platform.clone()).unwrap_or_else(Platform::host);
        let (mut source, mut held_request) = (CredentialSource::default(), None);
        if let Some(args) = args {
            let request = args.request.as_deref();
            if request.is_some() || settings.credential_plugin.is_some() {
                harden();
            }
            source.plugin = settings.credential_plugin.as_ref().map(find_plugin).transpose()?;
            source.plugin_env.clone_from(&settings.credential_plugin_env);
            source.endpoints = settings.endpoints.clone();
            if let Some(request) = request.map(Request::take).transpose()? {
                source.request = Some(request.path);
                held_request = request.held;
            }
        }
        let credentials = source.open().map_err(|error| match (error, &source.request, args) {
            // By the name that it was given by.
            (CredentialError::Malformed(text), Some(path), Some(SourceArgs { request: Some(named), .. }))
                if held_request.is_some() =>
            {
                let named = if named == Path::new("-") { Path::new("standard input") } else { named };
                let text = text.replace(&path.display().to_string(), &named.display().to_string());
                CredentialError::Malformed(text)
            }
            (error, ..) => error,
        })?;
        Ok(Self { settings, platform, credentials, source, held_request })
    }

    /// How registries are reached.
    pub(super) fn registry_options(&self) -> RegistryOptions {
        RegistryOptions {
            credentials: self.credentials.clone(),
            plain_http: self.settings.plain_http,
            hosts_dir: self.settings.hosts_dir.clone(),
            connect_timeout: CONNECT_TIMEOUT,
            progress_timeout: PROGRESS_TIMEOUT,
            attempts: ATTEMPTS,
            reach: Reach::Anywhere,
        }
    }

    /// Opens the place where an image is.
    pub(super) async fn source(&self, spec: &ImageSpec) -> Result<ImageSource, Failure> {
        if self.source.request.is_some() && !matches!(spec, ImageSpec::Registry(_)) {
            tracing::warn!("{spec} is on this machine: the request's credentials are not used");
        }
        Ok(ImageSource::open(spec, self.registry_options()).await?)
    }

    /// Finds an image. Its credentials are asked for first: those that cannot be used are an error before anything is sent,
    /// even where the registry would let us in without any. That costs no round trip: they would be asked for after the
    /// registry's challenge otherwise.
    pub(super) async fn resolve(&self, source: &ImageSource) -> Result<ResolvedImage, RegistryError> {
        self.authenticate(source, AUTHENTICATE).await?;
        source.resolve(&self.platform).await
    }

    /// Asks for the credentials of an image, attempts and all, for at most `limit`. Silence until then is an error of the
    /// credentials, never of the registry: nobody has said that they are good.
    pub(super) async fn authenticate(
        &self,
        source: &ImageSource,
        limit: Duration,
    ) -> Result<(), RegistryError> {
        let asked = tokio::time::timeout(limit, within(limit, source.authenticate())).await;
        asked.unwrap_or_else(|_| Err(self.source.silent(limit).into()))
    }

    /// Where the index of an image is kept.
    pub(super) fn cached_index(&self, manifest: &Digest) -> PathBuf {
        self.settings.cache_dir.join("index").join(format!("{manifest}.clip"))
    }

    /// Creates the directory of [`Context::cached_index`].
    pub(super) fn create_index_dir(&self) -> Result<(), Failure> {
        let path = self.settings.cache_dir.join("index");
        let created = DirBuilder::new().recursive(true).mode(0o755).create(&path);
        created.map_err(|source| Failure::Create { path, source })
    }

    /// The cached index of a manifest, if there is a good one.
    pub(super) fn find_cached(&self, manifest: &Digest) -> Option<(PathBuf, ClipIndex)> {
        let path = self.cached_index(manifest);
        match ClipIndex::open(&path) {
            Ok(index) if index.manifest_digest() == *manifest => Some((path, index)),
            Ok(_) => {
                tracing::warn!(path = %path.display(), "cached index is for another image, building it again");
                None
            }
            Err(crate::index::IndexError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cached index cannot be used, building it again");
                None
            }
        }
    }

    /// Opens an index file.
    pub(super) fn open_index(path: &Path) -> Result<ClipIndex, Failure> {
        ClipIndex::open(path).map_err(|source| Failure::Index { path: path.to_owned(), source })
    }

    /// The index of a resolved image: from the cache, else built.
    pub(super) async fn index_of(
        &self,
        source: &ImageSource,
        image: &ResolvedImage,
    ) -> Result<(PathBuf, ClipIndex), Failure> {
        if let Some(found) = self.find_cached(&image.manifest_digest) {
            return Ok(found);
        }
        self.create_index_dir()?;
        let path = self.cached_index(&image.manifest_digest);
        let progress = progress::for_stderr("indexing");
        let built = build::index_image(source, image, &path, self.build_options()?, progress).await?;
        let index = Self::open_index(&built.path)?;
        Ok((built.path, index))
    }

    /// How indexes are built.
    pub(super) fn build_options(&self) -> Result<BuildOptions, Failure> {
        let chunk = u32::try_from(self.settings.chunk_size.0)
            .ok()
            .filter(|chunk| (build::MIN_CHUNK..=build::MAX_CHUNK_OPTION).contains(chunk))
            .ok_or_else(|| {
                let (min, max) = (build::MIN_CHUNK >> 10, build::MAX_CHUNK_OPTION >> 20);
                Failure::Usage(format!(
                    "chunks may have {min} KiB to {max} MiB, not {}",
                    self.settings.chunk_size
                ))
            })?;
        Ok(BuildOptions { chunk, ..BuildOptions::default() })
    }

    /// From argument to index: a file as it is, an image by its manifest, the cache or a build. `image` says where a
    /// file's image is.
    pub(super) async fn open(&self, target: &str, image: Option<&str>) -> Result<OpenedImage, Failure> {
        match Target::parse(target)? {
            Target::Image(_) if image.is_some() => {
                Err(Failure::Usage("--image goes with a FILE.clip, not with an image".to_owned()))
            }
            Target::Image(spec) => self.open_image(&spec).await,
            Target::File(path) => {
                let index = Self::open_index(&path)?;
                let (source, name) = match image {
                    Some(image) => {
                        let spec = ImageSpec::parse(image)?;
                        let source = self.source(&spec).await?;
                        self.authenticate(&source, AUTHENTICATE).await?;
                        (Some(source), pinned_name(&spec, &index.manifest_digest()))
                    }
                    None => (None, index.manifest_digest().to_string()),
                };
                Ok(OpenedImage { index: Arc::new(index), path, source, name })
            }
        }
    }

    async fn open_image(&self, spec: &ImageSpec) -> Result<OpenedImage, Failure> {
        let source = self.source(spec).await?;
        let (path, index) = match self.resolve(&source).await {
            Ok(image) => self.index_of(&source, &image).await?,
            Err(error) => self.offline(spec, &error).ok_or(error)?,
        };
        let name = pinned_name(spec, &index.manifest_digest());
        Ok(OpenedImage { index: Arc::new(index), path, source: Some(source), name })
    }

    /// The cached index of an image whose registry cannot be asked: only if the reference names the manifest itself. A
    /// tag may have moved.
    pub(super) fn offline(&self, spec: &ImageSpec, error: &RegistryError) -> Option<(PathBuf, ClipIndex)> {
        match spec {
            ImageSpec::Registry(reference) if is_away(error) => self.find_cached(&reference.digest?),
            _ => None,
        }
    }
}

/// Whether a registry is away now, as opposed to refusing us. Credentials that cannot be had are no such absence: who may not
/// ask the registry gets nothing from the cache instead.
pub(super) fn is_away(error: &RegistryError) -> bool {
    !error.is_permanent() && !matches!(error, RegistryError::Credentials(_))
}

/// A plugin by its absolute path: bare names of programs are looked for now, so that every later process runs the same one.
fn find_plugin(plugin: &PluginSpec) -> Result<PluginSpec, Failure> {
    let path = match plugin {
        PluginSpec::Clipfs(path) | PluginSpec::Docker(path) | PluginSpec::Kubelet(path) => {
            exec::find_program(path)?
        }
        PluginSpec::DockerConfig(path) | PluginSpec::ContainersAuth(path) => {
            std::path::absolute(path).map_err(|source| Failure::Create { path: path.clone(), source })?
        }
    };
    Ok(plugin.with_path(path))
}

/// A reference with the digest of its manifest: what was meant and what it is.
pub(super) fn pinned_name(spec: &ImageSpec, manifest: &Digest) -> String {
    match spec {
        ImageSpec::Registry(reference) => {
            let mut pinned = reference.clone();
            pinned.digest = Some(*manifest);
            pinned.to_string()
        }
        local => format!("{local}@{manifest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_images_are_told_apart() {
        for file in ["a.clip", "/x/a.clip", "./alpine", "../a", "/var/cache/clipfs/index/sha256:00.clip"] {
            assert_eq!(Target::parse(file).unwrap(), Target::File(file.into()), "{file}");
        }
        for image in [
            "alpine",
            "docker://host.example/a.clip",
            "oci:/dir",
            "oci-archive:/a.tar",
            "host.example:5000/a:b",
        ] {
            assert!(matches!(Target::parse(image).unwrap(), Target::Image(_)), "{image}");
        }
        assert!(matches!(Target::parse("UPPER/Case"), Err(Failure::Reference(_))));
    }

    #[test]
    fn names_carry_the_digest_once() {
        let digest = Digest::of(b"manifest");
        let table = [
            ("alpine", format!("docker.io/library/alpine:latest@{digest}")),
            (&format!("host.example/a@{digest}"), format!("host.example/a@{digest}")),
            ("oci:/dir:x", format!("oci:/dir:x@{digest}")),
        ];
        for (image, name) in table {
            assert_eq!(pinned_name(&ImageSpec::parse(image).unwrap(), &digest), name);
        }
    }
}
