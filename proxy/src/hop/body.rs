//! Bodies: streamed through with back-pressure, never collected beyond what a retry may replay. A body can carry guards
//! that are dropped with it, so that "in flight" means until its last byte.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// What is told about a body whose bytes come from the other side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch(Arc<AtomicBool>);

impl Watch {
    /// Whether reading it failed: the sender broke off or broke the framing.
    pub(crate) fn failed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body on its way; `G` is dropped with it.
pub(crate) enum Carried<G = ()> {
    /// Known in whole.
    Whole(Option<Bytes>),
    /// Streamed.
    Stream {
        /// Where from.
        inner: Incoming,
        /// Told when it fails.
        watch: Option<Watch>,
        /// Held until the end.
        guard: Option<G>,
    },
}

impl<G> Carried<G> {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self::Whole(None)
    }

    /// A text.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self::Whole(Some(text.into()).filter(|bytes: &Bytes| !bytes.is_empty()))
    }

    /// Streams `inner`; the guard is dropped with its last frame or with the body.
    pub(crate) fn guarded(inner: Incoming, guard: G) -> Self {
        Self::Stream {
            inner,
            watch: None,
            guard: Some(guard),
        }
    }

    /// Streams `inner`, with somebody who wants to know when it fails.
    pub(crate) fn watched(inner: Incoming, watch: Watch) -> Self {
        Self::Stream {
            inner,
            watch: Some(watch),
            guard: None,
        }
    }
}

impl<G: Unpin> Body for Carried<G> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { inner, watch, guard } => {
                let frame = std::task::ready!(Pin::new(&mut *inner).poll_frame(cx));
                match &frame {
                    None => *guard = None,
                    Some(Err(_)) => {
                        *guard = None;
                        if let Some(watch) = watch {
                            watch.0.store(true, Ordering::Relaxed);
                        }
                    }
                    Some(Ok(_)) if inner.is_end_stream() => *guard = None,
                    Some(Ok(_)) => {}
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream { inner, .. } => inner.size_hint(),
        }
    }
}
