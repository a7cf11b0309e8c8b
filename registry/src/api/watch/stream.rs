//! One subscription's answer. It is asked for the next message once the last one was taken, and makes it then: no task and no
//! queue stands between the hub and the connection, and whoever is slow finds changes merged.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use bytes::Bytes;
use futures_util::{Stream, task::AtomicWaker};
use http::HeaderMap;
use http_body::{Body, Frame};
use mesh::{
    identity::Role,
    model::{Held, Timestamp},
    runtime::{Stop, clock},
};
use proto::registry::v1::{self as pb, watch_request::Kind};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status, Streaming};

use super::{readers::Reading, scope};
use crate::{
    api::turns::CallersTurns,
    watch::{Messages, Subscriber, Ticket},
};

/// Requests that are heard before the next message is made.
const HEARD_AT_ONCE: usize = 32;

/// The updates of one subscriber, as the body of its response.
pub(super) struct Updates {
    pub(super) subscriber: Subscriber,
    pub(super) ticket: Ticket,
    pub(super) role: Option<Role>,
    /// Of the interest that updates are made for.
    pub(super) sequence: u64,
    pub(super) reading: Reading,
    pub(super) turn: Turn,
    pub(super) requests: Requests,
    /// The update that is being taken.
    pub(super) sending: Option<Sending>,
    pub(super) is_over: bool,
}

pub(super) struct Sending {
    messages: Messages,
    held: Held,
    committed_at: Option<Timestamp>,
}

impl Updates {
    /// The next message; none when the subscriber has ended its side.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        if let Some(message) = self.continue_update() {
            return Poll::Ready(Ok(Some(message)));
        }
        if let Poll::Ready(ended) = self.poll_requests(cx) {
            return Poll::Ready(ended.map(|()| None));
        }
        ready!(self.turn.poll(cx));
        let Some(given) = ready!(self.subscriber.poll_next(cx)) else {
            return Poll::Ready(Err(stopping()));
        };
        self.reading.given();
        self.sending = Some(Sending {
            held: given.held(),
            committed_at: given.committed_at(),
            messages: given.into_messages(self.sequence),
        });
        // An update has at least one message.
        Poll::Ready(Ok(self.continue_update()))
    }

    /// The next message of the update that is being taken; that it is asked for says that those before were taken.
    fn continue_update(&mut self) -> Option<Bytes> {
        let sending = self.sending.as_mut()?;
        if let Some(message) = sending.messages.next() {
            return Some(message);
        }
        self.ticket.sent(sending.held, clock::wall(), sending.committed_at);
        self.reading.taken();
        self.turn.give_back();
        self.sending = None;
        None
    }

    /// Hears what the subscriber says; ready when there is nothing more to hear or to say.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.requests.bell.task.register(cx.waker());
        if !self.requests.bell.is_rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        for _ in 0..HEARD_AT_ONCE {
            match ready!(self.requests.poll_next())? {
                Some(request) => self.hear(request)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        // There may be more; after others had their turn.
        self.requests.bell.wake_by_ref();
        Poll::Pending
    }

    fn hear(&mut self, request: pb::WatchRequest) -> Result<(), Status> {
        match request.kind {
            Some(Kind::Interest(interest)) => {
                self.sequence = interest.sequence;
                self.subscriber.set_scope(scope(interest, self.role)?);
            }
            Some(Kind::Ack(ack)) => {
                let held = ack.held.unwrap_or_default();
                self.ticket.acknowledged(held.into(), Timestamp(ack.applied_at_ms));
            }
            Some(Kind::Start(_)) => return Err(Status::invalid_argument("the stream has started already")),
            // A newer client's message: nothing that this version could do.
            None => {}
        }
        Ok(())
    }
}

fn stopping() -> Status {
    Status::unavailable("this node stops; ask another one")
}

impl Body for Updates {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let updates = self.get_mut();
        if updates.is_over {
            return Poll::Ready(None);
        }
        let status = match ready!(updates.poll_message(cx)) {
            Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
            Ok(None) => Status::new(Code::Ok, ""),
            Err(status) => status,
        };
        updates.is_over = true;
        let mut trailers = HeaderMap::new();
        // Only a text that is no header value could fail, and ours are.
        let _ = status.add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// The first update is the large one, and of one caller only few are made at a time.
pub(super) struct Turn {
    /// While it lives the caller is known.
    _turns: CallersTurns,
    state: TurnState,
}

enum TurnState {
    Awaited(Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>),
    Taken { _permit: Option<OwnedSemaphorePermit> },
    Over,
}

impl Turn {
    pub(super) fn new(turns: CallersTurns) -> Self {
        let state = TurnState::Awaited(Box::pin(turns.take()));
        Self { _turns: turns, state }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let TurnState::Awaited(turn) = &mut self.state {
            let _permit = ready!(turn.as_mut().poll(cx));
            self.state = TurnState::Taken { _permit };
        }
        Poll::Ready(())
    }

    fn give_back(&mut self) {
        self.state = TurnState::Over;
    }
}

/// What the subscriber says, and the order to stop. Both are seldom, so that neither is looked at unless it has rung.
pub(super) struct Requests {
    incoming: Streaming<pb::WatchRequest>,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
    bell: Arc<SideBell>,
    waker: Waker,
}

impl Requests {
    pub(super) fn new(incoming: Streaming<pb::WatchRequest>, stop: Stop) -> Self {
        let bell = Arc::new(SideBell {
            is_rung: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        Self {
            incoming,
            stop: Box::pin(async move { stop.ordered().await }),
            waker: Arc::clone(&bell).into(),
            bell,
        }
    }

    fn poll_next(&mut self) -> Poll<Result<Option<pb::WatchRequest>, Status>> {
        let mut cx = Context::from_waker(&self.waker);
        if self.stop.as_mut().poll(&mut cx).is_ready() {
            return Poll::Ready(Err(stopping()));
        }
        Pin::new(&mut self.incoming).poll_next(&mut cx).map(Option::transpose)
    }
}

/// Remembers that it was rung, and wakes the task.
struct SideBell {
    is_rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for SideBell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_rung.store(true, Ordering::Release);
        self.task.wake();
    }
}
