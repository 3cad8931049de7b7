//! An image that servers hand out, a provider whose secret can be changed, and a client with the patience of tests.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clipfs::credentials::provider::{Answer, AnswerFuture};
use clipfs::credentials::{Credential, CredentialError, CredentialProvider, CredentialRequest};
use clipfs::oci::{Descriptor, Digest, Platform};
use clipfs::registry::{ImageSource, Reach, RegistryOptions};
use fixtures::content::Content;
use fixtures::secret::Traces;

use crate::server::{Reply, Seen};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn amd64() -> Platform {
    Platform::parse("linux/amd64").unwrap()
}

/// The name that a secret has in logs of servers; it has the mark by which sweeps find it.
pub(crate) fn planted(name: &str) -> String {
    fixtures::secret::secret(name)
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(crate) fn login(user: &str, password: &str) -> Credential {
    Credential::Basic { username: user.into(), password: password.into() }
}

/// An image of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) layer: Arc<Vec<u8>>,
    config: String,
    manifest: String,
}

impl Image {
    pub(crate) fn new(size: usize) -> Self {
        let layer = Content::bytes(7, size);
        let digest = Digest::of(&layer);
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{size}}}]}}"#,
            Digest::of(config.as_bytes()),
            config.len()
        );
        Self { layer: Arc::new(layer), config, manifest }
    }

    pub(crate) fn blob(&self) -> Descriptor {
        let size = u64::try_from(self.layer.len()).unwrap();
        Descriptor { media_type: String::new(), digest: Digest::of(&self.layer), size }
    }

    pub(crate) fn manifest_digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    /// What a registry without faults answers; the path may have anything before the digest.
    pub(crate) fn answer(&self, request: &Seen) -> Reply {
        if request.path().contains("/manifests/") {
            return Reply::new(200, self.manifest.as_bytes())
                .with("content-type", OCI_MANIFEST)
                .with("docker-content-digest", self.manifest_digest().to_string());
        }
        let blobs: [&[u8]; 2] = [&self.layer, self.config.as_bytes()];
        let Some(blob) = blobs.into_iter().find(|b| request.path().ends_with(&Digest::of(b).to_string()))
        else {
            return Reply::new(404, "");
        };
        let range = request.header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        let Some((first, last)) = range else { return Reply::new(200, blob) };
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        Reply::new(206, &blob[first..=last])
            .with("content-range", format!("bytes {first}-{last}/{}", blob.len()))
    }
}

/// A provider whose source can be changed under it.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    inner: Arc<Inner>,
    /// Every test has a source or a server: at its end, nothing secret was logged.
    _traces: Traces,
}

#[derive(Debug)]
struct Inner {
    registry: String,
    credential: Mutex<Credential>,
    version: AtomicU64,
    asked: AtomicUsize,
}

impl Source {
    pub(crate) fn new(registry: &str, credential: Credential) -> Self {
        let inner = Inner {
            registry: registry.into(),
            credential: Mutex::new(credential),
            version: AtomicU64::new(0),
            asked: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner), _traces: Traces::install() }
    }

    pub(crate) fn change(&self, credential: Credential) {
        *self.inner.credential.lock().unwrap() = credential;
        self.inner.version.fetch_add(1, SeqCst);
    }

    pub(crate) fn asked(&self) -> usize {
        self.inner.asked.load(SeqCst)
    }
}

impl CredentialProvider for Source {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            if request.registry != self.inner.registry {
                let reason = format!("there are some for {} only", self.inner.registry);
                return Err(CredentialError::NotFound { registry: request.registry.clone(), reason });
            }
            self.inner.asked.fetch_add(1, SeqCst);
            Ok(Answer { credential: self.inner.credential.lock().unwrap().clone(), valid_for: None })
        })
    }

    fn version(&self) -> u64 {
        self.inner.version.load(SeqCst)
    }

    fn refused(&self, _: &CredentialRequest) {}
}

pub(crate) async fn open(reference: &str, credentials: impl CredentialProvider + 'static) -> ImageSource {
    open_with(reference, credentials, None).await
}

pub(crate) async fn open_with(
    reference: &str,
    credentials: impl CredentialProvider + 'static,
    hosts_dir: Option<PathBuf>,
) -> ImageSource {
    let options = RegistryOptions {
        credentials: Arc::new(credentials),
        plain_http: false,
        hosts_dir,
        connect_timeout: Duration::from_secs(10),
        progress_timeout: Duration::from_secs(20),
        attempts: 2,
        reach: Reach::Anywhere,
    };
    ImageSource::open(&reference.parse().unwrap(), options).await.unwrap()
}
