//! Images of a workspace. What it takes to make one is in [`crate::imaging`].

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use api::v1;
use api::v1::create_image_progress::Event as Word;
use api::v1::image_service_server::ImageService;
use futures_util::Stream;
use futures_util::stream::unfold;
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use super::change::Circumstances;
use super::{Caller, caller, convert, page, validate};
use crate::imaging::{CreateParams, Event, Imaging, ImagingError, ImagingStore};
use crate::model::{ClipIndexInfo, Image, ImageCredentialSource, ImageId, SecretId, TokenKind, WorkspaceId};
use crate::store::{Store, StoreError};

/// Words that wait for a slow client; of layers further ones are left out.
const EVENTS: usize = 64;

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Debug)]
pub struct Images<S: ?Sized = dyn Store> {
    store: Arc<S>,
    imaging: Imaging<S>,
}

impl<S: ?Sized> Images<S> {
    /// Over a database, with what makes images.
    #[must_use]
    pub const fn new(store: Arc<S>, imaging: Imaging<S>) -> Self {
        Self { store, imaging }
    }
}

impl<S: ImagingStore + ?Sized> Images<S> {
    /// An image of the caller's workspace.
    async fn own<T>(&self, request: &Request<T>, image_id: &str) -> Result<Image, Status> {
        let workspace = caller(request)?.workspace()?;
        self.find(workspace, image_id).await
    }

    async fn find(&self, workspace: &WorkspaceId, image_id: &str) -> Result<Image, Status> {
        validate::name("image_id", image_id)?;
        let image = self.store.image(workspace, &ImageId::from(image_id)).await?;
        image.ok_or_else(|| StoreError::NotFound("image").into())
    }

    /// An image whose index the caller may read.
    async fn readable(&self, caller: &Caller, request: &v1::GetIndexRequest) -> Result<Image, Status> {
        let absent = || Status::from(StoreError::NotFound("image"));
        match caller.kind {
            TokenKind::Workspace => {
                let workspace = caller.workspace()?;
                if !request.workspace_id.is_empty() && request.workspace_id != workspace.as_str() {
                    return Err(absent());
                }
                self.find(workspace, &request.image_id).await
            }
            TokenKind::Worker => {
                validate::name("image_id", &request.image_id)?;
                validate::name("workspace_id", &request.workspace_id)?;
                let (workspace, image) =
                    (request.workspace_id.as_str().into(), request.image_id.as_str().into());
                let node = caller.node.as_deref().ok_or_else(absent)?;
                if !self.store.is_dispatched_to_node(&workspace, &image, node).await? {
                    return Err(absent());
                }
                self.find(&workspace, &request.image_id).await
            }
            TokenKind::Admin => {
                Err(Status::permission_denied("this method needs a workspace or worker token"))
            }
        }
    }
}

