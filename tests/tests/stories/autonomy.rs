//! A region that is cut off from its peers goes on, and so does the traffic between them: silence withdraws nothing.

use std::time::Duration;

use tests::{Plan, World, eventually, holds};

/// Longer than the leases in the harness.
const SILENCE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_federation_link_withdraws_nothing_and_traffic_goes_on() {
    let world = World::regions(["west", "east"]).await;
    let _far = world.east().workload(Plan::http("far-1")).await;
    let _near = world.west().workload(Plan::http("near-1")).await;
    world.east().admin().await.export("far.shop", &[]).await;
    world.west().admin().await.export("near.shop", &[]).await;
    let web = world.west().caller(Plan::new("web")).await;
    let back = world.east().caller(Plan::new("back")).await;
    web.reaches("far.shop", "the far region", |name| name == "east-far-1")
        .await;
    back.reaches("near.shop", "the far region", |name| name == "west-near-1")
        .await;

    world.east().registry().part.stop().await;
    let admin = world.west().admin().await;
    eventually("the peer is seen to be away", async || {
        let peer = admin.peer("east").await?;
        if peer.connected {
            Err("connected".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    let early = admin.peer("east").await.unwrap().age_ms.unwrap();
    holds(SILENCE, "calls across the regions", async || {
        let there = web.call("far.shop").await?;
        let here = back.call("near.shop").await?;
        if (there.as_str(), here.as_str()) == ("east-far-1", "west-near-1") {
            Ok(())
        } else {
            Err(there + &here)
        }
    })
    .await;
    assert_eq!(admin.endpoints("far.shop").await.len(), 1, "silence withdraws nothing");
    let peer = admin.peer("east").await.unwrap();
    let age = peer.age_ms.unwrap();
    assert!(
        age >= early + 3_000 && !peer.connected,
        "the age grows and is shown: {early} then {age}"
    );
    assert!(!peer.last_error.is_empty(), "and why: {peer:?}");

    // Cut off, the region still changes its own things.
    admin.tenant("acme", 1.0, 1.0).await.unwrap();
    let _more = world.west().workload(Plan::http("more-1")).await;
    web.reaches("more.shop", "what was registered while the peer was away", |name| {
        name == "west-more-1"
    })
    .await;

    world.east().registry().part.start().await;
    world.west().admin().await.export("more.shop", &[]).await;
    back.reaches("more.shop", "news after the link healed", |name| name == "west-more-1")
        .await;
    eventually("the peer is back", async || {
        let peer = admin.peer("east").await?;
        if peer.connected { Ok(()) } else { Err(peer.last_error) }
    })
    .await;
}
