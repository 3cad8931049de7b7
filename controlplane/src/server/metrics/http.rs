//! `GET /metrics`: a small HTTP server for one document. Whoever reaches the address may read: nothing in it is secret.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Makes the document.
pub(in crate::server) type Document = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

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
/// What it is.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves the document until it is dropped.
pub(in crate::server) async fn serve(listener: TcpListener, document: Document) {
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
    let said = |status: StatusCode, text: String| {
        let mut response = Response::new(text);
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
        response
    };
    if request.uri().path() != "/metrics" {
        return said(StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = said(StatusCode::METHOD_NOT_ALLOWED, String::new());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    said(StatusCode::OK, document().await)
}
