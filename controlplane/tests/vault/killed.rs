//! The real program's rotations, killed (-9) at random points while a server serves from the same key file.
//!
//! Seeded: `VAULT_SEED` repeats a run, `VAULT_KILLS` makes it longer.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use api::v1;
use api::v1::container_service_client::ContainerServiceClient;
use api::v1::secret_service_client::SecretServiceClient;
use controlplane::model::{
    ClipIndexInfo, Image, ImageCredentialSource, Secret, Time, Token, TokenId, TokenKind, WorkspaceId,
};
use controlplane::service::caller::new_token;
use controlplane::store::{DataKeys as _, Images as _, Indexes as _, SecretChange, Tokens as _};
use fixtures::rng::SplitMix64;
use secrecy::ExposeSecret as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::bench::{Bench, change, value};

cases!(rotations_of_the_program_are_killed_while_a_server_serves);

/// Workspaces: each has a data key, which is a step of a rotation.
const WORKSPACES: u32 = 12;

/// A process that does not outlive the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// `controlplane GROUP …`, with the database and the key file.
fn program(bench: &Bench, group: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_controlplane"));
    command
        .env_clear()
        .args([group, "--database", &bench.url, "--kek-file"])
        .arg(bench.key_file())
        .args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A server that listens.
async fn serve(bench: &Bench) -> (Program, SocketAddr) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = program(bench, "serve", &["--listen", &address.to_string()]);
    command.arg("--data-dir").arg(bench.path().join("data"));
    let mut server = Program(command.spawn().unwrap());
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(server.0.try_wait().unwrap().is_none(), "the server has ended");
        assert!(began.elapsed() < Duration::from_secs(60), "the server does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (server, address)
}

/// An image whose credentials are the workspace's secrets `USERNAME` and `PASSWORD`.
async fn image(bench: &Bench, workspace: &WorkspaceId) {
    let index = ClipIndexInfo { index_digest: "00".to_owned(), index_bytes: 1, pieces: 1 };
    if bench.store.begin_clip_index(&index).await.unwrap() {
        bench.store.put_clip_index_piece("00", 0, b"x").await.unwrap();
        bench.store.complete_clip_index("00").await.unwrap();
    }
    let image = Image {
        image_id: "i".into(),
        workspace_id: workspace.clone(),
        base_image: "registry.invalid/i:1".to_owned(),
        registry: "registry.invalid".to_owned(),
        digest: format!("sha256:{}", "0".repeat(64)),
        platform: "linux/amd64".to_owned(),
        credentials: ImageCredentialSource::Named(vec!["USERNAME".to_owned(), "PASSWORD".to_owned()]),
        index_digest: "00".to_owned(),
        image_bytes: 1,
        index_bytes: 1,
        files: 1,
        create_time: Time(0),
        update_time: Time(0),
    };
    bench.store.put_image(&change(workspace), &image, &SecretChange::None).await.unwrap();
}

async fn token(bench: &Bench, workspace: &WorkspaceId) -> String {
    let (secret, hash) = new_token(TokenKind::Workspace).unwrap();
    let token = Token {
        token_id: TokenId::generate(),
        kind: TokenKind::Workspace,
        workspace_id: Some(workspace.clone()),
        node: None,
        create_time: Time(0),
        expire_time: None,
    };
    bench.store.create_token(&change(workspace), &token, &hash).await.unwrap();
    secret.expose_secret().to_owned()
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Callers of the server until it is enough: secrets get new values, and containers are accepted only if their secrets open. Answers how
/// many of each were done.
async fn call(
    bench: Arc<Bench>,
    channel: Channel,
    tenants: Vec<(String, Secret)>,
    enough: Arc<AtomicBool>,
) -> (u32, u32) {
    let (mut secrets, mut containers) =
        (SecretServiceClient::new(channel.clone()), ContainerServiceClient::new(channel));
    let (mut updates, mut runs) = (0, 0);
    for (token, secret) in tenants.iter().cycle() {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let request = v1::ContainerRequest { image_id: "i".to_owned(), ..Default::default() };
        let run = v1::RunContainerRequest { request: Some(request), ..Default::default() };
        match containers.run_container(with_token(token, run)).await {
            Ok(_) => runs += 1,
            // SQLite's one writer.
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status:?}"),
        }
        let row = bench.row(secret).await;
        let update = v1::UpdateSecretRequest {
            secret: secret.secret_id.to_string(),
            value: value(&secret.name, row.secret.version + 1),
            idempotency_key: String::new(),
        };
        match secrets.update_secret(with_token(token, update)).await {
            Ok(_) => updates += 1,
            // Refused whole: the data key was rotated out and deleted between sealing and writing.
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status:?}"),
        }
    }
    (updates, runs)
}

#[expect(clippy::print_stderr, reason = "the seed repeats the run")]
async fn rotations_of_the_program_are_killed_while_a_server_serves(bench: Bench) {
    let (seed, kills) = (number("VAULT_SEED", 9), number("VAULT_KILLS", 10));
    eprintln!("VAULT_SEED={seed} VAULT_KILLS={kills}");
    let mut random = SplitMix64::new(seed);
    let bench = Arc::new(bench);
    let (mut secrets, mut tenants) = (Vec::new(), Vec::new());
    for n in 0..WORKSPACES {
        let workspace = bench.workspace(&format!("w{n}")).await;
        secrets.push(bench.plant(&workspace, "USERNAME", "").await.secret);
        let password = bench.plant(&workspace, "PASSWORD", "").await.secret;
        image(&bench, &workspace).await;
        tenants.push((token(&bench, &workspace).await, password.clone()));
        secrets.push(password);
    }
    let (_server, address) = serve(&bench).await;
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let callers = tokio::spawn(call(bench.clone(), channel, tenants, enough.clone()));
    // How long one takes that nobody kills.
    let began = Instant::now();
    assert!(program(&bench, "keys", &["rotate"]).status().unwrap().success());
    let whole = u64::try_from(began.elapsed().as_micros()).unwrap();
    let mut resumed = 0;
    for kill in 0..kills {
        let what = ["rotate", "rotate", "rotate-data"][random.index(3)];
        let mut rotation = Program(program(&bench, "keys", &[what]).spawn().unwrap());
        tokio::time::sleep(Duration::from_micros(random.below(whole))).await;
        rotation.0.kill().unwrap();
        resumed += u32::from(!rotation.0.wait().unwrap().success());
        for secret in &secrets {
            bench.opens(secret, &format!("kill {kill} of {what}")).await;
        }
        assert!(!callers.is_finished(), "the server's callers have met an error");
    }
    assert!(resumed > 0, "all of them were faster than the kills");
    for command in ["rotate", "rotate-data"] {
        assert!(program(&bench, "keys", &[command]).status().unwrap().success(), "{command}");
    }
    enough.store(true, Ordering::Relaxed);
    let (updates, runs) = callers.await.unwrap();
    assert!(updates > 0 && runs > 0, "{updates} updates, {runs} runs");
    for secret in &secrets {
        bench.opens(secret, "after all").await;
    }
    let keks = bench.started();
    assert_eq!(keks.keyring().keks().iter().count(), 1, "old keys are gone");
    let kek_id = keks.keyring().keks().active().kek_id.clone();
    assert_eq!(bench.store.data_keys_not_wrapped_by(&kek_id, 99).await.unwrap(), []);
    assert!(no_leftovers(bench.path()), "files of rotations that were killed");
}

/// Beside the key file lie no half-written ones with keys in them.
fn no_leftovers(directory: &Path) -> bool {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().contains("kek")).count() <= 1
}
