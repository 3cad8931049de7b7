//! The index, the secret and the image, from here to the database, and an index from there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clipfs::build::{self, BuildOptions};
use clipfs::index::ClipIndex;
use clipfs::oci::Digest;
use clipfs::registry::{ImageSource, ResolvedImage};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::params::Wanted;
use super::progress::{Layers, say};
use super::workshop::Work;
use super::{Chosen, Event, ImagingError, ImagingStore, Inner, is_same_repository};
use crate::model::{ClipIndexInfo, Image, ImageCredentialSource, Secret, SecretId, Time, WorkspaceId};
use crate::store::{Change, MAX_PIECE, NewSecret, SecretChange, StoreError};

/// Images of the same manifest that are looked at for an index.
const CANDIDATES: u32 = 16;

/// How often the secret, or the index, may change between looking and keeping.
const TRIES: u32 = 8;

/// What becomes of the credentials.
pub(super) enum Keep {
    /// They become the workspace's secret for the registry.
    Secret,
    /// The image says where they are.
    Source(ImageCredentialSource),
}

/// An index in a file.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    pub(super) info: ClipIndexInfo,
    pub(super) files: u64,
}

/// What became of a secret, for people.
enum Outcome {
    /// There was nothing to do.
    None,
    Unchanged(Secret),
    Created(Secret),
    Rotated(Secret),
}

impl<S: ImagingStore + ?Sized> Inner<S> {
    /// The index of a manifest that has just been read with the credentials: one that is kept, or a new one.
    pub(super) async fn index(
        &self,
        workspace: &WorkspaceId,
        wanted: &Wanted,
        source: &ImageSource,
        resolved: &ResolvedImage,
        work: &Work,
        events: &mpsc::Sender<Event>,
    ) -> Result<Index, ImagingError> {
        if let Some(index) = self.kept_index(workspace, wanted, &resolved.manifest_digest, work).await? {
            say(events, "using the index that is kept".to_owned()).await;
            return Ok(index);
        }
        let layers = resolved.manifest.layers.len();
        say(events, format!("indexing {layers} {}", if layers == 1 { "layer" } else { "layers" })).await;
        let path = work.file("index.clip");
        let options = BuildOptions { chunk: self.options.chunk, ..BuildOptions::default() };
        let progress = Arc::new(Layers::new(events.clone()));
        let limit = self.options.build_limit;
        let built = build::index_image(source, resolved, &path, options, progress);
        let built = tokio::time::timeout(limit, Box::pin(built)).await;
        built.map_err(|_| {
            ImagingError::Deadline(format!("the index was not built within {} s", limit.as_secs()))
        })??;
        let index = examine(path, resolved.manifest_digest, self.options.chunk).await?;
        index.ok_or_else(|| {
            ImagingError::Internal("an index that was just built is not the one that was asked for".into())
        })
    }

    /// An index of the manifest that is kept for somebody whose right to it is the caller's too.
    async fn kept_index(
        &self,
        workspace: &WorkspaceId,
        wanted: &Wanted,
        manifest: &Digest,
        work: &Work,
    ) -> Result<Option<Index>, ImagingError> {
        let store = &self.credentials.store;
        let mut seen = Vec::new();
        for (owner, id) in store.images_of_digest(&manifest.to_string(), workspace, CANDIDATES).await? {
            let Some(image) = store.image(&owner, &id).await? else { continue };
            let is_theirs = owner == *workspace || is_same_repository(&image.base_image, &wanted.reference);
            if !is_theirs || seen.contains(&image.index_digest) {
                continue;
            }
            let Some(info) = store.clip_index(&image.index_digest).await? else { continue };
            let path = work.file("kept.clip");
            if self.fetch_index(&info, &path).await?
                && let Some(index) = examine(path, *manifest, self.options.chunk).await?
                && index.info == info
            {
                return Ok(Some(index));
            }
            tracing::info!(index = info.index_digest, "a kept index is of no use: building it again");
            seen.push(image.index_digest);
        }
        Ok(None)
    }

    /// Writes a kept index to a file. `false`: a piece is not there.
    async fn fetch_index(&self, info: &ClipIndexInfo, path: &Path) -> Result<bool, ImagingError> {
        let mut file = tokio::fs::File::create(path).await.map_err(|error| at(path, &error))?;
        for position in 0..info.pieces {
            let piece = self.credentials.store.clip_index_piece(&info.index_digest, position).await?;
            let Some(piece) = piece else { return Ok(false) };
            file.write_all(&piece).await.map_err(|error| at(path, &error))?;
        }
        file.flush().await.map_err(|error| at(path, &error))?;
        Ok(true)
    }

    /// Stores an index in pieces, unless it is there.
    async fn store_index(&self, index: &Index) -> Result<(), ImagingError> {
        let store = &self.credentials.store;
        let (path, digest) = (&index.path, &index.info.index_digest);
        if !store.begin_clip_index(&index.info).await? {
            return Ok(());
        }
        let mut file = tokio::fs::File::open(path).await.map_err(|error| at(path, &error))?;
        let mut piece = Vec::with_capacity(MAX_PIECE);
        for position in 0..index.info.pieces {
            piece.clear();
            let mut rest = (&mut file).take(u64::try_from(MAX_PIECE).unwrap_or(u64::MAX));
            rest.read_to_end(&mut piece).await.map_err(|error| at(path, &error))?;
            store.put_clip_index_piece(digest, position, &piece).await?;
        }
        Ok(store.complete_clip_index(digest).await?)
    }

