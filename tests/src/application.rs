//! The application behind a workload: knows nothing of the mesh. Speaks HTTP/1.1, HTTP/2 and, on a port of its own, opaque
//! bytes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh::runtime::{OnExit, Tasks};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{part::Part, text};

type AppBody = BoxBody<Bytes, Infallible>;

/// An application that runs or not.
pub struct Application {
    pub(crate) part: Part,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// Where it reads to the end and answers in capitals.
    pub tcp: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Application {
    pub(crate) fn new(name: &str, http: SocketAddr, tcp: SocketAddr) -> Self {
        let requests = Arc::new(AtomicU64::new(0));
        let says: Arc<str> = name.into();
        let counted = Arc::clone(&requests);
        let part = Part::new(format!("{name}-app"), (http, "/"), move |_stop| {
            let (says, counted) = (Arc::clone(&says), Arc::clone(&counted));
            async move {
                let (http, tcp) = (bind(http).await?, bind(tcp).await?);
                let tasks = Tasks::default();
                tasks.spawn("http", OnExit::Ignore, serve_http(http, says, counted, tasks.clone()));
                let life = async move {
                    serve_tcp(tcp, tasks).await;
                    Ok(())
                };
                Ok(Box::pin(life) as _)
            }
        });
        Self {
            part,
            http,
            tcp,
            requests,
        }
    }

    /// Requests that it has answered, its health checks and readiness included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{address}"))
}

async fn serve_http(listener: TcpListener, says: Arc<str>, requests: Arc<AtomicU64>, tasks: Tasks) {
    while let Ok((stream, _)) = listener.accept().await {
        let (says, requests) = (Arc::clone(&says), Arc::clone(&requests));
        tasks.spawn("connection", OnExit::Ignore, async move {
            // Without it small answers wait for the peer's acknowledgement.
            let _ = stream.set_nodelay(true);
            let mut first = [0; 3];
            if stream.peek(&mut first).await.is_err() {
                return;
            }
            let service = service_fn(move |request| {
                requests.fetch_add(1, Ordering::Relaxed);
                let says = Arc::clone(&says);
                async move { Ok::<_, Infallible>(answer(&says, request).await) }
            });
            let io = TokioIo::new(stream);
            // A caller that goes away in the middle is its own affair.
            if first == *b"PRI" {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(io, service).await;
            } else {
                let builder = hyper::server::conn::http1::Builder::new();
                let _ = builder.serve_connection(io, service).with_upgrades().await;
            }
        });
    }
}

fn full(text: impl Into<Bytes>) -> AppBody {
    BodyExt::boxed(Full::new(text.into()))
}

/// The paths are what the stories need.
async fn answer(says: &str, request: Request<Incoming>) -> Response<AppBody> {
    let path = request.uri().path().to_owned();
    if let Some(bytes) = path.strip_prefix("/bytes/") {
        return Response::new(text::body(bytes.parse().unwrap_or(0)));
    }
    match path.as_str() {
        "/sum" => match text::Sum::of(request.into_body()).await {
            Ok(sum) => Response::new(full(sum.to_string())),
            Err(_) => refused("broken body"),
        },
        "/headers" => {
            let lines = request.headers().iter();
            let lines = lines.map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            Response::new(full(lines.collect::<String>()))
        }
        "/trailers" => trailers(request).await,
        "/echo" => upgrade(request),
        _ => Response::new(full(says.to_owned())),
    }
}

fn refused(why: &'static str) -> Response<AppBody> {
    let mut response = Response::new(full(why));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

/// As a gRPC server answers: the request's messages, then trailers with the status.
async fn trailers(request: Request<Incoming>) -> Response<AppBody> {
    let sum = text::Sum::of(request.into_body()).await.unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-bytes", HeaderValue::from(sum.bytes));
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"message"))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream::iter(frames))));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

/// As a WebSocket server that sends back every byte.
fn upgrade(mut request: Request<Incoming>) -> Response<AppBody> {
    let wanted = request.headers().get(header::UPGRADE).cloned();
    let Some(wanted) = wanted else {
        return refused("no upgrade");
    };
    let upgraded = hyper::upgrade::on(&mut request);
    Tasks::default().spawn("upgraded", OnExit::Ignore, async move {
        if let Ok(upgraded) = upgraded.await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            // The client closes; what it misses it tells.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        }
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, wanted);
    response
}

async fn serve_tcp(listener: TcpListener, tasks: Tasks) {
    while let Ok((stream, _)) = listener.accept().await {
        tasks.spawn("connection", OnExit::Ignore, async move {
            // A caller that breaks off sees so itself.
            let _ = shout(stream).await;
        });
    }
}

/// Answers nothing before it has read the end: only a half-closed connection gets its answer.
async fn shout(mut stream: TcpStream) -> std::io::Result<()> {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await?;
    heard.make_ascii_uppercase();
    stream.write_all(&heard).await?;
    stream.shutdown().await
}
