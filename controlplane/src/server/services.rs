//! All services of the interface, put together.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use api::v1::admin_service_server::AdminServiceServer;
use api::v1::container_service_server::ContainerServiceServer;
use api::v1::secret_service_server::SecretServiceServer;
use tonic::service::Routes;

use crate::credentials::Credentials;
use crate::model::Clock;
use crate::service::{Admin, Containers, MAX_MESSAGE, Secrets};
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
#[derive(Debug, Clone)]
pub struct Parts {
    /// The database.
    pub store: SharedStore,
    /// Seals and opens.
    pub vault: Vault,
    /// Of images.
    pub credentials: Credentials,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Containers that were placed: counted by the scheduler, told by the metrics.
    pub decisions: Arc<AtomicU64>,
}

/// The services.
pub(super) fn routes(parts: Parts) -> Routes {
    let Parts { store, vault, credentials, clock, .. } = parts;
    let admin = Admin::new(SharedStore::clone(&store), clock);
    let secrets = Secrets::new(SharedStore::clone(&store), vault);
    let containers = Containers::new(store, credentials);
    Routes::new(AdminServiceServer::new(admin).max_decoding_message_size(MAX_MESSAGE))
        .add_service(SecretServiceServer::new(secrets).max_decoding_message_size(MAX_MESSAGE))
        .add_service(ContainerServiceServer::new(containers).max_decoding_message_size(MAX_MESSAGE))
}
