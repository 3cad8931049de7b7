//! Addresses that must be refused are refused before any packet, whoever names them and however they are written. (What names
//! resolve to is tested beside the client, with a resolver of the test's own.)

use std::sync::Arc;

use clipfs::exit;
use clipfs::registry::{ImageSource, RegistryError};

use crate::server::{Reply, Server};
use crate::support::{Image, Source, amd64, login, open, planted};

/// Authorities that a registry on this machine may not send anybody to.
const FORBIDDEN: [&str; 38] = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.169.254.",
    "169.254.169.254:80",
    "169.254.170.2",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "0.0.0.0",
    "0",
    "[::]",
    "255.255.255.255",
    "224.0.0.1",
    "[fe80::1]",
    "[fc00::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::169.254.169.254]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "2852039166",            // 169.254.169.254
    "0xa9fea9fe",            // the same
    "0xa9.0xfe.0xa9.0xfe",   // the same
    "0251.0376.0251.0376",   // the same
    "169.254.43518",         // the same
    "%31%36%39.254.169.254", // the same
    "①⑥⑨.②⑤④.①⑥⑨.②⑤④",       // the same, after mapping
    "169。254。169。254",    // the same
];

/// Only the registry itself was ever connected to.
fn went_nowhere(source: &ImageSource, registry: &Server, what: &str) {
    let hosts: Vec<_> = source.answers().into_iter().map(|answer| answer.host).collect();
    assert!(hosts.iter().all(|host| *host == registry.host), "{what}: {hosts:?}");
    assert_eq!(source.stats().token_requests, 0, "{what}");
}

fn is_refusal(error: &RegistryError, what: &str) {
    assert!(matches!(error, RegistryError::Protocol { .. }), "{what}: {error}");
    assert_eq!(exit::registry(error), exit::PROTOCOL, "{what}");
    assert!(!error.to_string().contains("pl4nted-"), "{what}: {error}");
}

#[tokio::test]
async fn redirects_and_realms_to_addresses() {
    let image = Image::new(100);
    for host in FORBIDDEN {
        for scheme in ["https", "http"] {
            let to: Arc<str> = format!("{scheme}://{host}/x?sig={}", planted("link")).into();
            // Non-ASCII bytes in headers are UTF-8 here.
            let location = Arc::clone(&to);
            let registry =
                Server::start("127.0.0.1", move |_, _| Reply::new(307, "").with("location", &*location))
                    .await;
            let provider = Source::new(&registry.host, login("u", &planted("password")));
            let source = open(&format!("{}/app:1", registry.host), provider).await;
            let error = source.blob(&image.blob()).await.unwrap_err();
            is_refusal(&error, &to);
            went_nowhere(&source, &registry, &to);
            assert_eq!(registry.seen().len(), 1, "{to}");

            let realm = format!("Bearer realm=\"{to}\",service=\"s\"");
            let registry = Server::start("127.0.0.1", move |_, _| {
                Reply::new(401, "").with("www-authenticate", realm.as_str())
            })
            .await;
            let provider = Source::new(&registry.host, login("u", &planted("password")));
            let source = open(&format!("{}/app:1", registry.host), provider.clone()).await;
            let error = source.resolve(&amd64()).await.unwrap_err();
            is_refusal(&error, &to);
            went_nowhere(&source, &registry, &to);
            assert_eq!((registry.seen().len(), provider.asked()), (1, 0), "{to}");
        }
    }
}

#[tokio::test]
async fn targets_of_other_kinds() {
    let image = Image::new(100);
    for location in [
        "file:///etc/shadow",
        "data:text/plain,x",
        "ftp://127.0.0.1/x",
        "unix:///run/docker.sock",
        "javascript:1",
        "http://",
        "https://[",
        "http://127.0.0.1:99999/",
        "http://user@127.0.0.1/x",
        "http://:password@127.0.0.1/x",
        "http://registry.example/x",
    ] {
        let registry =
            Server::start("127.0.0.1", move |_, _| Reply::new(302, "").with("location", location)).await;
        let provider = Source::new(&registry.host, login("u", &planted("password")));
        let source = open(&format!("{}/app:1", registry.host), provider).await;
        is_refusal(&source.blob(&image.blob()).await.unwrap_err(), location);
        went_nowhere(&source, &registry, location);
        assert_eq!(registry.seen().len(), 1, "{location}");
    }
}
