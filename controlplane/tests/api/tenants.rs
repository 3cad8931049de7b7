//! Two workspaces: neither learns of the other's. Values go in and never come out.

use api::v1;
use controlplane::model::ImageCredentialSource;
use fixtures::secret::Traces;
use tonic::Code;

use super::harness::{Plane, containers, secrets};

/// What no answer and no log line may hold.
const VALUE: &str = "pl4nted-value-1\r\n";

fn create(name: &str, value: &str) -> v1::CreateSecretRequest {
    v1::CreateSecretRequest { name: name.to_owned(), value: value.to_owned(), idempotency_key: String::new() }
}

#[tokio::test]
async fn secrets_of_others_are_not_there() {
    let plane = Plane::start().await;
    let (mut a, mut b) = (secrets(plane.tenant("a").await.0), secrets(plane.tenant("b").await.0));
    let made = a.create_secret(create("S", "x")).await.expect("made").into_inner();
    b.create_secret(create("S", "y")).await.expect("a name is a workspace's own");
    let get = |secret: &str| v1::GetSecretRequest { secret: secret.to_owned() };
    let foreign = b.get_secret(get(&made.secret_id)).await.expect_err("another's");
    let absent = b.get_secret(get("0190-none")).await.expect_err("nobody's");
    assert_eq!((foreign.code(), foreign.message()), (Code::NotFound, absent.message()));
    let update = |secret: &str| v1::UpdateSecretRequest {
        secret: secret.to_owned(),
        value: "z".to_owned(),
        idempotency_key: String::new(),
    };
    assert_eq!(b.update_secret(update(&made.secret_id)).await.expect_err("another's").code(), Code::NotFound);
    let delete = |secret: &str| v1::DeleteSecretRequest { secret: secret.to_owned(), ..Default::default() };
    assert_eq!(b.delete_secret(delete(&made.secret_id)).await.expect_err("another's").code(), Code::NotFound);
    assert_eq!(a.get_secret(get("S")).await.expect("still there").into_inner().version, 1);
}

#[tokio::test]
async fn containers_of_others_are_not_there() {
    let plane = Plane::start().await;
    let ((way_a, a), (way_b, _)) = (plane.tenant("a").await, plane.tenant("b").await);
    plane.image(&a, "app", ImageCredentialSource::Anonymous).await;
    let (mut a, mut b) = (containers(way_a), containers(way_b));
    let run = v1::RunContainerRequest {
        request: Some(v1::ContainerRequest { image_id: "app".to_owned(), ..Default::default() }),
        container_id: "c".to_owned(),
        ..Default::default()
    };
    let made = a.run_container(run.clone()).await.expect("queued").into_inner();
    assert_eq!(made.state(), v1::ContainerState::Queued);
    assert_eq!(b.run_container(run).await.expect_err("another's image").code(), Code::NotFound);
    let id = || "c".to_owned();
    assert_eq!(
        b.get_container(v1::GetContainerRequest { container_id: id() }).await.expect_err("x").code(),
        Code::NotFound
    );
    let stop = v1::StopContainerRequest { container_id: id(), ..Default::default() };
    assert_eq!(b.stop_container(stop.clone()).await.expect_err("x").code(), Code::NotFound);
    let watch = v1::WatchContainerRequest { container_id: id(), ..Default::default() };
    assert_eq!(b.watch_container(watch.clone()).await.expect_err("x").code(), Code::NotFound);
    assert!(
        b.list_containers(v1::ListContainersRequest::default())
            .await
            .expect("a list")
            .into_inner()
            .containers
            .is_empty()
    );

    // A watch tells what was, waits, and ends with the end.
    let mut events = a.watch_container(watch).await.expect("a stream").into_inner();
    let first = events.message().await.expect("an event").expect("queued");
    a.stop_container(stop).await.expect("stopped");
    let mut last = first.clone();
    while let Some(event) = events.message().await.expect("an event") {
        last = event;
    }
    let Some(v1::container_event::Event::Container(ended)) = last.event else { panic!("{last:?}") };
    assert_eq!((ended.state(), ended.reason_code), (v1::ContainerState::Failed, i32::from(Code::Cancelled)));
    // Taken up after the first event: the rest again, and nothing before it.
    let resume =
        v1::WatchContainerRequest { container_id: id(), resume_token: first.resume_token, logs: false };
    let mut events = a.watch_container(resume).await.expect("a stream").into_inner();
    let again = events.message().await.expect("an event").expect("the end");
    assert_eq!(again.event, Some(v1::container_event::Event::Container(ended)));
    assert_eq!(events.message().await.expect("the end"), None);
}

#[tokio::test]
async fn an_image_whose_secret_is_gone_does_not_run_and_says_why() {
    let plane = Plane::start().await;
    let (way, workspace) = plane.tenant("a").await;
    let gone = ImageCredentialSource::Named(vec!["GONE_TOKEN".to_owned()]);
    plane.image(&workspace, "app", gone).await;
    let run = v1::RunContainerRequest {
        request: Some(v1::ContainerRequest { image_id: "app".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let mut client = containers(way);
    let status = client.run_container(run).await.expect_err("fails closed");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("GONE_TOKEN"), "{status:?}");
    let all =
        client.list_containers(v1::ListContainersRequest::default()).await.expect("a list").into_inner();
    assert!(all.containers.is_empty(), "nothing was queued");
}

#[tokio::test]
async fn values_never_come_out() {
    let traces = Traces::install();
    let plane = Plane::start().await;
    let (way, _) = plane.tenant("a").await;
    let mut client = secrets(way);
    let mut said = String::new();
    let with_key = v1::CreateSecretRequest { idempotency_key: "k".to_owned(), ..create("S", VALUE) };
    for _ in 0..2 {
        said += &format!("{:?}", client.create_secret(with_key.clone()).await.expect("made"));
    }
    let update = v1::UpdateSecretRequest {
        secret: "S".to_owned(),
        value: format!("{VALUE}2"),
        idempotency_key: "k2".to_owned(),
    };
    for _ in 0..2 {
        let updated = client.update_secret(update.clone()).await.expect("updated");
        assert_eq!(updated.get_ref().version, 2, "a retry is no second update");
        said += &format!("{updated:?}");
    }
    said += &format!(
        "{:?}",
        client.get_secret(v1::GetSecretRequest { secret: "S".to_owned() }).await.expect("there")
    );
    said += &format!("{:?}", client.list_secrets(v1::ListSecretsRequest::default()).await.expect("a list"));
    said += &format!("{:?}", client.create_secret(create("S", VALUE)).await.expect_err("exists"));
    said += &format!("{:?}", client.create_secret(create("bad name", VALUE)).await.expect_err("refused"));
    assert!(!said.contains("pl4nted-"), "{said}");
    let request = format!("{:?}", create("S", VALUE));
    assert!(!request.contains("pl4nted-"), "{request}");
    for file in ["control.db", "control.db-wal"] {
        let bytes = std::fs::read(plane.dir.path().join(file)).unwrap_or_default();
        assert!(!bytes.windows(8).any(|window| window == b"pl4nted-"), "{file} holds a value");
    }
    traces.assert_clean();
}
