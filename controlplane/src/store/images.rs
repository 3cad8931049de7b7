//! [`Images`] in SQL.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe};

use super::page::{after, cut, limit};
use super::row::{Columns as _, bound};
use super::sql::{SqlStore, Tx, change};
use super::{Change, Done, Images, Result, SecretChange, StoreError};
use crate::model::{
    Image, ImageCredentialSource, ImageId, Page, PageRequest, SecretId, WorkerId, WorkspaceId,
};

macro_rules! columns {
    () => {
        "workspace_id, image_id, base_image, registry, digest, platform, credential_secret_name, credential_secret_id,
         index_digest, image_bytes, index_bytes, files, create_time, update_time"
    };
}

#[async_trait]
impl Images for SqlStore {
    async fn put_image(
        &self,
        change: &Change<'_>,
        image: &Image,
        secret: &SecretChange,
    ) -> Result<Done<Image>> {
        change!(self, change, |tx| {
            let mut image = image.clone();
            tx.hold_credentials(&image.workspace_id).await?;
            tx.hold_complete_index(&image.index_digest).await?;
            let updated = match secret {
                SecretChange::None => {
                    if let ImageCredentialSource::Secret { id, name } = &mut image.credentials {
                        *name = tx.secret_name(&image.workspace_id, id).await?;
                    }
                    None
                }
                SecretChange::Create(new) => {
                    let made = tx.insert_secret(new).await?.ok_or_else(|| {
                        StoreError::Conflict(format!("{} has got a secret meanwhile", new.secret.registry))
                    })?;
                    image.credentials = ImageCredentialSource::Secret { name: made.name, id: made.secret_id };
                    None
                }
                SecretChange::Update { read, sealed } => {
                    let updated = tx.replace_value(read, sealed).await?;
                    let (name, id) = (updated.name.clone(), updated.secret_id.clone());
                    image.credentials = ImageCredentialSource::Secret { name, id };
                    Some(updated)
                }
            };
            let before = load(tx, &image.workspace_id, &image.image_id).await?;
            image.update_time = tx.now;
            image.create_time = before.as_ref().map_or(tx.now, |before| before.create_time);
            tx.write_image(&image).await?;
            match updated {
                Some(secret) => tx.tell_users_of(&secret).await?,
                None => tx.tell_if_pulled_otherwise(before.as_ref(), &image).await?,
            }
            Ok(image)
        })
    }

    async fn image(&self, workspace: &WorkspaceId, image: &ImageId) -> Result<Option<Image>> {
        let mut snapshot = self.snapshot().await?;
        load(&mut snapshot, workspace, image).await
    }

