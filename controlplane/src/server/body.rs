//! The body of an answer, followed to its end: its status counted, its deadline kept, cut off when the server stops or its token has ended.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use super::door::{Place, late, told_better};
use super::metrics::Started;

/// See the module.
pub(super) struct Watched {
    inner: Body,
    started: Started,
    /// Given back at the end.
    _place: Place,
    deadline: Option<Pin<Box<Sleep>>>,
    cut: Option<BoxFuture<'static, Status>>,
    over: bool,
}

impl Watched {
    /// `cut`: why it ends before its end, once it does.
    pub(super) fn new(
        inner: Body,
        started: Started,
        place: Place,
        ends: Option<Instant>,
        cut: Option<BoxFuture<'static, Status>>,
    ) -> Self {
        let deadline = ends.map(|ends| Box::pin(tokio::time::sleep_until(ends)));
        Self { inner, started, _place: place, deadline, cut, over: false }
    }

    /// The last frame: a status of ours.
    fn end(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        self.over = true;
        self.started.ended(status.code());
        let mut trailers = HeaderMap::new();
        // Our texts are plain ASCII: they fit into a header.
        let written = status.add_header(&mut trailers);
        Some(written.map(|()| Frame::trailers(trailers)))
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
            return Poll::Ready(this.end(&late()));
        }
        if let Some(cut) = &mut this.cut
            && let Poll::Ready(status) = cut.as_mut().poll(context)
        {
            return Poll::Ready(this.end(&status));
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        let Some(Ok(frame)) = frame else {
            this.over = true;
            return Poll::Ready(frame);
        };
        Poll::Ready(match frame.into_trailers() {
            Err(data) => Some(Ok(data)),
            Ok(trailers) => match Status::from_header_map(&trailers) {
                Some(status) if status.code() != Code::Ok => {
                    let status = told_better(status);
                    this.end(&status)
                }
                _ => {
                    this.over = true;
                    this.started.ended(Code::Ok);
                    Some(Ok(Frame::trailers(trailers)))
                }
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
