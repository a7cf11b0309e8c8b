//! Lets hyper start its tasks among the supervised ones.

use std::{future::Future, time::Duration};

use mesh::runtime::{OnExit, Tasks};

/// Streams that a client opened and reset before they were looked at; beyond, its connection is closed (rapid reset).
pub(crate) const RESET_PENDING_MAX: usize = 20;
/// Streams that had to be reset for a client's faults; beyond, its connection is closed.
pub(crate) const RESET_LOCAL_MAX: usize = 64;
/// A client that vanished is noticed after both.
pub(crate) const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Starts streams of HTTP/2 connections.
#[derive(Clone)]
pub(crate) struct Exec(pub(crate) Tasks);

impl<F> hyper::rt::Executor<F> for Exec
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("http2-stream", OnExit::Ignore, async move {
            // What it returns is for nobody: its errors reach the request.
            let _ = future.await;
        });
    }
}
