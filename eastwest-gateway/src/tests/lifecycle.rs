//! Going away in order, and the pages that tell how it is.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::world::{World, accept_tls, alert, backend, endpoint, eventually, page, service, view_of};

const ANY: &str = "outbound_.80_._.pay.shop.svc.cluster.local";

#[tokio::test]
async fn a_stop_refuses_newcomers_and_lets_tunnels_finish() {
    let (listener, port) = backend();
    let world = World::start(view_of([service("pay.shop")], [endpoint("ep-1", "pay.shop", port)]), "");
    let inbound = world.domain.workload();
    let (client, mut server) = tokio::join!(world.tunnel(ANY), accept_tls(&listener, &inbound));
    let mut client = client.unwrap();
    let World {
        ground,
        addresses,
        data_path,
        ..
    } = world;
    assert!(page(addresses.ready, "/ready").await.starts_with("HTTP/1.1 200"));

    let told = std::cell::Cell::new(0);
    let farewell = async || told.set(told.get() + 1);
    let gone = async || told.set(told.get() + 10);
    let finishing = data_path.finish(farewell, gone);
    let talking = async {
        ground.stop.order();
        let mut pending = Vec::new();
        while pending.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            pending = ground.ready.pending();
        }
        assert_eq!(pending, ["drain"]);
        assert!(page(addresses.ready, "/ready").await.starts_with("HTTP/1.1 503"));
        while TcpStream::connect(addresses.tunnels).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.write_all(b"still here").await.unwrap();
        let mut heard = [0; 10];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!((&heard, told.get()), (b"still here", 1));
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
    };
    let (finished, ()) = tokio::join!(finishing, talking);
    finished.unwrap();
    assert_eq!(told.get(), 11);
}

#[tokio::test]
async fn what_is_open_at_the_deadline_is_cut() {
    let (listener, port) = backend();
    let view = view_of([service("pay.shop")], [endpoint("ep-1", "pay.shop", port)]);
    let world = World::start(view, "[timeouts]\ndrain = '100ms'\n");
    let inbound = world.domain.workload();
    let (client, _server) = tokio::join!(world.tunnel(ANY), accept_tls(&listener, &inbound));
    let mut client = client.unwrap();
    world.ground.stop.order();
    world.data_path.finish(async || {}, async || {}).await.unwrap();
    let heard = client.read(&mut [0; 1]).await;
    assert!(heard.is_err(), "a cut is no orderly end: {heard:?}");
}

#[tokio::test]
async fn a_part_that_fails_takes_the_gateway_down_in_order() {
    let world = World::start(view_of([], []), "");
    world
        .ground
        .tasks
        .spawn("fragile", mesh::runtime::OnExit::StopProcess, async {});
    let error = world
        .data_path
        .finish(async || {}, async || {})
        .await
        .expect_err("a part ended");
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("fragile")
    );
}

#[tokio::test]
async fn pages_show_settings_view_and_metrics() {
    let world = World::start(
        view_of([service("pay.shop")], []),
        "[identity]\ntoken = 'very-secret'\n",
    );
    let mut stream = world.connect().await;
    stream.write_all(b"garbage").await.unwrap();
    assert_eq!(alert(&mut stream).await, Some(40));
    let refused = "isthmus_gateway_refused_total{reason=\"not-tls\"} 1";
    assert!(page(world.addresses.metrics, "/metrics").await.contains(refused));
    assert!(page(world.addresses.pages, "/metrics").await.contains(refused));
    assert!(page(world.addresses.pages, "/view").await.contains("\"name\":\"pay\""));
    let settings = page(world.addresses.pages, "/config").await;
    assert!(
        settings.contains("gateway-1") && !settings.contains("very-secret"),
        "{settings}"
    );
    eventually("the refused one is gone", || {
        world.metric("isthmus_connections{listener=\"tunnels\"}") == 0
    })
    .await;
}
