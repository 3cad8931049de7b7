//! Where a server's image comes from: opening it, what it says before a mount serves, and what its errors say about the mount.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asked::{Counted, Counts};
use super::error::sentence;
use super::protocol::{ServerConfig, State};
use crate::credentials::{CredentialError, CredentialSource};
use crate::oci::{Digest, ImageSpec};
use crate::registry::{ImageSource, Reach, RegistryError, RegistryOptions};

/// Time to a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time without a byte.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a mount waits for the registry's word; a silent one makes it `degraded`.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// Attempts for a request.
const ATTEMPTS: u32 = 4;

/// Opens the image's place, and the source of its credentials. `None`: there is none to open.
pub(super) async fn open_source(
    config: &ServerConfig,
    asked: &Arc<Counts>,
) -> Result<Option<ImageSource>, RegistryError> {
    let Some(image) = &config.image else { return Ok(None) };
    let spec: ImageSpec = image.parse()?;
    let credentials = config.credentials.clone();
    // Reads the request.
    let opened = tokio::task::spawn_blocking(move || credentials.open()).await;
    let inner = opened.map_err(|e| CredentialError::Broken(e.to_string()))??;
    let options = RegistryOptions {
        credentials: Arc::new(Counted { inner, counts: Arc::clone(asked) }),
        plain_http: config.plain_http,
        hosts_dir: config.hosts_dir.clone(),
        connect_timeout: CONNECT_TIMEOUT,
        progress_timeout: PROGRESS_TIMEOUT,
        attempts: ATTEMPTS,
        reach: Reach::Anywhere,
    };
    ImageSource::open(&spec, options).await.map(Some)
}

/// What must be known before a mount serves for the first time.
pub(super) struct First<'a> {
    pub(super) source: &'a ImageSource,
    pub(super) asked: &'a Counts,
    /// What is told of them.
    pub(super) credentials: &'a CredentialSource,
    /// For credentials.
    pub(super) patience: Duration,
}

impl First<'_> {
    /// A definite no refuses the mount; silence or trouble of the registry does not. But credentials must be there, and be usable, even
    /// if the registry wants none: nothing is mounted whose credentials nobody could check.
    pub(super) async fn state(&self, digest: &Digest) -> Result<State, RegistryError> {
        let silent = |_| RegistryError::from(self.credentials.silent(self.patience));
        let began = Instant::now();
        tokio::time::timeout(self.patience, self.source.authenticate()).await.map_err(silent)??;
        // The registry may refuse what it is shown, and the source be asked for better: that ends in time, too.
        let left = self.patience.saturating_sub(began.elapsed()).max(CHECK_TIMEOUT);
        let checked = self.asked.wait(self.source.check(digest), CHECK_TIMEOUT, || {});
        match tokio::time::timeout(left, checked).await.map_err(silent)? {
            Some(Ok(())) => Ok(State::Ok),
            // Asked again, the source had nothing better than what was refused.
            Some(Err(error @ RegistryError::Credentials(_))) => Err(error),
            Some(Err(error)) if error.is_permanent() => Err(error),
            Some(Err(error)) => {
                tracing::warn!("the image's source does not answer: {}", sentence(&error));
                Ok(State::Degraded)
            }
            None => Ok(State::Degraded),
        }
    }
}

/// What an error of the source says about the mount: whether somebody must mend credentials, or only time.
pub(super) fn state_after(error: &RegistryError) -> State {
    match error {
        RegistryError::Denied { .. } => State::AuthDenied,
        RegistryError::Credentials(CredentialError::Broken(_)) => State::Degraded,
        RegistryError::Credentials(error) if !error.is_passing() => State::AuthDenied,
        _ => State::Degraded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_say_who_can_mend() {
        let text = String::new;
        let table = [
            (State::AuthDenied, RegistryError::Denied { host: text(), what: text(), reason: text() }),
            (State::AuthDenied, CredentialError::NotFound { registry: text(), reason: text() }.into()),
            (State::AuthDenied, CredentialError::Malformed(text()).into()),
            (State::AuthDenied, CredentialError::Configuration(text()).into()),
            (State::Degraded, CredentialError::Unavailable(text()).into()),
            (State::Degraded, CredentialError::TryLater { reason: text(), after: None }.into()),
            (State::Degraded, CredentialError::Broken(text()).into()),
            (State::Degraded, RegistryError::Unavailable { host: text(), reason: text() }),
        ];
        for (expected, error) in table {
            assert_eq!(state_after(&error), expected, "{error:?}");
        }
    }
}
