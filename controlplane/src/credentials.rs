//! An image's credentials as they are now: read, opened and written as `image_credentials`, for the copy of the request that a worker gets.
//! Fail closed: what cannot be had is an error, never anonymous, never what the process itself may use.
//!
//! Whether they may go to the image's registry, and whether that one accepts them, is for the worker's plugin to say: it knows the
//! operator's endpoints there. Here they are whole, of a known type, and made for that registry.

use std::sync::Arc;

use credplugin::{CredentialMap, CredentialType, detect_type, marshal_credentials, parse_credentials};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use crate::model::{Image, ImageCredentialSource, SecretId, SecretRow};
use crate::store::{Audit, Change, DataKeys, Secrets, Store, StoreError, Workspaces};
use crate::vault::{Vault, VaultError};

/// Reads credentials of images. Cheap to clone.
#[derive(Debug)]
pub struct Credentials<S: ?Sized = dyn Store> {
    /// Where secrets are.
    pub store: Arc<S>,
    /// Opens them.
    pub vault: Vault<S>,
}

impl<S: ?Sized> Clone for Credentials<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), vault: self.vault.clone() }
    }
}

/// Why an image's credentials cannot be had. Never holds one.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// FAILED_PRECONDITION: a secret that the image needs was deleted, or its values do not make credentials.
    #[error("{0}")]
    Unusable(String),
    /// Sealed rows that do not open, keys that are not here.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<S> Credentials<S>
where
    S: Workspaces + DataKeys + Secrets + Audit + std::fmt::Debug + ?Sized,
{
    /// `image_credentials` of a ContainerRequest ([`credplugin::marshal_credentials`]); empty for an image that is anonymous, explicitly.
    ///
    /// # Errors
    /// See [`CredentialsError`]. A row that was tampered with is noted in the audit.
    pub async fn of_image(&self, image: &Image) -> Result<SecretString, CredentialsError> {
        match &image.credentials {
            ImageCredentialSource::Anonymous => Ok(SecretString::default()),
            ImageCredentialSource::Secret { name, id } => self.of_secret(image, name, id).await,
            ImageCredentialSource::Named(names) => self.of_names(image, names).await,
        }
    }

    /// Whether a container of the image could start now, as far as its credentials go: all of [`Self::of_image`] but handing them out.
    ///
    /// # Errors
    /// See there.
    pub async fn check(&self, image: &Image) -> Result<(), CredentialsError> {
        self.of_image(image).await.map(drop)
    }

    /// The image's own secret: credentials for its registry, whole.
    async fn of_secret(
        &self,
        image: &Image,
        name: &str,
        id: &SecretId,
    ) -> Result<SecretString, CredentialsError> {
        let unusable = |why: String| {
            CredentialsError::Unusable(format!("the secret {name} of image {} {why}", image.image_id))
        };
        let row = self.store.secret(&image.workspace_id, id).await?.ok_or_else(|| {
            unusable(
                "was deleted; make the image again with credentials, or link it to another secret".to_owned(),
            )
        })?;
        if row.secret.registry != image.registry {
            let whose = match row.secret.registry.as_str() {
                "" => "holds a plain value".to_owned(),
                registry => format!("is for {registry}"),
            };
            return Err(unusable(format!("{whose}, not for {}; link it to another secret", image.registry)));
        }
        let value = text(self.open(&row).await?).ok_or_else(|| unusable("is not text".to_owned()))?;
        let parsed = parse_credentials(value.expose_secret())
            .map_err(|error| unusable(format!("does not hold credentials: {}", error.message)))?;
        match parsed {
            Some(parsed) if !parsed.credentials.is_empty() => match parsed.registry {
                Some(registry) if registry == image.registry => Ok(value),
                Some(registry) => {
                    Err(unusable(format!("holds credentials for {registry}, not for {}", image.registry)))
                }
                // A flat map, or `user:password`: the row says for which registry, and the value is bound to that.
                None => {
                    let kind = detect_type(&image.registry, &parsed.credentials)
                        .map_err(|error| unusable(format!("cannot be used: {}", error.message)))?;
                    Ok(marshal_credentials(&image.registry, kind, &parsed.credentials))
                }
            },
            // Never anonymous because somebody's secret is empty.
            _ => Err(unusable("holds no credentials; update it".to_owned())),
        }
    }

    /// The values of secrets that the image names, each under its name.
    async fn of_names(&self, image: &Image, names: &[String]) -> Result<SecretString, CredentialsError> {
        let (mut found, mut missing) = (Vec::with_capacity(names.len()), Vec::new());
        for name in names {
            let rows = self.store.secrets_named(&image.workspace_id, name).await?;
            match rows.into_iter().find(|row| row.secret.registry.is_empty() && row.secret.name == *name) {
                Some(row) => found.push(row),
                None => missing.push(name.as_str()),
            }
        }
        let unusable = |why: String| CredentialsError::Unusable(format!("image {} {why}", image.image_id));
        if !missing.is_empty() {
            let (noun, names) = (if missing.len() == 1 { "secret" } else { "secrets" }, missing.join(", "));
            return Err(unusable(format!(
                "needs the {noun} {names}, which the workspace does not have; set them, or make the image again"
            )));
        }
        let mut values = Vec::with_capacity(found.len());
        for row in &found {
            let name = &row.secret.name;
            let value = text(self.open(row).await?).ok_or_else(|| {
                unusable(format!("needs the secret {name} as text, and it is none; set it again"))
            })?;
            if value.expose_secret().is_empty() {
                return Err(unusable(format!("needs the secret {name}, which is empty; set it again")));
            }
            values.push((name.as_str(), value));
        }
        let map: CredentialMap = values.into_iter().collect();
        let kind = detect_type(&image.registry, &map)
            .map_err(|error| unusable(format!("has credentials that cannot be used: {}", error.message)))?;
        match kind {
            CredentialType::Public => Err(unusable("names no secrets for its credentials".to_owned())),
            kind => Ok(marshal_credentials(&image.registry, kind, &map)),
        }
    }

    async fn open(&self, row: &SecretRow) -> Result<SecretSlice<u8>, CredentialsError> {
        let mut opened = self.vault.open(row).await;
        // A rotation may have sealed it anew, and deleted its old key, since the row was read: that is no tampering.
        let mut read = row.clone();
        while let Err(VaultError::Tampered(_)) = &opened {
            match self.store.secret(&row.secret.workspace_id, &row.secret.secret_id).await? {
                Some(now) if now != read => read = now,
                _ => break,
            }
            opened = self.vault.open(&read).await;
        }
        if let Err(error @ VaultError::Tampered(_)) = &opened {
            let (workspace, secret) = (&row.secret.workspace_id, row.secret.secret_id.as_str());
            let change = Change {
                actor: "credentials",
                workspace: Some(workspace),
                action: "OpenSecret",
                target: secret,
                key: None,
            };
            tracing::error!(%workspace, secret, "a secret does not open: its row was changed outside of the control plane");
            if let Err(error) = self.store.note(&change, &format!("DATA_LOSS: {error}")).await {
                tracing::error!(%error, %workspace, secret, "and that cannot be noted in the audit");
            }
        }
        Ok(opened?)
    }
}

/// A value as text, if it is. The bytes are copied, and wiped by their owner.
fn text(value: SecretSlice<u8>) -> Option<SecretString> {
    std::str::from_utf8(value.expose_secret()).ok().map(SecretString::from)
}

#[cfg(test)]
mod tests;
