//! What passes between regions goes on when a leader is lost, can be asked for anew, and outlives a change of the root.

use proto::admin::v1 as pb;
use tests::{Region, World, eventually};

/// Tenants travel to every peer.
async fn knows_tenant(region: &Region, tenant: &str) -> Result<(), String> {
    let rows = region.admin().await.tenants().await?;
    let known = rows
        .iter()
        .filter_map(|row| row.tenant.as_ref())
        .any(|known| known.id == tenant);
    if known {
        Ok(())
    } else {
        Err(format!("{} tenants", rows.len()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_reach_a_peer_although_leaders_are_lost() {
    let world = World::registries([("west", 3), ("east", 1)]).await;
    let (west, east) = (world.west(), world.east());
    west.admin().await.tenant("first", 1.0, 1.0).await.unwrap();
    eventually("the first news", async || knows_tenant(east, "first").await).await;
    let status = west.admin().await.status().await.unwrap();
    let leader = status.nodes.iter().find(|node| node.leader).expect("a leader").id;
    west.node(leader).part.kill().await;
    eventually("a write without the old leader", async || {
        west.admin().await.tenant("second", 1.0, 1.0).await.map(drop)
    })
    .await;
    eventually("news of the new leader", async || knows_tenant(east, "second").await).await;
    eventually("the other way round", async || {
        east.admin().await.tenant("third", 1.0, 1.0).await?;
        knows_tenant(west, "third").await
    })
    .await;
    let peer = east.admin().await.peer("west").await.unwrap();
    assert_eq!(peer.divergence, "", "what came through two leaders is what they show");

    // A new snapshot on demand.
    eventually("a repair is taken", async || {
        let request = pb::RepairPeerRequest {
            region: "west".to_owned(),
        };
        let admin = east.admin().await;
        admin
            .call(|mut admin| async move { admin.repair_peer(request).await })
            .await
            .map(drop)
    })
    .await;
    west.admin().await.tenant("fourth", 1.0, 1.0).await.unwrap();
    eventually("news after the repair", async || knows_tenant(east, "fourth").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_is_published_to_peers_before_it_issues() {
    let world = World::registries([("west", 1), ("east", 1)]).await;
    let (west, east) = (world.west(), world.east());
    eventually("a change of the root is ordered", async || {
        let request = pb::RotateAuthorityRequest {};
        let admin = west.admin().await;
        admin
            .call(|mut admin| async move { admin.rotate_authority(request).await })
            .await
            .map(drop)
    })
    .await;
    let authority = async || {
        let admin = west.admin().await;
        let options = pb::ReadOptions::default();
        admin
            .call(|mut admin| async move { admin.get_authority(options).await })
            .await
    };
    eventually("the new anchor is published", async || {
        let status = authority().await?;
        if status.stage == "published" && status.anchors == 2 && status.waits_for.is_empty() {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    let again = pb::RotateAuthorityRequest {};
    let admin = west.admin().await;
    let refused = admin
        .call(|mut admin| async move { admin.rotate_authority(again).await })
        .await;
    assert!(refused.unwrap_err().contains("under way"), "one at a time");
    // The other region goes on trusting this one.
    west.admin().await.tenant("later", 1.0, 1.0).await.unwrap();
    eventually("news", async || knows_tenant(east, "later").await).await;
}
