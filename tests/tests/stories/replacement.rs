//! A dead node is replaced while the region works; what would cost the quorum is refused.

use tests::{World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_node_is_replaced_and_quorum_is_guarded() {
    let world = World::registry("west", 3).await;
    let region = world.west();
    region.admin().await.tenant("early", 1.0, 1.0).await.unwrap();
    region.node(3).part.kill().await;
    eventually("node 3 is removed", async || {
        region.admin().await.remove_node(3).await.map(drop)
    })
    .await;
    let new = region.add_node().await;

    let admin = region.admin_of(&new).await;
    let early = admin.tenants().await.unwrap();
    assert_eq!(early.len(), 1, "the new node has what was written before it came");
    eventually("the new node votes", async || {
        let status = admin.status().await?;
        let mut voters: Vec<_> = status
            .nodes
            .iter()
            .filter(|node| node.voter)
            .map(|node| node.id)
            .collect();
        voters.sort_unstable();
        if voters == [1, 2, 4] {
            Ok(())
        } else {
            Err(format!("{voters:?}"))
        }
    })
    .await;

    new.part.kill().await;
    let admin = region.admin_of(&region.node(1)).await;
    eventually("the dead node is known to be dead", async || {
        let status = admin.status().await?;
        let dead = status.nodes.iter().find(|node| node.id == 4).map(|node| node.reachable);
        if dead == Some(false) {
            Ok(())
        } else {
            Err(format!("{dead:?}"))
        }
    })
    .await;
    let refusal = admin
        .remove_node(2)
        .await
        .expect_err("one live node of two has no majority");
    assert!(
        refusal.contains("only 1 of 2 voters answer and 2 are needed"),
        "{refusal}"
    );
    let status = admin.status().await.unwrap();
    assert_eq!(
        status.nodes.iter().filter(|node| node.voter).count(),
        3,
        "nothing was changed"
    );
    admin.tenant("late", 1.0, 1.0).await.unwrap();
}
