//! moto: a real ECR API on this machine, which checks signatures when told to.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Serves on a free port, and ends when its input does: when the test's process is gone, whatever became of it.
const PROGRAM: &str = "
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from moto.server import main
main(['-H', '127.0.0.1', '-p', '0'])
";

/// A running moto.
pub(crate) struct Moto {
    child: Child,
    addr: SocketAddr,
    client: reqwest::Client,
}

/// A key of Amazon's.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) session: Option<String>,
}

impl Moto {
    pub(crate) fn start() -> Self {
        let python = python();
        let mut child = Command::new(&python)
            .args(["-u", "-c", PROGRAM])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", python.display()));
        let (found, ready) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        // Reads to the end: a full pipe would stop it.
        std::thread::spawn(move || {
            let mut seen = String::new();
            for line in lines.map_while(Result::ok) {
                if let Some((_, addr)) = line.split_once("Running on http://") {
                    let _ = found.send(Ok(addr.trim().to_owned()));
                }
                seen.push_str(&line);
                seen.push('\n');
            }
            let _ = found.send(Err(seen));
        });
        let addr = match ready.recv_timeout(Duration::from_secs(60)) {
            Ok(Ok(addr)) => addr.parse().expect("an address"),
            Ok(Err(said)) => panic!("moto ended:\n{said}"),
            Err(_) => panic!("moto does not start within a minute"),
        };
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { child, addr, client }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Makes a user who may ask for ECR passwords, or may not.
    pub(crate) async fn user(&self, name: &str, may: bool) -> Key {
        self.call("iam", &[("Action", "CreateUser"), ("UserName", name)]).await;
        let policy = [("Action", "PutUserPolicy"), ("UserName", name), ("PolicyName", "p")];
        self.call("iam", &[&policy[..], &[("PolicyDocument", &document(may))]].concat()).await;
        let xml = self.call("iam", &[("Action", "CreateAccessKey"), ("UserName", name)]).await;
        Key { id: element(&xml, "AccessKeyId"), secret: element(&xml, "SecretAccessKey"), session: None }
    }

    /// Deletes a user's key.
    pub(crate) async fn delete(&self, name: &str, key: &Key) {
        self.call(
            "iam",
            &[("Action", "DeleteAccessKey"), ("UserName", name), ("AccessKeyId", key.id.as_str())],
        )
        .await;
    }

    /// Makes a role that may ask for ECR passwords, and a session of it.
    pub(crate) async fn role(&self, name: &str) -> Key {
        let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}]}"#;
        let create = [("Action", "CreateRole"), ("RoleName", name), ("AssumeRolePolicyDocument", trust)];
        self.call("iam", &create).await;
        let policy = [("Action", "PutRolePolicy"), ("RoleName", name), ("PolicyName", "p")];
        self.call("iam", &[&policy[..], &[("PolicyDocument", &document(true))]].concat()).await;
        let arn = format!("arn:aws:iam::123456789012:role/{name}");
        let assume = [("Action", "AssumeRole"), ("RoleArn", &arn), ("RoleSessionName", "session")];
        let xml = self.call("sts", &assume).await;
        Key {
            id: element(&xml, "AccessKeyId"),
            secret: element(&xml, "SecretAccessKey"),
            session: Some(element(&xml, "SessionToken")),
        }
    }

    /// From now on, signatures and permissions are checked (or no longer).
    pub(crate) async fn enforce(&self, on: bool) {
        let body = if on { "0" } else { "Infinity" };
        let url = format!("{}/moto-api/reset-auth", self.url());
        let answer = self.client.post(url).body(body).send().await.expect("moto answers");
        assert!(answer.status().is_success());
    }

    /// Calls an API of the Query protocol. Before [`Self::enforce`], a signature is needed only to tell the service.
    async fn call(&self, service: &str, parameters: &[(&str, &str)]) -> String {
        let version = if service == "iam" { "2010-05-08" } else { "2011-06-15" };
        let body = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("Version", version)
            .extend_pairs(parameters)
            .finish();
        let scope = format!("Credential=any/20261124/us-east-1/{service}/aws4_request");
        let answer = self
            .client
            .post(self.url())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("authorization", format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"))
            .body(body)
            .send()
            .await
            .expect("moto answers");
        let status = answer.status();
        let text = answer.text().await.expect("moto answers");
        assert!(status.is_success(), "{parameters:?}: {text}");
        text
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // An error means that it ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python that has moto, and Amazon's own client.
pub(crate) fn python() -> PathBuf {
    let dir = std::env::var_os("CLIPFS_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fixtures"), PathBuf::from);
    let venv = dir.join("python");
    // Written last.
    assert!(
        venv.join("requirements.txt").exists(),
        "{} is missing: run fixtures/scripts/python.sh (make test does)",
        venv.display()
    );
    venv.join("bin/python")
}

fn document(may: bool) -> String {
    let effect = if may { "Allow" } else { "Deny" };
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"{effect}","Action":"ecr:GetAuthorizationToken","Resource":"*"}}]}}"#
    )
}

/// The text of the first element of this name.
fn element(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}"));
    rest.split_once('<').expect("well-formed").0.to_owned()
}
