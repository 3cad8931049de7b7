//! `controlplane secret`.

use api::v1;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::Code;

use super::args::{ClientArgs, SecretCommand};
use super::client::{Client, again, call, key, pages};
use super::failure::Failure;
use super::output::Output;
use super::settings::{self, Settings};
use super::show;
use crate::service::validate::MAX_VALUE;

/// Does it.
pub(super) async fn run(
    command: SecretCommand,
    client: &ClientArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let client = Client::new(client, settings)?;
    match command {
        SecretCommand::Set { name, file } => {
            let bytes = settings::file(&file, u64::try_from(MAX_VALUE).unwrap_or(u64::MAX))?;
            let value = std::str::from_utf8(&bytes)
                .map_err(|_| Failure::Data("the value is not UTF-8".to_owned()))?;
            let value = SecretString::from(value.to_owned());
            let secret = set(&client, &name, &value).await?;
            out.one(&format!("{} version {}", secret.name, secret.version), &show::secret(&secret))?;
        }
        SecretCommand::Ls => {
            let all = pages(|page_token| {
                let client = client.clone();
                async move {
                    let request = v1::ListSecretsRequest { page_size: 0, page_token };
                    let page = again(|| {
                        let (mut secrets, request) = (client.secrets(), request.clone());
                        async move { secrets.list_secrets(call(request)).await }
                    })
                    .await?;
                    Ok((page.secrets, page.next_page_token))
                }
            })
            .await?;
            let row = |s: &v1::Secret| {
                vec![
                    s.secret_id.clone(),
                    s.name.clone(),
                    s.registry.clone(),
                    s.version.to_string(),
                    show::time(s.update_time.as_ref()),
                ]
            };
            let rows: Vec<_> = all.iter().map(row).collect();
            let heads = ["ID", "NAME", "REGISTRY", "VERSION", "UPDATED"];
            out.table(&heads, &rows, all.iter().map(show::secret).collect())?;
        }
        SecretCommand::Rm { name } => {
            let request = v1::DeleteSecretRequest { secret: name, idempotency_key: key() };
            again(|| {
                let (mut secrets, request) = (client.secrets(), request.clone());
                async move { secrets.delete_secret(call(request)).await }
            })
            .await?;
        }
    }
    Ok(0)
}

/// A new value, of a new secret where there is none.
async fn set(client: &Client, name: &str, value: &SecretString) -> Result<v1::Secret, Failure> {
    let update = key();
    let updated = again(|| {
        let request = v1::UpdateSecretRequest {
            secret: name.to_owned(),
            value: value.expose_secret().to_owned(),
            idempotency_key: update.clone(),
        };
        let mut secrets = client.secrets();
        async move { secrets.update_secret(call(request)).await }
    })
    .await;
    match updated {
        Err(status) if status.code() == Code::NotFound => {}
        updated => return Ok(updated?),
    }
    let create = key();
    Ok(again(|| {
        let request = v1::CreateSecretRequest {
            name: name.to_owned(),
            value: value.expose_secret().to_owned(),
            idempotency_key: create.clone(),
        };
        let mut secrets = client.secrets();
        async move { secrets.create_secret(call(request)).await }
    })
    .await?)
}
