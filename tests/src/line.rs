//! gRPC and HTTP/2 by hand: calls of any method with any certificate, and frames that no library would send.

use std::{net::Ipv4Addr, net::SocketAddr, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh::runtime::{OnExit, Tasks};

use crate::certs::{self, Shown};

/// A stream's head comes at once, or never.
const PATIENCE: Duration = Duration::from_secs(10);
/// What comes after the head, of calls that end.
const END_PATIENCE: Duration = Duration::from_millis(300);

/// A connection on which anything can be called.
pub struct Line {
    sender: http2::SendRequest<Full<Bytes>>,
}

/// What a call was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The gRPC code; none while a stream goes on.
    pub code: Option<i32>,
    /// Its text, as it travels: with percent signs.
    pub message: String,
}

impl Line {
    /// Opens one, showing a certificate or none.
    ///
    /// # Errors
    /// When the server refuses the connection.
    pub async fn open(to: SocketAddr, shown: Option<&Shown>) -> anyhow::Result<Self> {
        Self::open_from(to, Ipv4Addr::LOCALHOST, shown).await
    }

    /// As [`Line::open`], from another address of this machine.
    ///
    /// # Errors
    /// When the server refuses the connection.
    pub async fn open_from(to: SocketAddr, from: Ipv4Addr, shown: Option<&Shown>) -> anyhow::Result<Self> {
        let opening = async {
            let tls = certs::open(to, from, "registry.test", shown, &[b"h2"]).await?;
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await?;
            Tasks::default().spawn("line", OnExit::Ignore, connection.map(drop));
            anyhow::Ok(Self { sender })
        };
        tokio::time::timeout(PATIENCE, opening)
            .await
            .context("no connection in time")?
    }

    /// Calls a method with one message.
    ///
    /// # Errors
    /// When the connection breaks, or nothing comes.
    pub async fn call(&mut self, method: &str, message: &[u8]) -> anyhow::Result<Told> {
        let length = u32::try_from(message.len())?.to_be_bytes();
        let body = [&[0][..], &length, message].concat();
        self.send(method, body).await
    }

    /// Calls a method with a body as it is.
    ///
    /// # Errors
    /// When the connection breaks, or nothing comes.
    pub async fn send(&mut self, method: &str, body: Vec<u8>) -> anyhow::Result<Told> {
        let request = Request::post(format!("http://registry{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        let response = tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await;
        let (head, body) = response.context("no head in time")??.into_parts();
        if let Some(told) = told(&head.headers) {
            return Ok(told);
        }
        match tokio::time::timeout(END_PATIENCE, body.collect()).await {
            Ok(body) => Ok(body?.trailers().and_then(told).context("no trailers")?),
            Err(_) => Ok(Told {
                code: None,
                message: String::new(),
            }),
        }
    }
}

fn told(headers: &HeaderMap) -> Option<Told> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    let message = headers.get("grpc-message").and_then(|text| text.to_str().ok());
    Some(Told {
        code,
        message: message.unwrap_or_default().to_owned(),
    })
}

/// What an HTTP/2 client says first, with empty settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// One frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head[..], payload].concat()
}

/// The headers of a call of `method`, without indexing.
#[must_use]
pub fn headers(method: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", method),
        (":authority", "registry"),
        ("content-type", "application/grpc"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or(0x7e));
            block.extend(text.bytes());
        }
    }
    block
}
