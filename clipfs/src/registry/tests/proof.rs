//! Credentials are shown to the registry itself before anything is read: wrong ones are told where nobody would ask for them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::provider::{Scripted, basic, password, with};
use super::server::{Image, Reply, Request, Server, open, options};
use crate::credentials::provider::{Answer, AnswerFuture};
use crate::credentials::{Credential, CredentialProvider, CredentialRequest};
use crate::oci::Platform;
use crate::registry::{ImageSource, RegistryError, RegistryOptions};

/// Wants `u` with the password `p` for all of which `guards` says so.
fn basic_registry(image: &Image, guards: fn(&str) -> bool) -> impl Fn(&Request, usize) -> Reply + use<> {
    let image = image.clone();
    move |r, _| match guards(&r.target) && r.header("authorization") != Some(&basic("p")) {
        true => Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""),
        false if r.target == "/v2/" => Reply::new(200, "{}"),
        false => image.answer(r),
    }
}

/// The same with tokens.
fn bearer_registry(image: &Image, guards: fn(&str) -> bool) -> impl Fn(&Request, usize) -> Reply + use<> {
    let image = image.clone();
    move |r, _| {
        let given = r.header("authorization");
        if r.target.starts_with("/token") {
            return match given == Some(&basic("p")) {
                true => Reply::new(200, r#"{"token":"t"}"#),
                false => Reply::new(401, ""),
            };
        }
        let realm = format!("http://{}/token", r.header("host").unwrap());
        match guards(&r.target) && given != Some("Bearer t") {
            true => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\"")),
            false if r.target == "/v2/" => Reply::new(200, "{}"),
            false => image.answer(r),
        }
    }
}

fn all(_: &str) -> bool {
    true
}

/// What is below the root is public.
fn root(target: &str) -> bool {
    target == "/v2/"
}

async fn mount(source: &ImageSource) -> Result<(), RegistryError> {
    source.authenticate().await?;
    source.resolve(&Platform::parse("linux/amd64").unwrap()).await.map(drop)
}

#[tokio::test]
async fn wrong_ones_are_told_where_all_is_public() {
    let image = Image::new(10);
    for server in [
        Server::start("127.0.0.1", basic_registry(&image, root)).await,
        Server::start("127.0.0.1", bearer_registry(&image, root)).await,
    ] {
        let provider = Scripted::new(|_| Ok(password("wrong", None)));
        let source = open(&server.host, with(&provider)).await;
        for _ in 0..3 {
            let error = mount(&source).await.unwrap_err();
            assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
        }
        assert_eq!((provider.asked(), server.count("/manifests/")), (1, 0));
        mount(&open(&server.host, with(&Scripted::new(|_| Ok(password("p", None))))).await).await.unwrap();
        // Nobody is nobody, and costs no request.
        let before = server.count("/v2/");
        mount(&open(&server.host, options()).await).await.unwrap();
        assert_eq!(server.count("/v2/") - before, 2, "manifest and config");
    }
}

fn mirrored(dir: &Path, registry: &str, mirror: &str) {
    let dir = dir.join(registry);
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), format!("[host.\"http://{mirror}\"]\n")).unwrap();
}

#[tokio::test]
async fn wrong_ones_are_told_where_a_mirror_serves() {
    let image = Image::new(10);
    let dir = tempfile::tempdir().unwrap();
    let served = image.clone();
    let mirror = Server::start("127.0.0.2", move |r, _| served.answer(r)).await;
    let server = Server::start("127.0.0.1", basic_registry(&image, all)).await;
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let broken = Server::start("127.0.0.1", |_, _| Reply::new(503, "")).await;
    let odd = Server::start("127.0.0.1", |_, _| {
        Reply::new(401, "").with("www-authenticate", "Bearer realm=\"http://10.0.0.1/token\"")
    })
    .await;
    for (registry, secret, fine) in [
        (&server.host, "p", true),
        (&server.host, "wrong", false),
        // Who does not answer, or not about this, has not refused: that is what mirrors are for.
        (&gone, "wrong", true),
        (&broken.host, "wrong", true),
        (&odd.host, "wrong", true),
    ] {
        if !dir.path().join(registry).exists() {
            mirrored(dir.path(), registry, &mirror.host);
        }
        let provider = Scripted::new(move |_| Ok(password(secret, None)));
        let options = RegistryOptions { hosts_dir: Some(dir.path().to_owned()), ..with(&provider) };
        let outcome = mount(&open(registry, options).await).await;
        assert_eq!(outcome.is_ok(), fine, "{registry} {secret}: {outcome:?}");
        assert!(fine || matches!(outcome, Err(RegistryError::Denied { .. })), "{outcome:?}");
    }
    assert!(mirror.requests().iter().all(|r| r.header("authorization").is_none()));
}

