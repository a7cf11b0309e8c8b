//! A client's side of HTTP: one connection for each request, over HTTP/1.1 or HTTP/2 with prior knowledge, so that nothing
//! of an earlier test is left in a pool.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh::runtime::{OnExit, Tasks};
use tokio::net::TcpStream;

/// A request that takes longer has failed: nothing in a story does.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came back, whole.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What came after the body.
    pub trailers: HeaderMap,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body's text of a reply that must be 200.
    #[must_use]
    pub fn expect_ok(self) -> String {
        assert_eq!(self.status, 200, "{} {:?}", self.text(), self.headers);
        self.text()
    }

    /// A header as text, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let value = self.headers.get(name);
        value.map_or_else(String::new, |value| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        })
    }
}

/// The version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2 with prior knowledge.
    Two,
}

/// Sends a request to whoever listens at `to`, and returns once the head of the response is there.
///
/// # Errors
/// When the connection or the exchange fails.
pub async fn send<B>(to: SocketAddr, version: Version, request: Request<B>) -> anyhow::Result<Response<Incoming>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let sending = async {
        let stream = TcpStream::connect(to).await.context("connect")?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let tasks = Tasks::default();
        // How a connection ends is seen by its request.
        match version {
            Version::One => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
                tasks.spawn("client", OnExit::Ignore, connection.with_upgrades().map(drop));
                Ok(sender.send_request(request).await?)
            }
            Version::Two => {
                let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
                let (mut sender, connection) = handshake.await?;
                tasks.spawn("client", OnExit::Ignore, connection.map(drop));
                Ok(sender.send_request(request).await?)
            }
        }
    };
    tokio::time::timeout(PATIENCE, sending)
        .await
        .with_context(|| format!("no response from {to} within {PATIENCE:?}"))?
}

/// As [`send`], with the whole body.
///
/// # Errors
/// When the connection, the exchange or the body fails.
pub async fn exchange<B>(to: SocketAddr, version: Version, request: Request<B>) -> anyhow::Result<Reply>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let (head, body) = send(to, version, request).await?.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect())
        .await
        .context("the body does not end")??;
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        trailers: body.trailers().cloned().unwrap_or_default(),
        body: body.to_bytes(),
    })
}

/// `GET` of `path` with this Host.
///
/// # Errors
/// As [`exchange`].
pub async fn get(to: SocketAddr, host: &str, path: &str) -> anyhow::Result<Reply> {
    let request = Request::get(path).header("host", host).body(Full::<Bytes>::default())?;
    exchange(to, Version::One, request).await
}

/// An admin page: status and text.
///
/// # Errors
/// When nobody answers.
pub async fn page(to: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let reply = get(to, &to.to_string(), path).await?;
    Ok((reply.status, reply.text()))
}
