//! Credentials files of Docker and of the containers tools, where the operator named one.

use std::path::{Path, PathBuf};

use super::provider::AnswerFuture;
use super::{CredentialError, CredentialProvider, CredentialRequest};

/// Whose rules for keys apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Docker's `config.json`.
    Docker,
    /// containers-auth.json(5).
    Containers,
}

/// A file, read again at every ask.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    flavor: Flavor,
    env: Vec<String>,
}

impl ConfigFile {
    /// Opens and checks it. `env`: names of variables that its helpers get.
    ///
    /// # Errors
    /// [`CredentialError::Configuration`].
    pub fn open(path: &Path, flavor: Flavor, env: &[String]) -> Result<Self, CredentialError> {
        Ok(Self { path: path.to_owned(), flavor, env: env.to_vec() })
    }
}

impl CredentialProvider for ConfigFile {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        let _ = (&self.path, self.flavor, &self.env, request);
        Box::pin(async { Err(CredentialError::Broken("not built".into())) })
    }
}
