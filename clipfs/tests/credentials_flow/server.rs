//! A server that remembers every byte it is sent.

use std::sync::{Arc, Mutex};

use fixtures::registry::Tls;
use fixtures::secret::Traces;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The server that saw it: `127.0.0.1:PORT`.
    pub(crate) host: String,
    pub(crate) method: String,
    /// Path and query, undecoded.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }

    pub(crate) fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Gets the request and how many this server had before.
pub(crate) type Answer = Box<dyn Fn(&Seen, usize) -> Reply + Send + Sync>;

/// A listener whose address is known before it answers.
pub(crate) struct Bound {
    listener: TcpListener,
    tls: Option<Tls>,
    pub(crate) host: String,
}

impl Bound {
    /// One that speaks TLS with such a certificate, or plain http.
    pub(crate) async fn new(ip: &str, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        Self { listener, tls, host }
    }

    /// Begins to answer; stops with its runtime.
    pub(crate) fn serve(self, answer: Answer) -> Server {
        let log = Arc::new(Mutex::new(Log::default()));
        let (logged, host) = (Arc::clone(&log), self.host.clone());
        let answer = Arc::new(answer);
        let tls = self.tls.map(|tls| tls.acceptor(&["http/1.1"]));
        tokio::spawn(async move {
            while let Ok((stream, _)) = self.listener.accept().await {
                logged.lock().unwrap().connections += 1;
                let (answer, log, host) = (Arc::clone(&answer), Arc::clone(&logged), host.clone());
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => connection(stream, &host, &answer, &log).await,
                        Some(tls) => connection(tls.accept(stream).await?, &host, &answer, &log).await,
                    }
                });
            }
        });
        Server { host: self.host, log, _traces: Traces::install() }
    }
}

#[derive(Debug, Default)]
struct Log {
    seen: Vec<Seen>,
    raw: Vec<u8>,
    connections: usize,
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) host: String,
    log: Arc<Mutex<Log>>,
    _traces: Traces,
}

impl Server {
    pub(crate) async fn start(
        ip: &str,
        answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Bound::new(ip, None).await.serve(Box::new(answer))
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().seen.clone()
    }

    /// Every byte of every connection, complete requests or not; what was inside TLS where it speaks that.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.log.lock().unwrap().raw.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.log.lock().unwrap().connections
    }
}

/// Reads on until `enough` says where the wanted part ends.
async fn fill(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    log: &Mutex<Log>,
    enough: impl Fn(&[u8]) -> Option<usize>,
) -> std::io::Result<Vec<u8>> {
    loop {
        if let Some(end) = enough(buffer) {
            return Ok(buffer.drain(..end).collect());
        }
        let before = buffer.len();
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        log.lock().unwrap().raw.extend_from_slice(&buffer[before..]);
    }
}

async fn connection(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    answer: &Answer,
    log: &Mutex<Log>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let head = fill(&mut stream, &mut buffer, log, |b| {
            b.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
        })
        .await?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap_or("").split(' ').map(str::to_owned);
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, n)| n.parse().unwrap());
        let body = fill(&mut stream, &mut buffer, log, |b| (b.len() >= length).then_some(length)).await?;
        let seen = Seen {
            host: host.to_owned(),
            method: first.next().unwrap_or_default(),
            target: first.next().unwrap_or_default(),
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        let before = {
            let mut log = log.lock().unwrap();
            log.seen.push(seen.clone());
            log.seen.len() - 1
        };
        let reply = answer(&seen, before);
        let mut text = format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).await?;
        if seen.method != "HEAD" {
            stream.write_all(&reply.body).await?;
        }
    }
}
