//! What a proxy does at the first use of a service whose endpoints it does not hold.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh::{
    model::{Coverage, ServiceName},
    runtime::clock,
    subscribe::{Interest, demand},
};

use crate::{
    outbound::{Missing, Settings},
    testing::{PATIENCE, Reply, World, eventually, get},
};

fn pay() -> ServiceName {
    ServiceName::parse("pay.shop").unwrap()
}

fn of(services: &[ServiceName]) -> Coverage {
    Coverage::Of(Arc::new(services.iter().cloned().collect()))
}

/// A world whose proxies hold names only.
async fn world_of_names() -> World {
    let mut world = World::new();
    let application = world.application("near").await;
    let _workload = world.workload("ep-1", "pay.shop", "eu", application);
    world.interest.send_replace(Interest::names(BTreeSet::new()));
    world.coverage = of(&[]);
    world
}

fn reason(reply: &Reply) -> &str {
    reply.headers["x-isthmus-reason"].to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_first_calls_ask_once_wait_and_succeed() {
    let mut world = world_of_names().await;
    let caller = world.caller(Settings {
        demand: demand::Settings {
            wait: PATIENCE,
            ..demand::Settings::default()
        },
        ..World::settings()
    });
    assert_eq!(caller.explain("pay.shop").unwrap_err(), Missing::Endpoints(pay()));
    let mut interest = world.interest.subscribe();
    let calls = async {
        tokio::join!(
            get(caller.address(), "pay.shop", "/"),
            get(caller.address(), "pay", "/")
        )
    };
    let answer = async {
        interest
            .wait_for(|interest| interest.services.contains(&pay()))
            .await
            .unwrap();
        // As long as both are there, whichever was first: none of them asks again.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!interest.has_changed().unwrap());
        world.coverage = of(&[pay()]);
        world.publish();
    };
    let ((one, other), ()) = tokio::join!(calls, answer);
    assert_eq!((one.body.as_str(), other.body.as_str()), ("near", "near"));
    assert_eq!(caller.explain("pay.shop").unwrap().rows.len(), 1);
    let told = world.metrics.render();
    assert!(told.contains("isthmus_demand_asked_total 1"), "{told}");
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_is_refused_at_once_and_asks_for_nothing() {
    let mut world = world_of_names().await;
    let caller = world.caller(World::settings());
    let began = clock::now();
    let reply = get(caller.address(), "nobody.shop", "/").await;
    assert_eq!((reply.status, reason(&reply)), (404, "unknown-service"));
    assert!(began.elapsed() < World::settings().demand.wait, "{:?}", began.elapsed());
    assert!(world.interest.borrow().services.is_empty());
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_registry_a_first_call_says_so_and_others_go_on() {
    let mut world = world_of_names().await;
    world.service("cart.shop", 80, mesh::model::Protocol::Http);
    world.coverage = of(&[pay()]);
    let caller = world.caller(World::settings());
    world.contact.connect(false);
    let reply = get(caller.address(), "cart.shop", "/").await;
    assert_eq!((reply.status, reason(&reply)), (503, "endpoints-unknown"));
    assert!(
        reply.body.contains("cart.shop") && reply.body.contains("has not been reachable for"),
        "{}",
        reply.body
    );
    assert_eq!(get(caller.address(), "pay.shop", "/").await.body, "near");
    assert!(
        world
            .interest
            .borrow()
            .services
            .iter()
            .any(|name| name.name() == "cart"),
        "asked for when it is back"
    );
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_go_of_is_asked_for_again_and_not_taken_for_nobody() {
    let mut world = world_of_names().await;
    world.coverage = of(&[pay()]);
    let caller = world.caller(World::settings());
    assert_eq!(get(caller.address(), "pay.shop", "/").await.body, "near");
    world.coverage = of(&[]);
    world.publish();
    eventually("the route is gone", async || {
        caller.explain("pay.shop").is_err() && caller.status()["routes"].as_array().unwrap().is_empty()
    })
    .await;
    let mut interest = world.interest.subscribe();
    let call = get(caller.address(), "pay.shop", "/");
    let answer = async {
        interest
            .wait_for(|interest| interest.services.contains(&pay()))
            .await
            .unwrap();
        world.coverage = of(&[pay()]);
        world.publish();
    };
    let (reply, ()) = tokio::join!(call, answer);
    assert_eq!(reply.body, "near");
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_services_are_wanted_from_the_start() {
    let mut world = world_of_names().await;
    let _caller = world.caller(Settings {
        services: vec![pay()],
        ..World::settings()
    });
    assert!(world.interest.borrow().services.contains(&pay()));
    assert_eq!(World::settings().interest(), Interest::names(BTreeSet::new()));
    world.tasks.stop().order();
}
