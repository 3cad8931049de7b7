//! Runs the examples of `docs/CREDENTIALS.md`: what is written there is what happens.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use credplugin::protocol::clipfs::{Reply, parse_answer_at};
use credplugin::{Code, Scheme};
use serde_json::Value;

use crate::run::{get, program, run};

/// The one example of a name, which stands behind the language of its block.
fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CREDENTIALS.md");
    let text = fs::read_to_string(path).unwrap();
    let mut found = text.split("\n```").filter_map(|block| {
        let (head, body) = block.split_once('\n')?;
        (head.split_once(' ')?.1 == name).then(|| body.to_owned())
    });
    let body = found.next().unwrap_or_else(|| panic!("no example {name}"));
    assert!(found.next().is_none(), "two examples {name}");
    body
}

fn document(name: &str) -> Value {
    serde_json::from_str(&example(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The ContainerRequest of the examples, in a file.
fn request_file(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("request.json");
    fs::write(&path, document("CredentialRequest")["containerRequest"].to_string()).unwrap();
    path
}

#[test]
fn a_question_and_its_answer() {
    let ran = get(&[] as &[&str], example("CredentialRequest"));
    assert_eq!((ran.code, ran.document()), (0, document("CredentialResponse")), "{ran:?}");
    let reply = parse_answer_at(example("CredentialResponse").as_bytes(), SystemTime::now());
    assert!(matches!(reply, Ok(Reply::Answer(answer)) if answer.registry == "r.example.com"));
}

#[test]
fn a_refusal() {
    let reply = parse_answer_at(example("Error").as_bytes(), SystemTime::now());
    let Ok(Reply::Error(error)) = reply else { panic!("{reply:?}") };
    assert_eq!((error.code, error.retry_after.map(|wait| wait.as_millis())), (Code::TryLater, Some(1000)));
}

#[test]
fn a_plugin_in_shell() {
    let dir = tempfile::tempdir().unwrap();
    let (plugin, password) = (dir.path().join("plugin"), dir.path().join("password"));
    let text = example("plugin");
    assert!(text.contains("/etc/r.example.com.password") && text.lines().count() <= 10, "{text}");
    fs::write(&plugin, text.replace("/etc/r.example.com.password", password.to_str().unwrap())).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&password, "pl4nted-shell\n").unwrap();
    let ask = |question: &str| run(Command::new(&plugin).arg("get").env_clear(), question);

    let question = example("CredentialRequest");
    let ran = ask(&question);
    let reply = parse_answer_at(ran.stdout.as_bytes(), SystemTime::now());
    let Ok(Reply::Answer(answer)) = reply else { panic!("{reply:?}: {ran:?}") };
    assert_eq!((ran.code, answer.registry.as_str()), (0, "r.example.com"));
    assert!(matches!(answer.scheme, Scheme::Basic { username, .. } if username == "robot"));

    let ran = ask(&question.replace("r.example.com", "other.example.com"));
    let reply = parse_answer_at(ran.stdout.as_bytes(), SystemTime::now());
    assert!(matches!(reply, Ok(Reply::Error(error)) if error.code == Code::NotFound && ran.code == 66));
}

#[test]
fn check_by_hand() {
    let text = example("check");
    let (command, expected) = text.split_once('\n').unwrap();
    let args = command.strip_prefix("$ credplugin ").unwrap().strip_suffix(" < request.json").unwrap();
    let request = document("CredentialRequest")["containerRequest"].to_string();
    let ran = run(program().args(args.split(' ')), request);
    assert_eq!((ran.code, ran.stdout.trim_end()), (0, expected.trim_end()), "{ran:?}");
}

#[test]
fn the_kubelets_configuration() {
    let text = example("CredentialProviderConfig");
    let after = |key: &str| {
        let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("no {key}"));
        rest.lines().next().unwrap().trim().to_owned()
    };
    let question = document("CredentialProviderRequest");
    assert_eq!(question["apiVersion"], after("  apiVersion:"));
    assert_eq!(after("- name: credplugin\n"), "apiVersion: credentialprovider.kubelet.k8s.io/v1");
    let dir = tempfile::tempdir().unwrap();
    let file = request_file(dir.path());
    let variable = after("env:\n").trim_start_matches("- name: ").to_owned();
    let ran = run(program().env(variable, file), question.to_string());
    assert_eq!((ran.code, ran.document()), (0, document("CredentialProviderResponse")), "{ran:?}");
}
