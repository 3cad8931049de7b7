use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A server on this machine that answers with what it is given, in order, the last one for ever; `""` = it hangs up.
pub(crate) struct Server {
    pub(crate) url: Url,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) async fn new(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let answers = answers.iter().map(|answer| (*answer).to_owned()).collect::<Vec<_>>();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            for turn in 0.. {
                let Ok((mut connection, _)) = listener.accept().await else { return };
                let mut request = Vec::new();
                while !is_whole(&request) {
                    let mut piece = [0; 4096];
                    match connection.read(&mut piece).await {
                        Ok(0) | Err(_) => break,
                        Ok(read) => request.extend_from_slice(&piece[..read]),
                    }
                }
                log.lock().unwrap().push(String::from_utf8(request).unwrap());
                let _ = connection.write_all(answers[turn.min(answers.len() - 1)].as_bytes()).await;
            }
        });
        Self { url, seen }
    }

    /// What it was sent.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

/// An answer with a JSON body.
pub(crate) fn json(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn post(url: &Url) -> Result<Reply, Error> {
    Http::default().post(url, &HeaderMap::new(), &form(&[("a", "b c&d")])).await
}

#[tokio::test]
async fn posts_and_reads() {
    let server = Server::new(&[&json("200 OK", "", r#"{"token":"t"}"#)]).await;
    let reply = post(&server.url).await.unwrap();
    assert!(reply.is_success());
    assert!(reply.document().unwrap().get("token").is_some());
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    let (head, body) = seen[0].split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "a=b+c%26d");
    let names = head.lines().skip(1).map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(names, ["accept", "user-agent", "host", "content-length"], "{head}");
}

#[tokio::test]
async fn tries_again_what_is_passing() {
    let good = json("200 OK", "", "{}");
    let busy = json("503 Service Unavailable", "", "");
    for bad in ["", busy.as_str()] {
        let server = Server::new(&[bad, bad, &good]).await;
        assert!(post(&server.url).await.unwrap().is_success());
        assert_eq!(server.seen().len(), 3);
    }
    let server = Server::new(&[&busy]).await;
    let refused = post(&server.url).await.unwrap().refused(&Secrets::default());
    assert_eq!((refused.code, server.seen().len()), (Code::Unavailable, 3));
}

#[tokio::test]
async fn takes_a_refusal_for_an_answer() {
    let server = Server::new(&[&json("400 Bad Request", "", r#"{"error":"invalid_client"}"#)]).await;
    let reply = post(&server.url).await.unwrap();
    assert_eq!(reply.error_word().as_deref(), Some("invalid_client"));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn waits_when_asked_to() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let server = Server::new(&[&json(status, "Retry-After: 7\r\n", "")]).await;
        let error = post(&server.url).await.err().unwrap();
        assert_eq!((error.code, error.retry_after), (Code::TryLater, Some(Duration::from_secs(7))));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn follows_no_redirect() {
    let target = Server::new(&[&json("200 OK", "", "{}")]).await;
    let location = format!("Location: {}\r\n", target.url);
    let server = Server::new(&[&json("307 Temporary Redirect", &location, "")]).await;
    let error = post(&server.url).await.unwrap().refused(&Secrets::default());
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.ends_with("a redirect, which is not followed"), "{}", error.message);
    assert_eq!(target.seen(), [""; 0]);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let fits = "x".repeat(MAX_BODY);
    let server = Server::new(&[&json("200 OK", "", &fits)]).await;
    assert!(post(&server.url).await.is_ok());
    let server = Server::new(&[&json("200 OK", "", &format!("{fits}x"))]).await;
    let error = post(&server.url).await.err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("larger than 65536 bytes"), "{}", error.message);
    assert_eq!(server.seen().len(), 1, "tried again");
}

#[tokio::test]
async fn tells_why_it_cannot_reach_it() {
    let nobody = fixtures::cloud::Dead::new(std::net::Ipv4Addr::LOCALHOST);
    let url = Url::parse(&format!("{}/secret-path", nobody.url())).unwrap();
    let error = post(&url).await.err().unwrap();
    let message = format!("cannot reach {}: connection refused", nobody.addr());
    assert_eq!((error.code, error.message), (Code::Unavailable, message));
}

#[tokio::test]
async fn tells_that_it_is_not_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let mut greeting = Vec::new();
        let _ = connection.read_to_end(&mut greeting).await;
        // Not tried again: it would be no better.
        drop(listener);
        greeting
    });
    let error = post(&Url::parse(&format!("https://127.0.0.1:{port}/")).unwrap()).await.err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    assert!(
        error.message.starts_with(&format!("cannot reach 127.0.0.1:{port}: TLS failed: ")),
        "{}",
        error.message
    );
    let greeting = connections.await.unwrap();
    assert!(!greeting.windows(3).any(|window| window == b"b+c"), "sent in plain text");
}

#[tokio::test]
async fn speaks_plain_http_to_this_machine_only() {
    for url in
        ["http://10.0.0.1/", "http://example.com/", "http://0.0.0.0/", "http://[::2]/", "ftp://localhost/"]
    {
        let error = post(&Url::parse(url).unwrap()).await.err().unwrap();
        assert_eq!(error.code, Code::BadRequest, "{url}");
    }
    let server = Server::new(&[&json("200 OK", "", "{}")]).await;
    let localhost = format!("http://LocalHost:{}/", server.url.port().unwrap());
    assert!(post(&Url::parse(&localhost).unwrap()).await.unwrap().is_success());
}
