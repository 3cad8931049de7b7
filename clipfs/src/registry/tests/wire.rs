//! Manifests, ranges, and transfers that break.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::server::{Image, Reply, Server, Then, open, options};
use crate::oci::{Digest, Platform};
use crate::registry::{RegistryError, RegistryOptions, within};

fn amd64() -> Platform {
    Platform::parse("linux/amd64").unwrap()
}

#[tokio::test]
async fn resolves_checks_and_reads() {
    let image = Image::new(300_000);
    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, _| served.answer(r)).await;
    let source = open(&server.host, options()).await;
    let found = source.resolve(&amd64()).await.unwrap();
    let digest = Digest::of(image.manifest.as_bytes());
    assert_eq!((found.manifest_digest, &found.config_bytes[..]), (digest, image.config.as_bytes()));
    assert_eq!(found.name, format!("{}/team/app:1@{digest}", server.host));
    source.check(&digest).await.unwrap();
    assert_eq!(source.blob(&image.blob()).await.unwrap().collect().await.unwrap(), image.layer[..]);
    let part = source.blob_range(&image.blob(), 1000..250_000).await.unwrap().collect().await.unwrap();
    assert_eq!(part, image.layer[1000..250_000]);
    let beyond = source.blob_range(&image.blob(), 0..300_001).await;
    assert!(matches!(beyond, Err(RegistryError::Mismatch { .. })));

    let log = server.requests();
    let head = log.iter().find(|r| r.method == "HEAD").unwrap();
    assert_eq!(head.target, format!("/v2/team/app/manifests/{digest}"));
    let get = &log[0];
    for kind in ["oci.image.index", "oci.image.manifest", "manifest.list.v2", "manifest.v2"] {
        assert!(get.header("accept").unwrap().contains(kind), "{kind}");
    }
    assert!(get.header("user-agent").unwrap().starts_with("clipfs/"));
    let ranged = log.last().unwrap();
    assert_eq!(
        (ranged.header("range"), ranged.header("accept-encoding")),
        (Some("bytes=1000-249999"), Some("identity"))
    );
    assert_eq!(source.stats().requests, 5);
    assert_eq!(source.stats().blob_bytes, 300_000 + 249_000 + u64::try_from(image.config.len()).unwrap());
}

#[tokio::test]
async fn truncated_transfers_are_resumed_where_they_broke() {
    let image = Image::new(1_000_000);
    let served = image.clone();
    // Each connection dies after 100 kB of body: progress, so that three attempts suffice for all of it.
    let server = Server::start("127.0.0.1", move |r, _| served.answer(r).then(Then::Cut(100_000))).await;
    let source = open(&server.host, options()).await;
    let read = source.blob(&image.blob()).await.unwrap().collect().await.unwrap();
    assert_eq!(read, image.layer[..]);
    let ranges: Vec<_> = server.requests().iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges[..2], [None, Some("bytes=100000-999999".to_owned())]);
    assert_eq!(ranges.len(), 10);
}

#[tokio::test]
async fn attempts_without_progress_are_bounded() {
    let image = Image::new(100_000);
    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, _| served.answer(r).then(Then::Cut(10))).await;
    let source = open(&server.host, options()).await;
    let error = source.blob(&image.blob()).await.unwrap().collect().await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn stalls_get_a_new_connection() {
    let image = Image::new(100_000);
    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, n| {
        let reply = served.answer(r);
        if n == 0 { reply.then(Then::Stall(5000)) } else { reply }
    })
    .await;
    let options = RegistryOptions { progress_timeout: Duration::from_millis(200), ..options() };
    let source = open(&server.host, options).await;
    assert_eq!(source.blob(&image.blob()).await.unwrap().collect().await.unwrap(), image.layer[..]);
    assert_eq!(server.requests()[1].header("range"), Some("bytes=5000-99999"));
}

#[tokio::test]
async fn servers_without_ranges_are_read_from_the_start() {
    let image = Image::new(100_000);
    let layer = image.layer.clone();
    let server = Server::start("127.0.0.1", move |_, _| Reply::new(200, &layer[..])).await;
    let source = open(&server.host, options()).await;
    let read = source.blob_range(&image.blob(), 70_000..70_010).await.unwrap().collect().await.unwrap();
    assert_eq!(read, image.layer[70_000..70_010]);
    let mut far = image.blob();
    far.size = 1 << 40;
    let server =
        Server::start("127.0.0.1", move |_, _| Reply::new(200, "").with("transfer-encoding", "chunked"))
            .await;
    let source = open(&server.host, options()).await;
    assert!(source.blob_range(&far, 1 << 39..(1 << 39) + 1).await.is_err());
}

