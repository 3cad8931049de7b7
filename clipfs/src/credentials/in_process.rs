//! Answers from the request in this process, by the library of `credplugin`: from its file, or from one that never was in a file.

use std::sync::Arc;

use credplugin::{Ask, ContainerRequest, Endpoints};

use super::provider::{Answer, AnswerFuture};
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

/// What a request says to one ask.
async fn answer(
    request: &ContainerRequest,
    asked: &CredentialRequest,
    endpoints: &Endpoints,
) -> Result<Answer, CredentialError> {
    let ask =
        Ask { image: asked.image.clone(), registry: asked.registry.clone(), scope: asked.scope.clone() };
    match credplugin::answer(request, &ask, endpoints).await {
        Ok(answer) => answered::accept(&asked.registry, answer),
        Err(error) => Err(answered::failure(error.code, &asked.registry, error.message, error.retry_after)),
    }
}

/// A request that is in memory only, for whoever tries credentials before they are kept.
#[derive(Debug)]
pub struct InMemory {
    request: ContainerRequest,
    endpoints: Endpoints,
}

impl InMemory {
    /// Over a request.
    #[must_use]
    pub const fn new(request: ContainerRequest, endpoints: Endpoints) -> Self {
        Self { request, endpoints }
    }
}

impl CredentialProvider for InMemory {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(answer(&self.request, request, &self.endpoints))
    }

    /// It never changes, and nothing is kept here.
    fn refused(&self, _request: &CredentialRequest) {}
}

impl CredentialProvider for InProcess {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            let read = read(&self.request).await?;
            answer(&read.request, request, &self.endpoints).await
        })
    }

    fn version(&self) -> u64 {
        self.request.version()
    }

    /// Nothing is kept here.
    fn refused(&self, _request: &CredentialRequest) {}
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use tempfile::TempDir;

    use super::super::Credential;
    use super::super::request::tests::{request_json, request_of, write_request};
    use super::*;

    fn asked(registry: &str) -> CredentialRequest {
        CredentialRequest {
            registry: registry.into(),
            image: format!("{registry}/app:1"),
            scope: "repository:app:pull".into(),
        }
    }

    fn over(dir: &TempDir, text: &str) -> InProcess {
        let path = dir.path().join("request.json");
        write_request(&path, text);
        InProcess::new(RequestFile::open(&path).unwrap(), Endpoints::default())
    }

    #[tokio::test]
    async fn the_requests_own_credentials_and_their_rotation() {
        let dir = TempDir::new().unwrap();
        let provider = over(&dir, &request_json("pl4nted-first"));
        let password = async || match provider.credential(&asked("r.example.com")).await.unwrap().credential {
            Credential::Basic { password, .. } => password.expose_secret().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(password().await, "pl4nted-first");
        let version = provider.version();
        write_request(&dir.path().join("request.json"), &request_json("pl4nted-second"));
        assert_ne!(provider.version(), version);
        assert_eq!(password().await, "pl4nted-second");
        write_request(&dir.path().join("request.json"), "{\"image_credentials\":");
        let error = provider.credential(&asked("r.example.com")).await.unwrap_err();
        assert!(
            matches!(&error, CredentialError::Malformed(why) if why.contains("request.json")),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_request_of_just_1_mib() {
        let dir = TempDir::new().unwrap();
        let provider = over(&dir, &request_of("pl4nted-p", 1 << 20));
        let answer = provider.credential(&asked("r.example.com")).await.unwrap();
        assert!(matches!(answer.credential, Credential::Basic { .. }));
        write_request(&dir.path().join("request.json"), &request_of("pl4nted-p", (1 << 20) + 1));
        let error = provider.credential(&asked("r.example.com")).await.unwrap_err();
        assert!(
            matches!(&error, CredentialError::Malformed(why) if why.contains("larger than 1 MiB")),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_an_error_and_never_anonymous() {
        let dir = TempDir::new().unwrap();
        let error = over(&dir, &request_json("pl4nted-p")).credential(&asked("other.example.com")).await;
        assert!(matches!(error, Err(CredentialError::NotFound { .. })), "{error:?}");
        let half = serde_json::json!({"image_credentials": "{\"USERNAME\":\"u\"}"}).to_string();
        let error = over(&dir, &half).credential(&asked("r.example.com")).await;
        assert!(matches!(error, Err(CredentialError::Malformed(_))), "{error:?}");
        let split = request_json("pl4nted\r\nHost: x");
        let error = over(&dir, &split).credential(&asked("r.example.com")).await.unwrap_err();
        assert!(matches!(error, CredentialError::Malformed(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("pl4nted"), "{error:?}");
        let none = over(&dir, "{}").credential(&asked("r.example.com")).await.unwrap();
        assert!(matches!(none.credential, Credential::Anonymous), "the request has none");
    }
    #[tokio::test]
    async fn a_request_in_memory_answers_as_its_file_would() {
        let asked_of = async |text: &str, registry: &str| {
            let request = ContainerRequest::parse(text.as_bytes()).unwrap();
            InMemory::new(request, Endpoints::default()).credential(&asked(registry)).await
        };
        let answer = asked_of(&request_json("pl4nted-first"), "r.example.com").await.unwrap();
        assert!(
            matches!(&answer.credential, Credential::Basic { password, .. } if password.expose_secret() == "pl4nted-first")
        );
        let other = asked_of(&request_json("pl4nted-first"), "other.example.com").await.unwrap_err();
        assert!(matches!(other, CredentialError::NotFound { .. }), "{other:?}");
        let split = asked_of(&request_json("pl4nted\r\nHost: x"), "r.example.com").await.unwrap_err();
        assert!(matches!(split, CredentialError::Malformed(_)), "{split:?}");
        assert!(!format!("{split} {split:?}").contains("pl4nted"), "{split:?}");
        let none = asked_of("{}", "r.example.com").await.unwrap();
        assert!(matches!(none.credential, Credential::Anonymous));
    }
}
