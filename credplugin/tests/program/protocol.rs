//! Documents in, documents and exit codes out.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;

use fixtures::cloud::Dead;
use serde_json::{Value, json};

use crate::run::{basic, get, program, request, run, spawn, wrapped};

const IMAGE: [&str; 2] = ["--image", "r.example.com/team/app:1"];

fn question(request: &str, endpoints: Value) -> String {
    let request: Value = serde_json::from_str(request).unwrap();
    json!({
        "apiVersion": "clipfs.dev/v1", "kind": "CredentialRequest", "image": "r.example.com/team/app:1",
        "registry": "r.example.com", "scope": "repository:team/app:pull", "endpoints": endpoints,
        "containerRequest": request,
    })
    .to_string()
}

fn response(rest: Value) -> Value {
    let mut document =
        json!({"apiVersion": "clipfs.dev/v1", "kind": "CredentialResponse", "registry": "r.example.com"});
    document.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    document
}

#[test]
fn answers() {
    let pair = |user: &str, password: &str| {
        response(json!({"scheme": "Basic", "username": user, "password": password}))
    };
    let none = response(json!({"scheme": "None"}));
    let absent = r#"{"container_id":"c1"}"#.to_owned();
    let null = r#"{"image_credentials":null}"#.to_owned();
    let flat = request(&json!({"USERNAME": "u", "PASSWORD": "pl4nted-flat ä \" "}));
    let table = [
        ("wrapped", basic("r.example.com", "pl4nted-p"), pair("u", "pl4nted-p")),
        ("wrapped, other case", basic("R.Example.COM", "pl4nted-p"), pair("u", "pl4nted-p")),
        ("flat", flat, pair("u", "pl4nted-flat ä \" ")),
        ("legacy", request(&json!("u:pl4nted:colons:")), pair("u", "pl4nted:colons:")),
        ("absent", absent, none.clone()),
        ("null", null, none.clone()),
        ("empty", request(&json!("")), none.clone()),
        ("public", request(&wrapped("r.example.com", "public", json!({}))), none),
    ];
    for (name, request, expected) in table {
        for (args, input) in [(&IMAGE[..], request.clone()), (&[], question(&request, json!({})))] {
            let ran = get(args, input);
            assert_eq!((ran.code, ran.document()), (0, expected.clone()), "{name}: {ran:?}");
            assert_eq!(ran.stderr, "", "{name}");
        }
    }
}

