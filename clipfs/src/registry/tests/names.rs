//! A resolver that never answers.

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
use crate::registry::{RegistryError, RegistryOptions};

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
