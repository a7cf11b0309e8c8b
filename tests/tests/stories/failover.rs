//! Callers hardly notice what dies: a workload, all workloads of a region, the whole region.

use std::time::Duration;

use mesh::runtime::clock;
use tests::{Plan, Sidecar, World, eventually};

/// From the moment of the loss; black-holed regions have 3 s, refused ones 1.
const SHIFT_MAX: Duration = Duration::from_secs(3);

/// Calls one after the other, `times` in all; at the tenth part `happens` begins. Gives the names that answered and what
/// failed.
async fn calls(web: &Sidecar, times: usize, happens: impl Future<Output = ()>) -> (Vec<String>, Vec<String>) {
    let (mut names, mut failed) = (Vec::new(), Vec::new());
    let (begin, began) = tokio::sync::oneshot::channel();
    let mut begin = Some(begin);
    let calling = async {
        for at in 0..times {
            if at == times / 10 {
                // The other side waits for it.
                let _ = begin.take().unwrap().send(());
            }
            match web.call("pay.shop").await {
                Ok(name) => names.push(name),
                Err(error) => failed.push(format!("call {at}: {error}")),
            }
        }
    };
    let happening = async {
        began.await.unwrap();
        happens.await;
    };
    futures_util::future::join(calling, happening).await;
    (names, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_move_to_the_peer_and_back_without_a_failure() {
    let world = World::regions(["west", "east"]).await;
    let here = [
        world.west().workload(Plan::http("pay-1")).await,
        world.west().workload(Plan::http("pay-2")).await,
    ];
    let _there = world.east().workload(Plan::http("pay-1")).await;
    world.east().admin().await.export("pay.shop", &[]).await;
    let web = world.west().caller(Plan::new("web")).await;
    eventually("both regions are known", async || {
        web.call("pay.shop.svc.east.region.isthmus").await.map(drop)
    })
    .await;

    let (names, failed) = calls(&web, 200, here[0].kill()).await;
    assert!(failed.is_empty(), "one of two workloads died: {failed:?}");
    assert_ne!(names.last().unwrap(), "west-pay-1");
    web.reaches("pay.shop", "the one that is left", |name| name == "west-pay-2")
        .await;

    let (names, failed) = calls(&web, 200, here[1].kill()).await;
    assert!(failed.is_empty(), "all workloads of the region died: {failed:?}");
    assert_eq!(names.last().unwrap(), "east-pay-1");

    let (_, failed) = calls(&web, 200, here[0].start()).await;
    assert!(failed.is_empty(), "a workload came back: {failed:?}");
    web.reaches("pay.shop", "its own region again", |name| name == "west-pay-1")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_region_dies_and_its_callers_go_on() {
    let world = World::regions(["west", "east"]).await;
    let here = world.west().workload(Plan::http("pay-1")).await;
    let _there = world.east().workload(Plan::http("pay-1")).await;
    world.east().admin().await.export("pay.shop", &[]).await;
    let web = world.west().caller(Plan::new("web")).await;
    eventually("both regions are known", async || {
        web.call("pay.shop.svc.east.region.isthmus").await.map(drop)
    })
    .await;
    web.reaches("pay.shop", "its own region", |name| name == "west-pay-1")
        .await;

    let begun = clock::now();
    let (registry, gateway) = (world.west().registry(), world.west().gateway());
    let lost = async {
        futures_util::future::join3(here.kill(), gateway.part.kill(), registry.part.kill()).await;
    };
    let (names, failed) = calls(&web, 300, lost).await;
    assert!(failed.len() <= 2, "{failed:?}");
    assert_eq!(names.last().unwrap(), "east-pay-1", "after {:?}", begun.elapsed());

    // The far region is lost for whoever depends on it alone, and found again when it is back.
    let gateway = world.east().gateway();
    gateway.part.kill().await;
    let begun = clock::now();
    assert_ne!(web.get("pay.shop").await.unwrap().status, 200, "nobody is left");
    assert!(begun.elapsed() < SHIFT_MAX * 2, "a call without hope ends soon");
    gateway.part.start().await;
    web.reaches("pay.shop", "the other region again", |name| name == "east-pay-1")
        .await;
}
