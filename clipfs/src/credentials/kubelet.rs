//! The kubelet's credential providers.

use std::path::{Path, PathBuf};

use super::provider::AnswerFuture;
use super::{CredentialError, CredentialProvider, CredentialRequest};

/// One plugin.
#[derive(Debug)]
pub struct KubeletPlugin {
    path: PathBuf,
    env: Vec<String>,
}

impl KubeletPlugin {
    /// Checks that there is something to run. `env`: names of variables that it gets besides PATH and HOME.
    ///
    /// # Errors
    /// [`CredentialError::Configuration`]: no such file, not executable.
    pub fn open(path: &Path, env: &[String]) -> Result<Self, CredentialError> {
        Ok(Self { path: path.to_owned(), env: env.to_vec() })
    }
}

impl CredentialProvider for KubeletPlugin {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        let _ = (&self.path, &self.env, request);
        Box::pin(async { Err(CredentialError::Broken("not built".into())) })
    }
}
