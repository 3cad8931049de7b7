//! Resolvers: one that never answers, and ones that name what is ours.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::Notify;

use super::server::{Image, Reply, Server, with_credentials};
use crate::credentials::{Credential, Static};
use crate::exit;
use crate::oci::Reference;
use crate::registry::guard::Lookup;
use crate::registry::remote::Remote;
use crate::registry::stream::HttpStream;
use crate::registry::{Reach, RegistryError, RegistryOptions};

/// Says where the registry is, until it is broken; says nothing about anybody else.
#[derive(Debug, Default)]
struct Hanging {
    broken: AtomicBool,
    asked: Notify,
}

impl Lookup for Hanging {
    fn lookup(&self, host: String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
        if host == "registry.test" && !self.broken.load(SeqCst) {
            return Box::pin(async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) });
        }
        self.asked.notify_one();
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_resolver_that_hangs_holds_up_nobody_else_and_not_for_ever() {
    let image = Image::new(100);
    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, _| match r.target.contains("/blobs/") {
        true => Reply::new(307, "").with("location", "https://elsewhere.test/x?sig=pl4nted-s3cret"),
        false => served.answer(r),
    })
    .await;
    let port = server.host.rsplit(':').next().unwrap();
    let reference = Reference::parse(&format!("registry.test:{port}/team/app:1")).unwrap();
    let credential = Credential::Basic { username: "u".into(), password: "pl4nted-p".into() };
    let provider = Static { registry: reference.registry.clone(), credential };
    let options = RegistryOptions {
        plain_http: true,
        connect_timeout: Duration::from_millis(500),
        progress_timeout: Duration::from_millis(500),
        attempts: 2,
        ..with_credentials(provider)
    };
    let lookup = Arc::new(Hanging::default());
    let remote = Arc::new(Remote::open_with(reference, &options, lookup.clone()).unwrap());
    remote.manifest("1", None, None).await.unwrap();

    lookup.broken.store(true, SeqCst);
    let (held_up, blob) = (Arc::clone(&remote), image.blob());
    let held_up = tokio::spawn(async move { HttpStream::open(held_up, &blob, 0..9).await.map(drop) });
    lookup.asked.notified().await;
    assert!(!held_up.is_finished());
    for _ in 0..3 {
        remote.manifest("1", None, None).await.expect("what is connected needs no resolver");
    }
    // Far longer than its limits, far shorter than for ever.
    let limit = Duration::from_secs(60);
    let error = tokio::time::timeout(limit, held_up).await.expect("a limit").unwrap().unwrap_err();
    let RegistryError::Unavailable { host, .. } = &error else { panic!("{error}") };
    assert_eq!(host, "elsewhere.test");
    assert_eq!(exit::registry(&error), exit::UNAVAILABLE);
    assert!(!error.to_string().contains("pl4nted-"), "{error}");

    // Nor can the registry itself be found again once its connections are gone.
    let before = server.requests().len();
    remote.distrust(&image.blob());
    let error = tokio::time::timeout(limit, remote.manifest("1", None, None)).await.expect("a limit");
    let error = error.map(drop).unwrap_err();
    assert!(matches!(&error, RegistryError::Unavailable { .. }), "{error}");
    assert_eq!(server.requests().len(), before);
}

/// Says that every name is at one address, and counts.
#[derive(Debug)]
struct At(IpAddr, std::sync::atomic::AtomicUsize);

impl Lookup for At {
    fn lookup(&self, _: String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
        self.1.fetch_add(1, SeqCst);
        let found = self.0;
        Box::pin(async move { Ok(vec![found]) })
    }
}

#[tokio::test]
async fn a_registry_out_of_reach_gets_no_packet() {
    let image = Image::new(100);
    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, _| served.answer(r)).await;
    let port = server.host.rsplit(':').next().unwrap();
    let credential = Credential::Basic { username: "u".into(), password: "pl4nted-p".into() };
    for (host, reach, within) in [
        ("registry.test", Reach::Anywhere, true),
        ("registry.test", Reach::Private, true),
        ("registry.test", Reach::Public, false),
        ("127.0.0.1", Reach::Private, true),
        ("127.0.0.1", Reach::Public, false),
        ("[::ffff:127.0.0.1]", Reach::Public, false),
        ("localhost", Reach::Public, false),
        ("169.254.169.254", Reach::Private, false),
        ("0.0.0.0", Reach::Private, false),
        ("[fd00:ec2::254]", Reach::Private, false),
    ] {
        let before = server.requests().len();
        let reference = Reference::parse(&format!("{host}:{port}/team/app:1")).unwrap();
        let provider = Static { registry: reference.registry.clone(), credential: credential.clone() };
        let options = RegistryOptions { plain_http: true, attempts: 1, reach, ..with_credentials(provider) };
        let lookup = Arc::new(At(IpAddr::from([127, 0, 0, 1]), 0.into()));
        let found = match Remote::open_with(reference, &options, lookup.clone()) {
            // Nor may the question whether the credentials are good reach it.
            Ok(remote) => match remote.authenticate().await {
                Ok(()) => remote.manifest("1", None, None).await.map(drop),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if within {
            found.unwrap_or_else(|error| panic!("{host} {reach:?}: {error}"));
            assert!(server.requests().len() > before, "{host} {reach:?}");
            continue;
        }
        let error = found.expect_err(host);
        assert!(matches!(&error, RegistryError::Protocol { .. }), "{host} {reach:?}: {error}");
        assert!(error.to_string().contains("a private address"), "{host} {reach:?}: {error}");
        assert_eq!(server.requests().len(), before, "{host} {reach:?}");
        if host == "registry.test" {
            assert!(lookup.1.load(SeqCst) > 0, "what it resolves to is what was refused");
            assert!(
                !error.to_string().contains("127.0.0.1"),
                "what names stand for in here is not told: {error}"
            );
        }
    }
}

#[tokio::test]
async fn link_local_addresses_are_out_of_reach_even_by_name() {
    let reference = Reference::parse("registry.test:1/team/app:1").unwrap();
    let provider = Static { registry: reference.registry.clone(), credential: Credential::Anonymous };
    let options = RegistryOptions { attempts: 1, reach: Reach::Private, ..with_credentials(provider) };
    let lookup = Arc::new(At(IpAddr::from([169, 254, 169, 254]), 0.into()));
    let remote = Remote::open_with(reference, &options, lookup).unwrap();
    let error = remote.manifest("1", None, None).await.unwrap_err();
    assert!(error.to_string().contains("resolves to a private address"), "{error}");
}
