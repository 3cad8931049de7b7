//! Secrets: read when a message is sent, in that message only.

use api::v1;
use api::v1::control_message::Message;
use controlplane::model::ContainerState;
use controlplane::store::Secrets as _;
use sqlx::Connection as _;
use tonic::Code;

use super::bench::{Bench, PASSWORD, as_node, change, value};

#[tokio::test]
async fn credentials_are_in_the_dispatch_and_nowhere_else() {
    let bench = Bench::new().await;
    let mut worker = bench.connect("n1").await;
    bench.run("c", "private").await;
    let (delivery, dispatch) = worker.dispatch().await;
    assert!(!format!("{dispatch:?}").contains("pl4nted"));
    let credentials = dispatch.request.unwrap().image_credentials;
    assert!(credentials.contains(PASSWORD) && credentials.contains("registry.invalid"));
    worker.ack(delivery).await;
    worker.report(&dispatch.lease.unwrap(), v1::ContainerState::Exited).await;
    for entry in std::fs::read_dir(bench.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes());
        assert!(!found, "{} holds the password", path.display());
    }
}

#[tokio::test]
async fn a_container_that_runs_gets_newer_credentials() {
    let bench = Bench::new().await;
    let mut worker = bench.connect("n1").await;
    bench.run("c", "private").await;
    let (delivery, dispatch) = worker.dispatch().await;
    let lease = dispatch.lease.unwrap();
    worker.ack(delivery).await;
    worker.report(&lease, v1::ContainerState::Running).await;
    let newer = controlplane::model::Secret { version: 2, ..bench.secret.clone() };
    let sealed = bench.vault.seal(&newer, value("pl4nted-registry-2").as_bytes()).await.unwrap();
    bench.store.update_secret(&change(&bench.workspace, "registry"), &bench.secret, &sealed).await.unwrap();
    let message = worker.next().await.unwrap();
    match message.message.unwrap() {
        Message::Credentials(update) => {
            assert_eq!(update.lease.as_ref(), Some(&lease));
            assert!(update.image_credentials.contains("pl4nted-registry-2"));
        }
        other => panic!("{other:?}"),
    }
    worker.ack(message.delivery).await;
    let request = v1::FetchCredentialsRequest { lease: Some(lease) };
    let fetched = bench.client().await.fetch_credentials(as_node("n1", request)).await.unwrap().into_inner();
    assert!(fetched.image_credentials.contains("pl4nted-registry-2"));
}

#[tokio::test]
async fn a_secret_that_is_gone_fails_the_container() {
    let bench = Bench::new().await;
    let registered = bench.register("n1").await;
    bench.run("c", "private").await;
    bench.store.delete_secret(&change(&bench.workspace, "registry"), &"s".into()).await.unwrap();
    // The public one comes, the private one never does.
    bench.run("d", "public").await;
    let mut worker = bench.open("n1", &registered, Vec::new()).await.unwrap();
    assert_eq!(worker.dispatch().await.1.lease.unwrap().container_id, "d");
    let failed = bench.until("c", |container| container.state == ContainerState::Failed).await;
    assert_eq!(failed.reason_code, i32::from(Code::FailedPrecondition));
    assert!(failed.reason.contains("registry"), "{}", failed.reason);
}

#[tokio::test]
async fn a_row_that_was_tampered_with_fails_the_container() {
    let bench = Bench::new().await;
    let registered = bench.register("n1").await;
    bench.run("c", "private").await;
    let url = format!("sqlite://{}/control.db", bench.dir.path().display());
    let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE secret SET record = x'00'").execute(&mut database).await.unwrap();
    let _worker = bench.open("n1", &registered, Vec::new()).await.unwrap();
    let failed = bench.until("c", |container| container.state == ContainerState::Failed).await;
    assert_eq!(failed.reason_code, i32::from(Code::DataLoss), "{}", failed.reason);
}

#[tokio::test]
async fn another_worker_s_lease_is_as_one_that_does_not_exist() {
    let bench = Bench::new().await;
    let mut worker = bench.connect("n1").await;
    bench.register("n2").await;
    bench.run("c", "private").await;
    // The one that has it is the one that is told.
    let holder = bench.container("c").await.worker_id.unwrap();
    let own = bench.register("n1").await.worker_id == holder.as_str();
    let (other, lease) = {
        let container = bench.container("c").await;
        let lease = v1::Lease {
            container_id: "c".to_owned(),
            attempt: container.attempt,
            fencing_token: container.fencing_token,
            workspace_id: bench.workspace.to_string(),
        };
        (if own { "n2" } else { "n1" }, lease)
    };
    let ask = async |node: &str, lease: v1::Lease| {
        let request = v1::FetchCredentialsRequest { lease: Some(lease) };
        bench.client().await.fetch_credentials(as_node(node, request)).await
    };
    let foreign = ask(other, lease.clone()).await.unwrap_err();
    let absent =
        ask(other, v1::Lease { container_id: "none".to_owned(), ..lease.clone() }).await.unwrap_err();
    assert_eq!((foreign.code(), foreign.message()), (Code::NotFound, absent.message()));
    let stale = v1::Lease { fencing_token: lease.fencing_token + 1, ..lease };
    let holder = if own { "n1" } else { "n2" };
    assert_eq!(ask(holder, stale).await.unwrap_err().message(), absent.message());
    drop(worker.next().await);
}
