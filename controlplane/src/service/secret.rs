//! Secrets of a workspace: values go in and never come out.

use api::v1;
use api::v1::secret_service_server::SecretService;
use credplugin::{detect_type, marshal_credentials, parse_credentials_at};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{Request, Response, Status};

use super::change::Circumstances;
use super::{Caller, caller, convert, page, validate};
use crate::model::{Secret, SecretId, SecretRow, Time, WorkspaceId};
use crate::store::{NewSecret, SharedStore, StoreError};
use crate::vault::Vault;

/// How often a value is sealed anew because somebody else updated the secret meanwhile.
const TRIES: u32 = 8;

/// The service.
#[derive(Debug, Clone)]
pub struct Secrets {
    store: SharedStore,
    vault: Vault,
}

impl Secrets {
    /// Over a database, with what seals values.
    #[must_use]
    pub fn new(store: SharedStore, vault: Vault) -> Self {
        Self { store, vault }
    }

    /// The secret of an identity or a name.
    async fn find(&self, workspace: &WorkspaceId, secret: &str) -> Result<Option<SecretRow>, Status> {
        validate::name("secret", secret)?;
        if let Some(row) = self.store.secret(workspace, &SecretId::from(secret)).await? {
            return Ok(Some(row));
        }
        let mut rows = self.store.secrets_named(workspace, secret).await?;
        if rows.len() > 1 {
            return Err(Status::invalid_argument(format!(
                "secret: {} secrets have this name, for different registries; give the secret_id",
                rows.len()
            )));
        }
        Ok(rows.pop())
    }
}

/// The caller and its workspace.
fn tenant<T>(request: &Request<T>) -> Result<(Caller, WorkspaceId), Status> {
    let caller = caller(request)?;
    let workspace = caller.workspace()?.clone();
    Ok((caller.clone(), workspace))
}

fn not_found() -> Status {
    StoreError::NotFound("secret").into()
}

/// What is sealed of a value: for a registry's secret, credentials in their stored form; else the value itself, byte by byte.
fn stored_form(secret: &Secret, value: SecretString) -> Result<SecretString, Status> {
    if secret.registry.is_empty() {
        return Ok(value);
    }
    let refuse = |why: &str| Status::invalid_argument(format!("value: {why}"));
    let parsed = parse_credentials_at("value", value.expose_secret())
        .map_err(|error| Status::invalid_argument(error.message))?
        .filter(|parsed| !parsed.credentials.is_empty())
        .ok_or_else(|| refuse("the secret of a registry must hold credentials"))?;
    if let Some(other) = parsed.registry.as_deref().filter(|registry| *registry != secret.registry) {
        return Err(refuse(&format!(
            "the credentials are for {other}, the secret is for {}",
            secret.registry
        )));
    }
    let kind = match parsed.kind {
        Some(kind) => kind,
        None => detect_type(&secret.registry, &parsed.credentials).map_err(|error| refuse(&error.message))?,
    };
    Ok(marshal_credentials(&secret.registry, kind, &parsed.credentials))
}

