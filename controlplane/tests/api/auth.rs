//! Every RPC, every kind of caller.

use api::v1;
use controlplane::model::{ImageCredentialSource, TokenKind};
use controlplane::server::ServerOptions;
use prost::Message as _;
use secrecy::ExposeSecret as _;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::harness::{Plane, Way, change, containers, options};

/// Paths of all methods of the interface.
fn methods() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(v1::DESCRIPTORS).expect("descriptors");
    let mut found = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let of = |method: &prost_types::MethodDescriptorProto| {
                format!("/{}.{}/{}", file.package(), service.name(), method.name())
            };
            found.extend(service.method.iter().map(of));
        }
    }
    found
}

/// Calls with an empty message (a valid one of every type), and what came of it.
async fn call(way: Way, path: &str) -> Status {
    let mut grpc = Grpc::new(way);
    grpc.ready().await.expect("the server is there");
    let path = PathAndQuery::try_from(path).expect("a path");
    let request = Request::new(tokio_stream::once(()));
    match grpc.streaming(request, path, ProstCodec::<(), ()>::default()).await {
        Err(status) => status,
        Ok(answer) => match answer.into_inner().message().await {
            Err(status) => status,
            Ok(_) => Status::ok(""),
        },
    }
}

fn may(path: &str, kind: TokenKind) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    match kind {
        TokenKind::Admin => path.contains("AdminService"),
        TokenKind::Worker => path.contains("WorkerService") || method == "GetIndex",
        TokenKind::Workspace => {
            ["SecretService", "ContainerService", "ImageService"].iter().any(|service| path.contains(service))
        }
    }
}

#[tokio::test]
async fn every_method_and_every_caller() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("w").await;
    let (revoked, id) = plane.token(TokenKind::Admin, None).await;
    plane.store.revoke_token(&change("RevokeToken", None), &id).await.expect("revoked");
    let methods = methods();
    assert_eq!(methods.len(), 26, "the interface has grown: {methods:?}");
    let unknown =
        ["", "garbage", "cfs_a_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", revoked.expose_secret()];
    for path in &methods {
        let mut texts = std::collections::BTreeSet::new();
        let nobody = [None].into_iter().chain(unknown.map(Some));
        for token in nobody {
            let status = call(plane.way(token), path).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{path} {token:?}: {status:?}");
            texts.insert(status.message().to_owned());
        }
        assert_eq!(texts.len(), 1, "what is wrong with a token is nobody's business: {texts:?}");
        for kind in [TokenKind::Workspace, TokenKind::Worker, TokenKind::Admin] {
            let of = (kind == TokenKind::Workspace).then_some(&workspace);
            let (token, _) = plane.token(kind, of).await;
            let status = call(plane.way(Some(token.expose_secret())), path).await;
            assert_ne!(status.code(), Code::Unauthenticated, "{path} {kind:?}");
            let denied = status.code() == Code::PermissionDenied;
            assert_eq!(denied, !may(path, kind), "{path} {kind:?}: {status:?}");
        }
    }
}

#[tokio::test]
async fn methods_that_do_not_exist_are_nobody_s_either() {
    let plane = Plane::start().await;
    let path = "/clipfs.v1.AdminService/Nothing";
    assert_eq!(call(plane.way(None), path).await.code(), Code::Unauthenticated);
    let (token, _) = plane.token(TokenKind::Admin, None).await;
    assert_eq!(call(plane.way(Some(token.expose_secret())), path).await.code(), Code::Unimplemented);
}

#[tokio::test]
async fn an_admin_makes_a_token_that_works_until_it_is_revoked() {
    let plane = Plane::start().await;
    let mut admin = plane.admin().await;
    let request = v1::CreateWorkspaceRequest { name: "w".to_owned(), idempotency_key: "k1".to_owned() };
    let made = admin.create_workspace(request.clone()).await.expect("made").into_inner();
    let again = admin.create_workspace(request).await.expect("a retry").into_inner();
    assert_eq!(made, again);
    let other = v1::CreateWorkspaceRequest { name: "x".to_owned(), idempotency_key: "k1".to_owned() };
    assert_eq!(admin.create_workspace(other).await.expect_err("reused").code(), Code::InvalidArgument);
    let request = v1::CreateTokenRequest {
        kind: v1::TokenKind::Workspace.into(),
        workspace_id: made.workspace_id,
        idempotency_key: "k2".to_owned(),
        ..Default::default()
    };
    let token = admin.create_token(request.clone()).await.expect("made").into_inner();
    assert_eq!(admin.create_token(request).await.expect_err("told once").code(), Code::AlreadyExists);
    let path = "/clipfs.v1.SecretService/ListSecrets";
    assert_eq!(call(plane.way(Some(&token.secret)), path).await.code(), Code::Ok);
    let token_id = token.token.expect("described").token_id;
    let revoke = v1::RevokeTokenRequest { token_id, idempotency_key: String::new() };
    admin.revoke_token(revoke).await.expect("revoked");
    assert_eq!(call(plane.way(Some(&token.secret)), path).await.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn tokens_are_for_what_they_say() {
    let plane = Plane::start().await;
    let mut admin = plane.admin().await;
    let fine = v1::CreateTokenRequest { kind: v1::TokenKind::Worker.into(), ..Default::default() };
    for (request, code) in [
        (v1::CreateTokenRequest { kind: 0, ..fine.clone() }, Code::InvalidArgument),
        (v1::CreateTokenRequest { kind: 77, ..fine.clone() }, Code::InvalidArgument),
        (v1::CreateTokenRequest { workspace_id: "w".to_owned(), ..fine.clone() }, Code::InvalidArgument),
        (v1::CreateTokenRequest { node: "a/b".to_owned(), ..fine.clone() }, Code::InvalidArgument),
        (v1::CreateTokenRequest { kind: 1, workspace_id: "none".to_owned(), ..fine.clone() }, Code::NotFound),
        (v1::CreateTokenRequest { kind: 3, node: "n".to_owned(), ..fine.clone() }, Code::InvalidArgument),
    ] {
        assert_eq!(
            admin.create_token(request.clone()).await.expect_err("refused").code(),
            code,
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn a_token_that_is_revoked_ends_its_streams() {
    let recheck = std::time::Duration::from_millis(50);
    let plane = Plane::with(ServerOptions { recheck, ..options() }).await;
    let workspace = plane.workspace("w").await;
    plane.image(&workspace, "app", ImageCredentialSource::Anonymous).await;
    let (token, id) = plane.token(TokenKind::Workspace, Some(&workspace)).await;
    let mut client = containers(plane.way(Some(token.expose_secret())));
    let run = v1::RunContainerRequest {
        request: Some(v1::ContainerRequest { image_id: "app".to_owned(), ..Default::default() }),
        container_id: "c".to_owned(),
        ..Default::default()
    };
    client.run_container(run).await.expect("queued");
    let watch = v1::WatchContainerRequest { container_id: "c".to_owned(), ..Default::default() };
    let mut events = client.watch_container(watch).await.expect("its own").into_inner();
    assert!(events.message().await.expect("an event").is_some());
    // Several looks at the token later it still goes on.
    assert!(tokio::time::timeout(recheck * 6, events.message()).await.is_err());
    plane.store.revoke_token(&change("RevokeToken", None), &id).await.expect("revoked");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), events.message()).await;
    assert_eq!(ended.expect("it ends").expect_err("of nobody").code(), Code::Unauthenticated);
}
