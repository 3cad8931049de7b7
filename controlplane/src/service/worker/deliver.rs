//! From the outbox to the worker: each message with what belongs to it, read as it is now.

use api::v1;
use api::v1::control_message::Message;
use clipfs::oci::Reference;
use secrecy::ExposeSecret as _;
use tonic::{Code, Status};

use super::message::lease_message;
use super::session::Session;
use crate::model::{ContainerState, Image, Lease, Report};
use crate::store::{Change, Delivery, DeliveryKind, StoreError};

/// Messages that may be on their way, sent and not acknowledged.
const WINDOW: u32 = 64;

impl Session {
    /// Sends what stands in the outbox and is not on its way. `false`: something could not be read now, come again.
    ///
    /// All of the window is read, not what comes after the last one: a number that was taken earlier may be committed later.
    ///
    /// # Errors
    /// The stream must end.
    pub(super) async fn deliver(&mut self) -> Result<bool, Status> {
        let deliveries = match self.shared.store.deliveries(&self.worker, 0, WINDOW).await {
            Ok(deliveries) => deliveries,
            Err(error) => return Ok(self.later("the outbox cannot be read", &error)),
        };
        self.sent.retain(|sent| deliveries.iter().any(|delivery| delivery.delivery == *sent));
        let mut dropped = Vec::new();
        let mut complete = true;
        for delivery in deliveries {
            if self.sent.contains(&delivery.delivery) {
                continue;
            }
            match self.outcome(&delivery).await {
                Ok(Some(message)) => {
                    let number = delivery.delivery;
                    self.send(v1::ControlMessage { delivery: number, message: Some(message) }).await?;
                    self.sent.insert(number);
                }
                Ok(None) => dropped.push(delivery.delivery),
                // Those after it may be of other containers: they do not wait.
                Err(error) => complete = self.later("a message cannot be delivered now", &error),
            }
        }
        if !dropped.is_empty()
            && let Err(error) = self.shared.store.acknowledge(&self.worker, &dropped).await
        {
            complete = self.later("the outbox cannot be written", &error);
        }
        // The window may have been full of what is gone now.
        if !dropped.is_empty() {
            self.seat.wake.notify_one();
        }
        Ok(complete)
    }

    fn later(&self, what: &str, error: &StoreError) -> bool {
        tracing::warn!(worker = %self.worker, %error, "{what}");
        false
    }

    /// What is to be sent; `None`: nobody needs it any more. Errors are the database's, and pass.
    async fn outcome(&self, delivery: &Delivery) -> Result<Option<Message>, StoreError> {
        let lease = &delivery.lease;
        let message_lease = Some(lease_message(lease));
        if delivery.kind == DeliveryKind::Cancel {
            return Ok(Some(Message::Cancel(v1::Cancel { lease: message_lease })));
        }
        let Some((request, image)) = self.shared.store.dispatched(&self.worker, lease).await? else {
            return Ok(None);
        };
        let credentials = match self.shared.credentials.of_image(&image).await {
            Ok(credentials) => credentials,
            Err(error) => {
                let status = Status::from(error);
                if matches!(status.code(), Code::Unavailable | Code::Aborted | Code::Internal) {
                    return Err(StoreError::Conflict(status.message().to_owned()));
                }
                return self.refuse(delivery, &status).await;
            }
        };
        if delivery.kind == DeliveryKind::Credentials {
            let image_credentials = credentials.expose_secret().to_owned();
            let update = v1::CredentialUpdate { lease: message_lease, image_credentials };
            return Ok(Some(Message::Credentials(update)));
        }
        let mut request = match api::request::from_json(&request) {
            Ok(request) => request,
            Err(error) => {
                let status = Status::data_loss(format!("the queued request cannot be read: {error}"));
                return self.refuse(delivery, &status).await;
            }
        };
        request.container_id = lease.container_id.to_string();
        request.workspace_id = lease.workspace_id.to_string();
        request.image_credentials = credentials.expose_secret().to_owned();
        Ok(Some(Message::Dispatch(v1::Dispatch {
            lease: message_lease,
            request: Some(request),
            image: pinned(&image),
            digest: image.digest,
            index_digest: image.index_digest,
        })))
    }

    /// A message that cannot be made, now or later: a dispatch ends its container, never goes on without credentials. A container that
    /// runs keeps what it has.
    async fn refuse(&self, delivery: &Delivery, status: &Status) -> Result<Option<Message>, StoreError> {
        let lease = &delivery.lease;
        let (code, reason) = (i32::from(status.code()), status.message());
        tracing::warn!(container = %lease.container_id, workspace = %lease.workspace_id, code, reason, "not delivered");
        self.note(lease, delivery.kind, code, reason).await;
        if delivery.kind == DeliveryKind::Dispatch {
            let report = Report {
                lease: lease.clone(),
                state: ContainerState::Failed,
                exit_code: 0,
                reason: reason.to_owned(),
                reason_code: code,
                cost: None,
            };
            match self.shared.store.report(&self.worker, &report).await {
                Ok(_) | Err(StoreError::Stale(_) | StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// For the audit: somebody's secret was wanted and could not be had.
    async fn note(&self, lease: &Lease, kind: DeliveryKind, code: i32, reason: &str) {
        let change = Change {
            actor: "dispatch",
            workspace: Some(&lease.workspace_id),
            action: match kind {
                DeliveryKind::Credentials => "CredentialUpdate",
                DeliveryKind::Dispatch | DeliveryKind::Cancel => "Dispatch",
            },
            target: lease.container_id.as_str(),
            key: None,
        };
        if let Err(error) = self.shared.store.note(&change, &format!("{code}: {reason}")).await {
            tracing::warn!(%error, "the audit cannot be written");
        }
    }
}

/// What a worker mounts: the image as it was when its index was built, wherever its tag points now.
fn pinned(image: &Image) -> String {
    match Reference::parse(&image.base_image) {
        Ok(reference) => format!("{}/{}@{}", reference.registry, reference.repository, image.digest),
        Err(_) => image.base_image.clone(),
    }
}
