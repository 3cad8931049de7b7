//! Listening, TLS, who is calling, metrics, shutdown.
//!
//! [`Server::bind`] takes the addresses, [`Server::serve`] answers until it is told to stop. Plaintext is for loopback, unless the operator
//! says otherwise: tokens and secrets travel here.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::{HealthReporter, HealthService};

use self::door::DoorLayer;
use self::metrics::{Gauges, Metrics};
use crate::store::SharedStore;

mod auth;
mod body;
mod door;
mod metrics;
mod readiness;
mod services;
mod share;
mod tls;

pub use services::Parts;

/// Time for calls under way when the server stops.
const GRACE: Duration = Duration::from_secs(10);
/// A token that was revoked ends its streams after at most so long.
const RECHECK: Duration = Duration::from_secs(60);
/// Streams at once of one connection.
const CONNECTION_STREAMS: u32 = 256;
/// How often a quiet connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest head of a call: tokens and metadata.
const MAX_HEAD: u32 = 16 << 10;
/// Time for the numbers of the database.
const GAUGES_TIMEOUT: Duration = Duration::from_secs(3);

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Address; port 0 = any.
    pub listen: SocketAddr,
    /// Certificate and key; `None`: plaintext.
    pub tls: Option<TlsFiles>,
    /// Plaintext beyond loopback.
    pub insecure_plaintext: bool,
    /// Whether callers may ask what is spoken.
    pub reflection: bool,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Time for calls under way at shutdown.
    pub grace: Duration,
    /// How often streams that last are asked whether their tokens are still good.
    pub recheck: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            tls: None,
            insecure_plaintext: false,
            reflection: false,
            metrics: None,
            grace: GRACE,
            recheck: RECHECK,
        }
    }
}

/// PEM files. Read when the server starts.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate, and those that lead to its root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots of clients' certificates: only clients that have one are served.
    pub client_ca: Option<PathBuf>,
}

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Tokens would travel in the clear.
    #[error("{0} is not a loopback address: plaintext is served there only with --insecure-plaintext")]
    Plaintext(SocketAddr),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file of TLS.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// What is in these files.
    #[error("certificate and key cannot be used for TLS")]
    Tls(#[source] tonic::transport::Error),
    /// While serving.
    #[error("the server failed")]
    Serve(#[source] tonic::transport::Error),
    /// The reflection service cannot be made.
    #[error("the interface's description cannot be served: {0}")]
    Reflection(String),
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    address: SocketAddr,
    incoming: TcpIncoming,
    metrics_listener: Option<TcpListener>,
    store: SharedStore,
    routes: Routes,
    metrics: Arc<Metrics>,
    health: HealthReporter,
    builder: tonic::transport::Server,
}

impl Server {
    /// Takes the addresses and reads certificates; answers nobody yet.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn bind(options: ServerOptions, parts: Parts) -> Result<Self, ServerError> {
        if options.tls.is_none() && !options.listen.ip().is_loopback() && !options.insecure_plaintext {
            return Err(ServerError::Plaintext(options.listen));
        }
        let mut builder = tonic::transport::Server::builder()
            .max_concurrent_streams(CONNECTION_STREAMS)
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .http2_max_header_list_size(MAX_HEAD);
        if let Some(files) = &options.tls {
            let config = tls::config(files)?.timeout(HANDSHAKE);
            builder = builder.tls_config(config).map_err(ServerError::Tls)?;
        }
        let listener = listen(options.listen).await?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen { address: options.listen, source })?;
        let metrics_listener = match options.metrics {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        // A new reporter says SERVING.
        let health = HealthReporter::new();
        readiness::not_serving(&health).await;
        let store = SharedStore::clone(&parts.store);
        let metrics = Arc::new(Metrics::new(Arc::clone(&parts.counters)));
        let mut routes =
            services::routes(parts).add_service(tonic_health::pb::health_server::HealthServer::new(
                HealthService::from_health_reporter(health.clone()),
            ));
        if options.reflection {
            let service = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(api::v1::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .build_v1()
                .map_err(|error| ServerError::Reflection(error.to_string()))?;
            routes = routes.add_service(service);
        }
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Ok(Self { options, address, incoming, metrics_listener, store, routes, metrics, health, builder })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `stop` is ready: then health says NOT_SERVING, lasting streams are told to go away, calls under way have the grace
    /// to end. Answers when all is over.
    ///
    /// # Errors
    /// [`ServerError::Serve`].
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServerError> {
        let (stopping, stopped) = watch::channel(false);
        let mut beside = JoinSet::new();
        beside.spawn(readiness::follow(
            self.health.clone(),
            SharedStore::clone(&self.store),
            stopped.clone(),
        ));
        if let Some(listener) = self.metrics_listener {
            let (store, metrics) = (SharedStore::clone(&self.store), Arc::clone(&self.metrics));
            let document = move || {
                let (store, metrics) = (SharedStore::clone(&store), Arc::clone(&metrics));
                async move { metrics.render(gauges(&store).await) }.boxed()
            };
            beside.spawn(metrics::http::serve(listener, Arc::new(document)));
        }
        let health = self.health.clone();
        let signal = async move {
            stop.await;
            readiness::not_serving(&health).await;
            // Nobody left to hear it: nothing to do.
            let _ = stopping.send(true);
        };
        let mut until = stopped.clone();
        let served = self
            .builder
            .layer(DoorLayer::new(self.store, self.metrics, stopped, self.options.recheck))
            .add_routes(self.routes)
            .serve_with_incoming_shutdown(self.incoming, signal);
        let grace = async {
            let _ = until.wait_for(|stopping| *stopping).await;
            tokio::time::sleep(self.options.grace).await;
        };
        tokio::select! {
            served = served => served.map_err(ServerError::Serve),
            () = grace => {
                tracing::warn!("calls were under way when the time for them was over");
                Ok(())
            }
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
}

/// Numbers of the database. `None`: it does not answer in time.
async fn gauges(store: &SharedStore) -> Option<Gauges> {
    let asked = async {
        let queue = store.queue_length().await?;
        let live_workers = u64::try_from(store.live_workers().await?.len()).unwrap_or(u64::MAX);
        let outbox = store.outbox_length().await?;
        Ok::<_, crate::store::StoreError>(Gauges { queue, live_workers, outbox })
    };
    tokio::time::timeout(GAUGES_TIMEOUT, asked).await.ok()?.ok()
}
