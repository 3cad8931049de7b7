//! The kubelet's credential providers, called as the kubelet calls them: `credentialprovider.kubelet.k8s.io/v1`, one document
//! on standard input, one on standard output, a minute.
//!
//! The plugin says which images its answer is for (`pattern`) and how long it may be kept and for what (`cache`). Unlike the
//! kubelet, which tries all credentials that match until one is accepted, only the most specific ones are used.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::exec::{self, Places, Run};
use super::provider::{Answer, AnswerFuture};
use super::server::fold;
use super::{CredentialError, CredentialProvider, CredentialRequest, value};

mod cache;
mod duration;
mod pattern;
mod response;

use cache::{Cache, Found};
use response::Response;

/// The version of the protocol.
pub(crate) const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// How long a plugin may take, as in the kubelet.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest answer.
const MAX_OUTPUT: usize = 64 << 10;

/// One plugin.
#[derive(Debug)]
pub struct KubeletPlugin {
    program: PathBuf,
    env: Vec<String>,
    cache: Mutex<Cache>,
    places: Places,
}

/// What the plugin is told. Not the service account members: they are of pods.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    api_version: &'a str,
    kind: &'a str,
    image: &'a str,
}

impl KubeletPlugin {
    /// Checks that there is something to run. `env`: names of variables that it gets besides PATH and HOME.
    ///
    /// # Errors
    /// [`CredentialError::Configuration`]: no such file, not executable.
    pub fn open(path: &Path, env: &[String]) -> Result<Self, CredentialError> {
        Ok(Self {
            program: exec::find_program(path)?,
            env: env.to_vec(),
            cache: Mutex::default(),
            places: Places::of_this_process(),
        })
    }

    async fn ask(&self, image: &str) -> Result<Response, CredentialError> {
        let source = self.source();
        let request = Request { api_version: API_VERSION, kind: "CredentialProviderRequest", image };
        let input = serde_json::to_vec(&request)
            .map_err(|error| CredentialError::Broken(format!("the request to {source}: {error}")))?;
        let env = exec::environment(&self.env);
        let ran = exec::run(Run {
            places: &self.places,
            program: &self.program,
            args: &[],
            env: &env,
            input: &input,
            limit: LIMIT,
            max_output: MAX_OUTPUT,
        })
        .await?;
        ran.check_end(&self.program)?;
        match ran.status.code() {
            Some(0) => Response::parse(&ran.output)
                .map_err(|fault| CredentialError::Broken(format!("{source} answered nonsense: {fault}"))),
            code => Err(CredentialError::Broken(format!(
                "{source} ended with exit code {}; run it by hand to see what it says",
                code.map_or_else(|| "unknown".to_owned(), |code| code.to_string())
            ))),
        }
    }

    fn source(&self) -> String {
        format!("kubelet credential provider {}", self.program.display())
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn answer(&self, found: &Found, image: &str, registry: &str) -> Result<Answer, CredentialError> {
        let source = self.source();
        let not_found = |reason: &str| CredentialError::NotFound {
            registry: registry.to_owned(),
            reason: format!("{source} {reason}"),
        };
        let auth = found
            .response
            .matching(image)
            .ok_or_else(|| not_found("answered, but with credentials for other images only, or with none"))?;
        match (auth.username.is_empty(), auth.password.is_empty()) {
            (true, true) => Err(not_found("answered with empty credentials")),
            (false, false) => {
                let credential = value::basic(&auth.username, auth.password.as_str())
                    .map_err(|unfit| unfit.stored(&source))?;
                Ok(Answer { credential, valid_for: Some(found.remaining) })
            }
            _ => Err(CredentialError::Broken(format!(
                "{source}: both username and password must be provided together"
            ))),
        }
    }
}

impl CredentialProvider for KubeletPlugin {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            let (registry, image) = names(request);
            let kept = self.cache().get(&image, &registry, Instant::now());
            let found = match kept {
                Some(found) => found,
                None => {
                    // The plugin may count from when it was asked, and so does the cache.
                    let asked = Instant::now();
                    let response = self.ask(&image).await?;
                    self.cache().put(response, &image, &registry, asked)
                }
            };
            self.answer(&found, &image, &registry)
        })
    }

    fn refused(&self, request: &CredentialRequest) {
        let (registry, image) = names(request);
        self.cache().forget(&image, &registry);
    }
}

/// Registry, and image as the kubelet names it: with its registry and path, without tag and digest.
fn names(request: &CredentialRequest) -> (String, String) {
    let registry = fold(&request.registry);
    let image = match request.repository() {
        Some(repository) => format!("{registry}/{repository}"),
        None => registry.clone(),
    };
    (registry, image)
}

#[cfg(test)]
mod tests;
