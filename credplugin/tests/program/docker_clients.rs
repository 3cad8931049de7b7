//! Docker's credential helper protocol: word by word, and by a real client (skopeo, on containers/image) that pulls from a real
//! registry (`docker-registry` with htpasswd).
//!
//! Needs `docker-registry`, `skopeo` and `htpasswd`, and fails where one is missing.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::run::{Ran, basic, docker_name, request, run, wrapped};

/// A directory with the helper under Docker's name and a request.
struct Helper {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Helper {
    fn new(request: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = docker_name(dir.path());
        fs::write(dir.path().join("request.json"), request).unwrap();
        Self { dir, path }
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.env_clear().env("CLIPFS_REQUEST_FILE", self.dir.path().join("request.json")).arg(word);
        command
    }

    fn run(&self, word: &str, input: &str) -> Ran {
        run(&mut self.command(word), input)
    }
}

#[test]
fn get() {
    let helper = Helper::new(&basic("r.example.com", "pl4nted-p"));
    for server in ["r.example.com", "https://r.example.com", "https://r.example.com/v2/\n", "R.example.com"] {
        let ran = helper.run("get", server);
        let expected = json!({"ServerURL": server.trim(), "Username": "u", "Secret": "pl4nted-p"});
        assert_eq!((ran.code, ran.document(), ran.stderr.as_str()), (0, expected, ""), "{server}");
    }
    let not_found = "credentials not found in native keychain\n";
    for server in
        ["other.example.com", "r.example.com:5000", "r.example.com.evil.io", "https://index.docker.io/v1/"]
    {
        let ran = helper.run("get", server);
        assert_eq!((ran.tells_nothing().code, ran.stdout.as_str()), (1, not_found), "{server}");
    }
    for server in ["", "\n"] {
        let ran = helper.run("get", server);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, "no credentials server URL\n"));
    }
    for server in ["team".to_owned(), "x".repeat(5000), "a\u{1b}[31m/..".into()] {
        let ran = helper.run("get", &server);
        assert!(ran.code == 1 && ran.stdout != not_found, "{ran:?}");
        assert!(!ran.stdout.contains('\u{1b}'), "{ran:?}");
    }

    let ran = helper.run("get", "https://user:pl4nted-server@r.example.com");
    assert!(ran.tells_nothing().code == 1 && ran.stdout.starts_with("no registry host"), "{ran:?}");

    let hub = Helper::new(&basic("docker.io", "pl4nted-hub"));
    assert_eq!(hub.run("get", "https://index.docker.io/v1/").document()["Secret"], "pl4nted-hub");
    let anonymous = Helper::new(&request(&json!("")));
    assert_eq!(anonymous.run("get", "r.example.com").stdout, not_found);

    // Credentials that do not name a registry are for that of their image.
    let flat = Helper::new(&request(&json!("u:pl4nted-flat")));
    assert_eq!(flat.run("get", "r.example.com").tells_nothing().stdout, not_found);
    let of_image = |server| run(flat.command("get").env("CLIPFS_IMAGE", "r.example.com/app:1"), server);
    assert_eq!(of_image("r.example.com").document()["Secret"], "pl4nted-flat");
    assert_eq!(of_image("other.example.com").tells_nothing().stdout, not_found);

    // What is malformed is an error, not a reason to go on without.
    let half = Helper::new(&request(&wrapped("r.example.com", "basic", json!({"USERNAME": "pl4nted-u"}))));
    let ran = half.run("get", "r.example.com");
    assert!(ran.tells_nothing().code == 1 && ran.stdout.contains("both"), "{ran:?}");
    let ran = run(helper.command("get").env_remove("CLIPFS_REQUEST_FILE"), "r.example.com");
    assert!(ran.code == 1 && ran.stdout.contains("CLIPFS_REQUEST_FILE"), "{ran:?}");
}

