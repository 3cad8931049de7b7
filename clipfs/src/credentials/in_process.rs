//! Answers from the request in this process, by the library of `credplugin`.

use std::sync::Arc;

use credplugin::{Ask, Endpoints};

use super::provider::AnswerFuture;
use super::request::{ReadRequest, RequestFile};
use super::{CredentialError, CredentialProvider, CredentialRequest, answered};

/// The request's own credentials, without running anything.
#[derive(Debug)]
pub struct InProcess {
    request: Arc<RequestFile>,
    endpoints: Endpoints,
}

impl InProcess {
    /// Over a request's file.
    #[must_use]
    pub fn new(request: RequestFile, endpoints: Endpoints) -> Self {
        Self { request: Arc::new(request), endpoints }
    }
}

/// Reads a request off the threads that drive connections.
pub(super) async fn read(request: &Arc<RequestFile>) -> Result<ReadRequest, CredentialError> {
    let request = Arc::clone(request);
    tokio::task::spawn_blocking(move || request.read())
        .await
        .map_err(|_| CredentialError::Unavailable("the container request was not read".into()))?
}

impl CredentialProvider for InProcess {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            let read = read(&self.request).await?;
            let ask = Ask {
                image: request.image.clone(),
                registry: request.registry.clone(),
                scope: request.scope.clone(),
            };
            match credplugin::answer(&read.request, &ask, &self.endpoints).await {
                Ok(answer) => answered::accept(&request.registry, answer),
                Err(error) => {
                    Err(answered::failure(error.code, &request.registry, error.message, error.retry_after))
                }
            }
        })
    }

    fn version(&self) -> u64 {
        self.request.version()
    }
}