#[test]
fn refusals() {
    let credentials = |kind: &str, values: Value| request(&wrapped("r.example.com", kind, values));
    let good = basic("r.example.com", "pl4nted-p");
    /// Name, arguments, input; exit code, its word, a part of the message.
    type Case<'a> = (&'a str, &'a [&'a str], String, i32, &'a str, &'a str);
    let table: Vec<Case<'_>> = vec![
        ("no image", &[], good.clone(), 64, "usage", "--image"),
        ("no such image", &["--image", ""], good.clone(), 64, "usage", "--image"),
        ("no such registry", &["--registry", "team"], good.clone(), 65, "bad_request", "no registry"),
        (
            "a password in the registry's name",
            &["--registry", "https://user:pl4nted-name@r.example.com"],
            good.clone(),
            65,
            "bad_request",
            "no registry",
        ),
        (
            "a password in the document's registry",
            &[],
            question(&good, json!({})).replace("\"r.example.com\"", "\"user:pl4nted-name@r.example.com\""),
            65,
            "bad_request",
            "no registry",
        ),
        // It may be a tenant's, who must not say whom to ask.
        ("a question for a request", &IMAGE, question(&good, json!({})), 65, "bad_request", "--image"),
        (
            "a question for a request, by registry",
            &["--registry", "r.example.com"],
            question(&good, json!({"ecr": "http://127.0.0.1:1"})),
            65,
            "bad_request",
            "--registry",
        ),
        ("elsewhere", &IMAGE, basic("other.example.com", "pl4nted-p"), 66, "not_found", "other.example.com"),
        ("look-alike", &IMAGE, basic("r.example.com.evil.io", "pl4nted-p"), 66, "not_found", "evil.io"),
        ("other port", &IMAGE, basic("r.example.com:5000", "pl4nted-p"), 66, "not_found", ":5000"),
        ("half", &IMAGE, credentials("basic", json!({"USERNAME": "pl4nted-u"})), 65, "bad_request", "both"),
        (
            "line end",
            &IMAGE,
            credentials("basic", json!({"USERNAME": "u", "PASSWORD": "pl4nted-\r\nX: y"})),
            65,
            "bad_request",
            "PASSWORD",
        ),
        (
            "colon in the user",
            &IMAGE,
            credentials("basic", json!({"USERNAME": "pl4nted-u:v", "PASSWORD": "pl4nted-p"})),
            65,
            "bad_request",
            "USERNAME",
        ),
        (
            "unknown type",
            &IMAGE,
            credentials("kerberos", json!({"USERNAME": "u", "PASSWORD": "pl4nted-p"})),
            65,
            "bad_request",
            "type",
        ),
        (
            "public with credentials",
            &IMAGE,
            credentials("public", json!({"USERNAME": "u", "PASSWORD": "pl4nted-p"})),
            65,
            "bad_request",
            "public",
        ),
        (
            "no registry in the wrapped form",
            &IMAGE,
            request(&json!({"type": "basic", "credentials": {"USERNAME": "u", "PASSWORD": "pl4nted-p"}})),
            65,
            "bad_request",
            "image_credentials.registry",
        ),
        (
            "an object for a string",
            &IMAGE,
            r#"{"image_credentials":{"USERNAME":"u","PASSWORD":"pl4nted-p"}}"#.into(),
            65,
            "bad_request",
            "image_credentials",
        ),
        (
            "a number for a string",
            &IMAGE,
            r#"{"image_credentials":47114711}"#.into(),
            65,
            "bad_request",
            "image_credentials",
        ),
        (
            "not a request",
            &[],
            r#"{"apiVersion":"clipfs.dev/v9","kind":"CredentialRequest"}"#.into(),
            65,
            "bad_request",
            "apiVersion",
        ),
        (
            "another kind",
            &[],
            r#"{"apiVersion":"clipfs.dev/v1","kind":"Pod"}"#.into(),
            65,
            "bad_request",
            "kind",
        ),
        (
            "nothing to answer from",
            &[],
            r#"{"apiVersion":"clipfs.dev/v1","kind":"CredentialRequest","image":"r.example.com/a"}"#.into(),
            66,
            "not_found",
            "no ContainerRequest",
        ),
        (
            "no such endpoint",
            &[],
            question(&good, json!({"elsewhere": "x"})).replace("elsewhere", "pl4nted-key"),
            65,
            "bad_request",
            "endpoints",
        ),
    ];
    for (name, args, input, code, word, part) in table {
        let ran = get(args, input);
        let document = ran.tells_nothing().document();
        assert_eq!((ran.code, document["code"].as_str()), (code, Some(word)), "{name}: {ran:?}");
        assert_eq!((&document["apiVersion"], &document["kind"]), (&json!("clipfs.dev/v1"), &json!("Error")));
        let message = document["message"].as_str().unwrap();
        assert!(message.contains(part) && !message.contains("47114711"), "{name}: {message}");
        assert!(ran.stderr.starts_with("credplugin: ") && ran.stderr.contains(message), "{name}: {ran:?}");
    }
}

/// Answers one request with this, and gives back what it was sent.
fn endpoint(reply: &'static str) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        // Up to the form, which is the end of a request to Azure.
        while !String::from_utf8_lossy(&request).contains("grant_type") {
            let count = stream.read(&mut chunk).unwrap();
            if count == 0 {
                break;
            }
            request.extend_from_slice(&chunk[..count]);
        }
        let _ = stream.write_all(reply.as_bytes());
    });
    (url, thread)
}

#[test]
fn endpoints_that_refuse() {
    let azure = json!({
        "AZURE_CLIENT_ID": "11111111-2222-3333-4444-555555555555", "AZURE_CLIENT_SECRET": "pl4nted-azure",
        "AZURE_TENANT_ID": "66666666-7777-8888-9999-000000000000",
    });
    let ask = |url: &str| {
        let request = request(&wrapped("127.0.0.1:5000", "azure", azure.clone()));
        let question = question(&request, json!({"azure": url, "acr": url}));
        get(&[] as &[&str], question.replace("r.example.com", "127.0.0.1:5000"))
    };
    let refused = "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\
                   connection: close\r\n\r\n{\"error\":\"invalid_client\"}";
    let (url, thread) = endpoint(refused);
    let ran = ask(&url);
    thread.join().unwrap();
    assert_eq!((ran.code, ran.tells_nothing().document()["code"].clone()), (77, json!("denied")), "{ran:?}");
    assert!(ran.stderr.contains("\nhint: "), "{ran:?}");

    let busy =
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (url, thread) = endpoint(busy);
    let ran = ask(&url);
    thread.join().unwrap();
    let document = ran.tells_nothing().document();
    assert_eq!((ran.code, &document["code"]), (75, &json!("try_later")), "{ran:?}");
    assert_eq!(document["retryAfterMs"], 7000);

    let nobody = Dead::new(Ipv4Addr::LOCALHOST);
    let ran = ask(&nobody.url());
    assert_eq!(
        (ran.code, ran.tells_nothing().document()["code"].clone()),
        (69, json!("unavailable")),
        "{ran:?}"
    );
}

