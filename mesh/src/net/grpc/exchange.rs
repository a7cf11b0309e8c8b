//! HTTP/2 on one connection: every bound of the protocol named, each call past the gate, and an end in order when the
//! connection is old or the process stops.

use std::{convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tonic::{body::Body, service::Routes};
use tower::ServiceExt;
use tracing::debug;

use super::{
    Caller, Gate,
    body::{Sent, Told},
    connection::Connection,
};
use crate::runtime::{OnExit, Stop, Tasks};

/// A peer that vanished is noticed after both.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// Streams that a client opened and reset before they were looked at; beyond, the connection is closed (rapid reset).
const RESET_PENDING_MAX: usize = 20;
/// Streams that we had to reset for a client's faults; beyond, the connection is closed.
const RESET_LOCAL_MAX: usize = 64;
/// All headers of a call together; also bounds how many CONTINUATION frames are taken.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// What is kept of a response that its reader does not take.
const SEND_BYTES_MAX: usize = 256 * 1024;
/// Flow control: what a caller may send before somebody reads it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// From the word that a connection is old until what still runs on it is cut.
const GRACE: Duration = Duration::from_secs(10);

tokio::task_local! {
    /// Of the call that the current task carries.
    static HANGUP: Stop;
}

/// Lets a handler cut its own call, with everything that waits for a client that does not read. In the extensions of
/// each request.
#[derive(Clone, Debug, Default)]
pub struct Hangup(Stop);

impl Hangup {
    /// The one of a request; one without effect when it did not come through [`super::serve`].
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Cuts the call: the client sees it reset.
    pub fn cut(&self) {
        self.0.order();
    }
}

/// What serves the calls of a connection.
#[derive(Clone)]
pub(super) struct Counter {
    pub(super) routes: Routes,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) streams_max: u32,
    pub(super) tasks: Tasks,
}

/// Lets hyper start its tasks among the supervised ones.
#[derive(Clone)]
struct Exec(Tasks);

impl<F> hyper::rt::Executor<F> for Exec
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let hangup = Stop::default();
        let cut = hangup.clone();
        self.0.spawn("grpc-call", OnExit::Ignore, async move {
            tokio::select! {
                // What it returns is for nobody: its errors reach the call.
                _ = HANGUP.scope(hangup, future) => {}
                () = cut.ordered() => {}
            }
        });
    }
}

impl Counter {
    /// Serves until the client goes, or until the connection is `age` old or `stop` is ordered, and what runs by then is
    /// over. Whoever drops this cuts what runs.
    pub(super) async fn serve(&self, connection: Connection, caller: Caller, age: Duration, stop: &Stop) {
        let retired = Stop::default();
        let service = {
            let (counter, caller, retired) = (self.clone(), caller.clone(), retired.clone());
            service_fn(move |request| {
                let (counter, caller, retired) = (counter.clone(), caller.clone(), retired.clone());
                async move { Ok::<_, Infallible>(counter.answer(caller, request, retired).await) }
            })
        };
        let mut builder = http2::Builder::new(Exec(self.tasks.clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams_max)
            .max_pending_accept_reset_streams(RESET_PENDING_MAX)
            .max_local_error_reset_streams(RESET_LOCAL_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_send_buf_size(SEND_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        let mut serving = pin!(builder.serve_connection(TokioIo::new(connection), service));
        let is_old = tokio::select! {
            ended = serving.as_mut() => return over(&caller, ended),
            () = stop.ordered() => false,
            () = tokio::time::sleep(age) => true,
        };
        serving.as_mut().graceful_shutdown();
        if !is_old {
            // Whoever ordered the stop cuts what does not end.
            return over(&caller, serving.await);
        }
        retired.order();
        match tokio::time::timeout(GRACE, serving).await {
            Ok(ended) => over(&caller, ended),
            Err(_) => debug!(peer = %caller.address, "old connection cut"),
        }
    }

    async fn answer(&self, caller: Caller, request: Request<Incoming>, retired: Stop) -> Response<Told> {
        let pass = match self.gate.call(&caller, request.uri().path()) {
            Ok(pass) => pass,
            Err(status) => {
                let response: Response<Body> = status.into_http();
                return response.map(|body| Told::new(body, super::Pass::default(), None));
            }
        };
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(caller);
        if let Ok(hangup) = HANGUP.try_with(Stop::clone) {
            parts.extensions.insert(Hangup(hangup));
        }
        let body = Sent::new(body, pass.request_bytes_max());
        let response = self.routes.clone().oneshot(Request::from_parts(parts, body)).await;
        let Ok(response) = response;
        response.map(|body| Told::new(body, pass, Some(Box::pin(async move { retired.ordered().await }))))
    }
}

fn over(caller: &Caller, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        debug!(peer = %caller.address, %error, "connection ended");
    }
}
