//! What every call passes: counted, known, bounded in time and number.
//!
//! Deadlines are kept here, for streams too: tonic would answer CANCELLED, and only where no stream has begun. Two errors of tonic's that
//! say too little are told here as what they are.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::{HeaderMap, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::auth;
use super::body::Watched;
use super::metrics::{Metrics, Started};
use super::share::{Share, Shares};
use crate::service::caller;
use crate::store::SharedStore;

/// Calls at once that answer and end.
const CALLS: usize = 1024;
/// Streams at once: one a worker, one a watcher.
const STREAMS: usize = 16 << 10;
/// Streams at once of those who need no token: they must not be in the way of those who have one.
const OPEN_STREAMS: usize = 256;
/// Longest time of a call that answers and ends, whatever its caller says: a request that never comes to its end holds a place.
const LONGEST: Duration = Duration::from_secs(60);
/// Methods that take their time, and how long at most.
const SLOW: [&str; 2] = ["/clipfs.v1.ImageService/CreateImage", "/clipfs.v1.ImageService/GetIndex"];
const LONGEST_SLOW: Duration = Duration::from_secs(4 * 3600);
/// So much before a caller's deadline its call is ended: tonic, which would say CANCELLED, must not be first.
const EARLY: Duration = Duration::from_millis(2);
/// Methods whose streams last as long as both sides want: told to go away at once when the server stops.
const LASTING: [&str; 3] = [
    "/clipfs.v1.WorkerService/Work",
    "/clipfs.v1.ContainerService/WatchContainer",
    "/grpc.health.v1.Health/Watch",
];

/// What all calls share.
#[derive(Debug)]
struct Shared {
    store: SharedStore,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<bool>,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    open_streams: Arc<Semaphore>,
    shares: Arc<Shares>,
    /// How often the bearer of a stream that lasts is asked for his token again.
    recheck: Duration,
}

/// A call's place, given back at its end.
#[derive(Debug)]
pub(super) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_tenant: Option<Share>,
}

/// Puts a [`Door`] before the services.
#[derive(Debug, Clone)]
pub(super) struct DoorLayer(Arc<Shared>);

impl DoorLayer {
    pub(super) fn new(
        store: SharedStore,
        metrics: Arc<Metrics>,
        stopping: watch::Receiver<bool>,
        recheck: Duration,
    ) -> Self {
        let places = |number| Arc::new(Semaphore::new(number));
        let (calls, streams, open_streams) = (places(CALLS), places(STREAMS), places(OPEN_STREAMS));
        let shares = Arc::default();
        Self(Arc::new(Shared { store, metrics, stopping, calls, streams, open_streams, shares, recheck }))
    }
}

impl<S> Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Door<S> {
        Door { inner, shared: Arc::clone(&self.0) }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Door<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Door<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        // The one that was polled ready serves; the fresh one waits for the next call.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(shared.answer(inner, request))
    }
}