#[tonic::async_trait]
impl<S: ImagingStore + Send + Sync + ?Sized + 'static> ImageService for Images<S> {
    type CreateImageStream = Answers<v1::CreateImageProgress>;
    type GetIndexStream = Answers<v1::GetIndexResponse>;

    async fn create_image(
        &self,
        request: Request<v1::CreateImageRequest>,
    ) -> Result<Response<Self::CreateImageStream>, Status> {
        let caller = caller(&request)?.clone();
        caller.workspace()?;
        let mut request = request.into_inner();
        let key = std::mem::take(&mut request.idempotency_key);
        let circumstances = Circumstances::new(&caller, "CreateImage", "an image", &key, &request)?;
        let credentials: BTreeMap<String, SecretString> =
            request.base_image_creds.into_iter().map(|(key, value)| (key, value.into())).collect();
        let params = CreateParams {
            base_image: request.base_image,
            credentials,
            credential_secrets: request.credential_secrets,
            image_id: request.image_id,
            platform: request.platform,
        };
        let (sender, events) = mpsc::channel(EVENTS);
        let imaging = self.imaging.clone();
        let task = tokio::spawn(async move {
            let change = circumstances.change();
            imaging.create(&change, params, &sender).await
        });
        Ok(Response::new(Box::pin(told(events, Making(task)))))
    }

    async fn get_image(&self, request: Request<v1::GetImageRequest>) -> Result<Response<v1::Image>, Status> {
        let image = self.own(&request, &request.get_ref().image_id).await?;
        Ok(Response::new(convert::image(image)))
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let workspace = caller(&request)?.workspace()?.clone();
        let list = ["ListImages", workspace.as_str()];
        let asked = page::request(&list, request.get_ref().page_size, &request.get_ref().page_token)?;
        let found = self.store.images(&workspace, &asked).await?;
        Ok(Response::new(v1::ListImagesResponse {
            next_page_token: page::token(&list, found.next.as_deref()),
            images: found.items.into_iter().map(convert::image).collect(),
        }))
    }

    async fn delete_image(
        &self,
        request: Request<v1::DeleteImageRequest>,
    ) -> Result<Response<v1::DeleteImageResponse>, Status> {
        let caller = caller(&request)?.clone();
        caller.workspace()?;
        let mut request = request.into_inner();
        validate::name("image_id", &request.image_id)?;
        let key = std::mem::take(&mut request.idempotency_key);
        let circumstances = Circumstances::new(&caller, "DeleteImage", &request.image_id, &key, &request)?;
        self.store.delete_image(&circumstances.change(), &ImageId::from(request.image_id)).await?;
        Ok(Response::new(v1::DeleteImageResponse {}))
    }

    async fn set_image_credential_secret(
        &self,
        request: Request<v1::SetImageCredentialSecretRequest>,
    ) -> Result<Response<v1::Image>, Status> {
        let caller = caller(&request)?.clone();
        let workspace = caller.workspace()?.clone();
        let mut request = request.into_inner();
        validate::name("image_id", &request.image_id)?;
        let key = std::mem::take(&mut request.idempotency_key);
        let (name, id) = (&request.credential_secret_name, &request.credential_secret_id);
        if id.is_empty() && !name.is_empty() {
            // Taken for "none", it would make an image anonymous whose caller meant a secret.
            return Err(Status::invalid_argument(
                "credential_secret_id is what is looked up: give it with the name",
            ));
        }
        let secret = (!id.is_empty()).then(|| SecretId::from(id.as_str()));
        let linked = secret.as_ref().map_or("no secret", SecretId::as_str);
        let target = format!("image {} to {linked}", request.image_id);
        let circumstances = Circumstances::new(&caller, "SetImageCredentialSecret", target, &key, &request)?;
        let image = ImageId::from(request.image_id.as_str());
        if let Some(id) = &secret {
            let row = self.store.secret(&workspace, id).await?.ok_or(StoreError::NotFound("secret"))?;
            let image = self.find(&workspace, &request.image_id).await?;
            if row.secret.registry != image.registry {
                return Err(Status::invalid_argument(format!(
                    "the secret {} is not one for {}: no container of the image could use it",
                    row.secret.name, image.registry
                )));
            }
        }
        let change = circumstances.change();
        let done = self.store.set_image_credential_secret(&change, &image, secret.as_ref()).await?;
        Ok(Response::new(convert::image(done.into_inner())))
    }

    async fn get_image_credential_secret(
        &self,
        request: Request<v1::GetImageCredentialSecretRequest>,
    ) -> Result<Response<v1::ImageCredentialSecret>, Status> {
        let image = self.own(&request, &request.get_ref().image_id).await?;
        let (credential_secret_name, credential_secret_id) = match image.credentials {
            ImageCredentialSource::Secret { name, id } => (name, id.to_string()),
            ImageCredentialSource::Anonymous | ImageCredentialSource::Named(_) => Default::default(),
        };
        Ok(Response::new(v1::ImageCredentialSecret { credential_secret_name, credential_secret_id }))
    }

    async fn get_index(
        &self,
        request: Request<v1::GetIndexRequest>,
    ) -> Result<Response<Self::GetIndexStream>, Status> {
        let image = self.readable(caller(&request)?, request.get_ref()).await?;
        let info = self.store.clip_index(&image.index_digest).await?.ok_or_else(gone)?;
        Ok(Response::new(Box::pin(pieces(Arc::clone(&self.store), image.digest, info))))
    }
}

/// The pieces of an index. Each is read when the client has room for it.
fn pieces<S: ImagingStore + Send + Sync + ?Sized + 'static>(
    store: Arc<S>,
    digest: String,
    info: ClipIndexInfo,
) -> impl Stream<Item = Result<v1::GetIndexResponse, Status>> + Send {
    let first = v1::GetIndexResponse {
        data: Vec::new(),
        digest,
        index_bytes: info.index_bytes,
        index_digest: info.index_digest.clone(),
    };
    unfold((store, info, first, 0), |(store, info, mut response, position)| async move {
        if position >= info.pieces {
            return None;
        }
        let (answer, next) = match store.clip_index_piece(&info.index_digest, position).await {
            Ok(Some(data)) => {
                response.data = data;
                (Ok(response), position + 1)
            }
            Ok(None) => (Err(gone()), info.pieces),
            Err(error) => (Err(error.into()), info.pieces),
        };
        Some((answer, (store, info, v1::GetIndexResponse::default(), next)))
    })
}

/// The image was made again, or deleted, while its index was read.
fn gone() -> Status {
    Status::aborted("the index has changed meanwhile: ask again")
}

/// An image in the making. Who drops it wants it no more.
struct Making(JoinHandle<Result<Image, ImagingError>>);

impl Drop for Making {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is told of a making, and its end.
fn told(
    events: mpsc::Receiver<Event>,
    making: Making,
) -> impl Stream<Item = Result<v1::CreateImageProgress, Status>> + Send {
    unfold(Some((events, making)), |state| async move {
        let (mut events, mut making) = state?;
        if let Some(event) = events.recv().await {
            return Some((Ok(progress(word(event))), Some((events, making))));
        }
        let made = match (&mut making.0).await {
            Ok(Ok(image)) => Ok(progress(Word::Image(convert::image(image)))),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "making an image has failed");
                Err(Status::internal("the control plane failed; see its log"))
            }
        };
        Some((made, None))
    })
}

fn word(event: Event) -> Word {
    match event {
        Event::Message(line) => Word::Message(line),
        Event::Layer { digest, read, total } => {
            Word::Layer(v1::LayerProgress { digest, read_bytes: read, total_bytes: total })
        }
    }
}

fn progress(event: Word) -> v1::CreateImageProgress {
    v1::CreateImageProgress { event: Some(event) }
}
