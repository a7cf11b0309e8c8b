//! What passes through: mutual TLS from end to end, to the endpoint that was meant.

use mesh::model::{EndpointState, ServiceName};
use mesh::net::probe::{ProbeError, Question, ServiceHealth, probe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::{
    Domain, PATIENCE, World, accept_tls, backend, client_hello, cluster, dead_port, endpoint, eventually, service,
    view_of,
};

const ANY: &str = "outbound_.80_._.pay.shop.svc.cluster.local";

#[tokio::test]
async fn mutual_tls_passes_with_half_close_each_way() {
    let (listener, port) = backend();
    let world = World::start(view_of([service("pay.shop")], [endpoint("ep-1", "pay.shop", port)]), "");
    let inbound = world.domain.workload();
    for client_first in [true, false] {
        let (client, server) = tokio::join!(world.tunnel(ANY), accept_tls(&listener, &inbound));
        let (mut client, mut server) = (client.unwrap(), server);
        let mut heard = String::new();
        if client_first {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            server.read_to_string(&mut heard).await.unwrap();
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
            client.read_to_string(&mut heard).await.unwrap();
        } else {
            server.write_all(b"question").await.unwrap();
            server.shutdown().await.unwrap();
            client.read_to_string(&mut heard).await.unwrap();
            client.write_all(b"answer").await.unwrap();
            client.shutdown().await.unwrap();
            server.read_to_string(&mut heard).await.unwrap();
        }
        assert_eq!(heard, "questionanswer");
    }
    eventually("both tunnels ended in order", || {
        world.metric("isthmus_gateway_ended_total{how=\"finished\"}") == 2
            && world.metric("isthmus_gateway_tunnels{service=\"pay.shop\"}") == 0
    })
    .await;
    assert_eq!(world.metric("isthmus_gateway_tunnels_total{service=\"pay.shop\"}"), 2);
    for direction in ["in", "out"] {
        let metric = format!("isthmus_gateway_bytes_total{{service=\"pay.shop\",direction=\"{direction}\"}}");
        assert!(
            world.metric(&metric) > 1000,
            "{direction}: {}",
            world.ground.metrics.render()
        );
    }
}

#[tokio::test]
async fn a_named_endpoint_is_reached_whatever_its_state_and_load() {
    let (busy, busy_port) = backend();
    let (_other, other_port) = backend();
    let mut draining = endpoint("ep-1", "pay.shop", busy_port);
    draining.state = EndpointState::Draining;
    let world = World::start(
        view_of(
            [service("pay.shop")],
            [draining, endpoint("ep-2", "pay.shop", other_port)],
        ),
        "",
    );
    let hello = client_hello("outbound_.80_.ep-1_.pay.shop.svc.cluster.local", &[b"istio"]);
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut client = world.connect().await;
        client.write_all(&hello).await.unwrap();
        let accepted = tokio::time::timeout(PATIENCE, busy.accept()).await;
        held.push((client, accepted.expect("the named endpoint").unwrap()));
    }
}

#[tokio::test]
async fn an_unnamed_call_goes_to_the_less_loaded_endpoint() {
    let (one, one_port) = backend();
    let (other, other_port) = backend();
    let endpoints = [
        endpoint("ep-1", "pay.shop", one_port),
        endpoint("ep-2", "pay.shop", other_port),
    ];
    let world = World::start(view_of([service("pay.shop")], endpoints), "");
    let hello = client_hello(ANY, &[b"istio"]);
    let (mut held, mut counts) = (Vec::new(), [0, 0]);
    for _ in 0..10 {
        let mut client = world.connect().await;
        client.write_all(&hello).await.unwrap();
        // Tunnels stay open: each must go where fewer are.
        let accepted = tokio::select! {
            accepted = one.accept() => { counts[0] += 1; accepted }
            accepted = other.accept() => { counts[1] += 1; accepted }
        };
        held.push((client, accepted.unwrap()));
    }
    assert_eq!(counts, [5, 5]);
}

#[tokio::test]
async fn an_unnamed_call_passes_over_dead_endpoints() {
    let (live, live_port) = backend();
    let endpoints = [
        endpoint("ep-1", "pay.shop", dead_port()),
        endpoint("ep-2", "pay.shop", dead_port()),
        endpoint("ep-3", "pay.shop", live_port),
    ];
    let world = World::start(view_of([service("pay.shop")], endpoints), "");
    for _ in 0..10 {
        let mut client = world.connect().await;
        client.write_all(&client_hello(ANY, &[b"istio"])).await.unwrap();
        let accepted = tokio::time::timeout(PATIENCE, live.accept()).await;
        accepted.expect("the live endpoint").unwrap();
    }
}

#[tokio::test]
async fn a_probe_hears_of_the_services_it_named() {
    let mut unhealthy = endpoint("ep-2", "pay.shop", 1);
    unhealthy.state = EndpointState::Unhealthy;
    let endpoints = [endpoint("ep-1", "pay.shop", 1), unhealthy];
    let world = World::start(view_of([service("pay.shop"), service("cart.shop")], endpoints), "");
    let prober = world.domain.workload();
    let name = |text| ServiceName::parse(text).unwrap();
    let question = Question {
        services: vec![name("pay.shop"), name("secret.shop")],
    };
    let address = world.addresses.tunnels.to_string();
    let health = probe(&address, &prober, &cluster(), world.domain.name(), &question, PATIENCE)
        .await
        .unwrap();
    assert_eq!(health.state, EndpointState::Ready);
    let expected = [(name("pay.shop"), ServiceHealth { ready: 1, total: 2 })];
    assert_eq!(health.services, expected.into());
    eventually("the probe is counted", || {
        world.metric("isthmus_gateway_probes_total") == 1
    })
    .await;
}

#[tokio::test]
async fn a_prober_of_an_unknown_trust_domain_hears_nothing_until_it_is_known() {
    let world = World::start(view_of([service("pay.shop")], []), "");
    let stranger = Domain::new("us");
    let prober = stranger.identity("/ns/shop/sa/web", &[&world.domain]);
    let address = world.addresses.tunnels.to_string();
    let ask = || async {
        probe(
            &address,
            &prober,
            &cluster(),
            world.domain.name(),
            &Question::default(),
            PATIENCE,
        )
        .await
    };
    let refused = ask().await.expect_err("unknown trust domain");
    assert!(matches!(refused, ProbeError::Talk { .. }), "{refused}");
    assert_eq!(
        world.metric("isthmus_gateway_refused_total{reason=\"probe-failed\"}"),
        1
    );
    // What the subscription does with the bundles of a new view.
    world
        .identity
        .replace_bundles([world.domain.bundle(), stranger.bundle()]);
    ask().await.unwrap();
}