#[tokio::test]
async fn contradictory_answers_are_not_believed() {
    let image = Image::new(1000);
    type Spoil = fn(Reply) -> Reply;
    let table: [(&str, Spoil); 6] = [
        ("shifted", |r| r.with("content-range", "bytes 11-20/1000")),
        ("unit", |r| r.with("content-range", "lines 10-19/1000")),
        ("encoded", |r| r.with("content-encoding", "gzip")),
        ("absent", |mut r| {
            r.headers.clear();
            r
        }),
        ("total", |r| r.with("content-range", "bytes 10-19/999")),
        ("longer", |r| r.with("content-range", "bytes 10-29/1000")),
    ];
    for (name, spoil) in table {
        let served = image.clone();
        // Wrong for ever: an error. Wrong once: the next connection does better.
        let server = Server::start("127.0.0.1", move |r, _| spoil(served.answer(r))).await;
        let error = open(&server.host, options()).await.blob_range(&image.blob(), 10..20).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::Protocol { .. } | RegistryError::Mismatch { .. }),
            "{name}: {error}"
        );
        assert_eq!(server.requests().len(), 3, "{name}");
        let served = image.clone();
        let server =
            Server::start(
                "127.0.0.1",
                move |r, n| if n == 0 { spoil(served.answer(r)) } else { served.answer(r) },
            )
            .await;
        let read = open(&server.host, options()).await.blob_range(&image.blob(), 10..20).await;
        assert!(read.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn definite_answers_are_not_asked_for_again() {
    let image = Image::new(1000);
    for (status, check) in [
        (404, (|e| matches!(e, RegistryError::NotFound(_))) as fn(&RegistryError) -> bool),
        (416, |e| matches!(e, RegistryError::Mismatch { .. })),
        (403, |e| matches!(e, RegistryError::Denied { .. })),
        (418, |e| matches!(e, RegistryError::Protocol { .. })),
    ] {
        let server = Server::start("127.0.0.1", move |_, _| {
            Reply::new(status, r#"{"errors":[{"code":"X","message":"said\nso"}]}"#)
        })
        .await;
        let error = open(&server.host, options()).await.blob_range(&image.blob(), 10..20).await.unwrap_err();
        assert!(check(&error), "{status}: {error}");
        assert!(status != 403 || error.to_string().ends_with("said so"), "{error}");
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn busy_servers_are_asked_again() {
    let image = Image::new(1000);
    for (status, retry_after) in
        [(429, "1"), (429, "soon"), (503, "Tue, 24 Nov 2020 10:00:00 GMT"), (500, ""), (408, "0")]
    {
        let served = image.clone();
        let server = Server::start("127.0.0.1", move |r, n| {
            if n < 2 { Reply::new(status, "").with("retry-after", retry_after) } else { served.answer(r) }
        })
        .await;
        open(&server.host, options()).await.blob(&image.blob()).await.unwrap();
        assert_eq!(server.requests().len(), 3, "{status} {retry_after}");
    }
    let server = Server::start("127.0.0.1", |_, _| Reply::new(429, "")).await;
    let error = open(&server.host, options()).await.blob(&image.blob()).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooManyRequests { retry_after: None, .. }), "{error}");
}

#[tokio::test]
async fn a_wait_that_cannot_end_in_time_is_not_begun() {
    let server =
        Server::start("127.0.0.1", |_, _| Reply::new(429, "").with("retry-after", "315360000")).await;
    let source = open(&server.host, options()).await;
    // Twice: the host is held off then, which is a wait too.
    for _ in 0..2 {
        let error = within(Duration::from_secs(5), source.resolve(&amd64())).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooManyRequests { retry_after: Some(_), .. }), "{error}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn damaged_manifests_are_fetched_once_more() {
    let image = Image::new(10);
    for (damaged, ok, requests) in [(1, true, 3), (9, false, 2)] {
        let served = image.clone();
        let server = Server::start("127.0.0.1", move |r, n| {
            let mut reply = served.answer(r);
            if n < damaged {
                reply.body[20] ^= 1;
            }
            reply
        })
        .await;
        let result = open(&server.host, options()).await.resolve(&amd64()).await;
        assert_eq!(result.is_ok(), ok);
        assert!(ok || matches!(result, Err(RegistryError::Mismatch { .. })));
        assert_eq!(server.requests().len(), requests);
    }
}

#[tokio::test]
async fn oversized_manifests_are_refused() {
    let server = Server::start("127.0.0.1", |_, _| Reply::new(200, vec![b' '; (4 << 20) + 1])).await;
    let error = open(&server.host, options()).await.resolve(&amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotAnImage { .. }), "{error}");
}

#[tokio::test]
async fn lists_are_walked_with_care() {
    let image = Image::new(10);
    let descriptor = |bytes: &str, platform: &str| {
        format!(r#"{{"digest":"{}","size":{}{platform}}}"#, Digest::of(bytes.as_bytes()), bytes.len())
    };
    let list = |entries: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    let amd = r#","platform":{"os":"linux","architecture":"amd64"}"#;
    let inner = list(&[descriptor(&image.manifest, amd)]);
    let nested = list(&[descriptor(&inner, "")]);
    let deep = list(&[descriptor(&nested, "")]);
    let twice = list(&[descriptor(&inner, ""), descriptor(&inner, "")]);
    let wrong = list(&[descriptor(&image.manifest, r#","platform":{"os":"linux","architecture":"s390x"}"#)]);
    let unnamed = list(&[descriptor(&image.manifest, "")]);
    for (root, want) in [
        (&inner, Ok(())),
        (&nested, Ok(())),
        (&unnamed, Ok(())),
        (&twice, Ok(())), // the first one does
        (&deep, Err("nested")),
        (&wrong, Err("no manifest for linux/amd64: it has linux/s390x")),
    ] {
        let documents = [inner.clone(), nested.clone(), image.manifest.clone(), root.clone()];
        let served = image.clone();
        let root = root.clone();
        let server = Server::start("127.0.0.1", move |r, _| {
            if r.target.ends_with("manifests/1") {
                return Reply::new(200, root.as_bytes());
            }
            documents
                .iter()
                .find(|d| r.target.ends_with(&format!("manifests/{}", Digest::of(d.as_bytes()))))
                .map_or_else(|| served.answer(r), |d| Reply::new(200, d.as_bytes()))
        })
        .await;
        let result = open(&server.host, options()).await.resolve(&amd64()).await;
        match (result, want) {
            (Ok(found), Ok(())) => assert_eq!(found.manifest_bytes, image.manifest.as_bytes()),
            (Err(e), Err(text)) => assert!(e.to_string().contains(text), "{e}"),
            (got, want) => panic!("{want:?}: {got:?}"),
        }
    }
    // A list that names itself, which only a registry that ignores digests can serve.
    let own = Digest::of(b"x");
    let this = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{own}","size":1}}]}}"#);
    let server = Server::start("127.0.0.1", move |_, _| Reply::new(200, this.as_bytes())).await;
    let error = open(&server.host, options()).await.resolve(&amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
}

#[tokio::test]
async fn hosts_that_are_not_there() {
    let nobody = fixtures::cloud::Dead::new(std::net::Ipv4Addr::LOCALHOST);
    let error = open(&nobody.addr().to_string(), options()).await.resolve(&amd64()).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Unavailable { reason, .. } if reason == "connection refused"),
        "{error}"
    );
    let error = open("nowhere.invalid", options()).await.resolve(&amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::UnknownHost { .. }), "{error}");
    // Plain http where TLS is expected: named as such, and not tried again.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let host_dir = dir.path().join(&host);
    std::fs::create_dir(&host_dir).unwrap();
    std::fs::write(host_dir.join("hosts.toml"), format!("server = \"https://{host}\"")).unwrap();
    let options = RegistryOptions { hosts_dir: Some(dir.path().to_owned()), ..options() };
    let source = open(&host, options).await;
    let error = source.resolve(&amd64()).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::NotTls { .. }) && error.to_string().contains("TLS failed"),
        "{error}"
    );
    assert_eq!(source.stats().requests, 1);
}

#[tokio::test]
async fn mirrors_come_first_and_the_server_last() {
    let image = Image::new(1000);
    let (served, mirrored) = (image.clone(), image.clone());
    let server = Server::start("127.0.0.1", move |r, _| served.answer(r)).await;
    let mirror =
        Server::start("127.0.0.2", move |r, n| if n == 0 { mirrored.answer(r) } else { Reply::new(503, "") })
            .await;
    let dir = tempfile::tempdir().unwrap();
    let host_dir = dir.path().join(&server.host);
    std::fs::create_dir(&host_dir).unwrap();
    let text = format!("[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n", mirror.host);
    std::fs::write(host_dir.join("hosts.toml"), text).unwrap();
    let options = RegistryOptions { hosts_dir: Some(dir.path().to_owned()), ..options() };
    let source = open(&server.host, options).await;
    source.resolve(&amd64()).await.unwrap();
    assert_eq!(
        (mirror.count("/manifests/"), mirror.count("/blobs/")),
        (0, 1),
        "the mirror does not resolve tags"
    );
    assert!(mirror.requests()[0].target.contains(&format!("ns={}", server.host.replace(':', "%3A"))));
    source.blob(&image.blob()).await.unwrap();
    source.blob(&image.blob()).await.unwrap();
    assert_eq!(mirror.requests().len(), 2, "a sick mirror is passed over");
    assert_eq!(server.count("/blobs/"), 2);
}
