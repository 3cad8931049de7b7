//! TLS, health, reflection, deadlines, metrics, an orderly end.

use std::path::Path;
use std::time::Duration;

use api::v1;
use controlplane::model::ImageCredentialSource;
use controlplane::server::{Server, ServerError, ServerOptions, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::harness::{Plane, containers, options, parts, secrets};

async fn health(plane: &Plane, service: &str) -> Result<i32, tonic::Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(plane.channel.clone()).check(request).await?;
    Ok(answer.into_inner().status)
}

/// Until the first look at the database.
async fn until_serving(plane: &Plane) {
    for _ in 0..500 {
        if health(plane, "").await.ok() == Some(ServingStatus::Serving as i32) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never serves");
}

#[tokio::test]
async fn plaintext_beyond_loopback_must_be_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let beyond = ServerOptions { listen: ([0, 0, 0, 0], 0).into(), ..options() };
    let refused = Server::bind(beyond.clone(), parts(dir.path()).await.0).await;
    assert!(matches!(refused, Err(ServerError::Plaintext(_))), "{refused:?}");
    let asked = ServerOptions { insecure_plaintext: true, ..beyond };
    assert!(Server::bind(asked, parts(dir.path()).await.0).await.is_ok());
}

#[tokio::test]
async fn health_and_no_reflection() {
    let plane = Plane::start().await;
    until_serving(&plane).await;
    for service in ["clipfs.v1.SecretService", "clipfs.v1.WorkerService"] {
        assert_eq!(health(&plane, service).await.expect("known"), ServingStatus::Serving as i32);
    }
    assert_eq!(health(&plane, "made.up").await.expect_err("unknown").code(), Code::NotFound);
    let mut reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(
        plane.channel.clone(),
    );
    let ask = || tokio_stream::once(tonic_reflection::pb::v1::ServerReflectionRequest::default());
    let status = reflection.server_reflection_info(ask()).await.expect_err("off");
    assert_eq!(status.code(), Code::Unimplemented);
    let open = Plane::with(ServerOptions { reflection: true, ..options() }).await;
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(open.channel.clone());
    assert!(reflection.server_reflection_info(ask()).await.is_ok());
}

#[tokio::test]
async fn deadlines_are_kept_by_streams_too() {
    let plane = Plane::start().await;
    let (way, workspace) = plane.tenant("a").await;
    plane.image(&workspace, "app", ImageCredentialSource::Anonymous).await;
    let mut client = containers(way);
    let run = v1::RunContainerRequest {
        request: Some(v1::ContainerRequest { image_id: "app".to_owned(), ..Default::default() }),
        container_id: "c".to_owned(),
        ..Default::default()
    };
    client.run_container(run).await.expect("queued");
    let watch = v1::WatchContainerRequest { container_id: "c".to_owned(), ..Default::default() };
    let mut request = Request::new(watch);
    // In the head only: the client's own timer must not be what ends it.
    request.metadata_mut().insert("grpc-timeout", "300m".parse().expect("a value"));
    let mut events = client.watch_container(request).await.expect("a stream").into_inner();
    assert!(events.message().await.expect("an event").is_some(), "queued");
    let status = events.message().await.expect_err("nobody runs it");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

#[tokio::test]
async fn an_orderly_end() {
    let mut plane = Plane::start().await;
    let (way, workspace) = plane.tenant("a").await;
    plane.image(&workspace, "app", ImageCredentialSource::Anonymous).await;
    let mut client = containers(way);
    let run = v1::RunContainerRequest {
        request: Some(v1::ContainerRequest { image_id: "app".to_owned(), ..Default::default() }),
        container_id: "c".to_owned(),
        ..Default::default()
    };
    client.run_container(run).await.expect("queued");
    let watch = v1::WatchContainerRequest { container_id: "c".to_owned(), ..Default::default() };
    let mut events = client.watch_container(watch).await.expect("a stream").into_inner();
    assert!(events.message().await.expect("an event").is_some());
    plane.stop();
    let status = events.message().await.expect_err("told to go away");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    drop((events, client));
    let served = tokio::time::timeout(Duration::from_secs(30), &mut plane.served).await.expect("it ends");
    served.expect("no panic").expect("no error");
    let connection = tokio::net::TcpStream::connect(plane.address).await;
    assert!(connection.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn metrics_count_calls() {
    let plane = Plane::with(ServerOptions { metrics: Some(([127, 0, 0, 1], 0).into()), ..options() }).await;
    let status = secrets(plane.way(None)).list_secrets(v1::ListSecretsRequest::default()).await;
    assert_eq!(status.expect_err("nobody").code(), Code::Unauthenticated);
    let mut stream = tokio::net::TcpStream::connect(plane.metrics.expect("asked for")).await.expect("there");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).await.expect("read");
    for line in [
        "controlplane_rpcs_total{method=\"clipfs.v1.SecretService/ListSecrets\",code=\"UNAUTHENTICATED\"} 1",
        "controlplane_database_up 1",
        "controlplane_live_workers 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
}

/// Certificates of a test: a root, the server's, a client's.
struct Certificates {
    ca: String,
    client: Identity,
    files: TlsFiles,
}

fn certificates(dir: &Path) -> Certificates {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
    let issue = || {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        (params.signed_by(&key, &root).expect("signed").pem(), key.serialize_pem())
    };
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let ((server, server_key), (client, client_key)) = (issue(), issue());
    let files = TlsFiles {
        certificate: write("server.pem", &server),
        key: write("server.key", &server_key),
        client_ca: Some(write("ca.pem", &root.pem())),
    };
    Certificates { ca: root.pem(), client: Identity::from_pem(client, client_key), files }
}

#[tokio::test]
async fn tls_and_client_certificates() {
    let dir = tempfile::tempdir().expect("a directory");
    let certificates = certificates(dir.path());
    let plane = Plane::with(ServerOptions { tls: Some(certificates.files.clone()), ..options() }).await;
    let with = |tls: ClientTlsConfig| {
        let endpoint =
            Endpoint::from_shared(format!("https://localhost:{}", plane.address.port())).expect("a URL");
        async move {
            HealthClient::new(endpoint.tls_config(tls).expect("usable").connect_lazy())
                .check(HealthCheckRequest::default())
                .await
        }
    };
    let root = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&certificates.ca));
    with(root().identity(certificates.client.clone())).await.expect("a client with a certificate");
    with(root()).await.expect_err("a client without one");
    health(&plane, "").await.expect_err("plaintext");
}