/// Answers only when the registry has been asked for its challenge.
struct Slow(Arc<Server>);

impl std::fmt::Debug for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slow")
    }
}

impl CredentialProvider for Slow {
    fn credential<'a>(&'a self, _: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            while self.0.requests().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(password("p", None))
        })
    }

    fn refused(&self, _: &CredentialRequest) {}
}

fn targets(server: &Server) -> Vec<String> {
    let name =
        |r: &Request| r.target.split('?').next().unwrap_or("").rsplit('/').nth(1).unwrap_or("").to_owned();
    server.requests().iter().map(name).collect()
}

/// The first question is asked beside the provider: what is sent after its answer is as much as it ever was.
#[tokio::test]
async fn no_more_round_trips_than_without() {
    let image = Image::new(10);
    let platform = Platform::parse("linux/amd64").unwrap();
    let start = async |bearer: bool| match bearer {
        true => Server::start("127.0.0.1", bearer_registry(&image, all)).await,
        false => Server::start("127.0.0.1", basic_registry(&image, all)).await,
    };
    for (bearer, with_proof, without) in [
        (true, ["v2", "", "manifests", "blobs"], vec!["manifests", "", "manifests", "blobs"]),
        (false, ["v2", "v2", "manifests", "blobs"], vec!["manifests", "manifests", "blobs"]),
    ] {
        let server = Arc::new(start(bearer).await);
        let slow = RegistryOptions { credentials: Arc::new(Slow(Arc::clone(&server))), ..options() };
        let source = open(&server.host, slow).await;
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, mount(&source)).await.expect("it asks beside the provider").unwrap();
        assert_eq!(targets(&server), with_proof);
        // Once is enough.
        source.authenticate().await.unwrap();
        assert_eq!(server.requests().len(), with_proof.len());

        let server = start(bearer).await;
        let provider = Scripted::new(|_| Ok(password("p", None)));
        open(&server.host, with(&provider)).await.resolve(&platform).await.unwrap();
        assert_eq!(targets(&server), without);
        // Without the proof the provider is asked between the first request and the second.
        let after_the_answer = [with_proof.len() - 1, without.len() - 1];
        assert!(after_the_answer[0] <= after_the_answer[1] + usize::from(!bearer), "{after_the_answer:?}");
    }
}

#[tokio::test]
async fn who_asks_nothing_refuses_nothing() {
    let image = Image::new(10);
    for (status, challenge) in [
        (200, ""),
        (404, ""),
        (403, ""),
        (302, ""),
        (500, ""),
        (401, ""),
        (401, "Negotiate"),
        (401, "Bearer x=y"),
    ] {
        let served = image.clone();
        let server = Server::start("127.0.0.1", move |r, _| match r.target.as_str() {
            "/v2/" => Reply::new(status, "").with("www-authenticate", challenge).with("location", "/login"),
            _ => served.answer(r),
        })
        .await;
        let source = open(&server.host, with(&Scripted::new(|_| Ok(password("wrong", None))))).await;
        mount(&source).await.unwrap_or_else(|error| panic!("{status} {challenge}: {error}"));
        assert!(server.requests().iter().all(|r| r.header("authorization").is_none()));
    }
    // A registry token for a repository is not for the root, and good nevertheless.
    let served = image.clone();
    let server =
        Server::start("127.0.0.1", move |r, _| match (r.target.as_str(), r.header("authorization")) {
            ("/v2/", given) => {
                let error = if given.is_some() { ",error=\"insufficient_scope\"" } else { "" };
                let challenge = format!("Bearer realm=\"http://{}/token\"{error}", r.header("host").unwrap());
                Reply::new(401, "").with("www-authenticate", challenge)
            }
            (_, Some("Bearer t")) => served.answer(r),
            _ => Reply::new(401, ""),
        })
        .await;
    let token = |_| Ok(Answer { credential: Credential::Bearer("t".into()), valid_for: None });
    mount(&open(&server.host, with(&Scripted::new(token))).await).await.unwrap();
    let wrong = |_| Ok(Answer { credential: Credential::Bearer("w".into()), valid_for: None });
    let error = mount(&open(&server.host, with(&Scripted::new(wrong))).await).await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
}
