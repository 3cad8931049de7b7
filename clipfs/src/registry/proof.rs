//! Whether the registry itself accepts what the provider said, before anything is read.
//!
//! Wrong credentials would otherwise go unnoticed where nobody asks for any: a public repository, a mirror that serves the
//! image. The question is the API's root, without credentials: its challenge takes the place of the one that the first
//! request would meet, and it is asked while the provider thinks. Where a token endpoint is named, its yes is the proof; a
//! password is shown to the registry once. Who cannot be reached, or does not ask, refuses nothing.

use std::pin::pin;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};

use super::RegistryError;
use super::auth::Ticket;
use super::challenge::{self, Challenge};
use super::echo::Sent;
use super::endpoint::{Ask, Endpoint};
use super::retry::Failure;
use crate::credentials::Credential;

/// How long the rest of a body is waited for, so that its connection can be used again.
const DRAIN: Duration = Duration::from_millis(200);

impl Endpoint {
    /// Asks the provider unless it has answered, and the registry whether it accepts the answer. A registry that takes
    /// longer than `patience` over it, each time it is asked, is left alone.
    ///
    /// # Errors
    /// Those of the provider, and a definite no of the registry.
    pub(super) async fn authenticate(&self, patience: Duration) -> Result<(), RegistryError> {
        let mut proven = self.proven.lock().await;
        if self.auth.known().is_some_and(|kept| *proven == Some(kept.answer)) {
            return Ok(());
        }
        let blank = self.auth.blank();
        let (kept, heard) = {
            let mut ping = pin!(tokio::time::timeout(patience, self.ping(&blank)));
            let mut answer = pin!(self.auth.answer());
            let mut heard = None;
            let kept = loop {
                tokio::select! {
                    // In this order: who says at once that there are no credentials, or none to be had, costs no request.
                    biased;
                    kept = &mut answer => break kept?,
                    said = &mut ping, if heard.is_none() => heard = Some(said),
                }
            };
            if matches!(kept.credential, Credential::Anonymous) {
                return Ok(());
            }
            (
                kept,
                match heard {
                    Some(heard) => heard,
                    None => ping.await,
                },
            )
        };
        let outcome = match heard {
            Ok(Ok(challenges)) if self.auth.can_meet(&challenges) => {
                let proof = tokio::time::timeout(patience, self.prove(&blank, challenges)).await;
                proof.unwrap_or_else(|_| Err(self.silent()))
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failure)) => Err(failure.error),
            Err(_) => Err(self.silent()),
        };
        match outcome {
            Ok(()) => *proven = Some(kept.answer),
            Err(error @ (RegistryError::Denied { .. } | RegistryError::Credentials(_))) => return Err(error),
            Err(error) => {
                let host = self.host();
                tracing::debug!(host, %error, "cannot tell whether the registry accepts the credentials");
            }
        }
        Ok(())
    }

    fn silent(&self) -> RegistryError {
        RegistryError::Unavailable { host: self.host(), reason: "it takes too long".into() }
    }

    /// The challenges of the API's root; none if it wants nothing, or whatever else it may be.
    async fn ping(&self, blank: &Ticket) -> Result<Vec<Challenge>, Failure> {
        let response = self.root(blank).await?;
        let wants_something = response.status() == StatusCode::UNAUTHORIZED;
        let challenges = if wants_something { challenge::parse(response.headers()) } else { Vec::new() };
        let _ = tokio::time::timeout(DRAIN, self.http.small_body(response)).await;
        Ok(challenges)
    }

    async fn prove(&self, blank: &Ticket, challenges: Vec<Challenge>) -> Result<(), RegistryError> {
        self.auth.meet(blank, challenges).await?;
        let mut again = false;
        while let Some(ticket) = self.auth.unproven() {
            let response = self.root(&ticket).await.map_err(|failure| failure.error)?;
            let status = response.status();
            let challenges = challenge::parse(response.headers());
            // A registry token for one repository is good, and not for this.
            let insufficient = challenges.iter().any(|c| c.param("error") == Some("insufficient_scope"));
            if status.is_success() {
                self.auth.accepted(&ticket);
            }
            // Nor is 403 a word about the credentials: who they are for may do this or not.
            if status != StatusCode::UNAUTHORIZED || insufficient {
                let _ = tokio::time::timeout(DRAIN, self.http.small_body(response)).await;
                return Ok(());
            }
            if again || self.auth.is_final(&ticket) {
                let sent = Sent::request(response.url(), ticket.header.as_ref());
                return Err(self.deny(&ticket, response, &sent).await);
            }
            again = true;
            // Shown once already: the provider is asked, and nothing kept is tried first.
            self.auth.renew(&ticket, challenges, true).await?;
        }
        Ok(())
    }

    /// One request for the API's root.
    async fn root(&self, ticket: &Ticket) -> Result<Response, Failure> {
        let (method, path, what) = (Method::GET, String::new(), "the API's root".to_owned());
        let ask = Ask { method, path, accept: None, range: None, blob: None, what };
        let response = self.http.send(self.outgoing(&ask, self.url(&ask)?, Some(ticket))).await?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            let sent = Sent::request(&self.base, ticket.header.as_ref());
            return Err(self.http.failure(response, &ask.what, &sent).await);
        }
        Ok(response)
    }
}
