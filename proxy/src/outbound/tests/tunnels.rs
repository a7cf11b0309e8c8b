//! Opaque bytes and upgrades.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    outbound::Upstream,
    testing::{PATIENCE, World, raw},
};

/// Reads up to the end of a response's head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap();
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_travel_through_the_mesh() {
    let mut world = World::new();
    let application = world.application("near").await;
    let _workload = world.workload("ep-1", "pay.shop", "eu", application);
    let caller = world.caller(World::settings());
    let mut stream = TcpStream::connect(caller.address()).await.unwrap();
    let ask = "GET /ws HTTP/1.1\r\nHost: pay.shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.to_lowercase().contains("sec-websocket-accept: yes"), "{answer}");
    assert!(answer.to_lowercase().contains("upgrade: websocket"), "{answer}");
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
    let (mut reader, mut writer) = stream.split();
    let send = async {
        writer.write_all(&bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut echoed = Vec::new();
    let receive = async { reader.read_to_end(&mut echoed).await.unwrap() };
    tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) })
        .await
        .unwrap();
    assert!(echoed == bytes, "{} of {} bytes", echoed.len(), bytes.len());
    let refused = raw(
        caller.address(),
        "GET /headers HTTP/1.1\r\nHost: pay.shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert!(
        refused.await.starts_with("HTTP/1.1 502"),
        "the application answered instead"
    );
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_opens_a_tunnel_with_half_close() {
    let mut world = World::new();
    let application = world.shouter().await;
    let _workload = world.workload("ep-1", "db.shop", "eu", application);
    let caller = world.caller(World::settings());
    let mut stream = TcpStream::connect(caller.address()).await.unwrap();
    stream
        .write_all(b"CONNECT db.shop:5432 HTTP/1.1\r\nHost: db.shop:5432\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, "HELLO", "the answer comes after our end");
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_of_its_own_carries_tcp_and_fails_over() {
    let mut world = World::new();
    let (dead, alive) = (world.shouter().await, world.shouter().await);
    let dead = world.workload("ep-1", "db.shop", "eu", dead);
    let far = world.workload("ep-us", "db.shop", "us", alive);
    let splicer = world.splicer(vec![far.endpoint.clone()]).await;
    world.gateway("gw-us", "us", splicer.address);
    let mut settings = World::settings();
    settings.upstreams = vec![Upstream {
        listen: ([127, 0, 0, 1], 0).into(),
        service: far.endpoint.service.clone(),
        port: 5432,
        region: None,
    }];
    let caller = world.caller(settings);
    let (listener, ..) = caller.upstreams()[0].clone();
    dead.tasks.stop().order();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(listener).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer, "HELLO");
    }
    world.tasks.stop().order();
}
