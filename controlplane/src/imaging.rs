//! Build time: tries an image's credentials, builds its clip index, keeps both.
//!
//! ```text
//! parameters ─► replay? ─► which credentials ─► tried at the registry ─► manifest ─► index: kept already, or built ─► pieces ─► image + secret
//!  (INVALID_ARGUMENT)      given, named, linked    (INVALID_ARGUMENT,                                                    (one transaction)
//!                          before, or none          UNAVAILABLE, …)
//! ```
//!
//! Nothing is stored before the registry has accepted the credentials and given the manifest. Image, link and secret are one transaction.
//! What a cancelled or failed build leaves are at most pieces of an index that no image has, which housekeeping deletes.
//!
//! **Which credentials.** Those that are given (`base_image_creds`) become the workspace's one secret for that registry: made, or rotated
//! for every image that uses it. Names (`credential_secrets`) are kept as names; the name of the workspace's secret for the image's own
//! registry links that one. Neither: an image that exists keeps what it has, if it is still of the same registry; a new one is anonymous,
//! explicitly, also where the workspace has a secret for the registry (who wants that names it). Credentials that were given and are all
//! empty are refused, and never mean anonymous.
//!
//! **Whose index.** An index is a function of its manifest, so one that is kept is used again: of the workspace's own images, and of
//! others' only where they come from the very repository that has just shown the manifest to *these* credentials. Nobody else could
//! vouch that they may read what the index tells of the layers.
//!
//! | module | does |
//! | --- | --- |
//! | `params` | what is wanted, checked |
//! | `registry` | opening, trying, resolving |
//! | `workshop` | where indexes are built: few at a time, in directories that do not outlive their build |
//! | `progress` | what is told meanwhile |
//! | `keep` | the database |
//! | `error` | what can go wrong, by what it means to the caller |

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clipfs::oci::{ImageSpec, Reference};
use clipfs::registry::Reach;
use credplugin::{CredentialMap, Endpoints};
use secrecy::SecretString;
use tokio::sync::mpsc;

use crate::credentials::Credentials;
use crate::model::{Image, ImageCredentialSource, Time, WorkspaceId};
use crate::store::{Audit, Change, DataKeys, ImageLookups, Images, Indexes, Secrets, Store, Workspaces};

mod error;
mod keep;
mod params;
mod progress;
mod registry;
mod workshop;

pub use error::ImagingError;
pub use params::{CreateParams, derived_image_id};
pub use progress::Event;

use keep::Keep;
use params::{Credentials as Given, Wanted};
use progress::say;
use workshop::Workshop;

/// Whether tenants may name registries on this machine and in private networks. Link-local addresses and clouds' metadata services are never
/// asked, whatever is set; registries that the operator has named in `hosts.toml` always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrivateRegistries {
    /// For a control plane that only this machine can reach.
    Allow,
    /// For all others: a tenant must not look around in the network of the control plane.
    Refuse,
}

impl PrivateRegistries {
    const fn reach(self) -> Reach {
        match self {
            Self::Allow => Reach::Private,
            Self::Refuse => Reach::Public,
        }
    }
}

/// How images are made.
#[derive(Debug, Clone)]
pub struct ImagingOptions {
    /// Where indexes are built; made if it is missing. Holds nothing of value.
    pub dir: PathBuf,
    /// Builds at a time.
    pub builds: usize,
    /// Distance between an index's checkpoints in plain bytes.
    pub chunk: u32,
    /// Who may be asked.
    pub private_registries: PrivateRegistries,
    /// The operator's own token endpoints.
    pub endpoints: Endpoints,
    /// containerd's `certs.d`: mirrors, CA files, client certificates.
    pub hosts_dir: Option<PathBuf>,
    /// Plain http also to registries that are not on this machine.
    pub plain_http: bool,
    /// Longest time to hear from a registry whether it accepts credentials, and its manifest.
    pub try_limit: Duration,
    /// Longest time of a build.
    pub build_limit: Duration,
}

