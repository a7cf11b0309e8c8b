//! Where requests go when all is well, when something dies, and when it comes back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mesh::model::{EndpointState, Override, OverrideId, RegionId, Resource};
use mesh::runtime::clock;

use crate::testing::{Ca, World, eventually, get, names};

#[tokio::test(flavor = "multi_thread")]
async fn the_own_region_serves_and_the_other_one_takes_over_without_a_failure() {
    let mut world = World::new();
    let (near, far) = (world.application("near").await, world.application("far").await);
    let near = world.workload("ep-eu", "pay.shop", "eu", near);
    let far = world.workload("ep-us", "pay.shop", "us", far);
    let splicer = world.splicer(vec![far.endpoint.clone()]).await;
    world.gateway("gw-us", "us", splicer.address);
    let caller = world.caller(World::settings());
    assert_eq!(names(caller.address(), "pay.shop", 20).await.len(), 1);
    assert_eq!(
        near.application.requests.load(Ordering::Relaxed),
        20,
        "all of it stays at home"
    );

    near.tasks.stop().order();
    near.application.stop();
    for _ in 0..20 {
        assert_eq!(get(caller.address(), "pay.shop", "/").await.body, "far");
    }
    assert!(
        splicer.connections.load(Ordering::Relaxed) <= 3,
        "connections are shared"
    );
    let explained = caller.explain("pay.shop").unwrap();
    assert!(
        explained.rows.iter().any(|row| row.reason.contains("ejected")),
        "{explained:?}"
    );
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_application_counts_as_a_dead_endpoint() {
    let mut world = World::new();
    let (one, two) = (world.application("one").await, world.application("two").await);
    let one = world.workload("ep-1", "pay.shop", "eu", one);
    let _two = world.workload("ep-2", "pay.shop", "eu", two);
    let caller = world.caller(World::settings());
    eventually("both serve", async || {
        names(caller.address(), "pay.shop", 10).await.len() == 2
    })
    .await;
    one.application.stop();
    assert_eq!(names(caller.address(), "pay.shop", 40).await, ["two".to_owned()].into());
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn five_errors_in_a_row_eject_and_recovery_brings_it_back() {
    let mut world = World::new();
    let (one, two) = (world.application("one").await, world.application("two").await);
    let one = world.workload("ep-1", "pay.shop", "eu", one);
    let _two = world.workload("ep-2", "pay.shop", "eu", two);
    let caller = world.caller(World::settings());
    one.application.sick.store(true, Ordering::Relaxed);
    eventually("it is ejected", async || {
        get(caller.address(), "pay.shop", "/").await;
        let explained = caller.explain("pay.shop").unwrap();
        explained
            .rows
            .iter()
            .any(|row| row.reason.contains("answered with errors"))
    })
    .await;
    one.application.sick.store(false, Ordering::Relaxed);
    eventually("it serves again", async || {
        names(caller.address(), "pay.shop", 5).await.contains("one")
    })
    .await;
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_left_within_three_seconds() {
    let mut world = World::new();
    let near = world.application("near").await;
    let mut settings = World::settings();
    settings.connect_timeout = Duration::from_secs(1);
    // An address of the documentation's range: no answer, or none in time.
    let mut hole = world.workload("ep-hole", "pay.shop", "eu", near.clone()).endpoint;
    world
        .resources
        .retain(|resource| !matches!(resource, Resource::Endpoint(_)));
    hole.address = "192.0.2.1".parse().unwrap();
    hole.weight = 1000;
    world.resources.push(Resource::from(hole));
    let mut other = world.workload("ep-near", "pay.shop", "eu", near).endpoint;
    other.weight = 1;
    world
        .resources
        .retain(|resource| !matches!(resource, Resource::Endpoint(endpoint) if endpoint.id == other.id));
    world.resources.push(Resource::from(other));
    let caller = world.caller(settings);
    let began = clock::now();
    assert_eq!(get(caller.address(), "pay.shop", "/").await.body, "near");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let began = clock::now();
    for _ in 0..10 {
        assert_eq!(get(caller.address(), "pay.shop", "/").await.body, "near");
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "once is enough: {:?}",
        began.elapsed()
    );
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_is_left() {
    let mut world = World::new();
    let (near, far) = (world.application("near").await, world.application("far").await);
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = world.workload("ep-eu", "pay.shop", "eu", near);
    // A relay in front of the near one that stops relaying.
    let (inbound, stop) = (near.inbound.address(), mesh::runtime::Stop::default());
    let mute_address = mute.local_addr().unwrap();
    let (tasks, silence) = (world.tasks.clone(), stop.clone());
    world.tasks.spawn("mute", mesh::runtime::OnExit::Ignore, async move {
        while let Ok((mut client, _)) = mute.accept().await {
            let silence = silence.clone();
            tasks.spawn("mute", mesh::runtime::OnExit::Ignore, async move {
                let mut server = tokio::net::TcpStream::connect(inbound).await.unwrap();
                tokio::select! {
                    () = silence.ordered() => {}
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    for resource in &mut world.resources {
        if let Resource::Endpoint(endpoint) = resource {
            let endpoint = Arc::make_mut(endpoint);
            endpoint.inbound_port = mute_address.port();
        }
    }
    let far = world.workload("ep-us", "pay.shop", "us", far);
    let splicer = world.splicer(vec![far.endpoint.clone()]).await;
    world.gateway("gw-us", "us", splicer.address);
    let caller = world.caller(World::settings());
    assert_eq!(get(caller.address(), "pay.shop", "/").await.body, "near");
    stop.order();
    let began = clock::now();
    assert_eq!(get(caller.address(), "pay.shop", "/").await.body, "far");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_gateway_is_not_held_against_the_endpoint() {
    let mut world = World::new();
    let far = world.application("far").await;
    let far = world.workload("ep-us", "pay.shop", "us", far);
    let splicer = world.splicer(vec![far.endpoint.clone()]).await;
    let dead = world.splicer(vec![]).await;
    dead.stop();
    world.gateway("gw-1", "us", dead.address);
    world.gateway("gw-2", "us", splicer.address);
    let caller = world.caller(World::settings());
    eventually("the dead one is gone", async || {
        tokio::net::TcpStream::connect(dead.address).await.is_err()
    })
    .await;
    assert_eq!(names(caller.address(), "pay.shop", 20).await, ["far".to_owned()].into());
    let explained = caller.explain("pay.shop").unwrap();
    assert_eq!(explained.rows[0].reason, "ready");

    splicer.stop();
    eventually("all gateways are out", async || {
        let reply = get(caller.address(), "pay.shop", "/").await;
        let explained = caller.explain("pay.shop").unwrap();
        reply.status == 503 && explained.rows[0].reason.contains("all gateways into cluster us")
    })
    .await;
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_moves_traffic_and_ends_by_itself() {
    let mut world = World::new();
    let (near, far) = (world.application("near").await, world.application("far").await);
    let _near = world.workload("ep-eu", "pay.shop", "eu", near);
    let far = world.workload("ep-us", "pay.shop", "us", far);
    let splicer = world.splicer(vec![far.endpoint.clone()]).await;
    world.gateway("gw-us", "us", splicer.address);
    let caller = world.caller(World::settings());
    assert_eq!(names(caller.address(), "pay.shop", 5).await, ["near".to_owned()].into());
    world.resources.push(Resource::Override(Override {
        id: OverrideId::parse("drill").unwrap(),
        region: RegionId::parse("eu").unwrap(),
        percent: 100,
        expires_at: clock::wall().plus(Duration::from_secs(3)),
        origin: RegionId::parse("eu").unwrap(),
        reason: "test".into(),
    }));
    world.publish();
    eventually("evacuated", async || {
        names(caller.address(), "pay.shop", 3).await == ["far".to_owned()].into()
    })
    .await;
    eventually("restored", async || {
        names(caller.address(), "pay.shop", 3).await == ["near".to_owned()].into()
    })
    .await;
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_endpoint_gets_nothing_new() {
    let mut world = World::new();
    let (one, two) = (world.application("one").await, world.application("two").await);
    let _one = world.workload("ep-1", "pay.shop", "eu", one);
    let _two = world.workload("ep-2", "pay.shop", "eu", two);
    let caller = world.caller(World::settings());
    eventually("both serve", async || {
        names(caller.address(), "pay.shop", 10).await.len() == 2
    })
    .await;
    for resource in &mut world.resources {
        if let Resource::Endpoint(endpoint) = resource
            && endpoint.id.as_str() == "ep-1"
        {
            Arc::make_mut(endpoint).state = EndpointState::Draining;
        }
    }
    world.publish();
    eventually("one is left", async || {
        names(caller.address(), "pay.shop", 10).await == ["two".to_owned()].into()
    })
    .await;
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_is_refused() {
    let mut world = World::new();
    let application = world.application("impostor").await;
    let workload = world.workload("ep-1", "pay.shop", "eu", application);
    for resource in &mut world.resources {
        if let Resource::Endpoint(endpoint) = resource {
            let endpoint = Arc::make_mut(endpoint);
            endpoint.identity = world.regions["eu"].id("somebody-else");
        }
    }
    let caller = world.caller(World::settings());
    let reply = get(caller.address(), "pay.shop", "/").await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("somebody-else"), "{reply:?}");
    assert!(reply.body.contains("isthmus why eu/a pay.shop:80"), "{reply:?}");
    assert_eq!(workload.application.requests.load(Ordering::Relaxed), 0);
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_cut_when_a_trust_domain_is_disowned() {
    let mut world = World::new();
    let (near, far) = (world.application("near").await, world.application("far").await);
    let far = world.workload("ep-us", "pay.shop", "us", far);
    let splicer = world.splicer(vec![far.endpoint.clone()]).await;
    world.gateway("gw-us", "us", splicer.address);
    let identity = world.identity("eu", "web");
    let caller = world.caller_as(World::settings(), identity.clone());
    assert_eq!(get(caller.address(), "pay.shop", "/").await.body, "far");
    assert!(
        identity.replace_bundles([world.regions["eu"].bundle()]),
        "us is no peer any more"
    );
    eventually("refused", async || {
        get(caller.address(), "pay.shop", "/").await.status == 503
    })
    .await;
    drop(near);
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_let_in() {
    let mut world = World::new();
    let application = world.application("near").await;
    let workload = world.workload("ep-1", "pay.shop", "eu", application);
    // It knows the mesh; the mesh does not know it.
    let stranger = Ca::new("xx");
    let bundles = [world.bundles(), vec![stranger.bundle()]].concat();
    let identity = stranger.identity("web", &bundles);
    let caller = world.caller_as(World::settings(), identity);
    let reply = get(caller.address(), "pay.shop", "/").await;
    assert!(matches!(reply.status, 502 | 503), "{reply:?}");
    assert_eq!(workload.application.requests.load(Ordering::Relaxed), 0);
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_went_to_another_endpoint_is_noticed() {
    let mut world = World::new();
    let application = world.application("near").await;
    let workload = world.workload("ep-1", "pay.shop", "eu", application);
    for resource in &mut world.resources {
        if let Resource::Endpoint(endpoint) = resource {
            let endpoint = Arc::make_mut(endpoint);
            endpoint.id = mesh::model::EndpointId::parse("ep-before").unwrap();
        }
    }
    let caller = world.caller(World::settings());
    assert_eq!(get(caller.address(), "pay.shop", "/").await.status, 503);
    workload.inbound.serve(Vec::new());
    world.publish();
    assert_eq!(get(caller.address(), "pay.shop", "/").await.status, 503);
    assert!(
        world
            .metrics
            .render()
            .contains("isthmus_inbound_denied_total{reason=\"not-served\"}")
    );
    world.tasks.stop().order();
}