#[tonic::async_trait]
impl SecretService for Secrets {
    async fn create_secret(
        &self,
        request: Request<v1::CreateSecretRequest>,
    ) -> Result<Response<v1::Secret>, Status> {
        let (caller, workspace) = tenant(&request)?;
        let mut request = request.into_inner();
        validate::name("name", &request.name)?;
        validate::value(&request.value)?;
        let key = std::mem::take(&mut request.idempotency_key);
        let circumstances = Circumstances::new(&caller, "CreateSecret", &request.name, &key, &request)?;
        let value = SecretString::from(std::mem::take(&mut request.value));
        let secret = Secret {
            secret_id: SecretId::generate(),
            workspace_id: workspace,
            name: request.name,
            registry: String::new(),
            version: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        let sealed = self.vault.seal(&secret, value.expose_secret().as_bytes()).await?;
        let done = self.store.create_secret(&circumstances.change(), &NewSecret { secret, sealed }).await?;
        Ok(Response::new(convert::secret(done.into_inner())))
    }

    async fn update_secret(
        &self,
        request: Request<v1::UpdateSecretRequest>,
    ) -> Result<Response<v1::Secret>, Status> {
        let (caller, workspace) = tenant(&request)?;
        let mut request = request.into_inner();
        validate::value(&request.value)?;
        let key = std::mem::take(&mut request.idempotency_key);
        let circumstances = Circumstances::new(&caller, "UpdateSecret", &request.secret, &key, &request)?;
        let value = SecretString::from(std::mem::take(&mut request.value));
        let mut tries = 0;
        loop {
            let read = self.find(&workspace, &request.secret).await?.ok_or_else(not_found)?.secret;
            let value = stored_form(&read, value.clone())?;
            let next = Secret { version: read.version.saturating_add(1), ..read.clone() };
            let sealed = self.vault.seal(&next, value.expose_secret().as_bytes()).await?;
            tries += 1;
            match self.store.update_secret(&circumstances.change(), &read, &sealed).await {
                Ok(done) => return Ok(Response::new(convert::secret(done.into_inner()))),
                // The last writer wins, as callers expect of two updates at once.
                Err(StoreError::Conflict(_)) if tries < TRIES => {}
                Err(StoreError::Conflict(_)) => {
                    return Err(Status::aborted("the secret is being updated by others; try again"));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn delete_secret(
        &self,
        request: Request<v1::DeleteSecretRequest>,
    ) -> Result<Response<v1::DeleteSecretResponse>, Status> {
        let (caller, workspace) = tenant(&request)?;
        let mut request = request.into_inner();
        let key = std::mem::take(&mut request.idempotency_key);
        let circumstances = Circumstances::new(&caller, "DeleteSecret", &request.secret, &key, &request)?;
        // Of a retry the secret is gone: the repository knows its key, and of anything else says that it is not there.
        let id = match self.find(&workspace, &request.secret).await? {
            Some(row) => row.secret.secret_id,
            None => SecretId::from(request.secret.as_str()),
        };
        self.store.delete_secret(&circumstances.change(), &id).await?;
        Ok(Response::new(v1::DeleteSecretResponse {}))
    }

    async fn get_secret(
        &self,
        request: Request<v1::GetSecretRequest>,
    ) -> Result<Response<v1::Secret>, Status> {
        let (_, workspace) = tenant(&request)?;
        let found = self.find(&workspace, &request.get_ref().secret).await?.ok_or_else(not_found)?;
        Ok(Response::new(convert::secret(found.secret)))
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        let (_, workspace) = tenant(&request)?;
        let request = request.into_inner();
        let list = ["ListSecrets", workspace.as_str()];
        let page = page::request(&list, request.page_size, &request.page_token)?;
        let found = self.store.secrets(&workspace, &page).await?;
        Ok(Response::new(v1::ListSecretsResponse {
            secrets: found.items.into_iter().map(convert::secret).collect(),
            next_page_token: page::token(&list, found.next.as_deref()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret_for(registry: &str) -> Secret {
        Secret {
            secret_id: "s".into(),
            workspace_id: "w".into(),
            name: "n".to_owned(),
            registry: registry.to_owned(),
            version: 1,
            create_time: Time(0),
            update_time: Time(0),
        }
    }

    fn stored(registry: &str, value: &str) -> Result<String, Status> {
        stored_form(&secret_for(registry), value.to_owned().into())
            .map(|value| value.expose_secret().to_owned())
    }

    #[test]
    fn plain_values_are_kept_exactly() {
        for value in ["a\r\nb", " x ", "{}", "\u{2028}"] {
            assert_eq!(stored("", value).expect("kept"), value);
        }
    }

    #[test]
    fn a_registry_s_secret_holds_credentials_for_it() {
        let expected =
            r#"{"credentials":{"PASSWORD":"p","USERNAME":"u"},"registry":"r.example:5000","type":"basic"}"#;
        for value in [
            r#"{"USERNAME":"u","PASSWORD":"p"}"#,
            r#"{"registry":"r.example:5000","credentials":{"USERNAME":"u","PASSWORD":"p"}}"#,
            "u:p",
        ] {
            assert_eq!(stored("r.example:5000", value).expect(value), expected);
        }
        for value in [
            "pl4nted-x",
            r#"{"registry":"other.example","credentials":{"USERNAME":"u","PASSWORD":"p"}}"#,
            "{}",
        ] {
            let status = stored("r.example:5000", value).expect_err(value);
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(!status.message().contains("pl4nted"), "{status:?}");
        }
    }
}
