//! The demo's application: answers every request with where it runs. Knows nothing of the mesh.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::runtime::{Backoff, OnExit, Stop, Tasks};
use tokio::net::TcpListener;

use crate::{
    failure::{Exit, Failure, Outcome},
    render::note,
};

/// Answers on `listen` with `region name` until it is told to stop.
pub(crate) async fn serve(listen: SocketAddr, region: &str, name: &str, stop: Stop) -> Outcome {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Failure::new(Exit::Failed, error).while_doing(format!("cannot listen on {listen}")))?;
    note(&format!("{name} in {region} listens on {listen}"));
    let answer: Arc<str> = format!("{region} {name}\n").into();
    let tasks = Tasks::new(stop.clone());
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            () = stop.ordered() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors must not mean out of CPU.
            tokio::time::sleep(backoff.next_wait()).await;
            continue;
        };
        backoff.reset();
        // Without it small answers wait for the peer's acknowledgement.
        let _ = stream.set_nodelay(true);
        let answer = Arc::clone(&answer);
        tasks.spawn("connection", OnExit::Ignore, async move {
            let service = service_fn(move |request| {
                let answer = Arc::clone(&answer);
                async move { Ok::<_, Infallible>(reply(&request, &answer)) }
            });
            // A caller that goes away in the middle of a request is its own affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(60))
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn reply(_: &Request<Incoming>, answer: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(answer.as_bytes())));
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
