//! Clients of a test.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use mesh::runtime::{OnExit, Tasks, clock};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::PATIENCE;

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

/// One request over a connection of its own.
pub(crate) async fn request(to: SocketAddr, request: Request<Full<Bytes>>) -> Reply {
    let work = async {
        let stream = TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        Tasks::default().spawn("client", OnExit::Ignore, async move {
            // Its request tells how it ended.
            let _ = connection.await;
        });
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

/// GET `path` of `host` through the proxy at `to`.
pub(crate) async fn get(to: SocketAddr, host: &str, path: &str) -> Reply {
    let get = Request::get(path).header("host", host).body(Full::default()).unwrap();
    request(to, get).await
}

/// The text that comes back on a raw connection, up to its end.
pub(crate) async fn raw(to: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap();
        match read {
            Ok(0) | Err(_) => break,
            Ok(read) => reply.extend_from_slice(&buffer[..read]),
        }
    }
    String::from_utf8_lossy(&reply).into_owned()
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = clock::now() + PATIENCE;
    while !condition().await {
        assert!(clock::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The set of names that answered.
pub(crate) async fn names(to: SocketAddr, host: &str, times: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for _ in 0..times {
        let reply = get(to, host, "/").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        names.insert(reply.body);
    }
    names
}
