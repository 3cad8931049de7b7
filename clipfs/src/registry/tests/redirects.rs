//! Where redirects lead, what goes along, and how long they are remembered.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::server::{Image, Reply, Server, open, options, with_credentials};
use crate::credentials::{Credential, Static};
use crate::oci::Reference;
use crate::registry::RegistryError;
use crate::registry::guard::Lookup;
use crate::registry::remote::Remote;

#[tokio::test]
async fn credentials_stay_at_home() {
    let image = Image::new(1000);
    let served = image.clone();
    let home = Arc::new(std::sync::OnceLock::<String>::new());
    let back = Arc::clone(&home);
    // The object store sends the blob's reader home again once: credentials must not come back either.
    let store = Server::start("127.0.0.2", move |_, n| {
        if n == 0 {
            Reply::new(307, "").with("location", format!("http://{}/moved", back.get().unwrap()))
        } else {
            Reply::new(500, "")
        }
    })
    .await;
    let target = store.host.clone();
    let server = Server::start("127.0.0.1", move |r, _| {
        if r.target == "/moved" {
            return Reply::new(200, &served.layer[..]);
        }
        if r.header("authorization").is_none() {
            return Reply::new(401, "").with("www-authenticate", "Basic realm=\"x\"");
        }
        Reply::new(307, "").with("location", format!("http://{target}/object?sig=pl4nted-s3cret"))
    })
    .await;
    home.set(server.host.clone()).unwrap();
    let credential = Credential::Basic { username: "u".into(), password: "pl4nted-p".into() };
    let provider = Static { registry: server.host.clone(), credential };
    let source = open(&server.host, with_credentials(provider)).await;
    assert_eq!(source.blob(&image.blob()).await.unwrap().collect().await.unwrap(), image.layer[..]);
    for request in store.requests().iter().chain(server.requests().iter().filter(|r| r.target == "/moved")) {
        assert_eq!(request.header("authorization"), None, "{}", request.target);
        assert_eq!(request.header("referer"), None);
    }
    assert_eq!((store.requests().len(), server.count("/moved")), (1, 1));
}

#[tokio::test]
async fn remembered_until_they_end() {
    let image = Image::new(1000);
    let served = image.clone();
    let ended = Arc::new(AtomicUsize::new(0));
    let is_ended = Arc::clone(&ended);
    let store = Server::start("127.0.0.2", move |r, _| {
        // A link signed in an earlier round is refused.
        let round: usize = r.target.rsplit("round=").next().unwrap().parse().unwrap();
        if round < is_ended.load(SeqCst) {
            return Reply::new(403, "");
        }
        let mut plain = r.clone();
        plain.target = r.target.split('?').next().unwrap().to_owned();
        served.answer(&plain)
    })
    .await;
    let (target, round) = (store.host.clone(), Arc::clone(&ended));
    let server = Server::start("127.0.0.1", move |r, _| {
        let location = format!("http://{target}{}?X-Amz-Expires=300&round={}", r.target, round.load(SeqCst));
        Reply::new(307, "").with("location", location)
    })
    .await;
    let source = open(&server.host, options()).await;
    let read = async || source.blob_range(&image.blob(), 5..9).await.unwrap().collect().await.unwrap();
    assert_eq!(read().await, image.layer[5..9]);
    assert_eq!(read().await, image.layer[5..9]);
    assert_eq!((server.requests().len(), store.requests().len()), (1, 2), "asked once");
    ended.store(1, SeqCst);
    assert_eq!(read().await, image.layer[5..9]);
    assert_eq!((server.requests().len(), store.requests().len()), (2, 4), "asked again after a refusal");
    source.distrust(&image.blob());
    assert_eq!(read().await, image.layer[5..9]);
    assert_eq!(server.requests().len(), 3, "wrong bytes end a remembered redirect");
}

