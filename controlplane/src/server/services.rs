//! All services of the interface, put together.

use std::sync::Arc;

use api::v1::admin_service_server::AdminServiceServer;
use api::v1::container_service_server::ContainerServiceServer;
use api::v1::image_service_server::ImageServiceServer;
use api::v1::secret_service_server::SecretServiceServer;
use api::v1::worker_service_server::WorkerServiceServer;
use tonic::service::Routes;

use crate::credentials::Credentials;
use crate::imaging::Imaging;
use crate::model::Clock;
use crate::scheduler::Counters;
use crate::service::{Admin, Containers, Images, MAX_MESSAGE, Secrets, WorkerRpc, WorkerSettings};
use crate::store::SharedStore;
use crate::vault::Vault;

/// Names of the services, for their health.
pub(super) const NAMES: [&str; 5] = [
    "clipfs.v1.AdminService",
    "clipfs.v1.ContainerService",
    "clipfs.v1.ImageService",
    "clipfs.v1.SecretService",
    "clipfs.v1.WorkerService",
];

/// What services are made of.
#[derive(Debug)]
pub struct Parts {
    /// The database.
    pub store: SharedStore,
    /// Seals and opens.
    pub vault: Vault,
    /// Of images.
    pub credentials: Credentials,
    /// Makes images.
    pub imaging: Imaging,
    /// How workers are dealt with.
    pub workers: WorkerSettings,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Of the scheduler, told by the metrics.
    pub counters: Arc<Counters>,
}

/// The services. Within a runtime.
pub(super) fn routes(parts: Parts) -> Routes {
    let Parts { store, vault, credentials, imaging, workers, clock, .. } = parts;
    let shared = || SharedStore::clone(&store);
    let admin = Admin::new(shared(), Arc::clone(&clock));
    let secrets = Secrets::new(shared(), vault);
    let images = Images::new(shared(), imaging);
    let containers = Containers::new(shared(), credentials.clone());
    let workers = WorkerRpc::new(shared(), credentials, clock, workers);
    Routes::new(AdminServiceServer::new(admin).max_decoding_message_size(MAX_MESSAGE))
        .add_service(SecretServiceServer::new(secrets).max_decoding_message_size(MAX_MESSAGE))
        .add_service(ImageServiceServer::new(images).max_decoding_message_size(MAX_MESSAGE))
        .add_service(ContainerServiceServer::new(containers).max_decoding_message_size(MAX_MESSAGE))
        .add_service(WorkerServiceServer::new(workers).max_decoding_message_size(MAX_MESSAGE))
}
