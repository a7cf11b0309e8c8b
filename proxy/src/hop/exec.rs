//! Lets hyper start its tasks among the supervised ones.

use std::future::Future;

use mesh::runtime::{OnExit, Tasks};

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