#[test]
fn settings_name_endpoints() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "[daemon]\nx = 1\n[endpoints]\necr = \"http://127.0.0.1:1\"\n").unwrap();
    let good = basic("r.example.com", "pl4nted-p");
    let with = |path: &str| get(&["--image", "r.example.com/app", "--config", path], &good);
    assert_eq!(with(path).code, 0);
    assert_eq!(run(program().arg("get").args(IMAGE).env("CLIPFS_CONFIG", path), &good).code, 0);
    for (text, part) in [("[endpoints]\nelsewhere = \"x\"\n", "elsewhere"), ("[endpoints", "config.toml")] {
        std::fs::write(&file, text).unwrap();
        let ran = with(path);
        assert!(ran.code == 64 && ran.tells_nothing().stderr.contains(part), "{ran:?}");
        // A question that brings its endpoints does not depend on files of the node.
        let command = &mut program();
        let ran = run(command.arg("get").env("CLIPFS_CONFIG", path), question(&good, json!({})));
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert_eq!(with("/nonexistent/config.toml").tells_nothing().code, 64);
}

#[test]
fn check_says_no_values() {
    let check = |args: &[&str], request: &str| {
        let ran = run(program().arg("check").args(args), request);
        ran.tells_nothing();
        ran
    };
    let ran = check(&IMAGE, &basic("r.example.com", "pl4nted-p"));
    let expected = "registry: r.example.com\nimage_credentials: basic\nfor: r.example.com\n\
                    keys: PASSWORD, USERNAME\nanswer: a user name and a password\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (0, expected), "{ran:?}");
    let ran = check(&IMAGE, &basic("other.example.com", "pl4nted-p"));
    assert!(ran.code == 66 && ran.stderr.contains("other.example.com"), "{ran:?}");
    // It says what get would: nobody knows whose these are.
    let ran = check(&["--registry", "r.example.com"], &request(&json!("u:pl4nted-p")));
    assert!(ran.code == 66 && ran.stderr.contains("no image is known"), "{ran:?}");
    // Nobody is asked without --exchange: these endpoints are not there.
    let ecr = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
    let keys = json!({"AWS_ACCESS_KEY_ID": "pl4nted-id", "AWS_SECRET_ACCESS_KEY": "pl4nted-key"});
    let asked = json!({
        "apiVersion": "clipfs.dev/v1", "kind": "CredentialRequest", "image": format!("{ecr}/app:1"),
        "endpoints": {"ecr": "http://127.0.0.1:1"},
        "containerRequest": {"image_credentials": wrapped(ecr, "aws", keys).to_string()},
    })
    .to_string();
    let ran = check(&[], &asked);
    assert!(ran.code == 0 && ran.stdout.contains("image_credentials: aws"), "{ran:?}");
    assert_eq!(check(&["--exchange"], &asked).code, 69);
    let ran = run(program().arg("check").args(IMAGE), "{");
    assert_eq!((ran.code, ran.stdout.as_str()), (65, ""), "{ran:?}");
}

#[test]
fn words_on_the_command_line() {
    let ran = run(program().arg("--version"), "");
    assert_eq!((ran.code, ran.stdout), (0, format!("credplugin {}\n", env!("CARGO_PKG_VERSION"))));
    let ran = run(program().arg("--help"), "");
    assert!(ran.code == 0 && ran.stdout.contains("Examples:"), "{}", ran.stdout);
    for args in [&["put"][..], &["get", "--password", "x"], &["get", "extra"]] {
        let ran = run(program().args(args), "");
        assert_eq!((ran.code, ran.stdout.as_str()), (64, ""), "{args:?}: {ran:?}");
    }
    // Without a word it is the kubelet's, which this is not.
    assert_eq!(run(&mut program(), basic("r.example.com", "pl4nted-p")).tells_nothing().code, 64);
}

#[test]
fn nobody_reads_the_answer() {
    let input = basic("r.example.com", "pl4nted-p");
    let mut child = spawn(program().arg("get").args(IMAGE));
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(74), "{stderr}");
    assert!(stderr.contains("cannot write") && !stderr.contains("pl4nted"), "{stderr}");

    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = program()
        .arg("get")
        .args(IMAGE)
        .stdin(Stdio::piped())
        .stdout(full)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(74));
}
