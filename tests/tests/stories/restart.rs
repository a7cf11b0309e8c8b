//! Losing the registry stops change, not traffic: also for who starts while it is away.

use tests::{Plan, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_and_gateway_start_from_disk_while_their_registry_is_away() {
    let world = World::regions(["west", "east"]).await;
    let near = world.west().workload(Plan::http("near-1")).await;
    let _far = world.east().workload(Plan::http("far-1")).await;
    world.east().admin().await.export("far.shop", &[]).await;
    let _idle = world.west().workload(Plan::http("idle-1")).await;
    let web = world.west().caller(Plan::new("web")).await;
    web.reaches("near.shop", "the near workload", |name| name == "west-near-1")
        .await;
    web.reaches("far.shop", "the far workload", |name| name == "east-far-1")
        .await;
    for (who, service) in [(&*web.id, "near"), (&*web.id, "far"), ("east-gateway", "far")] {
        let path = world.dir().join(who).join("view");
        eventually(&format!("the view of {who} is on disk"), async || {
            // The identity of an endpoint: the name alone is there earlier.
            String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).contains(&format!("/sa/{service}"))
        })
        .await;
    }

    // In order for one, in the middle of everything for the other.
    world.west().registry().part.stop().await;
    world.east().registry().part.kill().await;
    web.proxy.kill().await;
    web.proxy.start().await;
    assert_eq!(web.call("near.shop").await.as_deref(), Ok("west-near-1"));
    let refused = web.call("idle.shop").await.expect_err("never used, and nobody to ask");
    assert!(refused.contains("the registry has not been reachable"), "{refused}");
    web.reaches("far.shop", "the far workload", |name| name == "east-far-1")
        .await;
    near.proxy.stop().await;
    near.proxy.start().await;
    web.reaches("near.shop", "the near workload after its proxy's restart", |name| {
        name == "west-near-1"
    })
    .await;

    let gateway = world.east().gateway();
    gateway.part.kill().await;
    gateway.part.start().await;
    web.reaches(
        "far.shop",
        "the far workload through a gateway that started from disk",
        |name| name == "east-far-1",
    )
    .await;

    world.west().registry().part.start().await;
    world.east().registry().part.start().await;
    web.reaches("idle.shop", "what could not be asked for before", |name| {
        name == "west-idle-1"
    })
    .await;
    let _late = world.east().workload(Plan::http("late-1")).await;
    world.east().admin().await.export("late.shop", &[]).await;
    web.reaches("late.shop", "what came after the registries were back", |name| {
        name == "east-late-1"
    })
    .await;
}
