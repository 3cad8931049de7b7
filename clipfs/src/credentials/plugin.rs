//! Plugins of the protocol `clipfs`.

use std::path::{Path, PathBuf};

use credplugin::Endpoints;

use super::provider::AnswerFuture;
use super::request::RequestFile;
use super::{CredentialError, CredentialProvider, CredentialRequest};

/// A plugin that is given the request.
#[derive(Debug)]
pub struct ClipfsPlugin {
    path: PathBuf,
    request: Option<RequestFile>,
    endpoints: Endpoints,
}

impl ClipfsPlugin {
    /// Checks that there is something to run.
    ///
    /// # Errors
    /// [`CredentialError::Configuration`]: no such file, not executable.
    pub fn open(
        path: &Path,
        request: Option<RequestFile>,
        endpoints: Endpoints,
    ) -> Result<Self, CredentialError> {
        Ok(Self { path: path.to_owned(), request, endpoints })
    }
}

impl CredentialProvider for ClipfsPlugin {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        let _ = (&self.path, &self.request, &self.endpoints, request);
        Box::pin(async { Err(CredentialError::Broken("not built".into())) })
    }
}
