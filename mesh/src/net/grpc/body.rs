//! Bodies of calls at the rim: a request that sends too much is refused, and a response holds its pass until it is over
//! and ends in order when its connection retires.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::{Status, body::Body};

use super::Pass;

/// A request's body, bounded.
pub(super) struct Sent {
    body: Incoming,
    left: Option<u64>,
}

impl Sent {
    pub(super) fn new(body: Incoming, bytes_max: Option<u64>) -> Self {
        Self { body, left: bytes_max }
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
            None => return Poll::Ready(None),
        };
        if let (Some(left), Some(data)) = (self.left, frame.data_ref()) {
            let Some(left) = left.checked_sub(data.len() as u64) else {
                let text = "the request is longer than a caller without certificate may send";
                return Poll::Ready(Some(Err(Status::resource_exhausted(text))));
            };
            self.left = Some(left);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body.
pub(super) struct Told {
    body: Body,
    _pass: Pass,
    /// When its connection retires; none when the response is over by then anyway.
    retired: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Told {
    pub(super) fn new(body: Body, pass: Pass, retired: Option<Pin<Box<dyn Future<Output = ()> + Send>>>) -> Self {
        Self {
            body,
            _pass: pass,
            retired,
        }
    }
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let Some(retired) = &mut self.retired else {
            return Poll::Pending;
        };
        ready!(retired.as_mut().poll(cx));
        self.retired = None;
        // Whoever made the stream sees that it is not read any more.
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        let status = Status::unavailable("this connection has reached its age; call again");
        // Only a text that is no header value could fail, and this one is.
        let _ = status.add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
