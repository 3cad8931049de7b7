//! `server` of a `hosts.toml` that is another host: the registry's credentials are for the registry, unless the operator says so
//! for this one registry.

use clipfs::credentials::CredentialError;
use clipfs::registry::RegistryError;

use crate::server::{Reply, Server};
use crate::support::{Image, Source, amd64, basic, login, open_with, planted};

#[tokio::test]
async fn another_server_gets_the_registrys_credentials_only_by_the_operators_word() {
    let image = Image::new(100);
    let password = planted("of-the-registry");
    let right = basic("u", &password);
    let served = image.clone();
    let server =
        Server::start("127.0.0.2", move |seen, _| match seen.header("authorization") == Some(&right) {
            true => served.answer(seen),
            false => Reply::new(401, "{}").with("www-authenticate", "Basic realm=\"x\""),
        })
        .await;
    let registry = Server::start("127.0.0.1", |_, _| Reply::new(500, "")).await;
    for (dir, top, of, works) in [
        (&*registry.host, "", &registry.host, false),
        (&*registry.host, "send_credentials = false\n", &registry.host, false),
        (&*registry.host, "send_credentials = true\n", &registry.host, true),
        ("_default", "", &registry.host, false),
        ("_default", "send_credentials = true\n", &registry.host, false),
        // Its own are its own.
        (&*registry.host, "", &server.host, true),
        ("_default", "", &server.host, true),
    ] {
        let what = format!("{dir} {top} {}", of == &server.host);
        let certs = tempfile::tempdir().unwrap();
        std::fs::create_dir(certs.path().join(dir)).unwrap();
        let text = format!("{top}server = \"http://{}\"\n", server.host);
        std::fs::write(certs.path().join(dir).join("hosts.toml"), text).unwrap();
        let (provider, before) = (Source::new(of, login("u", &password)), server.seen().len());
        let hosts_dir = Some(certs.path().to_owned());
        let source = open_with(&format!("{}/app:1", registry.host), provider, hosts_dir).await;
        let outcomes = [source.authenticate().await, source.resolve(&amd64()).await.map(drop)];
        for outcome in outcomes {
            let not_for_it = matches!(&outcome, Err(RegistryError::Credentials(CredentialError::NotFound { registry, .. }))
                if *registry == server.host);
            assert!(if works { outcome.is_ok() } else { not_for_it }, "{what}: {outcome:?}");
        }
        let shown = server.seen()[before..].iter().any(|seen| seen.header("authorization").is_some());
        assert_eq!(shown, works, "{what}");
    }
    assert!(registry.seen().is_empty());
}
