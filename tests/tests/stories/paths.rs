//! What travels through two proxies and two gateways arrives as it was sent: long bodies, trailers, upgraded connections,
//! opaque bytes with one end closed.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::TokioIo;
use tests::{
    Plan, Sidecar, World, eventually,
    http::{self as client, Version},
    text::{self, Sum},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LONG: usize = 6 << 20;

async fn across() -> (World, Sidecar, Sidecar) {
    let world = World::regions(["west", "east"]).await;
    let plan = Plan::new("far-1")
        .serves("far", 80, "http")
        .serves("rpc", 90, "grpc")
        .serves("raw", 5432, "tcp");
    let far = world.east().workload(plan).await;
    for service in ["far.shop", "rpc.shop", "raw.shop"] {
        world.east().admin().await.export(service, &[]).await;
    }
    let web = world.west().caller(Plan::new("web").upstream("raw.shop", 5432)).await;
    for host in ["far.shop", "rpc.shop:90"] {
        web.reaches(host, "the other region", |name| name == "east-far-1").await;
    }
    (world, far, web)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_bodies_trailers_upgrades_and_half_closed_streams_cross_regions() {
    let (_world, _far, web) = across().await;
    long_bodies(&web).await;
    trailers(&web).await;
    upgraded_connection(&web).await;
    half_closed_stream(&web).await;
}

async fn long_bodies(web: &Sidecar) {
    let upload = Request::post("/sum")
        .header(header::HOST, "far.shop")
        .body(text::body(LONG))
        .unwrap();
    let told = web.exchange(upload).await.unwrap().expect_ok();
    assert_eq!(told, Sum::expected(LONG).to_string(), "what was sent is what arrived");

    let download = Request::get(format!("/bytes/{LONG}"))
        .header(header::HOST, "far.shop")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = client::send(web.outbound, Version::One, download).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(Sum::of(response.into_body()).await.unwrap(), Sum::expected(LONG));
}

async fn trailers(web: &Sidecar) {
    let messages = text::chunks(100_000).map(|chunk| Ok::<_, std::convert::Infallible>(Frame::data(chunk)));
    let request = Request::post("http://rpc.shop:90/trailers")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(BodyExt::boxed(StreamBody::new(messages)))
        .unwrap();
    let reply = client::exchange(web.outbound, Version::Two, request).await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "message"));
    let trailer = |name| reply.trailers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(
        (trailer("grpc-status"), trailer("x-bytes")),
        (Some("0"), Some("100000"))
    );
}

async fn upgraded_connection(web: &Sidecar) {
    let request = Request::get("/echo")
        .header(header::HOST, "far.shop")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Full::<Bytes>::default())
        .unwrap();
    let mut response = client::send(web.outbound, Version::One, request).await.unwrap();
    assert_eq!(response.status(), 101);
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    let mut stream = TokioIo::new(upgraded);
    for at in 0..20_u8 {
        let frame = [0x82, 4, at, 1, 2, 3];
        stream.write_all(&frame).await.unwrap();
        stream.flush().await.unwrap();
        let mut back = [0; 6];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, frame, "each frame comes back before the next one is sent");
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "the end comes back, too");
}

async fn half_closed_stream(web: &Sidecar) {
    let said = "half of a conversation ".repeat(20_000);
    eventually("the whole answer comes after the caller's end", async || {
        let mut stream = TcpStream::connect(web.upstream())
            .await
            .map_err(|error| error.to_string())?;
        let (mut reader, mut writer) = stream.split();
        let sending = async {
            writer.write_all(said.as_bytes()).await?;
            writer.shutdown().await
        };
        let mut heard = String::new();
        let (sent, read) = futures_util::future::join(sending, reader.read_to_string(&mut heard)).await;
        sent.and(read.map(drop)).map_err(|error| error.to_string())?;
        if heard == said.to_uppercase() {
            Ok(())
        } else {
            Err(format!("{} of {} bytes", heard.len(), said.len()))
        }
    })
    .await;
}