    async fn images(&self, workspace: &WorkspaceId, request: &PageRequest) -> Result<Page<Image>> {
        let mut snapshot = self.snapshot().await?;
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM image WHERE workspace_id = $1 AND image_id > $2 ORDER BY image_id LIMIT $3"
        ))
        .bind(workspace.as_str())
        .bind(after(request))
        .bind(limit(request))
        .fetch_all(&mut *snapshot)
        .await?;
        let mut images = rows.iter().map(image).collect::<Result<Vec<_>>>()?;
        if let (Some(first), Some(last)) = (images.first(), images.last()) {
            let names = sqlx::query(
                "SELECT image_id, name FROM image_secret WHERE workspace_id = $1 AND image_id >= $2 AND image_id <= $3
                 ORDER BY image_id, position",
            )
            .bind(workspace.as_str())
            .bind(first.image_id.as_str())
            .bind(last.image_id.as_str())
            .fetch_all(&mut *snapshot)
            .await?;
            let mut by_image: HashMap<String, Vec<String>> = HashMap::new();
            for row in &names {
                by_image.entry(row.text("image_id")?).or_default().push(row.text("name")?);
            }
            for image in &mut images {
                if let Some(names) = by_image.remove(image.image_id.as_str())
                    && image.credentials == ImageCredentialSource::Anonymous
                {
                    image.credentials = ImageCredentialSource::Named(names);
                }
            }
        }
        Ok(cut(request, images, |image| image.image_id.to_string()))
    }

    async fn images_using(&self, workspace: &WorkspaceId, secret: &SecretId) -> Result<u64> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS images FROM image i WHERE i.workspace_id = $1 AND (i.credential_secret_id = $2
             OR EXISTS (SELECT 1 FROM image_secret n JOIN secret s ON s.workspace_id = n.workspace_id AND s.name = n.name
                 WHERE n.workspace_id = i.workspace_id AND n.image_id = i.image_id AND s.secret_id = $2))",
        )
        .bind(workspace.as_str())
        .bind(secret.as_str())
        .fetch_one(self.readers())
        .await?;
        row.count("images")
    }

    async fn set_image_credential_secret(
        &self,
        change: &Change<'_>,
        image: &ImageId,
        secret: Option<&SecretId>,
    ) -> Result<Done<Image>> {
        change!(self, change, |tx| {
            let workspace = change.workspace.ok_or(StoreError::NotFound("image"))?;
            tx.hold_credentials(workspace).await?;
            let before = load(tx, workspace, image).await?.ok_or(StoreError::NotFound("image"))?;
            let credentials = match secret {
                None => ImageCredentialSource::Anonymous,
                Some(id) => ImageCredentialSource::Secret {
                    name: tx.secret_name(workspace, id).await?,
                    id: id.clone(),
                },
            };
            let image = Image { credentials, ..before.clone() };
            tx.write_image(&image).await?;
            tx.tell_if_pulled_otherwise(Some(&before), &image).await?;
            Ok(image)
        })
    }

    async fn delete_image(&self, change: &Change<'_>, image: &ImageId) -> Result<Done<()>> {
        change!(self, change, |tx| {
            let workspace = change.workspace.ok_or(StoreError::NotFound("image"))?;
            // Whoever queues a container holds the row too: he comes before or finds no image.
            let held = format!(
                "SELECT image_id FROM image WHERE workspace_id = $1 AND image_id = $2{}",
                tx.dialect.for_update()
            );
            sqlx::query(AssertSqlSafe(held))
                .bind(workspace.as_str())
                .bind(image.as_str())
                .fetch_optional(&mut **tx)
                .await?
                .ok_or(StoreError::NotFound("image"))?;
            let used = sqlx::query(
                "SELECT container_id FROM container WHERE workspace_id = $1 AND image_id = $2 AND end_time IS NULL LIMIT 1",
            )
            .bind(workspace.as_str())
            .bind(image.as_str())
            .fetch_optional(&mut **tx)
            .await?;
            if let Some(row) = used {
                return Err(StoreError::Conflict(format!(
                    "container {} of the image has not ended",
                    row.text("container_id")?
                )));
            }
            sqlx::query("DELETE FROM image WHERE workspace_id = $1 AND image_id = $2")
                .bind(workspace.as_str())
                .bind(image.as_str())
                .execute(&mut **tx)
                .await?;
            Ok(())
        })
    }

    async fn is_dispatched_to(
        &self,
        workspace: &WorkspaceId,
        image: &ImageId,
        worker: &WorkerId,
    ) -> Result<bool> {
        let row = sqlx::query(
            "SELECT container_id FROM container WHERE workspace_id = $1 AND image_id = $2 AND worker_id = $3
             AND state IN ('scheduled', 'mounting', 'running') LIMIT 1",
        )
        .bind(workspace.as_str())
        .bind(image.as_str())
        .bind(worker.as_str())
        .fetch_optional(self.readers())
        .await?;
        Ok(row.is_some())
    }
}

impl Tx {
    /// A complete clip index, which stays until this transaction ends.
    async fn hold_complete_index(&mut self, digest: &str) -> Result<()> {
        let held = format!(
            "SELECT complete FROM clip_index WHERE index_digest = $1 AND complete = 1{}",
            self.dialect.for_share()
        );
        let row = sqlx::query(AssertSqlSafe(held)).bind(digest).fetch_optional(&mut **self).await?;
        row.map(drop).ok_or_else(|| StoreError::Conflict(format!("clip index {digest} is not complete")))
    }

    async fn secret_name(&mut self, workspace: &WorkspaceId, secret: &SecretId) -> Result<String> {
        let row = sqlx::query("SELECT name FROM secret WHERE workspace_id = $1 AND secret_id = $2")
            .bind(workspace.as_str())
            .bind(secret.as_str())
            .fetch_optional(&mut **self)
            .await?;
        row.ok_or(StoreError::NotFound("secret"))?.text("name")
    }

    /// Running containers hear of it when their image is pulled with other credentials than before; not when it has none any more, which
    /// would take from them what they have.
    async fn tell_if_pulled_otherwise(&mut self, before: Option<&Image>, now: &Image) -> Result<()> {
        match before {
            Some(before)
                if before.credentials != now.credentials
                    && now.credentials != ImageCredentialSource::Anonymous =>
            {
                self.tell_containers_of(&now.workspace_id, &now.image_id).await
            }
            _ => Ok(()),
        }
    }

