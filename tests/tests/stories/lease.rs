//! Who is silent is gone after its time; when many are silent at once, the wire is likelier broken than all of them.

use std::time::Duration;

use mesh::{
    ops::Metrics,
    runtime::{Ready, Stop, Tasks},
    subscribe::{Attachment, Lessee, attach},
};
use proto::registry::v1 as pb;
use tests::{Daemon, Life, Plan, Region, World, eventually, eventually_within, holds};

/// Leases of two seconds in the harness, a look at them every second, and a slow machine.
const LAPSED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoint_of_a_killed_workload_is_withdrawn_after_its_lease() {
    let world = World::registry("west", 1).await;
    let admin = world.west().admin().await;
    let pay = world.west().workload(Plan::http("pay-1")).await;
    let gone = world.west().workload(Plan::http("pay-2")).await;
    gone.kill().await;
    let took = eventually_within(LAPSED, "the endpoint is withdrawn", async || {
        admin.endpoints("pay.shop").await.len() == 1
    })
    .await;
    assert!(
        took > Duration::from_millis(500),
        "a broken stream alone withdraws nothing: {took:?}"
    );

    pay.stop().await;
    eventually_within(
        Duration::from_secs(1),
        "a workload that says goodbye is gone at once",
        async || admin.endpoints("pay.shop").await.is_empty(),
    )
    .await;
}

/// Agents of `count` workloads, without anything behind them, on a runtime that can be cut off.
async fn crowd(region: &Region, service: &str, count: usize) -> Daemon {
    let identity = region.identity("shop", service).await;
    let addresses = region.addresses();
    let (name, service) = (region.name.clone(), service.to_owned());
    let mut daemon = Daemon::launch(&format!("crowd-{service}"), move |stop: Stop| async move {
        let (tasks, metrics, ready) = (Tasks::new(stop.child()), Metrics::default(), Ready::default());
        let mut attachments = Vec::new();
        for at in 0..count {
            let workload = pb::Workload {
                id: format!("{service}-{at}"),
                namespace: "shop".to_owned(),
                service_account: service.clone(),
                cluster: name.clone(),
                zone: "a".to_owned(),
                address: "127.0.0.1".to_owned(),
                inbound_port: 15006,
                services: vec![pb::WorkloadService {
                    name: service.clone(),
                    ports: vec![pb::Port {
                        name: String::new(),
                        number: 80,
                        protocol: "http".to_owned(),
                    }],
                    headless: false,
                }],
                state: pb::EndpointState::Ready.into(),
                ..pb::Workload::default()
            };
            attachments.push(Attachment::spawn(
                attach::Settings::new(addresses.clone()),
                Lessee::Workload(workload),
                identity.clone(),
                &tasks,
                &metrics,
                &ready,
            ));
        }
        ready.wait().await;
        let life: Life = Box::pin(async move {
            stop.ordered().await;
            drop(attachments);
            Ok(())
        });
        Ok(life)
    });
    daemon.started().await.unwrap();
    daemon
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mass_loss_keeps_the_endpoints_until_an_operator_says_otherwise() {
    const COUNT: usize = 40;
    /// The first few are believed when they lapse one by one: not yet 15 percent.
    const LEFT_MIN: usize = COUNT - COUNT * 15 / 100;
    let world = World::registry("west", 1).await;
    let admin = world.west().admin().await;
    let crowd = crowd(world.west(), "pay", COUNT).await;
    assert_eq!(admin.endpoints("pay.shop").await.len(), COUNT);

    crowd.kill().await;
    eventually("all endpoints that are left are doubted", async || {
        let doubted = admin.status().await?.unverified_endpoints;
        let left = admin.endpoints("pay.shop").await.len();
        if doubted == left as u64 {
            Ok(())
        } else {
            Err(format!("{doubted} of {left} are"))
        }
    })
    .await;
    let left = admin.endpoints("pay.shop").await.len();
    assert!(left >= LEFT_MIN, "{left} of {COUNT} are left");
    holds(Duration::from_secs(2), "and none is withdrawn", async || {
        admin.endpoints("pay.shop").await.len() == left
    })
    .await;
    let warnings = admin.status().await.unwrap().warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("release-unverified")),
        "{warnings:?}"
    );

    admin.release_unverified().await.unwrap();
    eventually("they are gone", async || admin.endpoints("pay.shop").await.is_empty()).await;
    assert_eq!(admin.status().await.unwrap().unverified_endpoints, 0);
}
