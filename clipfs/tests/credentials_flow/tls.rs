//! Certificates that are not good enough, wherever they are met: nothing is sent there. And what is logged where all goes over
//! HTTP/2. (Where secrets go when all certificates are good is judged in [`crate::scenarios`].)

use std::path::Path;

use bytes::Bytes;
use clipfs::exit;
use clipfs::oci::{Descriptor, Digest};
use clipfs::registry::RegistryError;
use fixtures::content::Content;
use fixtures::image::Blob;
use fixtures::registry::{Auth, Bearer, Delivery, Kind, Registry, RegistryConfig, Role, Tls};
use fixtures::secret::{self, Traces};

use crate::server::{Bound, Reply, Server};
use crate::support::{Image, Source, basic, login, open_with, planted};

/// A `certs.d` in which a registry speaks TLS with the authority of the fixtures.
fn certs(dir: &Path, registry: &str) {
    let host = dir.join(registry);
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("ca.pem"), Registry::ca_pem()).unwrap();
    let text = format!("server = \"https://{registry}\"\nca = \"ca.pem\"\n");
    std::fs::write(host.join("hosts.toml"), text).unwrap();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Registry,
    TokenServer,
    Store,
}

#[tokio::test]
async fn bad_certificates_are_refused_before_a_credential_leaves() {
    for place in [Place::Registry, Place::TokenServer, Place::Store] {
        for (bad, why) in [
            (Tls::Expired, "expired"),
            (Tls::NotYetValid, "not valid yet"),
            (Tls::WrongHost, "not valid for name"),
            (Tls::SelfSigned, "UnknownIssuer"),
        ] {
            let what = format!("{bad:?} at the {place:?}");
            let tls = |at: Place| Some(if at == place { bad } else { Tls::Good });
            let registry = Bound::new("127.0.0.1", tls(Place::Registry)).await;
            let tokens = Bound::new("127.0.0.2", tls(Place::TokenServer)).await;
            let store = Bound::new("127.0.0.3", tls(Place::Store)).await;
            let image = Image::new(100);
            let (realm, target) = (tokens.host.clone(), store.host.clone());
            let host = registry.host.clone();
            let servers: Vec<Server> = vec![
                registry.serve(Box::new(move |seen, _| {
                    if seen.header("authorization").is_none() {
                        let challenge = format!("Bearer realm=\"https://{realm}/token\"");
                        return Reply::new(401, "").with("www-authenticate", challenge);
                    }
                    Reply::new(307, "")
                        .with("location", format!("https://{target}/o?sig={}", planted("link")))
                })),
                tokens.serve(Box::new(|seen, _| {
                    assert_eq!(seen.header("authorization"), Some(&*basic("u", &planted("password"))));
                    Reply::new(200, format!("{{\"token\":\"{}\"}}", planted("token")))
                })),
                store.serve(Box::new(|_, _| Reply::new(200, "unreachable"))),
            ];
            let dir = tempfile::tempdir().unwrap();
            certs(dir.path(), &host);
            let provider = Source::new(&host, login("u", &planted("password")));
            let source = open_with(&format!("{host}/app:1"), provider, Some(dir.path().to_owned())).await;
            let error = source.blob(&image.blob()).await.unwrap_err();

            let bad = &servers[place as usize];
            let RegistryError::Protocol { host, reason } = &error else { panic!("{what}: {error}") };
            assert_eq!(*host, bad.host, "{what}");
            assert!(reason.contains(why), "{what}: {reason}");
            assert_eq!(exit::registry(&error), exit::PROTOCOL, "{what}");
            assert_eq!(bad.connections(), 1, "{what}: it was tried once");
            assert!(bad.seen().is_empty() && bad.raw().is_empty(), "{what}: it was sent something");
            let asked: Vec<_> = servers.iter().map(|server| server.seen().len()).collect();
            let before = match place {
                Place::Registry => [0, 0, 0],
                Place::TokenServer => [1, 0, 0],
                Place::Store => [2, 1, 0],
            };
            assert_eq!(asked, before, "{what}");
            assert!(secret::find(format!("{error} {error:?}").as_bytes()).is_none(), "{what}");
        }
    }
}

/// All crates under the client are heard at TRACE, and none of them tells what it carries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_logged_by_anybody() {
    let traces = Traces::install();
    let password = planted("http2");
    let registry = Registry::start(RegistryConfig {
        auth: Auth::Bearer(Bearer { endpoint: Some([127, 0, 0, 2].into()), ..Bearer::new("u", &password) }),
        delivery: Delivery::Redirect {
            bind: [127, 0, 0, 3].into(),
            lifetime: std::time::Duration::from_secs(300),
        },
        tls: Some(Tls::Good),
        ..RegistryConfig::default()
    });
    let layer: Bytes = Content::bytes(9, 1 << 20).into();
    let blob = Descriptor { media_type: String::new(), digest: Digest::of(&layer), size: 1 << 20 };
    registry.put_blob("app", &blob.digest.to_string(), Blob::from(layer.clone()));
    let host = registry.addr().to_string();
    let dir = tempfile::tempdir().unwrap();
    certs(dir.path(), &host);
    for credential in [login("u", &password), login("u", &planted("wrong"))] {
        let right = matches!(&credential, clipfs::credentials::Credential::Basic { password: p, .. }
            if secrecy::ExposeSecret::expose_secret(p) == password);
        let provider = Source::new(&host, credential);
        let source = open_with(&registry.reference("app", "1"), provider, Some(dir.path().to_owned())).await;
        let read = async { source.blob(&blob).await?.collect().await }.await;
        assert_eq!(read.as_deref().ok(), right.then_some(&layer[..]));
    }
    let log = registry.log();
    for (role, kind) in
        [(Role::Registry, Kind::Redirect), (Role::Token, Kind::Token), (Role::ObjectStore, Kind::Blob)]
    {
        assert!(log.iter().any(|r| r.role == role && r.kind == kind && matches!(r.status, 200 | 206 | 307)));
    }
    assert!(fixtures::registry::misplaced().is_empty(), "{:?}", fixtures::registry::misplaced());
    // rustls is built without its log; were it built with it, it would be heard.
    for speaker in ["h2", "hyper_util", "reqwest"] {
        assert!(traces.heard(speaker), "{speaker} says nothing: is its log compiled in?");
    }
    traces.prove();
    traces.assert_clean();
}
