//! Containers of a workspace: run, stop, look, watch.

use std::pin::Pin;

use api::v1;
use api::v1::container_service_server::ContainerService;
use futures_util::Stream;
use tonic::{Request, Response, Status};

use super::change::Circumstances;
use super::{caller, convert, page, validate};
use crate::credentials::Credentials;
use crate::model::{ContainerId, ImageId, NewContainer, WorkspaceId};
use crate::store::{SharedStore, StoreError};

mod request;
mod watch;

/// The service.
#[derive(Debug, Clone)]
pub struct Containers {
    store: SharedStore,
    credentials: Credentials,
}

impl Containers {
    /// Over a database, with what knows whether an image's credentials can be had.
    #[must_use]
    pub fn new(store: SharedStore, credentials: Credentials) -> Self {
        Self { store, credentials }
    }

    /// What is queued: the request, checked; its image must exist and its credentials be there now.
    async fn new_container(
        &self,
        workspace: &WorkspaceId,
        container: ContainerId,
        request: v1::ContainerRequest,
    ) -> Result<NewContainer, Status> {
        let demand = request::demand(&request)?;
        let image_id = ImageId::from(request.image_id.as_str());
        let image = self.store.image(workspace, &image_id).await?.ok_or(StoreError::NotFound("image"))?;
        self.credentials.check(&image).await?;
        let stored = v1::ContainerRequest {
            container_id: container.to_string(),
            workspace_id: workspace.to_string(),
            ..request
        };
        let request = api::request::to_json(&stored)
            .map_err(|error| Status::invalid_argument(format!("request.{error}")))?;
        Ok(NewContainer {
            container_id: container,
            workspace_id: workspace.clone(),
            image_id,
            request,
            demand,
        })
    }
}

#[tonic::async_trait]
impl ContainerService for Containers {
    async fn run_container(
        &self,
        request: Request<v1::RunContainerRequest>,
    ) -> Result<Response<v1::Container>, Status> {
        let caller = caller(&request)?.clone();
        let workspace = caller.workspace()?;
        let mut request = request.into_inner();
        validate::optional_name("container_id", &request.container_id)?;
        let key = std::mem::take(&mut request.idempotency_key);
        let id = match request.container_id.as_str() {
            "" => ContainerId::generate(),
            id => ContainerId::from(id),
        };
        let circumstances = Circumstances::new(&caller, "RunContainer", id.as_str(), &key, &request)?;
        let asked = request.request.ok_or_else(|| Status::invalid_argument("request must be set"))?;
        request::check(&asked)?;
        let new = self.new_container(workspace, id, asked).await?;
        let done = self.store.submit(&circumstances.change(), &new).await?;
        Ok(Response::new(convert::container(done.into_inner())))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::Container>, Status> {
        let caller = caller(&request)?.clone();
        caller.workspace()?;
        let mut request = request.into_inner();
        validate::name("container_id", &request.container_id)?;
        let key = std::mem::take(&mut request.idempotency_key);
        let circumstances =
            Circumstances::new(&caller, "StopContainer", &request.container_id, &key, &request)?;
        let id = ContainerId::from(request.container_id.as_str());
        let done = self.store.stop(&circumstances.change(), &id).await?;
        Ok(Response::new(convert::container(done.into_inner())))
    }

    async fn get_container(
        &self,
        request: Request<v1::GetContainerRequest>,
    ) -> Result<Response<v1::Container>, Status> {
        let workspace = caller(&request)?.workspace()?.clone();
        let request = request.into_inner();
        validate::name("container_id", &request.container_id)?;
        let id = ContainerId::from(request.container_id);
        let found = self.store.container(&workspace, &id).await?.ok_or(StoreError::NotFound("container"))?;
        Ok(Response::new(convert::container(found)))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        let workspace = caller(&request)?.workspace()?.clone();
        let request = request.into_inner();
        let list = ["ListContainers", workspace.as_str(), if request.active { "active" } else { "all" }];
        let page = page::request(&list, request.page_size, &request.page_token)?;
        let found = self.store.containers(&workspace, request.active, &page).await?;
        Ok(Response::new(v1::ListContainersResponse {
            containers: found.items.into_iter().map(convert::container).collect(),
            next_page_token: page::token(&list, found.next.as_deref()),
        }))
    }

    type WatchContainerStream = Pin<Box<dyn Stream<Item = Result<v1::ContainerEvent, Status>> + Send>>;

    async fn watch_container(
        &self,
        request: Request<v1::WatchContainerRequest>,
    ) -> Result<Response<Self::WatchContainerStream>, Status> {
        let workspace = caller(&request)?.workspace()?.clone();
        let request = request.into_inner();
        validate::name("container_id", &request.container_id)?;
        let watch = watch::Watch::new(&self.store, workspace, &request)?;
        Ok(Response::new(Box::pin(watch.stream().await?)))
    }
}
