//! The HTTP server of the pages. It has room for so many connections and no more, and each has so long for its head and
//! for everything: who only holds a place loses it to whoever comes. Knows no page.

use std::time::Duration;

use axum::{Router, extract::Request};
use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tower::ServiceExt;
use tracing::debug;

use crate::{
    net::{
        listen::{Accepted, Acceptor},
        newcomers::Bounds,
    },
    ops::Metrics,
    runtime::Stop,
};

/// Connections at a time; a quarter of them is used, because none of them ever shows who it is.
const CONNECTIONS_MAX: usize = 512;
const NEWCOMERS: Bounds = Bounds {
    total_max: CONNECTIONS_MAX / 4,
    source_max: CONNECTIONS_MAX / 8,
};
/// From one answer, or the beginning, to the end of the next request's head.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// Longest head: no page takes more than a line.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A connection's whole life; Prometheus opens the next one by itself. It bounds how long an answer is held for a reader
/// that does not read.
const LIFE: Duration = Duration::from_secs(60);

/// Answers until the order to stop. Give it an order that comes after draining, so that operators can watch it.
pub async fn serve(listener: TcpListener, routes: Router, stop: Stop) {
    // Pages are for few readers: nobody needs their numbers.
    let acceptor = Acceptor::new(listener, "admin", CONNECTIONS_MAX, &Metrics::default());
    let mut acceptor = acceptor.with_newcomers(NEWCOMERS);
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.ordered() => break,
            accepted = acceptor.accept() => connections.push(connection(accepted, routes.clone(), stop.clone())),
            Some(()) = connections.next() => {}
        }
    }
    drop(acceptor);
    while connections.next().await.is_some() {}
}

async fn connection(accepted: Accepted, routes: Router, stop: Stop) {
    let Accepted { stream, peer, mut slot } = accepted;
    let service = service_fn(move |request: Request<Incoming>| routes.clone().oneshot(request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES_MAX);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let life = async {
        tokio::select! {
            () = slot.evicted() => {}
            () = tokio::time::sleep(LIFE) => {}
        }
    };
    let served = async {
        tokio::select! {
            ended = serving.as_mut() => return ended,
            () = stop.ordered() => {}
        }
        serving.as_mut().graceful_shutdown();
        serving.await
    };
    tokio::select! {
        ended = served => {
            if let Err(error) = ended {
                debug!(%peer, %error, "connection to the pages ended");
            }
        }
        () = life => debug!(%peer, "connection to the pages cut"),
    }
}
