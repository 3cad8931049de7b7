//! What is too much, or none.

use api::v1;
use controlplane::model::ImageCredentialSource;
use tonic::Code;

use super::harness::{Plane, containers, secrets};

#[tokio::test]
async fn lists_come_in_pages() {
    let plane = Plane::start().await;
    let mut client = secrets(plane.tenant("a").await.0);
    for n in 0..5 {
        let name = format!("S{n}");
        let request = v1::CreateSecretRequest { name, value: "v".to_owned(), ..Default::default() };
        client.create_secret(request).await.expect("made");
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListSecretsRequest { page_size: 2, page_token };
        let page = client.list_secrets(request).await.expect("a page").into_inner();
        assert!(page.secrets.len() <= 2);
        names.extend(page.secrets.into_iter().map(|secret| secret.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["S0", "S1", "S2", "S3", "S4"]);
    for request in [
        v1::ListSecretsRequest { page_size: -1, page_token: String::new() },
        v1::ListSecretsRequest { page_size: 1, page_token: "garbage".to_owned() },
    ] {
        assert_eq!(client.list_secrets(request).await.expect_err("refused").code(), Code::InvalidArgument);
    }
    // A token of one's own list says nothing in another's.
    let first = v1::ListSecretsRequest { page_size: 1, page_token: String::new() };
    let page_token = client.list_secrets(first).await.expect("a page").into_inner().next_page_token;
    let mut other = secrets(plane.tenant("b").await.0);
    let request = v1::ListSecretsRequest { page_size: 1, page_token };
    assert_eq!(other.list_secrets(request).await.expect_err("refused").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_message_of_two_mebibytes_is_too_large() {
    let plane = Plane::start().await;
    let (way, workspace) = plane.tenant("a").await;
    plane.image(&workspace, "app", ImageCredentialSource::Anonymous).await;
    let mut client = containers(way);
    let request = v1::RunContainerRequest {
        request: Some(v1::ContainerRequest {
            image_id: "app".to_owned(),
            env: vec![format!("A={}", "x".repeat(2 << 20))],
            ..Default::default()
        }),
        ..Default::default()
    };
    let status = client.run_container(request).await.expect_err("too large");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
}

#[tokio::test]
async fn values_of_secrets_have_a_size() {
    let plane = Plane::start().await;
    let mut client = secrets(plane.tenant("a").await.0);
    for (length, fine) in [(0, false), (64 << 10, true), ((64 << 10) + 1, false)] {
        let request = v1::CreateSecretRequest {
            name: format!("S{length}"),
            value: "x".repeat(length),
            ..Default::default()
        };
        match client.create_secret(request).await {
            Ok(_) => assert!(fine, "{length}"),
            Err(status) => assert!(!fine && status.code() == Code::InvalidArgument, "{length}: {status:?}"),
        }
    }
}

#[tokio::test]
async fn the_same_container_id_is_the_same_container() {
    let plane = Plane::start().await;
    let (way, workspace) = plane.tenant("a").await;
    plane.image(&workspace, "app", ImageCredentialSource::Anonymous).await;
    let mut client = containers(way);
    let of = |cpu| v1::RunContainerRequest {
        request: Some(v1::ContainerRequest { image_id: "app".to_owned(), cpu, ..Default::default() }),
        container_id: "c".to_owned(),
        ..Default::default()
    };
    let first = client.run_container(of(1)).await.expect("queued").into_inner();
    assert_eq!(client.run_container(of(1)).await.expect("the same").into_inner(), first);
    assert_eq!(client.run_container(of(2)).await.expect_err("another").code(), Code::AlreadyExists);
    let keyed =
        v1::RunContainerRequest { container_id: String::new(), idempotency_key: "k".to_owned(), ..of(3) };
    let made = client.run_container(keyed.clone()).await.expect("queued").into_inner();
    assert_eq!(
        client.run_container(keyed).await.expect("a retry").into_inner().container_id,
        made.container_id
    );
    assert_ne!(made.container_id, "c");
}
