//! A snapshot rebuilds a region that lost all its disks: what was in it is there, as a new life of the catalogue.

use std::{path::Path, process::Output};

use tests::{Region, World, isthmus};

/// Saves a snapshot as an operator does.
fn save(region: &Region, from: &str, file: &Path, options: &[&str]) -> Output {
    let credentials = region.node_dir(1).join("operator");
    let connection = [
        "--timeout",
        "2s",
        "--registry",
        from,
        "--credentials",
        credentials.to_str().unwrap(),
    ];
    let save = ["registry", "snapshot", "save", file.to_str().unwrap()];
    isthmus(connection.iter().chain(options).chain(&save))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_holds_what_was_acknowledged_and_without_a_quorum_what_one_node_has() {
    let world = World::regions(["west"]).await;
    let west = world.west();
    let other = west.add_node().await;
    west.admin().await.tenant("acme", 100.0, 10.0).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("west.snapshot");

    let saved = save(west, &other.api.to_string(), &file, &[]);
    let said = String::from_utf8_lossy(&saved.stdout);
    assert!(said.starts_with("saved region west at revision "), "{saved:?}");
    let holds = |file: &Path| {
        let bytes = std::fs::read(file).unwrap();
        bytes.windows(4).any(|window| window == b"acme")
    };
    assert!(
        holds(&file),
        "whichever node was asked, it has what was acknowledged before"
    );

    west.registry().part.kill().await;
    let alone = folder.path().join("alone.snapshot");
    let refused = save(west, &other.api.to_string(), &alone, &[]);
    assert!(!refused.status.success() && !alone.exists(), "{refused:?}");
    let salvaged = save(west, &other.api.to_string(), &alone, &["--local"]);
    assert!(salvaged.status.success() && holds(&alone), "{salvaged:?}");
}

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