impl ImagingOptions {
    /// Two builds at a time, in a directory; private registries refused.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            builds: 2,
            chunk: clipfs::build::BuildOptions::default().chunk,
            private_registries: PrivateRegistries::Refuse,
            endpoints: Endpoints::default(),
            hosts_dir: None,
            plain_http: false,
            try_limit: Duration::from_secs(60),
            build_limit: Duration::from_secs(2 * 3600),
        }
    }
}

/// The repositories that images are made with.
pub trait ImagingStore:
    Workspaces + DataKeys + Secrets + Images + ImageLookups + Indexes + Audit + std::fmt::Debug
{
}

impl<S> ImagingStore for S where
    S: Workspaces + DataKeys + Secrets + Images + ImageLookups + Indexes + Audit + std::fmt::Debug + ?Sized
{
}

/// Makes images. Cheap to clone.
#[derive(Debug)]
pub struct Imaging<S: ?Sized = dyn Store>(Arc<Inner<S>>);

impl<S: ?Sized> Clone for Imaging<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<S: ?Sized> {
    credentials: Credentials<S>,
    options: ImagingOptions,
    workshop: Workshop,
}

/// What pulls the image, before it is known whether it does.
struct Chosen {
    /// `image_credentials`; empty: anonymous, explicitly.
    document: SecretString,
    keep: Keep,
}

impl<S: ImagingStore + ?Sized> Imaging<S> {
    /// Opens the workshop and clears it of what builds left that died.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(credentials: Credentials<S>, options: ImagingOptions) -> std::io::Result<Self> {
        let workshop = Workshop::open(&options.dir, options.builds)?;
        Ok(Self(Arc::new(Inner { credentials, options, workshop })))
    }

    /// Makes an image, new or again. `change` says for whom; its target is replaced by one that names the image. Failures are noted in the
    /// audit. Who drops the future cancels it.
    ///
    /// # Errors
    /// See [`ImagingError`].
    pub async fn create(
        &self,
        change: &Change<'_>,
        params: CreateParams,
        events: &mpsc::Sender<Event>,
    ) -> Result<Image, ImagingError> {
        let made = match Wanted::parse(params) {
            Ok(wanted) => {
                let target = format!("image {} of {}", wanted.image_id, wanted.reference);
                let change = Change { target: &target, ..*change };
                Box::pin(self.0.make(&change, wanted, events)).await.map_err(|error| (target, error))
            }
            Err(error) => Err(("an image".to_owned(), error)),
        };
        match made {
            Ok(image) => Ok(image),
            Err((target, error)) => {
                let change = Change { target: &target, ..*change };
                let noted = self.0.credentials.store.note(&change, &error.for_audit()).await;
                if let Err(unnoted) = noted {
                    tracing::error!(%target, error = %unnoted, "a failure is not in the audit");
                }
                Err(error)
            }
        }
    }
}

impl<S: ImagingStore + ?Sized> Inner<S> {
    async fn make(
        &self,
        change: &Change<'_>,
        wanted: Wanted,
        events: &mpsc::Sender<Event>,
    ) -> Result<Image, ImagingError> {
        let workspace =
            change.workspace.ok_or_else(|| ImagingError::Invalid("no workspace is named".into()))?;
        let store = &self.credentials.store;
        if let Some(image) = store.made_image(change).await? {
            return Ok(image);
        }
        let before = store.image(workspace, &wanted.image_id).await?;
        let chosen = self.choose(workspace, &wanted, before.as_ref(), events).await?;
        let (source, resolved) = self.find(&wanted, &chosen, events).await?;
        let work = self.workshop.enter(events).await?;
        let index = self.index(workspace, &wanted, &source, &resolved, &work, events).await?;
        let image = Image {
            image_id: wanted.image_id,
            workspace_id: workspace.clone(),
            base_image: wanted.base_image,
            registry: wanted.registry,
            digest: resolved.manifest_digest.to_string(),
            platform: resolved.config.platform.to_string(),
            credentials: ImageCredentialSource::Anonymous,
            index_digest: index.info.index_digest.clone(),
            image_bytes: resolved.manifest.layers.iter().map(|layer| layer.size).sum(),
            index_bytes: index.info.index_bytes,
            files: index.files,
            // Set by the store.
            create_time: Time(0),
            update_time: Time(0),
        };
        self.keep(change, image, chosen, &index, events).await
    }

