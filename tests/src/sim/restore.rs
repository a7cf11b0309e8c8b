//! The end of a region, and its second life: an operator saves a snapshot, all nodes of the region are lost, and one begins
//! again with what was saved.

use std::time::Duration;

use mesh::model::Revision;
use registry::raft::{self, Settings};

use super::{disk::Disk, faults, node, place::Place, world::Sim};

/// Ends one region of the world, and brings it back.
pub(crate) async fn run(sim: Sim) {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..150_000))).await;
    let region = fastrand::u8(..sim.regions());
    let Some((snapshot, revision)) = save(&sim, region).await else {
        return;
    };
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..40_000))).await;
    // Nobody else changes the members meanwhile.
    let _turn = sim.turns(region).write_owned().await;
    if sim.is_calm() || sim.is_over() {
        return;
    }
    sim.step("lose", Place::of(region), Place::of(region), 0);
    let lost = sim.places(region);
    let size = lost.len();
    for place in lost {
        sim.with_node(place, |node| node.is_gone = true);
        node::kill(&sim, place, false);
    }
    sim.laws(|laws, sim| laws.lost(sim, region, revision));
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..10_000))).await;
    let first = Place::new(region, sim.next_number(region));
    let disk = Disk::default();
    sim.step("restore", first, first, revision.0);
    let settings = Settings::new(first.to_string().into(), first.id());
    if let Err(error) = raft::restore_on(
        disk.storage(&sim, first),
        &settings,
        first.member(),
        snapshot.as_slice(),
    ) {
        return sim.fail("a saved snapshot can be restored", "it is read", &error.to_string());
    }
    sim.add_node(first);
    sim.with_node(first, |node| node.disk = disk);
    node::start(&sim, first).await;
    for _ in 1..size {
        faults::add(&sim, region).await;
    }
}

/// A whole snapshot and its revision; none when the node that sent it ended meanwhile.
async fn save(sim: &Sim, region: u8) -> Option<(Vec<u8>, Revision)> {
    let (place, running) = sim.any(region)?;
    // As the API does: with all that was acknowledged, or as the node has it.
    if fastrand::bool() {
        running.replica.linearize().await.ok()?;
    }
    let mut parts = running.replica.snapshot();
    drop(running);
    let mut snapshot = Vec::new();
    while let Some(part) = parts.recv().await {
        snapshot.extend_from_slice(&part);
    }
    sim.step("save", place, Place::of(region), snapshot.len() as u64);
    let inspected = raft::inspect(snapshot.as_slice()).ok()?;
    inspected.region.is_some().then_some((snapshot, inspected.revision))
}
