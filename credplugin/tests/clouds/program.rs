//! The program itself, from a ContainerRequest to a password.

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use credplugin::Endpoints;
use fixtures::cloud::{Manner, Reply, ServiceAccount};
use fixtures::secret::{self, find, secret};
use serde_json::{Value, json};

use crate::moto::Moto;
use crate::support::{ACR, Clouds, ECR, GAR};

/// What clipfs writes to a plugin's input.
fn document(registry: &str, kind: &str, credentials: &Value, endpoints: &Endpoints) -> String {
    let inner = json!({ "registry": registry, "type": kind, "credentials": credentials });
    json!({
        "apiVersion": "clipfs.dev/v1",
        "kind": "CredentialRequest",
        "image": format!("{registry}/team/app:1"),
        "registry": registry,
        "scope": "repository:team/app:pull",
        "endpoints": endpoints,
        "containerRequest": { "container_id": "c-1", "image_credentials": inner.to_string() },
    })
    .to_string()
}

fn start(document: &str) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_credplugin"))
        .arg("get")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    child
}

/// Exit code and document; what it says besides has no secret.
fn finish(child: Child) -> (i32, Value) {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    assert_eq!(find(&stderr), None, "on standard error");
    let answer = serde_json::from_slice(&stdout).unwrap_or_else(|e| {
        panic!("{e}: {}, {}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
    });
    (status.code().expect("it exits"), answer)
}

fn run(document: &str) -> (i32, Value) {
    finish(start(document))
}

#[tokio::test]
async fn a_password_from_moto() {
    let moto = Moto::start();
    let key = moto.user("puller", true).await;
    moto.enforce(true).await;
    let endpoints = Endpoints { ecr: Some(moto.url()), ..Endpoints::default() };
    let credentials = json!({ "AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret });
    let (code, answer) = run(&document(ECR, "aws", &credentials, &endpoints));
    assert_eq!(code, 0, "{answer}");
    assert_eq!(answer["kind"], "CredentialResponse");
    assert_eq!((&answer["registry"], &answer["scheme"]), (&json!(ECR), &json!("Basic")));
    assert_eq!(
        (&answer["username"], &answer["password"]),
        (&json!("AWS"), &json!("123456789012-auth-token"))
    );
    assert!(answer["expiresAt"].is_string(), "{answer}");

    let credentials = json!({ "AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": secret("aws secret") });
    let (code, answer) = run(&document(ECR, "aws", &credentials, &endpoints));
    assert_eq!((code, &answer["kind"], &answer["code"]), (77, &json!("Error"), &json!("denied")), "{answer}");
    assert_eq!(find(answer.to_string().as_bytes()), None);
}

/// While an exchange is under way, nobody sees anything of it among the processes.
#[test]
fn nothing_shows_in_proc() {
    let clouds = Clouds::start();
    clouds.entra.server().behave(Manner::Slow(Duration::from_millis(500)));
    let credentials = json!({
        "AZURE_CLIENT_ID": clouds.entra.client_id(),
        "AZURE_CLIENT_SECRET": clouds.entra.client_secret(),
        "AZURE_TENANT_ID": clouds.entra.tenant(),
    });
    let child = start(&document(ACR, "azure", &credentials, &clouds.endpoints()));
    while clouds.entra.server().log().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let sweep = secret::sweep_pids(&[child.id()]);
    assert_eq!(sweep.files, 2, "environment and arguments");
    sweep.assert_clean();
    let (code, answer) = finish(child);
    assert_eq!((code, &answer["password"]), (0, &json!(clouds.acr.refresh_token())), "{answer}");
}

#[test]
fn exit_codes_tell_what_happened() {
    let clouds = Clouds::start();
    let account = ServiceAccount::new("puller");
    let file = account.value().to_string();
    let file = json!({ "GOOGLE_APPLICATION_CREDENTIALS": file });
    let ask = |endpoints: &Endpoints| run(&document(GAR, "gcp", &file, endpoints));

    let (code, answer) = ask(&clouds.endpoints());
    assert_eq!((code, &answer["code"]), (77, &json!("denied")), "{answer}");
    clouds.google.server().behave(Manner::Reply(Reply::too_many("7")));
    let (code, answer) = ask(&clouds.endpoints());
    let told = (code, &answer["code"], &answer["retryAfterMs"]);
    assert_eq!(told, (75, &json!("try_later"), &json!(7000)), "{answer}");
    clouds.google.server().behave(Manner::Reply(Reply::new(500, "")));
    let (code, answer) = ask(&clouds.endpoints());
    assert_eq!((code, &answer["code"]), (69, &json!("unavailable")), "{answer}");
    // An endpoint on plain http elsewhere would get the credentials in the clear.
    let open = Endpoints { gcp: Some("http://192.0.2.1/token".into()), ..Endpoints::default() };
    let (code, answer) = ask(&open);
    assert_eq!((code, &answer["code"]), (65, &json!("bad_request")), "{answer}");

    clouds.google.server().behave(Manner::Proper);
    clouds.google.enroll(&account);
    let (code, answer) = ask(&clouds.endpoints());
    assert_eq!((code, &answer["password"]), (0, &json!(clouds.google.token())), "{answer}");
}