    /// Keeps index, secret and image.
    pub(super) async fn keep(
        &self,
        change: &Change<'_>,
        mut image: Image,
        chosen: Chosen,
        index: &Index,
        events: &mpsc::Sender<Event>,
    ) -> Result<Image, ImagingError> {
        let mut tries = 0;
        loop {
            tries += 1;
            // Each time: housekeeping deletes indexes that no image has.
            self.store_index(index).await?;
            let (secret, outcome) = match &chosen.keep {
                Keep::Source(source) => {
                    image.credentials = source.clone();
                    (SecretChange::None, Outcome::None)
                }
                Keep::Secret => self.secret_change(&mut image, &chosen.document).await?,
            };
            let target = format!("{}, {}", change.target, outcome.for_audit(&image.credentials));
            let change = Change { target: &target, ..*change };
            match self.credentials.store.put_image(&change, &image, &secret).await {
                Ok(done) => {
                    let image = done.into_inner();
                    if let Some(line) = self.tell(&image, &outcome).await {
                        say(events, line).await;
                    }
                    return Ok(image);
                }
                // The registry has got a secret meanwhile, or its secret another value, or the index was deleted: once more.
                Err(StoreError::Conflict(why)) if tries < TRIES => {
                    tracing::debug!(%why, "keeping the image once more");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What has to happen for the credentials to be the workspace's for the registry.
    async fn secret_change(
        &self,
        image: &mut Image,
        document: &SecretString,
    ) -> Result<(SecretChange, Outcome), ImagingError> {
        let (store, vault) = (&self.credentials.store, &self.credentials.vault);
        let value = document.expose_secret().as_bytes();
        let Some(row) = store.secret_for_registry(&image.workspace_id, &image.registry).await? else {
            let secret = Secret {
                secret_id: SecretId::generate(),
                workspace_id: image.workspace_id.clone(),
                name: credplugin::secret_name(&image.registry),
                registry: image.registry.clone(),
                version: 1,
                create_time: Time(0),
                update_time: Time(0),
            };
            let sealed = vault.seal(&secret, value).await?;
            let outcome = Outcome::Created(secret.clone());
            return Ok((SecretChange::Create(NewSecret { secret, sealed }), outcome));
        };
        let read = row.secret.clone();
        let known = vault.open(&row).await?;
        if known.expose_secret() == value {
            // Nobody need be told of what is the same.
            image.credentials =
                ImageCredentialSource::Secret { name: read.name.clone(), id: read.secret_id.clone() };
            return Ok((SecretChange::None, Outcome::Unchanged(read)));
        }
        let next = Secret { version: read.version.saturating_add(1), ..read.clone() };
        let sealed = vault.seal(&next, value).await?;
        Ok((SecretChange::Update { read, sealed }, Outcome::Rotated(next)))
    }

    async fn tell(&self, image: &Image, outcome: &Outcome) -> Option<String> {
        Some(match outcome {
            Outcome::None => return None,
            Outcome::Created(secret) => format!("kept the credentials as secret {}", secret.name),
            Outcome::Unchanged(secret) => {
                format!("the secret {} holds these credentials already", secret.name)
            }
            Outcome::Rotated(secret) => {
                let using = self.credentials.store.images_using(&image.workspace_id, &secret.secret_id).await;
                // It is done; how many others use it is only told.
                let others = using.unwrap_or_default().saturating_sub(1);
                let also = match others {
                    0 => String::new(),
                    1 => " (also used by 1 other image)".to_owned(),
                    n => format!(" (also used by {n} other images)"),
                };
                format!("rotated secret {}: version {}{also}", secret.name, secret.version)
            }
        })
    }
}

impl Outcome {
    /// What pulls the image, and what became of that.
    fn for_audit(&self, source: &ImageCredentialSource) -> String {
        match (self, source) {
            (Self::Created(secret), _) => format!("new secret {}", secret.name),
            (Self::Rotated(secret), _) => {
                format!("secret {} rotated to version {}", secret.name, secret.version)
            }
            (_, ImageCredentialSource::Secret { name, .. }) => format!("secret {name}"),
            (_, ImageCredentialSource::Named(names)) => format!("secrets {}", names.join(", ")),
            (_, ImageCredentialSource::Anonymous) => "anonymous".to_owned(),
        }
    }
}

/// What an index file is; `None`: not a good one, or not of this manifest and these chunks.
async fn examine(path: PathBuf, manifest: Digest, chunk: u32) -> Result<Option<Index>, ImagingError> {
    let examined = tokio::task::spawn_blocking(move || {
        let Ok(index) = ClipIndex::open(&path) else { return Ok(None) };
        if index.manifest_digest() != manifest || index.chunk_size() != chunk {
            return Ok(None);
        }
        let files = index.inode_count();
        drop(index);
        let (index_digest, index_bytes) = hash(&path).map_err(|error| at(&path, &error))?;
        let pieces = index_bytes.div_ceil(u64::try_from(MAX_PIECE).unwrap_or(u64::MAX));
        Ok(Some(Index { path, info: ClipIndexInfo { index_digest, index_bytes, pieces }, files }))
    });
    examined.await.map_err(|error| ImagingError::Internal(error.to_string()))?
}

/// BLAKE3 of a file, in hexadecimal digits, and its length.
fn hash(path: &Path) -> io::Result<(String, u64)> {
    let mut hasher = blake3::Hasher::new();
    let length = io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok((hasher.finalize().to_hex().to_string(), length))
}

fn at(path: &Path, error: &io::Error) -> ImagingError {
    ImagingError::Internal(format!("{}: {error}", path.display()))
}
