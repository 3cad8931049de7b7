//! Challenges, tokens, renewal; one call for any number of readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::server::{Image, Reply, Request, Server, open, options, with_credentials};
use crate::credentials::provider::{Answer, AnswerFuture};
use crate::credentials::{Credential, CredentialError, CredentialProvider, CredentialRequest, Static};
use crate::oci::Platform;
use crate::registry::RegistryError;

const BASIC: &str = "Basic dTpwbDRudGVkLXA="; // u:pl4nted-p

fn amd64() -> Platform {
    Platform::parse("linux/amd64").unwrap()
}

fn user() -> Credential {
    Credential::Basic { username: "u".into(), password: "pl4nted-p".into() }
}

/// Counts how often it is asked.
#[derive(Debug)]
struct Counting {
    asked: Arc<AtomicUsize>,
    answer: fn(usize) -> Result<Credential, CredentialError>,
}

impl CredentialProvider for Counting {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        assert_eq!(request.scope, "repository:team/app:pull");
        let n = self.asked.fetch_add(1, SeqCst);
        Box::pin(async move { Ok(Answer { credential: (self.answer)(n)?, valid_for: None }) })
    }

    fn refused(&self, _: &CredentialRequest) {}
}

/// A registry whose tokens are `pl4nted-token-<epoch>`; `token_endpoint` answers `/token`.
async fn registry(
    image: &Image,
    epoch: Arc<AtomicUsize>,
    token_endpoint: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> Server {
    let image = image.clone();
    Server::start("127.0.0.1", move |r, _| {
        if r.target.starts_with("/token") {
            return token_endpoint(r).unwrap_or_else(|| {
                Reply::new(200, format!(r#"{{"token":"pl4nted-token-{}","expires_in":300}}"#, epoch.load(SeqCst)))
            });
        }
        if r.header("authorization") == Some(&format!("Bearer pl4nted-token-{}", epoch.load(SeqCst))) {
            return image.answer(r);
        }
        let host = r.header("host").unwrap();
        Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
            .with("www-authenticate", "Negotiate")
            .with(
                "www-authenticate",
                format!("Bearer realm=\"http://{host}/token\",service=\"s v\",scope=\"repository:other/secret:pull,push registry:catalog:* aws\""),
            )
    })
    .await
}

#[tokio::test]
async fn anonymous_token() {
    let image = Image::new(10);
    let server = registry(&image, Arc::default(), |_| None).await;
    let source = open(&server.host, options()).await;
    source.resolve(&amd64()).await.unwrap();
    source.blob(&image.blob()).await.unwrap();
    let log = server.requests();
    let tokens: Vec<_> = log.iter().filter(|r| r.target.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].target, "/token?service=s+v&scope=repository%3Ateam%2Fapp%3Apull&scope=aws");
    assert_eq!((&tokens[0].method[..], tokens[0].header("authorization")), ("GET", None));
    assert_eq!(log.len(), 5, "401, token, manifest, config, layer");
    assert_eq!(source.stats().token_requests, 1);
}

#[tokio::test]
async fn basic_at_the_registry_and_at_the_token_endpoint() {
    let image = Image::new(10);
    let server = registry(&image, Arc::default(), |r| {
        (r.header("authorization") != Some(BASIC)).then(|| Reply::new(401, ""))
    })
    .await;
    let provider = Static { registry: server.host.clone(), credential: user() };
    open(&server.host, with_credentials(provider)).await.resolve(&amd64()).await.unwrap();

    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, _| {
        if r.header("authorization") == Some(BASIC) {
            served.answer(r)
        } else {
            Reply::new(401, "").with("www-authenticate", "basic realm=x")
        }
    })
    .await;
    let provider = Static { registry: server.host.clone(), credential: user() };
    open(&server.host, with_credentials(provider)).await.resolve(&amd64()).await.unwrap();
    let error = open(&server.host, options()).await.resolve(&amd64()).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Denied { reason, .. } if reason.contains("there are none")),
        "{error}"
    );
}

