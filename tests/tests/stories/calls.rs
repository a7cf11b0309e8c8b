//! A call finds its service: in its own region first, and in the other one where the own has none.

use tests::{Plan, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_stays_in_its_region_and_leaves_it_when_it_must() {
    let world = World::regions(["west", "east"]).await;
    let _pay = world.west().workload(Plan::http("pay-1")).await;
    let _cart = world.east().workload(Plan::http("cart-1")).await;
    let _pay_east = world.east().workload(Plan::http("pay-1")).await;
    world.east().admin().await.export("cart.shop", &[]).await;
    world.east().admin().await.export("pay.shop", &[]).await;
    let web = world.west().caller(Plan::new("web")).await;

    web.reaches("cart.shop", "the only region that has it", |name| name == "east-cart-1")
        .await;
    let names = web.names("pay.shop.svc.clusterset.local", 20).await;
    assert!(names.iter().all(|name| name == "west-pay-1"), "{names:?}");
    let names = web.names("pay.shop.svc.east.region.isthmus", 5).await;
    assert!(names.iter().all(|name| name == "east-pay-1"), "{names:?}");
    assert_eq!(web.get("absent.shop").await.unwrap().status, 404);
}
