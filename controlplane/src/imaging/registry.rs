//! At the registry: are these credentials accepted, and what is the image.

use std::sync::Arc;
use std::time::Duration;

use clipfs::credentials::in_process::InMemory;
use clipfs::credentials::{Anonymous, CredentialProvider};
use clipfs::oci::ImageSpec;
use clipfs::registry::{ImageSource, RegistryError, RegistryOptions, ResolvedImage, within};
use credplugin::ContainerRequest;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::mpsc;

use super::params::Wanted;
use super::progress::say;
use super::{Chosen, Event, ImagingError, ImagingOptions, ImagingStore, Inner};

/// Time to a connection: two lost SYNs. Somebody waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest silence of a registry: some take their time to find a blob.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(20);

/// Attempts per request.
const ATTEMPTS: u32 = 4;

impl<S: ImagingStore + ?Sized> Inner<S> {
    /// Opens the registry, shows it the credentials, and asks for the manifest. What it refuses is refused here, before anything is kept.
    pub(super) async fn find(
        &self,
        wanted: &Wanted,
        chosen: &Chosen,
        events: &mpsc::Sender<Event>,
    ) -> Result<(ImageSource, ResolvedImage), ImagingError> {
        let limit = self.options.try_limit;
        let found = tokio::time::timeout(limit, within(limit, self.ask(wanted, &chosen.document)));
        let (source, resolved) = found.await.map_err(|_| {
            ImagingError::Unavailable(format!(
                "{} did not answer within {} s",
                wanted.registry,
                limit.as_secs()
            ))
        })??;
        say(events, format!("found {}", resolved.name)).await;
        Ok((source, resolved))
    }

    async fn ask(
        &self,
        wanted: &Wanted,
        document: &SecretString,
    ) -> Result<(ImageSource, ResolvedImage), RegistryError> {
        let options = registry_options(&self.options, provider(document, &self.options));
        let source = ImageSource::open(&ImageSpec::Registry(wanted.reference.clone()), options).await?;
        source.authenticate().await?;
        let resolved = source.resolve(&wanted.platform).await?;
        Ok((source, resolved))
    }
}

/// Who answers for credentials: the document, or nobody, explicitly.
fn provider(document: &SecretString, options: &ImagingOptions) -> Arc<dyn CredentialProvider> {
    if document.expose_secret().is_empty() {
        return Arc::new(Anonymous);
    }
    let request = ContainerRequest { image_credentials: document.clone(), ..ContainerRequest::default() };
    Arc::new(InMemory::new(request, options.endpoints.clone()))
}

fn registry_options(options: &ImagingOptions, credentials: Arc<dyn CredentialProvider>) -> RegistryOptions {
    RegistryOptions {
        credentials,
        plain_http: options.plain_http,
        hosts_dir: options.hosts_dir.clone(),
        connect_timeout: CONNECT_TIMEOUT,
        progress_timeout: PROGRESS_TIMEOUT,
        attempts: ATTEMPTS,
        reach: options.private_registries.reach(),
    }
}
