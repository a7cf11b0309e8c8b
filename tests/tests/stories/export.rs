//! Nothing is visible to a peer that was not exported to it and accepted by it: not in names, not in any message, not
//! through the gateway.

use hickory_proto::rr::RecordType;
use tests::{Plan, Region, Transport, Watcher, World, certs, dig, eventually};

/// RFC 8446: the server name is none that the gateway knows.
const UNRECOGNIZED_NAME: u8 = 112;
const NAME: &str = "pay.shop.svc.clusterset.local.";

async fn knows(region: &Region, service: &str) -> bool {
    !region.admin().await.endpoints(service).await.is_empty()
}

async fn resolves(region: &Region) -> bool {
    !dig(region.registry().dns, Transport::Udp, NAME, RecordType::A)
        .await
        .is_nxdomain()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_reaches_only_those_it_was_granted_to() {
    let world = World::unpeered(["west", "east", "north", "south"]).await;
    // North is a peer of west, south is a peer of east only.
    for (one, other) in [("west", "east"), ("west", "north"), ("east", "south")] {
        world.peer(one, other).await;
    }
    let (north, south) = (world.region("north"), world.region("south"));
    let mut watchers = Vec::new();
    for region in [north, south] {
        watchers.push(Watcher::everything(region.registry().api, region.operator(), None).await);
    }
    let _pay = world.west().workload(Plan::http("pay-1")).await;
    let _cart = world.west().workload(Plan::http("cart-1")).await;
    let _tea = world.east().workload(Plan::http("tea-1")).await;
    let admin = world.west().admin().await;
    admin.export("pay.shop", &["east"]).await;
    let web = world.east().caller(Plan::new("web")).await;
    web.reaches("pay.shop", "the region that exported it", |name| name == "west-pay-1")
        .await;

    // What is exported later arrives: then the earlier one would have, too.
    admin.export("cart.shop", &["north"]).await;
    world.east().admin().await.export("tea.shop", &[]).await;
    watchers[0].until(|update| tests::names(update, "cart.shop")).await;
    watchers[1].until(|update| tests::names(update, "tea.shop")).await;
    for (region, watcher) in [north, south].into_iter().zip(&watchers) {
        let name = &region.name;
        assert!(!watcher.heard_of("pay.shop"), "{name} was told of pay.shop");
        assert!(!resolves(region).await, "{name} resolves pay.shop");
        assert!(!knows(region, "pay.shop").await, "{name} lists pay.shop");
    }
    assert!(
        !watchers[1].heard_of("cart.shop"),
        "no transit: east does not pass on what it imports"
    );
    let hidden = certs::refusal(world.west().gateway().tunnels, &certs::server_name("tea.shop", 80)).await;
    assert_eq!(
        hidden,
        Some(UNRECOGNIZED_NAME),
        "the gateway relays nothing but what its cluster exports"
    );

    // Who guesses the name and reaches the gateway is still not let in.
    let stranger = north.identity("shop", "web").await;
    let tunnels = world.west().gateway().tunnels;
    let answered = certs::speaks_http(tunnels, &certs::server_name("pay.shop", 80), &stranger, "west").await;
    assert!(!answered, "north reaches pay.shop, which was exported to east only");
    let friend = world.east().identity("shop", "web").await;
    let answered = certs::speaks_http(tunnels, &certs::server_name("pay.shop", 80), &friend, "west").await;
    assert!(answered, "east is let in the same way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unexport_and_import_policy_withdraw_at_once() {
    let world = World::regions(["west", "east"]).await;
    let _pay = world.west().workload(Plan::http("pay-1")).await;
    let _cart = world.west().workload(Plan::http("cart-1")).await;
    let (west, east) = (world.west().admin().await, world.east().admin().await);
    west.export("cart.shop", &[]).await;
    west.export("pay.shop", &[]).await;
    eventually("pay.shop is imported", async || knows(world.east(), "pay.shop").await).await;

    east.import("west", Some(&["cart.shop"])).await;
    eventually("pay.shop is not accepted any more", async || {
        !knows(world.east(), "pay.shop").await
    })
    .await;
    assert!(knows(world.east(), "cart.shop").await, "what the policy lists stays");
    east.import("west", None).await;
    eventually("pay.shop is accepted again", async || {
        knows(world.east(), "pay.shop").await
    })
    .await;

    west.unexport("pay.shop").await;
    eventually("pay.shop is withdrawn", async || !knows(world.east(), "pay.shop").await).await;
    eventually("the name is gone", async || !resolves(world.east()).await).await;
    let tunnels = world.west().gateway().tunnels;
    eventually("the gateway refuses the name", async || {
        match certs::refusal(tunnels, &certs::server_name("pay.shop", 80)).await {
            Some(UNRECOGNIZED_NAME) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
