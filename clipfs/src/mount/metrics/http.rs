//! `GET /metrics`: a small HTTP server for one document.
//!
//! Whoever reaches the address may read; there is nothing secret in the numbers. A client can hold one of a few places, and
//! only for a moment: the mount does not notice.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Makes the document. Called on the blocking pool.
pub(in crate::mount) type Document = Arc<dyn Fn() -> String + Send + Sync>;

/// Connections at once; who comes later waits in the kernel's queue.
const CONNECTIONS: usize = 8;
/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole connection: scrapers give up after ten seconds by default.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest head.
const MAX_HEAD: usize = 16 << 10;
/// Pause after a failed accept (no descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Where the document is.
const PATH: &str = "/metrics";
/// What it is.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Takes the address.
pub(in crate::mount) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves the document until the runtime ends. Must run on one.
pub(in crate::mount) async fn serve(listener: TcpListener, document: Document) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "no metrics"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let document = Arc::clone(&document);
                tokio::spawn(async move {
                    let _place = place;
                    let served = tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, document)).await;
                    if !matches!(served, Ok(Ok(()))) {
                        tracing::debug!("a metrics connection ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "metrics endpoint");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request, one answer.
async fn connection(stream: TcpStream, document: Document) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let document = Arc::clone(&document);
        async move { Ok::<_, Infallible>(answer(&request, document).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(request: &Request<Incoming>, document: Document) -> Response<String> {
    let said = |status: StatusCode, text: &str| {
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
        response
    };
    if request.uri().path() != PATH {
        return said(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = said(StatusCode::METHOD_NOT_ALLOWED, "");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match tokio::task::spawn_blocking(move || document()).await {
        Ok(text) => said(StatusCode::OK, &text),
        Err(_) => said(StatusCode::INTERNAL_SERVER_ERROR, ""),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// What the server says to some bytes, until it closes.
    fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn one_document_and_nothing_else() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, Arc::new(|| "x 1\n".to_owned())));
        // More silent clients than places would hold everybody up: one fewer does not.
        let silent: Vec<_> =
            (1..CONNECTIONS).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let table = [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n", "\r\n\r\nx 1\n"),
            ("GET /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n", "\r\n\r\nx 1\n"),
            ("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n", "\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 ", "/metrics\n"),
            ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 405 ", "\r\n\r\n"),
            ("gibberish\r\n\r\n", "HTTP/1.1 400 ", "\r\n\r\n"),
        ];
        for (request, start, end) in table {
            let said = exchange(address, request);
            assert!(said.starts_with(start) && said.ends_with(end), "{request:?}: {said:?}");
        }
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        // The server may close before it has read all of it.
        let _ = stream.write_all(long.as_bytes());
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(!said.starts_with(b"HTTP/1.1 200"), "a head beyond the limit was taken");
        drop(silent);
    }

    #[test]
    fn an_address_is_taken_once() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = bind(first.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
