//! `controlplane serve`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::args::{GlobalArgs, ServeArgs};
use super::failure::Failure;
use super::output::Output;
use super::settings::{self, Settings};
use crate::credentials::Credentials;
use crate::imaging::{Imaging, ImagingOptions, PrivateRegistries};
use crate::model::{Clock, SystemClock};
use crate::scheduler::{Scheduler, SchedulerOptions};
use crate::server::{Parts, Server, ServerOptions, TlsFiles};
use crate::service::WorkerSettings;
use crate::store::{self, SharedStore};
use crate::vault::{Vault, VaultError};

/// Where there is another database: unfinished indexes only.
const DEFAULT_DATA_DIR: &str = "/var/lib/clipfs";
/// Heartbeats of a lease: one or two may be lost on the way.
const BEATS_OF_A_LEASE: u32 = 4;

/// Serves until SIGTERM or SIGINT.
pub(super) async fn run(
    args: ServeArgs,
    global: &GlobalArgs,
    insecure_plaintext: bool,
    settings: Settings,
) -> Result<u8, Failure> {
    let url = settings.database(global.database.as_ref());
    let options = server_options(&args, insecure_plaintext, &settings);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if !args.no_migrate {
        store::migrate(&url).await?;
    }
    let database = store::open(&url, Arc::clone(&clock)).await?;
    let shared: SharedStore = database.clone();
    store::Housekeeping::ready(&*database).await?;

    let embedded = settings::database_directory(&url);
    let named = args.data_dir.clone().or(settings.data_dir.clone());
    // Several servers of one database must share their key: none is made for them unless the operator names a place.
    let key_dir = named.clone().or_else(|| embedded.clone());
    let data_dir = key_dir.clone().unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    make_private(&data_dir)?;
    let mut kek = args.kek.clone();
    kek.kek_file = kek.kek_file.or(settings.kek_file.clone());
    let vault = Vault::new(SharedStore::clone(&shared), kek.keyring(&shared, key_dir.as_deref()).await?);
    // A key that wraps something and is not here would fail one run after the other: say so now.
    let status = vault.key_status().await?;
    if let Some(kek) = status.keks.iter().find(|kek| kek.role == "missing") {
        return Err(VaultError::NoKek(kek.kek_id.clone()).into());
    }
    let credentials = Credentials { store: SharedStore::clone(&shared), vault: vault.clone() };

    let private = args.private_registries.or(settings.private_registries);
    let imaging = ImagingOptions {
        private_registries: if private.unwrap_or(options.listen.ip().is_loopback()) {
            PrivateRegistries::Allow
        } else {
            PrivateRegistries::Refuse
        },
        endpoints: settings.endpoints.clone(),
        hosts_dir: args.hosts_dir.clone().or(settings.hosts_dir.clone()),
        plain_http: args.plain_http,
        ..ImagingOptions::new(data_dir.join("build"))
    };
    let imaging = Imaging::open(credentials.clone(), imaging).map_err(|source| Failure::File {
        what: "write",
        path: data_dir.join("build"),
        source,
    })?;

    let workers = worker_settings(args.lease.or(settings.lease));
    let scheduler = Scheduler::new(
        SharedStore::clone(&shared),
        SchedulerOptions {
            lease: workers.lease,
            max_attempts: workers.max_attempts,
            ..SchedulerOptions::default()
        },
    );
    let parts =
        Parts { store: shared, vault, credentials, imaging, workers, clock, counters: scheduler.counters() };
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let server = Server::bind(options, parts).await?;
    let address = format!("{scheme}://{}", server.address());
    let metrics = server.metrics_address().map(|address| format!("http://{address}/metrics"));
    Output::new(global.json)
        .one(&format!("listening on {address}"), &json!({ "server": address, "metrics": metrics }))?;

    let (stop, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // A sender that is gone says the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let scheduling = tokio::spawn(scheduler.run(until(stopped.clone())));
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        // Nobody left to hear it: nothing to do.
        let _ = stop.send(true);
    });
    let served = server.serve(until(stopped)).await;
    scheduling.abort();
    database.close().await;
    served?;
    Ok(0)
}

fn server_options(args: &ServeArgs, insecure_plaintext: bool, settings: &Settings) -> ServerOptions {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some((certificate, key, args.client_ca.as_ref())),
        _ => match (&settings.tls_cert, &settings.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key, settings.client_ca.as_ref())),
            _ => None,
        },
    };
    let default = ServerOptions::default();
    ServerOptions {
        listen: args.listen.or(settings.listen).unwrap_or(default.listen),
        tls: tls.map(|(certificate, key, client_ca)| TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: client_ca.cloned(),
        }),
        insecure_plaintext,
        reflection: args.reflection,
        metrics: args.metrics.or(settings.metrics),
        grace: default.grace,
        recheck: default.recheck,
    }
}

fn worker_settings(lease: Option<Duration>) -> WorkerSettings {
    let default = WorkerSettings::default();
    let lease = lease.unwrap_or(default.lease);
    WorkerSettings { lease, heartbeat: (lease / BEATS_OF_A_LEASE).max(Duration::from_secs(1)), ..default }
}

/// A directory that only this user may enter.
fn make_private(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| Failure::File {
        what: "write",
        path: dir.to_owned(),
        source,
    })
}