    async fn write_image(&mut self, image: &Image) -> Result<()> {
        let (name, id, names) = match &image.credentials {
            ImageCredentialSource::Anonymous => (None, None, [].as_slice()),
            ImageCredentialSource::Secret { name, id } => {
                (Some(name.as_str()), Some(id.as_str()), [].as_slice())
            }
            ImageCredentialSource::Named(names) => (None, None, names.as_slice()),
        };
        sqlx::query(
            "INSERT INTO image (workspace_id, image_id, base_image, registry, digest, platform, credential_secret_name,
                 credential_secret_id, index_digest, image_bytes, index_bytes, files, create_time, update_time)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
             ON CONFLICT (workspace_id, image_id) DO UPDATE SET base_image = excluded.base_image,
                 registry = excluded.registry, digest = excluded.digest, platform = excluded.platform,
                 credential_secret_name = excluded.credential_secret_name,
                 credential_secret_id = excluded.credential_secret_id, index_digest = excluded.index_digest,
                 image_bytes = excluded.image_bytes, index_bytes = excluded.index_bytes, files = excluded.files,
                 update_time = excluded.update_time",
        )
        .bind(image.workspace_id.as_str())
        .bind(image.image_id.as_str())
        .bind(&image.base_image)
        .bind(&image.registry)
        .bind(&image.digest)
        .bind(&image.platform)
        .bind(name)
        .bind(id)
        .bind(&image.index_digest)
        .bind(bound(image.image_bytes))
        .bind(bound(image.index_bytes))
        .bind(bound(image.files))
        .bind(image.create_time.0)
        .bind(image.update_time.0)
        .execute(&mut **self)
        .await?;
        sqlx::query("DELETE FROM image_secret WHERE workspace_id = $1 AND image_id = $2")
            .bind(image.workspace_id.as_str())
            .bind(image.image_id.as_str())
            .execute(&mut **self)
            .await?;
        for (position, name) in (0_i64..).zip(names) {
            sqlx::query(
                "INSERT INTO image_secret (workspace_id, image_id, position, name) VALUES ($1, $2, $3, $4)",
            )
            .bind(image.workspace_id.as_str())
            .bind(image.image_id.as_str())
            .bind(position)
            .bind(name)
            .execute(&mut **self)
            .await?;
        }
        Ok(())
    }
}

/// An image, by whatever connection.
pub(super) async fn load(
    connection: &mut AnyConnection,
    workspace: &WorkspaceId,
    image_id: &ImageId,
) -> Result<Option<Image>> {
    let row =
        sqlx::query(concat!("SELECT ", columns!(), " FROM image WHERE workspace_id = $1 AND image_id = $2"))
            .bind(workspace.as_str())
            .bind(image_id.as_str())
            .fetch_optional(&mut *connection)
            .await?;
    match row {
        None => Ok(None),
        Some(row) => with_names(connection, image(&row)?).await.map(Some),
    }
}

async fn with_names(connection: &mut AnyConnection, mut image: Image) -> Result<Image> {
    if image.credentials == ImageCredentialSource::Anonymous {
        let rows = sqlx::query(
            "SELECT name FROM image_secret WHERE workspace_id = $1 AND image_id = $2 ORDER BY position",
        )
        .bind(image.workspace_id.as_str())
        .bind(image.image_id.as_str())
        .fetch_all(connection)
        .await?;
        if !rows.is_empty() {
            let names = rows.iter().map(|row| row.text("name")).collect::<Result<_>>()?;
            image.credentials = ImageCredentialSource::Named(names);
        }
    }
    Ok(image)
}

/// Without the names of its secrets.
fn image(row: &AnyRow) -> Result<Image> {
    let credentials = match row.maybe_text("credential_secret_id")? {
        None => ImageCredentialSource::Anonymous,
        Some(id) => ImageCredentialSource::Secret {
            name: row.maybe_text("credential_secret_name")?.unwrap_or_default(),
            id: id.into(),
        },
    };
    Ok(Image {
        image_id: row.text("image_id")?.into(),
        workspace_id: row.text("workspace_id")?.into(),
        base_image: row.text("base_image")?,
        registry: row.text("registry")?,
        digest: row.text("digest")?,
        platform: row.text("platform")?,
        credentials,
        index_digest: row.text("index_digest")?,
        image_bytes: row.count("image_bytes")?,
        index_bytes: row.count("index_bytes")?,
        files: row.count("files")?,
        create_time: row.time("create_time")?,
        update_time: row.time("update_time")?,
    })
}
