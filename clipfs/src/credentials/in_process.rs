//! Answers from the request in this process, by the library of `credplugin`.

use credplugin::Endpoints;

use super::provider::AnswerFuture;
use super::request::RequestFile;
use super::{CredentialError, CredentialProvider, CredentialRequest};

/// The request's own credentials, without running anything.
#[derive(Debug)]
pub struct InProcess {
    request: RequestFile,
    endpoints: Endpoints,
}

impl InProcess {
    /// Over a request's file.
    #[must_use]
    pub const fn new(request: RequestFile, endpoints: Endpoints) -> Self {
        Self { request, endpoints }
    }
}

impl CredentialProvider for InProcess {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        let _ = (&self.request, &self.endpoints, request);
        Box::pin(async { Err(CredentialError::Broken("not built".into())) })
    }
}
