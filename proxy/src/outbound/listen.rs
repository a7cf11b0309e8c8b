//! Listeners of the application: HTTP/1 and HTTP/2 on one, opaque TCP on one for each upstream. At the order to stop they
//! close, and connections finish what they have begun.

use std::{sync::Arc, time::Duration};

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::{net::listen::Acceptor, runtime::OnExit};
use tokio::net::TcpStream;
use tracing::debug;

use super::{Shared, http, tcp};
use crate::hop::{
    exec::{self, Exec},
    screen::{Screened, Speaks},
};

/// An application that connects and says nothing gives its place back.
const FIRST_BYTE_PATIENCE: Duration = Duration::from_secs(3600);
/// The next head must be whole by then. Hyper counts from the end of the last answer, so this is also how long an unused
/// connection of the application's pool is kept: long, because it is our own application.
const HEAD_PATIENCE: Duration = Duration::from_secs(3600);
/// Most bytes that an HTTP/1 head may have, and a connection may buffer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests at a time on one connection of the application.
const STREAMS_MAX: u32 = 1_000;
/// Flow control windows towards the application.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Accepts on the HTTP listener until the order to stop.
pub(crate) async fn accept_http(shared: Arc<Shared>, mut acceptor: Acceptor) {
    let stop = shared.accept.clone();
    loop {
        let accepted = tokio::select! {
            () = stop.ordered() => break,
            accepted = acceptor.accept() => accepted,
        };
        let held = (accepted.slot, shared.drain.guard());
        let connection = serve(Arc::clone(&shared), accepted.stream);
        shared.tasks.spawn("outbound-http", OnExit::Ignore, async move {
            let _held = held;
            connection.await;
        });
    }
    drop(acceptor);
    // A task that must not end before the process does.
    shared.tasks.stop().ordered().await;
}

/// Accepts on the listener of one upstream until the order to stop.
pub(crate) async fn accept_tcp(shared: Arc<Shared>, mut acceptor: Acceptor, authority: Arc<str>) {
    let stop = shared.accept.clone();
    loop {
        let accepted = tokio::select! {
            () = stop.ordered() => break,
            accepted = acceptor.accept() => accepted,
        };
        let held = (accepted.slot, shared.drain.guard());
        let (serving, authority) = (Arc::clone(&shared), Arc::clone(&authority));
        shared.tasks.spawn("outbound-tcp", OnExit::Ignore, async move {
            let _held = held;
            tcp::serve(&serving, accepted.stream, &authority).await;
        });
    }
    drop(acceptor);
    // A task that must not end before the process does.
    shared.tasks.stop().ordered().await;
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let stop = shared.accept.clone();
    let screened = tokio::select! {
        () = stop.ordered() => return,
        screened = Screened::read(stream, FIRST_BYTE_PATIENCE) => screened,
    };
    let Some((stream, speaks)) = screened else { return };
    let io = TokioIo::new(stream);
    let tasks = Exec(shared.tasks.clone());
    let service = service_fn(move |request| http::serve(Arc::clone(&shared), request));
    let ended = match speaks {
        Speaks::Http1 => {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .keep_alive(true)
                .half_close(true)
                .max_buf_size(HEAD_BYTES_MAX);
            let connection = builder.serve_connection(io, service).with_upgrades();
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.ordered() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        Speaks::Http2 => {
            let mut builder = http2::Builder::new(tasks);
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .max_pending_accept_reset_streams(exec::RESET_PENDING_MAX)
                .max_local_error_reset_streams(exec::RESET_LOCAL_MAX)
                .enable_connect_protocol();
            let connection = builder.serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.ordered() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection of the application ended");
    }
}