    /// Decides what pulls the image.
    async fn choose(
        &self,
        workspace: &WorkspaceId,
        wanted: &Wanted,
        before: Option<&Image>,
        events: &mpsc::Sender<Event>,
    ) -> Result<Chosen, ImagingError> {
        let registry = &wanted.registry;
        let source = match &wanted.credentials {
            Given::Values(values) => {
                let map: CredentialMap =
                    values.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
                let kind = credplugin::check_as(registry, None, &map, &self.options.endpoints)
                    .map_err(|error| ImagingError::Invalid(error.message))?;
                say(events, format!("trying credentials of type {kind} at {registry}")).await;
                let document = credplugin::marshal_credentials(registry, kind, &map);
                return Ok(Chosen { keep: Keep::Secret, document });
            }
            Given::Named(names) => match self.linked_by_name(workspace, wanted, names).await? {
                Some(source) => source,
                None => ImageCredentialSource::Named(names.clone()),
            },
            Given::Nothing => match before {
                Some(image) if image.registry == *registry => image.credentials.clone(),
                _ => ImageCredentialSource::Anonymous,
            },
        };
        match &source {
            ImageCredentialSource::Secret { name, .. } => {
                say(events, format!("trying the secret {name} at {registry}")).await;
            }
            ImageCredentialSource::Named(names) => {
                say(events, format!("trying the secrets {} at {registry}", names.join(", "))).await;
            }
            ImageCredentialSource::Anonymous => self.say_anonymous(workspace, wanted, events).await?,
        }
        let image = probe(workspace, wanted, source.clone());
        let document = self.credentials.of_image(&image).await?;
        Ok(Chosen { document, keep: Keep::Source(source) })
    }

    /// The link that names mean which are one: that of the workspace's secret for this registry.
    async fn linked_by_name(
        &self,
        workspace: &WorkspaceId,
        wanted: &Wanted,
        names: &[String],
    ) -> Result<Option<ImageCredentialSource>, ImagingError> {
        let [name] = names else { return Ok(None) };
        let rows = self.credentials.store.secrets_named(workspace, name).await?;
        // A plain value of that name is what the name means everywhere else.
        if rows.iter().any(|row| row.secret.registry.is_empty()) {
            return Ok(None);
        }
        let row = rows.into_iter().find(|row| row.secret.registry == wanted.registry);
        Ok(row.map(|row| ImageCredentialSource::Secret { name: row.secret.name, id: row.secret.secret_id }))
    }

    async fn say_anonymous(
        &self,
        workspace: &WorkspaceId,
        wanted: &Wanted,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), ImagingError> {
        let registry = &wanted.registry;
        let unused = self.credentials.store.secret_for_registry(workspace, registry).await?;
        let hint = unused.map_or_else(String::new, |row| {
            format!(
                "; the workspace has the secret {}: name it in credential_secrets to use it",
                row.secret.name
            )
        });
        say(events, format!("no credentials are given: asking {registry} anonymously{hint}")).await;
        Ok(())
    }
}

/// What [`Credentials::of_image`] needs to know of an image that is not made yet.
fn probe(workspace: &WorkspaceId, wanted: &Wanted, credentials: ImageCredentialSource) -> Image {
    Image {
        image_id: wanted.image_id.clone(),
        workspace_id: workspace.clone(),
        base_image: wanted.base_image.clone(),
        registry: wanted.registry.clone(),
        digest: String::new(),
        platform: wanted.platform.to_string(),
        credentials,
        index_digest: String::new(),
        image_bytes: 0,
        index_bytes: 0,
        files: 0,
        create_time: Time(0),
        update_time: Time(0),
    }
}

/// Whether a reference, as an image has it, is of the same repository.
fn is_same_repository(base_image: &str, reference: &Reference) -> bool {
    matches!(ImageSpec::parse(base_image), Ok(ImageSpec::Registry(other))
        if other.registry == reference.registry && other.repository == reference.repository)
}
