//! A tiny HTTP/1.1 server on a loopback address: a closure answers, a log remembers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixtures::secret::Traces;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::credentials::{Anonymous, CredentialProvider};
use crate::oci::manifest::{OCI_CONFIG, OCI_MANIFEST};
use crate::oci::{Descriptor, Digest, ImageSpec, Reference};
use crate::registry::{ImageSource, Reach, RegistryOptions};

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    /// With query.
    pub(super) target: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What happens after so many bytes of the body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    Complete,
    Cut(usize),
    Stall(usize),
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) then: Then,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), then: Then::Complete }
    }

    pub(super) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(n, _)| n != name || name == "www-authenticate");
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(super) fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

/// A running server; stops with its runtime.
pub(super) struct Server {
    pub(super) host: String,
    log: Arc<Mutex<Vec<Request>>>,
    /// At the end of the test, nothing secret was logged by anybody.
    _traces: Traces,
}

impl Server {
    /// `answer` gets the request and how many came before it.
    pub(super) async fn start(
        ip: &str,
        answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, logged) = (Arc::new(answer), Arc::clone(&log));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&logged));
                tokio::spawn(async move {
                    let _ = serve(stream, &*answer, &log).await;
                });
            }
        });
        Self { host, log, _traces: Traces::install() }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    pub(super) fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|r| r.target.contains(part)).count()
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&Request, usize) -> Reply + Sync),
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap_or("").split(' ');
        let headers: HashMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
        while buffer.len() < length {
            stream.read_buf(&mut buffer).await?;
        }
        let request = Request {
            method: first.next().unwrap_or("").to_owned(),
            target: first.next().unwrap_or("").to_owned(),
            headers,
            body: String::from_utf8(buffer.drain(..length).collect()).unwrap(),
        };
        let before = {
            let mut log = log.lock().unwrap();
            log.push(request.clone());
            log.len() - 1
        };
        let reply = answer(&request, before);
        let mut text = format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).await?;
        let body: &[u8] = if request.method == "HEAD" { &[] } else { &reply.body };
        match reply.then {
            Then::Complete => stream.write_all(body).await?,
            Then::Cut(at) => return stream.write_all(&body[..at.min(body.len())]).await,
            Then::Stall(at) => {
                stream.write_all(&body[..at.min(body.len())]).await?;
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
        }
    }
}

/// An image with one layer, and a registry that serves it as it should be.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) layer: Arc<Vec<u8>>,
    pub(super) config: String,
    pub(super) manifest: String,
}

impl Image {
    pub(super) fn new(layer_size: usize) -> Self {
        let layer: Vec<u8> = (0..layer_size).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        let digest = Digest::of(&layer);
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{OCI_CONFIG}","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{layer_size}}}]}}"#,
            Digest::of(config.as_bytes()),
            config.len()
        );
        Self { layer: Arc::new(layer), config, manifest }
    }

    pub(super) fn blob(&self) -> Descriptor {
        let size = u64::try_from(self.layer.len()).unwrap();
        Descriptor { media_type: String::new(), digest: Digest::of(&self.layer), size }
    }

    /// The answer of a registry without faults.
    pub(super) fn answer(&self, request: &Request) -> Reply {
        let path = request.target.split('?').next().unwrap_or("");
        if path.contains("/manifests/") {
            return Reply::new(200, self.manifest.as_bytes())
                .with("content-type", OCI_MANIFEST)
                .with("docker-content-digest", Digest::of(self.manifest.as_bytes()));
        }
        let blobs: [&[u8]; 2] = [&self.layer, self.config.as_bytes()];
        let Some(blob) = blobs.into_iter().find(|b| path.ends_with(&Digest::of(b).to_string())) else {
            return Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#);
        };
        let Some(range) = request.header("range") else { return Reply::new(200, blob) };
        let (first, last) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        if last >= blob.len() {
            return Reply::new(416, "");
        }
        Reply::new(206, &blob[first..=last])
            .with("content-range", format!("bytes {first}-{last}/{}", blob.len()))
    }
}

pub(super) fn options() -> RegistryOptions {
    RegistryOptions {
        credentials: Arc::new(Anonymous),
        plain_http: false,
        hosts_dir: None,
        connect_timeout: Duration::from_secs(10),
        progress_timeout: Duration::from_secs(20),
        attempts: 3,
        reach: Reach::Anywhere,
    }
}

pub(super) fn with_credentials(credentials: impl CredentialProvider + 'static) -> RegistryOptions {
    RegistryOptions { credentials: Arc::new(credentials), ..options() }
}

pub(super) async fn open(host: &str, options: RegistryOptions) -> ImageSource {
    let reference = Reference::parse(&format!("{host}/team/app:1")).unwrap();
    ImageSource::open(&ImageSpec::Registry(reference), options).await.unwrap()
}
