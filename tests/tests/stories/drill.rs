//! A drill moves a region's traffic away and gives it back: on order, and by itself when nobody renews it.

use tests::{Plan, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evacuation_moves_traffic_and_ends_on_order_or_by_itself() {
    let world = World::regions(["west", "east"]).await;
    let _here = world.west().workload(Plan::http("pay-1")).await;
    let _there = world.east().workload(Plan::http("pay-1")).await;
    world.east().admin().await.export("pay.shop", &[]).await;
    let web = world.west().caller(Plan::new("web")).await;
    web.reaches("pay.shop", "its own region", |name| name == "west-pay-1")
        .await;
    eventually("both regions' endpoints are known", async || {
        web.call("pay.shop.svc.east.region.isthmus").await.map(drop)
    })
    .await;

    let admin = world.west().admin().await;
    let drill = admin.evacuate("west", 60).await.unwrap();
    web.reaches("pay.shop", "the other region", |name| name == "east-pay-1")
        .await;
    let names = web.names("pay.shop", 30).await;
    assert!(names.iter().all(|name| name == "east-pay-1"), "{names:?}");
    admin.end_drill(&drill.id).await.unwrap();
    web.reaches("pay.shop", "its own region again", |name| name == "west-pay-1")
        .await;

    let drill = admin.evacuate("west", 60).await.unwrap();
    web.reaches("pay.shop", "the other region", |name| name == "east-pay-1")
        .await;
    // Whoever ordered it is gone: nobody renews, and even the registry is away.
    world.west().registry().part.kill().await;
    assert!(drill.lease_ms <= 15_000, "{drill:?}");
    web.reaches("pay.shop", "its own region by itself", |name| name == "west-pay-1")
        .await;
}
