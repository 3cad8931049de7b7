//! `grpc.health.v1`: SERVING while the database answers.

use std::time::Duration;

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::services::NAMES;
use crate::store::SharedStore;

/// How often the database is asked.
const EVERY: Duration = Duration::from_secs(2);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Follows the database until the server stops.
pub(super) async fn follow(health: HealthReporter, store: SharedStore, mut stopping: watch::Receiver<bool>) {
    let mut known = None;
    loop {
        let ready = matches!(tokio::time::timeout(PATIENCE, store.ready()).await, Ok(Ok(())));
        if *stopping.borrow() {
            return;
        }
        if known.replace(ready) != Some(ready) {
            set(&health, if ready { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
            if ready {
                tracing::info!("the database answers");
            } else {
                tracing::error!("the database does not answer");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Before the first look at the database, and when the server stops.
pub(super) async fn not_serving(health: &HealthReporter) {
    set(health, ServingStatus::NotServing).await;
}

/// Of each service, then of the server as a whole.
async fn set(health: &HealthReporter, status: ServingStatus) {
    for name in NAMES.into_iter().chain([""]) {
        health.set_service_status(name, status).await;
    }
}