#[tokio::test]
async fn refusal_at_the_target_is_no_storm() {
    let image = Image::new(1000);
    let store = Server::start("127.0.0.2", |_, _| Reply::new(403, "")).await;
    let target = store.host.clone();
    let server = Server::start("127.0.0.1", move |_, _| {
        Reply::new(302, "").with("location", format!("http://{target}/x?sig=pl4nted-s3cret"))
    })
    .await;
    let error = open(&server.host, options()).await.blob(&image.blob()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    assert!(!error.to_string().contains("pl4nted-s3cret"));
    assert_eq!((server.requests().len(), store.requests().len()), (2, 2));
}

#[tokio::test]
async fn bad_targets_are_refused() {
    let image = Image::new(1000);
    for location in [
        "http://169.254.169.254/latest/meta-data/?t=pl4nted-s3cret",
        "http://10.0.0.1/x?t=pl4nted-s3cret",
        "http://[fd00:ec2::254]/x",
        "file:///etc/shadow",
        "http://public.example/x?t=pl4nted-s3cret",
        "http://u:pl4nted-s3cret@127.0.0.1/x",
        "",
    ] {
        let server = Server::start("127.0.0.1", move |_, _| {
            let reply = Reply::new(302, "");
            if location.is_empty() { reply } else { reply.with("location", location) }
        })
        .await;
        let error = open(&server.host, options()).await.blob(&image.blob()).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{location}: {error}");
        assert!(!error.to_string().contains("pl4nted-s3cret"), "{error}");
        assert_eq!(server.requests().len(), 1, "{location}");
    }
    let server =
        Server::start("127.0.0.1", |r, _| Reply::new(302, "").with("location", format!("{}x", r.target)))
            .await;
    let error = open(&server.host, options()).await.blob(&image.blob()).await.unwrap_err();
    assert!(error.to_string().contains("more than 5 redirects"), "{error}");
    assert_eq!(server.requests().len(), 6);
}

/// Says that the registry is public, at an address of this machine, and of everything else what comes next.
#[derive(Debug)]
struct Names(Vec<IpAddr>, AtomicUsize);

impl Lookup for Names {
    fn lookup(
        &self,
        host: String,
    ) -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
        let ips = match host == "registry.test" {
            true => vec![IpAddr::from([127, 0, 0, 1])],
            false => {
                self.1.fetch_add(1, SeqCst);
                self.0.clone()
            }
        };
        Box::pin(async move { Ok(ips) })
    }
}

#[tokio::test]
async fn names_that_resolve_privately_are_refused_before_any_packet() {
    let inside = std::net::TcpListener::bind("127.0.0.3:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let port = inside.local_addr().unwrap().port();
    let addresses = [
        "127.0.0.3",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.3",
        "64:ff9b::7f00:3",
        "64:ff9b:1::1",
        "2002:7f00:3::1",
        "::7f00:3",
    ];
    let one_each = addresses.map(|address| vec![address]);
    for (addresses, what) in one_each
        .into_iter()
        .chain([vec!["127.0.0.3", "::1", "169.254.169.254"]])
        .flat_map(|addresses| ["redirect", "realm", "manifest"].map(|what| (addresses.clone(), what)))
    {
        let server = Server::start("127.0.0.1", move |_, _| match what {
            "realm" => Reply::new(401, "")
                .with("www-authenticate", format!("Bearer realm=\"https://inside.test:{port}/token\"")),
            _ => Reply::new(302, "").with("location", format!("https://inside.test:{port}/x")),
        })
        .await;
        let own_port = server.host.rsplit(':').next().unwrap();
        let reference = Reference::parse(&format!("registry.test:{own_port}/team/app:1")).unwrap();
        let credential = Credential::Basic { username: "u".into(), password: "pl4nted-p".into() };
        let mut options = with_credentials(Static { registry: reference.registry.clone(), credential });
        options.plain_http = true;
        let ips = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let lookup = Arc::new(Names(ips, AtomicUsize::new(0)));
        let names: Arc<dyn Lookup> = lookup.clone();
        let remote = Arc::new(Remote::open_with(reference, &options, names).unwrap());
        let error = match what {
            "manifest" => remote.manifest("1", None, None).await.map(drop).unwrap_err(),
            _ => crate::registry::stream::HttpStream::open(Arc::clone(&remote), &Image::new(9).blob(), 0..9)
                .await
                .unwrap_err(),
        };
        assert!(
            matches!(&error, RegistryError::Protocol { reason, .. } if reason.contains("private address")),
            "{addresses:?} {what}: {error}"
        );
        assert_eq!(crate::exit::registry(&error), crate::exit::PROTOCOL);
        assert_eq!((server.requests().len(), lookup.1.load(SeqCst)), (1, 1), "{addresses:?} {what}");
    }
    let came = inside.accept().map(|_| ()).unwrap_err();
    assert_eq!(came.kind(), std::io::ErrorKind::WouldBlock, "nobody connected");
}