impl Shared {
    async fn answer<S>(
        self: Arc<Self>,
        mut inner: S,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Send,
        S::Future: Send,
    {
        let started = self.metrics.started(request.uri().path());
        let lasting = LASTING.contains(&request.uri().path());
        let ends = limit(request.uri().path(), timeout(request.headers()), lasting)
            .map(|limit| tokio::time::Instant::now() + limit);
        let open = auth::is_open(request.uri().path());
        let of_all = match self.place(lasting, open) {
            Ok(place) => place,
            Err(status) => return Ok(refusal(started, &status)),
        };
        let token = if lasting && !open { auth::hash(request.headers()) } else { None };
        let served = async {
            match self.known(&mut request, lasting, open).await {
                Ok(share) => inner.call(request).await.map(|response| Ok((response, share))),
                Err(status) => Ok(Err(status)),
            }
        };
        let response = match ends {
            None => served.await?,
            Some(ends) => match tokio::time::timeout_at(ends, served).await {
                Ok(served) => served?,
                Err(_) => return Ok(refusal(started, &late())),
            },
        };
        match response {
            Ok((response, of_tenant)) => {
                let place = Place { _of_all: of_all, _of_tenant: of_tenant };
                let cut = lasting.then(|| self.cut(token));
                Ok(watched(response, started, place, ends, cut))
            }
            Err(status) => Ok(refusal(started, &status)),
        }
    }

    /// A place among the calls that are answered at once.
    fn place(&self, lasting: bool, open: bool) -> Result<OwnedSemaphorePermit, Status> {
        let places = match (lasting, open) {
            (true, true) => &self.open_streams,
            (true, false) => &self.streams,
            (false, _) => &self.calls,
        };
        Arc::clone(places)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many calls at once; try again later"))
    }

    /// Puts the caller into the request's extensions; answers his share, if he must be known.
    async fn known(
        &self,
        request: &mut Request<Body>,
        lasting: bool,
        open: bool,
    ) -> Result<Option<Share>, Status> {
        if open {
            return Ok(None);
        }
        let caller = auth::authenticate(&*self.store, request.headers()).await?;
        let share = self.shares.take(&caller, lasting)?;
        request.extensions_mut().insert(caller);
        Ok(Some(share))
    }

    /// Why a stream that lasts is cut off, once it is: the server stops, or its bearer's token was revoked or has expired.
    fn cut(&self, token: Option<[u8; 32]>) -> BoxFuture<'static, Status> {
        let (store, recheck) = (SharedStore::clone(&self.store), self.recheck);
        let mut stopping = self.stopping.clone();
        async move {
            let stopped = async {
                // The sender outlives the server: an error says the same as `true`.
                let _ = stopping.wait_for(|stopping| *stopping).await;
            };
            let revoked = async {
                let Some(token) = token else { return std::future::pending().await };
                loop {
                    // Apart from each other, those that began together.
                    tokio::time::sleep(recheck.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    // A database that is away says nothing about tokens.
                    if let Ok(None) = store.token_by_hash(&token).await {
                        return;
                    }
                }
            };
            tokio::select! {
                () = stopped => Status::unavailable("the control plane stops; call again"),
                () = revoked => caller::unknown(),
            }
        }
        .boxed()
    }
}

/// The answer, its body followed to the end.
fn watched(
    response: Response<Body>,
    started: Started,
    place: Place,
    ends: Option<tokio::time::Instant>,
    cut: Option<BoxFuture<'static, Status>>,
) -> Response<Body> {
    if let Some(status) = Status::from_header_map(response.headers()) {
        let status = told_better(status);
        // Trailers only: this is the end.
        return refusal(started, &status);
    }
    let (head, body) = response.into_parts();
    Response::from_parts(head, Body::new(Watched::new(body, started, place, ends, cut)))
}

/// How long a call may take: as its caller says, but no longer than is sensible.
fn limit(path: &str, asked: Option<Duration>, lasting: bool) -> Option<Duration> {
    if lasting {
        return asked;
    }
    let most = if SLOW.contains(&path) { LONGEST_SLOW } else { LONGEST };
    Some(asked.map_or(most, |asked| asked.min(most)))
}

/// An answer that is only a status.
fn refusal(mut started: Started, status: &Status) -> Response<Body> {
    started.ended(status.code());
    let status = Status::with_metadata(status.code(), status.message(), status.metadata().clone());
    status.into_http()
}

/// The status of a call whose deadline has passed.
pub(super) fn late() -> Status {
    Status::deadline_exceeded("the call's deadline has passed")
}

/// What tonic says of messages that are too large (OUT_OF_RANGE) or none (INTERNAL), as the interface promises it.
pub(super) fn told_better(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange if status.message().contains("message length too large") => {
            Status::resource_exhausted(format!(
                "the message is larger than {} bytes",
                crate::service::MAX_MESSAGE
            ))
        }
        Code::Internal if status.message().starts_with("failed to decode Protobuf message") => {
            Status::invalid_argument("the message is not one of this method: it cannot be decoded")
        }
        _ => status,
    }
}

/// How long the caller waits: `grpc-timeout`, at most eight digits and a unit. What is malformed is no deadline, as tonic has it.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.saturating_sub(EARLY).max(timeout / 2))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn timeouts() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            timeout(&headers)
        };
        assert_eq!(of("1S"), Some(Duration::from_millis(998)));
        assert_eq!(of("2m"), Some(Duration::from_millis(1)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600) - EARLY));
        for text in ["", "S", "1", "1x", "-1S", "123456789S"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn calls_end() {
        let second = Duration::from_secs(1);
        let of = |path: &str, asked| limit(path, asked, LASTING.contains(&path));
        assert_eq!(of("/clipfs.v1.SecretService/GetSecret", None), Some(LONGEST));
        assert_eq!(of("/clipfs.v1.SecretService/GetSecret", Some(second)), Some(second));
        assert_eq!(of("/clipfs.v1.SecretService/GetSecret", Some(LONGEST * 2)), Some(LONGEST));
        assert_eq!(of(SLOW[0], None), Some(LONGEST_SLOW));
        assert_eq!((of(LASTING[0], None), of(LASTING[0], Some(second))), (None, Some(second)));
    }

    #[test]
    fn only_those_two_errors_are_told_otherwise() {
        let of = |code, text: &str| told_better(Status::new(code, text)).code();
        assert_eq!(
            of(Code::OutOfRange, "Error, decoded message length too large: found 2"),
            Code::ResourceExhausted
        );
        assert_eq!(of(Code::Internal, "failed to decode Protobuf message: x"), Code::InvalidArgument);
        assert_eq!(of(Code::OutOfRange, "x"), Code::OutOfRange);
        assert_eq!(of(Code::Internal, "x"), Code::Internal);
    }
}
