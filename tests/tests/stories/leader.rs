//! The loss of a leader costs an election, no write and no truth.

use std::sync::Arc;

use tests::{Node, Region, World, eventually};

async fn leader(region: &Region) -> Arc<Node> {
    let status = region.admin().await.status().await.unwrap();
    let leader = status.nodes.iter().find(|node| node.leader).expect("a leader");
    region.node(leader.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_after_the_leader_is_lost() {
    let world = World::registry("west", 3).await;
    let region = world.west();
    region.admin().await.tenant("before", 1.0, 1.0).await.unwrap();
    let lost = leader(region).await;
    lost.part.kill().await;

    eventually("a write is acknowledged without the old leader", async || {
        region.admin().await.tenant("after", 1.0, 1.0).await.map(drop)
    })
    .await;
    let names = |rows: Vec<proto::admin::v1::TenantRow>| -> Vec<String> {
        rows.into_iter()
            .filter_map(|row| row.tenant)
            .map(|tenant| tenant.id)
            .collect()
    };
    let told = names(region.admin().await.tenants().await.unwrap());
    assert_eq!(told, ["after", "before"]);
    eventually("the lost node is told of", async || {
        let warnings = region.admin().await.status().await?.warnings;
        let of_it = format!("node {} ", lost.number);
        if warnings.iter().any(|warning| warning.contains(&of_it)) {
            Ok(())
        } else {
            Err(format!("{warnings:?}"))
        }
    })
    .await;

    lost.part.start().await;
    let told = names(region.admin_of(&lost).await.tenants().await.unwrap());
    assert_eq!(told, ["after", "before"], "the old leader has caught up");
}
