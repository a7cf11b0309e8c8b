//! Garbage on any port changes nothing, and the next good call works.

use std::{net::SocketAddr, time::Duration};

use tests::{Plan, World};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

/// Longer than any head should take, shorter than a story.
const ANSWER_WAIT: Duration = Duration::from_millis(300);

async fn throw(to: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // It may close in the middle of it: that is one of the right answers.
    let _ = stream.write_all(bytes).await;
    let mut answer = vec![0; 4096];
    let _ = tokio::time::timeout(ANSWER_WAIT, stream.read(&mut answer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_changes_nothing() {
    let world = World::regions(["west", "east"]).await;
    let pay = world.east().workload(Plan::http("pay-1")).await;
    world.east().admin().await.export("pay.shop", &[]).await;
    let web = world.west().caller(Plan::new("web").upstream("pay.shop", 80)).await;
    web.reaches("pay.shop", "the other region", |name| name == "east-pay-1")
        .await;

    let mut ports = vec![
        web.outbound,
        web.inbound,
        web.dns,
        web.pages,
        web.upstream(),
        pay.inbound,
        pay.outbound,
        pay.pages,
    ];
    for region in [world.west(), world.east()] {
        let (registry, gateway) = (region.registry(), region.gateway());
        ports.extend([
            registry.api,
            registry.raft,
            registry.http,
            registry.federation,
            registry.dns,
        ]);
        ports.extend([gateway.tunnels, gateway.pages]);
    }
    fastrand::seed(4711);
    let random: Vec<u8> = (0..2000).map(|_| fastrand::u8(..)).collect();
    let mut hello = vec![22, 3, 1, 7, 208];
    hello.extend(&random);
    let noises: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        &random,
        &hello,
        b"\r\n\r\n\0\0\0\0",
    ];
    for noise in noises {
        let thrown = ports.iter().map(|port| throw(*port, noise));
        futures_util::future::join_all(thrown).await;
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for dns in [web.dns, world.west().registry().dns] {
        for noise in noises {
            socket.send_to(noise, dns).await.unwrap();
        }
    }

    let names = web.names("pay.shop", 10).await;
    assert!(names.iter().all(|name| name == "east-pay-1"), "{names:?}");
    for region in [world.west(), world.east()] {
        region.registry_answers().await.unwrap();
        region.registry().part.ready().await;
        region.gateway().part.ready().await;
        assert_eq!(
            region.admin().await.endpoints("pay.shop").await.len(),
            1,
            "{}",
            region.name
        );
    }
    let answer = tests::dig(
        web.dns,
        tests::Transport::Udp,
        "pay.shop.svc.clusterset.local.",
        hickory_proto::rr::RecordType::A,
    );
    assert_eq!(answer.await.records.len(), 1);
}