#[tokio::test]
async fn oauth2_where_get_is_not_understood() {
    let image = Image::new(10);
    for status in [400, 401, 404, 405] {
        let server =
            registry(&image, Arc::default(), move |r| (r.method == "GET").then(|| Reply::new(status, "")))
                .await;
        let provider = Static { registry: server.host.clone(), credential: user() };
        open(&server.host, with_credentials(provider)).await.resolve(&amd64()).await.unwrap();
        let log = server.requests();
        let post = log.iter().find(|r| r.method == "POST").unwrap();
        assert!(
            post.body.starts_with("grant_type=password&username=u&password=p&client_id=clipfs&service=s+v")
        );
        assert_eq!(post.header("content-type"), Some("application/x-www-form-urlencoded"));
    }
}

#[tokio::test]
async fn refresh_tokens_are_posted_and_registry_tokens_used_as_they_are() {
    let image = Image::new(10);
    let server = registry(&image, Arc::default(), |r| (r.method == "GET").then(|| Reply::new(500, ""))).await;
    let provider =
        Static { registry: server.host.clone(), credential: Credential::RefreshToken("r1".into()) };
    open(&server.host, with_credentials(provider)).await.resolve(&amd64()).await.unwrap();
    assert!(server.requests()[1].body.starts_with("grant_type=refresh_token&refresh_token=r1&"));

    let server = registry(&image, Arc::default(), |_| None).await;
    let provider =
        Static { registry: server.host.clone(), credential: Credential::Bearer("pl4nted-token-0".into()) };
    open(&server.host, with_credentials(provider)).await.resolve(&amd64()).await.unwrap();
    assert_eq!(server.count("/token"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_renewal_for_many_readers() {
    let image = Image::new(1000);
    let epoch = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let server = registry(&image, Arc::clone(&epoch), |_| None).await;
    let provider = Counting { asked: Arc::clone(&asked), answer: |_| Ok(user()) };
    let source = open(&server.host, with_credentials(provider)).await;
    let storm = async || {
        let readers: Vec<_> = (0..100)
            .map(|_| {
                let (source, blob) = (source.clone(), image.blob());
                tokio::spawn(async move { source.blob(&blob).await.unwrap().collect().await.unwrap() })
            })
            .collect();
        for reader in readers {
            assert_eq!(reader.await.unwrap(), image.layer[..]);
        }
    };
    storm().await;
    assert_eq!((server.count("/token"), asked.load(SeqCst)), (1, 1), "first challenge");
    epoch.store(1, SeqCst); // all tokens end at once
    storm().await;
    assert_eq!(
        (server.count("/token"), asked.load(SeqCst)),
        (2, 1),
        "one refresh, of what the provider said"
    );
}

#[tokio::test]
async fn revoked_is_denied_and_holds_off() {
    let image = Image::new(10);
    let epoch = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let revoked = Arc::clone(&epoch);
    let server = registry(&image, Arc::clone(&epoch), move |_| {
        (revoked.load(SeqCst) > 0)
            .then(|| Reply::new(401, r#"{"errors":[{"code":"X","message":"account closed"}]}"#))
    })
    .await;
    let provider = Counting { asked: Arc::clone(&asked), answer: |_| Ok(user()) };
    let source = open(&server.host, with_credentials(provider)).await;
    source.blob(&image.blob()).await.unwrap();
    epoch.store(1, SeqCst);
    let error = source.blob(&image.blob()).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Denied { reason, .. } if reason.contains("account closed")),
        "{error}"
    );
    assert_eq!(asked.load(SeqCst), 2, "the provider was asked again");
    let before = server.requests().len();
    for _ in 0..10 {
        assert!(matches!(source.blob(&image.blob()).await, Err(RegistryError::Denied { .. })));
    }
    assert_eq!(server.requests().len(), before, "held off");
}

#[tokio::test]
async fn a_rotated_secret_is_picked_up() {
    let image = Image::new(10);
    let epoch = Arc::new(AtomicUsize::new(0));
    let rotated = Arc::clone(&epoch);
    let server = registry(&image, Arc::clone(&epoch), move |r| {
        let right = if rotated.load(SeqCst) == 0 { BASIC } else { "Basic dTpwbDRudGVkLXE=" }; // u:pl4nted-q
        (r.header("authorization") != Some(right)).then(|| Reply::new(401, ""))
    })
    .await;
    let answer = |n| {
        let password = if n == 0 { "pl4nted-p" } else { "pl4nted-q" }.into();
        Ok(Credential::Basic { username: "u".into(), password })
    };
    let source = open(&server.host, with_credentials(Counting { asked: Arc::default(), answer })).await;
    source.blob(&image.blob()).await.unwrap();
    epoch.store(1, SeqCst);
    source.blob(&image.blob()).await.unwrap();
}

#[tokio::test]
async fn fails_closed() {
    let image = Image::new(10);
    let server = registry(&image, Arc::default(), |_| None).await;
    let provider = Static { registry: "elsewhere".into(), credential: user() };
    let error = open(&server.host, with_credentials(provider)).await.resolve(&amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Credentials(CredentialError::NotFound { .. })), "{error}");
    let answer = |_| Err(CredentialError::Unavailable("vault is sealed".into()));
    let source = open(&server.host, with_credentials(Counting { asked: Arc::default(), answer })).await;
    let error = source.resolve(&amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Credentials(CredentialError::Unavailable(_))), "{error}");
    assert_eq!(server.count("/token"), 0, "never anonymous instead");
}

#[tokio::test]
async fn bad_realms_are_refused_before_a_credential_leaves() {
    for realm in [
        "http://169.254.169.254/token",
        "https://10.0.0.1/token",
        "http://auth.example/token",
        "https://u:p@auth.example/token",
        "file:///etc/passwd",
        "not a url",
    ] {
        let server = Server::start("127.0.0.1", move |_, _| {
            Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\",service=x"))
        })
        .await;
        let asked = Arc::new(AtomicUsize::new(0));
        let provider = Counting { asked: Arc::clone(&asked), answer: |_| Ok(user()) };
        let error = open(&server.host, with_credentials(provider)).await.resolve(&amd64()).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{realm}: {error}");
        assert_eq!((server.requests().len(), asked.load(SeqCst)), (1, 0), "{realm}");
    }
}

