//! What the application of a test answers.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use mesh::runtime::{OnExit, Tasks};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::Application;

type AppBody = BoxBody<Bytes, hyper::Error>;

fn full(text: impl Into<Bytes>) -> AppBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

pub(super) async fn serve_application(stream: TcpStream, name: &'static str, application: Application) {
    let mut first = [0; 3];
    stream.peek(&mut first).await.unwrap();
    let tasks = Tasks::default();
    let exec = crate::hop::exec::Exec(tasks);
    let service = service_fn(move |request| answer(name, application.clone(), request));
    let io = TokioIo::new(stream);
    // An application may break off; the test looks at its caller.
    if first == *b"PRI" {
        let _ = hyper::server::conn::http2::Builder::new(exec)
            .serve_connection(io, service)
            .await;
    } else {
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        let _ = connection.with_upgrades().await;
    }
}

async fn answer(
    name: &'static str,
    application: Application,
    mut request: Request<Incoming>,
) -> Result<Response<AppBody>, hyper::Error> {
    application.requests.fetch_add(1, Ordering::Relaxed);
    if application.sick.load(Ordering::Relaxed) {
        let mut response = Response::new(full("sick"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(response);
    }
    let path = request.uri().path().to_owned();
    match path.as_str() {
        // Sends back what comes, as it comes, then trailers.
        "/echo" => {
            let body = request.into_body();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            trailers.insert("grpc-status", "0".parse().unwrap());
            let end =
                http_body_util::StreamBody::new(futures_util::stream::iter([Ok(http_body::Frame::trailers(trailers))]));
            let frames = futures_util::StreamExt::chain(
                http_body_util::BodyStream::new(body),
                http_body_util::BodyStream::new(end),
            );
            let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
            response
                .headers_mut()
                .insert("content-type", "application/grpc".parse().unwrap());
            response
                .headers_mut()
                .insert("trailer", "x-sum, grpc-status".parse().unwrap());
            Ok(response)
        }
        // Says all that it was told.
        "/headers" => {
            let mut lines = vec![format!("{} {}", request.method(), request.uri())];
            for (header, value) in request.headers() {
                lines.push(format!("{header}: {}", String::from_utf8_lossy(value.as_bytes())));
            }
            Ok(Response::new(full(lines.join("\n"))))
        }
        // Reads everything, says how much it was.
        "/count" => {
            let body = request.into_body().collect().await?;
            Ok(Response::new(full(body.to_bytes().len().to_string())))
        }
        "/large" => Ok(Response::new(full(vec![b'x'; 8 << 20]))),
        "/ws" => {
            let upgrade = hyper::upgrade::on(&mut request);
            Tasks::default().spawn("websocket", OnExit::Ignore, async move {
                let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
            });
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
            response
                .headers_mut()
                .insert("sec-websocket-accept", "yes".parse().unwrap());
            Ok(response)
        }
        _ => Ok(Response::new(full(name))),
    }
}
