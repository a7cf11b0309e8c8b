//! A snapshot rebuilds a region that lost all its disks: what was in it is there, as a new life of the catalogue.

use tests::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_begins_again_from_a_snapshot() {
    let world = World::regions(["west"]).await;
    let admin = world.west().admin().await;
    admin.tenant("acme", 100.0, 10.0).await.unwrap();
    let snapshot = admin.snapshot().await;
    admin.tenant("late", 100.0, 10.0).await.unwrap();
    let before = admin.status().await.unwrap().position.unwrap();
    world.west().registry().part.kill().await;

    let node = world.west().restore_node(&snapshot).await;
    let admin = world.west().admin_of(&node).await;
    let tenants = admin.tenants().await.unwrap();
    let names: Vec<_> = tenants
        .iter()
        .filter_map(|row| Some(row.tenant.as_ref()?.id.as_str()))
        .collect();
    assert_eq!(names, ["acme"], "what was written after the snapshot is not in it");
    let after = admin.status().await.unwrap().position.unwrap();
    assert_ne!(
        after.incarnation, before.incarnation,
        "nobody may take the new life for the old one"
    );
    admin.tenant("next", 100.0, 10.0).await.unwrap();
    // Others join it as they join any region.
    world.west().add_node().await;
}