#[tokio::test]
async fn odd_token_endpoints() {
    let image = Image::new(10);
    let big = "x".repeat(70_000);
    for (reply, want) in [
        (Reply::new(200, big), "more than 65536 bytes"),
        (Reply::new(200, "{}"), "no token"),
        (Reply::new(200, "<html>"), "malformed"),
        (Reply::new(200, "{\"token\":\"a\\r\\nX: y\"}"), "no header may have"),
        (Reply::new(302, "").with("location", "/token2"), "redirects"),
        (Reply::new(404, ""), "404"),
        (Reply::new(503, ""), "503"),
        (Reply::new(429, ""), "slow down"),
    ] {
        let server = registry(&image, Arc::default(), move |_| Some(reply.clone())).await;
        let error = open(&server.host, options()).await.resolve(&amd64()).await.unwrap_err();
        assert!(error.to_string().contains(want), "{want}: {error}");
    }
}

#[tokio::test]
async fn an_early_renewal_that_fails_is_invisible() {
    let image = Image::new(10);
    let down = Arc::new(AtomicUsize::new(0));
    let is_down = Arc::clone(&down);
    let server =
        registry(&image, Arc::default(), move |_| (is_down.load(SeqCst) == 1).then(|| Reply::new(503, "")))
            .await;
    let source = open(&server.host, options()).await;
    source.blob(&image.blob()).await.unwrap();
    down.store(1, SeqCst);
    source.age_tokens(Duration::from_secs(280)); // of 300: the time for renewal has come
    for _ in 0..5 {
        source.blob(&image.blob()).await.unwrap();
    }
    down.store(0, SeqCst);
    source.age_tokens(Duration::from_secs(30)); // ended: the next request renews before it is sent
    let before = server.count("/blobs/");
    source.blob(&image.blob()).await.unwrap();
    assert_eq!(server.count("/blobs/") - before, 1, "no request with a token known to have ended");
}
