//! Who gets in, and what the others are told.

use mesh::{model::View, net::probe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::{World, alert, backend, client_hello, dead_port, endpoint, eventually, service, view_of};

const ANY: &str = "outbound_.80_._.pay.shop.svc.cluster.local";
const MESH: &[&[u8]] = &[b"istio"];

fn pay_at(port: u16) -> View {
    view_of([service("pay.shop")], [endpoint("ep-1", "pay.shop", port)])
}

#[tokio::test]
async fn a_hello_that_comes_byte_by_byte_is_replayed_whole() {
    let (listener, port) = backend();
    let world = World::start(pay_at(port), "");
    let hello = client_hello(ANY, MESH);
    let mut stream = world.connect().await;
    stream.set_nodelay(true).unwrap();
    for byte in &hello {
        stream.write_all(&[*byte]).await.unwrap();
    }
    let (mut endpoint, _) = listener.accept().await.unwrap();
    let mut replayed = vec![0; hello.len()];
    endpoint.read_exact(&mut replayed).await.unwrap();
    assert!(replayed == hello, "the endpoint must get the very hello");
}

#[tokio::test]
async fn who_is_not_relayed_is_told_why_and_counted() {
    let world = World::start(pay_at(dead_port()), "");
    let named = |id: &str| format!("outbound_.80_.{id}_.pay.shop.svc.cluster.local");
    let mut oversized = vec![22, 3, 1, 0x40, 0, 1, 0, 0x80, 0];
    oversized.resize(1000, 0);
    let mut malformed = client_hello(ANY, MESH);
    malformed[5] = 2;
    for (case, bytes, description, reason) in [
        (
            "plain HTTP",
            b"GET / HTTP/1.1\r\nhost: pay.shop\r\n\r\n".to_vec(),
            40,
            "not-tls",
        ),
        ("garbage", vec![0xa5; 3000], 40, "not-tls"),
        ("oversized", oversized, 50, "hello-too-large"),
        ("malformed", malformed, 50, "malformed-hello"),
        ("no ALPN", client_hello(ANY, &[]), 40, "no-mesh-alpn"),
        ("foreign ALPN", client_hello(ANY, &[b"h2"]), 40, "no-mesh-alpn"),
        ("no name", client_hello("127.0.0.1", MESH), 112, "no-server-name"),
        (
            "foreign name",
            client_hello("pay.shop", MESH),
            112,
            "foreign-server-name",
        ),
        (
            "unexported",
            client_hello("outbound_.80_._.secret.shop.svc.cluster.local", MESH),
            112,
            "not-exported",
        ),
        (
            "unknown port",
            client_hello("outbound_.81_._.pay.shop.svc.cluster.local", MESH),
            112,
            "no-such-port",
        ),
        (
            "unknown endpoint",
            client_hello(&named("ep-9"), MESH),
            112,
            "no-such-endpoint",
        ),
        (
            "dead named endpoint",
            client_hello(&named("ep-1"), MESH),
            80,
            "dial-failed",
        ),
    ] {
        let metric = format!("isthmus_gateway_refused_total{{reason=\"{reason}\"}}");
        let before = world.metric(&metric);
        let mut stream = world.connect().await;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(alert(&mut stream).await, Some(description), "{case}");
        assert_eq!(world.metric(&metric), before + 1, "{case}: {reason}");
    }
    assert_eq!(
        world.metric("isthmus_gateway_dial_failed_total{service=\"pay.shop\"}"),
        1
    );
    assert!(
        !world.ground.metrics.render().contains("secret"),
        "a stranger's name must not become a label"
    );
}

#[tokio::test]
async fn a_hello_that_takes_too_long_is_cut() {
    let world = World::start(pay_at(dead_port()), "[timeouts]\nhello = '100ms'\n");
    let mut stream = world.connect().await;
    stream.write_all(&client_hello(ANY, MESH)[..100]).await.unwrap();
    assert_eq!(alert(&mut stream).await, None);
    assert_eq!(
        world.metric("isthmus_gateway_refused_total{reason=\"hello-timed-out\"}"),
        1
    );
}

#[tokio::test]
async fn a_client_that_leaves_early_is_counted_as_gone() {
    let world = World::start(pay_at(dead_port()), "");
    drop(world.connect().await);
    eventually("the client is gone", || {
        world.metric("isthmus_gateway_refused_total{reason=\"client-gone\"}") == 1
    })
    .await;
}

#[tokio::test]
async fn a_new_view_decides_about_the_next_connection() {
    let (listener, port) = backend();
    let world = World::start(View::default(), "");
    let hello = client_hello(ANY, MESH);
    for exported in [false, true, false] {
        world
            .publisher
            .publish(if exported { pay_at(port) } else { View::default() });
        let mut stream = world.connect().await;
        stream.write_all(&hello).await.unwrap();
        if exported {
            let (mut endpoint, _) = listener.accept().await.unwrap();
            endpoint.read_exact(&mut vec![0; hello.len()]).await.unwrap();
        } else {
            assert_eq!(alert(&mut stream).await, Some(112));
        }
    }
}

#[tokio::test]
async fn bounds_refuse_newcomers_and_leave_room_again() {
    let (listener, port) = backend();
    for (settings, reason) in [
        ("connections_per_service = 1", Some("service-limit")),
        ("connections_per_source = 1", Some("source-limit")),
        ("connections = 1", None),
    ] {
        let world = World::start(pay_at(port), &format!("[limits]\n{settings}\n"));
        let hello = client_hello(ANY, MESH);
        let mut first = world.connect().await;
        first.write_all(&hello).await.unwrap();
        let (held, _) = listener.accept().await.unwrap();

        let mut second = world.connect().await;
        // The gateway may have closed already.
        let _ = second.write_all(&hello).await;
        let told = alert(&mut second).await;
        assert_eq!(told, (reason == Some("service-limit")).then_some(80), "{settings}");
        let metric = reason.map_or(
            "isthmus_accept_refused_total{listener=\"tunnels\"}".to_owned(),
            |reason| format!("isthmus_gateway_refused_total{{reason=\"{reason}\"}}"),
        );
        assert_eq!(world.metric(&metric), 1, "{settings}");

        drop((first, held));
        eventually("the first tunnel ended", || {
            world.metric("isthmus_connections{listener=\"tunnels\"}") == 0
        })
        .await;
        let mut third = world.connect().await;
        third.write_all(&hello).await.unwrap();
        listener.accept().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_loses_its_place_to_one_that_speaks() {
    let (listener, port) = backend();
    let world = World::start(pay_at(port), "[limits]\nhandshakes = 1\n");
    let mut silent = world.connect().await;
    eventually("the first one is in", || {
        world.metric("isthmus_connections{listener=\"tunnels\"}") == 1
    })
    .await;
    let mut second = world.connect().await;
    second.write_all(&client_hello(ANY, MESH)).await.unwrap();
    listener.accept().await.unwrap();
    assert_eq!(alert(&mut silent).await, None);
    assert_eq!(
        world.metric("isthmus_gateway_refused_total{reason=\"handshake-limit\"}"),
        1
    );
}

#[tokio::test]
async fn a_probe_name_of_another_cluster_is_not_answered() {
    let world = World::start(View::default(), "");
    let other = mesh::model::ClusterId::parse("us-1").unwrap();
    let mut stream = world.connect().await;
    stream
        .write_all(&client_hello(&probe::server_name(&other), &[b"isthmus-probe"]))
        .await
        .unwrap();
    assert_eq!(alert(&mut stream).await, Some(112));
}