#[test]
fn other_words() {
    let helper = Helper::new(&basic("r.example.com", "pl4nted-p"));
    let ran = helper.run("list", "");
    assert_eq!((ran.tells_nothing().code, ran.document()), (0, json!({"r.example.com": "u"})));
    let aws = wrapped(
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "aws",
        json!({"AWS_ACCESS_KEY_ID": "pl4nted-id", "AWS_SECRET_ACCESS_KEY": "pl4nted-key"}),
    );
    let ran = Helper::new(&request(&aws)).run("list", "");
    assert_eq!(
        ran.tells_nothing().document(),
        json!({"123456789012.dkr.ecr.eu-west-1.amazonaws.com": "AWS"})
    );
    assert_eq!(Helper::new(&request(&json!(""))).run("list", "").document(), json!({}));
    for word in ["store", "erase"] {
        let ran = helper.run(word, r#"{"ServerURL":"r.example.com","Username":"x","Secret":"pl4nted-s"}"#);
        assert!(ran.tells_nothing().code == 1 && ran.stdout.contains("stores nothing"), "{ran:?}");
    }
    let ran = helper.run("version", "");
    assert!(ran.code == 0 && ran.stdout.contains(env!("CARGO_PKG_VERSION")), "{ran:?}");
    let ran = helper.run("put", "");
    assert!(ran.code == 1 && ran.stdout.starts_with("usage: "), "{ran:?}");
}

struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a registry that wants these credentials and waits until it answers.
fn start(dir: &Path, user: &str, password: &str) -> (Registry, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let htpasswd = Command::new("htpasswd").args(["-Bbn", user, password]).output().unwrap();
    assert!(htpasswd.status.success());
    fs::write(dir.join("htpasswd"), htpasswd.stdout).unwrap();
    let config = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {0}/data}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n\
         auth: {{htpasswd: {{realm: test, path: {0}/htpasswd}}}}\n",
        dir.display()
    );
    fs::write(dir.join("config.yml"), config).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(dir.join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
    let registry = Registry(command.spawn().unwrap());
    for _ in 0..600 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return (registry, format!("127.0.0.1:{port}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("docker-registry does not start");
}

/// An OCI layout without layers: configuration and manifest suffice to pull.
fn write_layout(dir: &Path) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let put = |text: &str| {
        let output = Command::new("sha256sum").stdin(file_with(dir, text)).output().unwrap();
        let hex = String::from_utf8(output.stdout).unwrap()[..64].to_owned();
        fs::write(dir.join("blobs/sha256").join(&hex), text).unwrap();
        format!(r#""digest":"sha256:{hex}","size":{}"#, text.len())
    };
    let kind = "application/vnd.oci.image";
    let rootfs = r#"{"type":"layers","diff_ids":[]}"#;
    let config = put(&format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{rootfs}}}"#));
    let manifest = put(&format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}.manifest.v1+json","config":{{"mediaType":"{kind}.config.v1+json",{config}}},"layers":[]}}"#
    ));
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let manifests = format!(r#"[{{"mediaType":"{kind}.manifest.v1+json",{manifest}}}]"#);
    fs::write(dir.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":{manifests}}}"#)).unwrap();
}

fn file_with(dir: &Path, text: &str) -> fs::File {
    let path = dir.join("input");
    fs::write(&path, text).unwrap();
    fs::File::open(path).unwrap()
}

#[test]
fn skopeo_pulls_with_the_credentials_of_a_request() {
    for tool in ["docker-registry", "skopeo", "htpasswd"] {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(found.is_ok(), "{tool} is not installed: `make deps` installs it");
    }
    let dir = tempfile::tempdir().unwrap();
    let (_registry, host) = start(dir.path(), "u", "pl4nted-htpasswd-1");
    let layout = dir.path().join("layout");
    write_layout(&layout);
    let auth = dir.path().join("auth.json");
    fs::write(&auth, json!({"credHelpers": {host.as_str(): "clipfs"}}).to_string()).unwrap();

    let image = format!("docker://{host}/team/app:1");
    let skopeo = |request: &str, args: &[&str]| {
        let helper = Helper::new(request);
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("skopeo");
        command.arg("--insecure-policy").args(args);
        command.env("PATH", format!("{}:{path}", helper.dir.path().display()));
        command
            .env("REGISTRY_AUTH_FILE", &auth)
            .env("CLIPFS_REQUEST_FILE", helper.dir.path().join("request.json"));
        run(&mut command, "")
    };
    let good = basic(&host, "pl4nted-htpasswd-1");
    let from = format!("oci:{}", layout.display());
    let ran = skopeo(&good, &["copy", "--dest-tls-verify=false", &from, &image]);
    assert_eq!(ran.tells_nothing().code, 0, "{ran:?}");
    let inspect = ["inspect", "--tls-verify=false", &image];
    let ran = skopeo(&good, &inspect);
    assert_eq!(ran.tells_nothing().code, 0, "{ran:?}");
    assert_eq!(ran.document()["Architecture"], Value::from("amd64"));
    let to = format!("dir:{}", dir.path().join("pulled").display());
    let ran = skopeo(&good, &["copy", "--src-tls-verify=false", &image, &to]);
    assert_eq!(ran.tells_nothing().code, 0, "{ran:?}");
    assert!(dir.path().join("pulled/manifest.json").exists());

    // Wrong, of another registry, and none: the registry refuses, or the helper does.
    let others = [
        basic(&host, "pl4nted-htpasswd-2"),
        basic("other.example.com", "pl4nted-htpasswd-1"),
        request(&json!("")),
        request(&wrapped(&host, "basic", json!({"USERNAME": "u"}))),
    ];
    for request in others {
        let ran = skopeo(&request, &inspect);
        assert_ne!(ran.tells_nothing().code, 0, "{ran:?}");
    }
}
