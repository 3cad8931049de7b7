//! Indexes: what is built is what `clipfs index` builds, and is read by those who may.

use std::sync::Arc;
use std::time::Duration;

use api::v1;
use api::v1::image_service_server::ImageService as _;
use clipfs::build::{BuildOptions, Silent, index_image};
use clipfs::credentials::Anonymous;
use clipfs::oci::Platform;
use clipfs::registry::{ImageSource, Reach, RegistryOptions};
use controlplane::model::{TokenId, TokenKind};
use controlplane::service::caller::{Caller, Pepper};
use fixtures::layer::Compress;
use fixtures::registry::Auth;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use crate::support::{World, asked, image, registry};

async fn index(
    world: &World,
    caller: &Caller,
    image_id: &str,
    workspace: &str,
) -> Result<Vec<v1::GetIndexResponse>, Status> {
    let request = v1::GetIndexRequest { image_id: image_id.into(), workspace_id: workspace.into() };
    let stream = world.images.get_index(asked(caller, request)).await?.into_inner();
    stream.collect::<Vec<_>>().await.into_iter().collect()
}

#[tokio::test]
async fn the_bytes_are_those_of_the_command_in_pieces() {
    let world = World::new().await;
    let (tenant, registry) = (world.tenant("a").await, registry(Auth::None));
    // Enough that its index has several pieces.
    registry.push(&fixtures::images::many_files(12_000), "team/many", "1");
    registry.push(&fixtures::images::one_big_file(5 << 20, Compress::Gzip { level: 1 }), "team/big", "1");
    for repository in ["team/app", "team/many", "team/big"] {
        let name = registry.reference(repository, "1");
        let made = world.made(&tenant, image(&name, &[])).await;
        let pieces = index(&world, &tenant, &made.image_id, "").await.unwrap();
        assert!(pieces.iter().all(|piece| (1..=512 << 10).contains(&piece.data.len())));
        assert!(repository != "team/many" || pieces.len() > 1, "{} pieces", pieces.len());
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.data.iter().copied()).collect();
        let first = &pieces[0];
        assert_eq!((&first.digest, &first.index_digest), (&made.digest, &made.index_digest));
        assert_eq!(first.index_bytes, u64::try_from(whole.len()).unwrap());
        assert_eq!(blake3::hash(&whole).to_hex().as_str(), made.index_digest);

        let options = RegistryOptions {
            credentials: Arc::new(Anonymous),
            plain_http: false,
            hosts_dir: None,
            connect_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(20),
            attempts: 2,
            reach: Reach::Anywhere,
        };
        let source = ImageSource::open(&name.parse().unwrap(), options).await.unwrap();
        let resolved = source.resolve(&Platform::parse("linux/amd64").unwrap()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.clip");
        let built =
            index_image(&source, &resolved, &path, BuildOptions::default(), Arc::new(Silent)).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == whole, "{repository}: other bytes");
        assert_eq!((built.image_bytes, built.summary.files), (made.image_bytes, made.files));
    }
    world.end().await;
}

#[tokio::test]
async fn read_by_its_workspace_and_by_the_worker_it_is_dispatched_to() {
    let world = World::new().await;
    let (tenant, stranger, registry) =
        (world.tenant("a").await, world.tenant("b").await, registry(Auth::None));
    let made = world.made(&tenant, image(&registry.reference("team/app", "1"), &[])).await;
    let of = |kind: TokenKind, node: Option<&str>| Caller {
        token_id: TokenId::from("t"),
        kind,
        workspace: None,
        node: node.map(str::to_owned),
        pepper: Pepper::default(),
    };
    let (worker, other, fresh) =
        (of(TokenKind::Worker, Some("n1")), of(TokenKind::Worker, Some("n2")), of(TokenKind::Worker, None));
    let workspace = tenant.workspace.as_ref().unwrap().to_string();
    let code = async |caller: &Caller, workspace: &str| {
        index(&world, caller, &made.image_id, workspace)
            .await
            .map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let mut table = vec![
        (&tenant, "", Code::Ok),
        (&tenant, &workspace, Code::Ok),
        (&tenant, stranger.workspace.as_ref().unwrap().as_str(), Code::NotFound),
        (&stranger, "", Code::NotFound),
        (&stranger, &workspace, Code::NotFound),
        (&other, &workspace, Code::NotFound),
        (&fresh, &workspace, Code::NotFound),
    ];
    let admin = of(TokenKind::Admin, None);
    table.push((&admin, &workspace, Code::PermissionDenied));
    for (caller, workspace, expected) in &table {
        assert_eq!(code(caller, workspace).await, *expected, "{caller:?} {workspace}");
    }
    assert_eq!(code(&worker, &workspace).await, Code::NotFound, "nothing is dispatched to it");
    let pool = world.sql().await;
    sqlx::query("INSERT INTO worker VALUES ('w1', 'n1', 1, 1, 1, 0, '', '', 1, 1, 0, 1, 1, 0, 1, '', 0, 0)")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO container (workspace_id, container_id, image_id, request, digest, state, attempt, fencing_token, worker_id, cpu,
             memory, gpu, gpu_count, pool_selector, queue_time, parked, waiting, stop_asked, exit_code, reason, reason_code, cost,
             log_bytes, create_time)
         VALUES ($1, 'c', $2, '{}', '', 'running', 1, 1, 'w1', 1, 1, '', 0, '', 0, 0, '', 0, 0, '', 0, '', 0, 0)",
    )
    .bind(&workspace)
    .bind(&made.image_id)
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(code(&worker, &workspace).await, Code::Ok);
    assert_eq!(code(&other, &workspace).await, Code::NotFound);
    sqlx::query("UPDATE container SET state = 'exited', end_time = 1").execute(&pool).await.unwrap();
    assert_eq!(code(&worker, &workspace).await, Code::NotFound, "it has ended");
    pool.close().await;
    world.end().await;
}
