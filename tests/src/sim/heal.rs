//! The end of a run: everything is mended, nobody asks for anything, and all must come to agree.

use std::time::Duration;

use registry::catalog::Command;

use super::{
    disk::Fault,
    invariants::differs,
    node::{self, Running},
    place::{Place, region as name},
    world::Sim,
};

/// How long agreement may take: elections, streams that are dialled anew, leases that end, a snapshot or two.
const AGREE_MAX: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Mends the world and waits until all agree.
pub(crate) async fn heal(sim: &Sim) {
    sim.calm();
    sim.allow(u64::MAX / 2);
    sim.step("heal", Place::default(), Place::default(), 0);
    let mut left = AGREE_MAX.as_millis() / LOOK_EVERY.as_millis();
    let mut quiet = 0;
    loop {
        mend(sim);
        reintroduce(sim);
        // Sooner when a law is broken: then even time may stand still.
        let _ = tokio::time::timeout(LOOK_EVERY, sim.over()).await;
        if sim.violation().is_some() {
            return;
        }
        match differs(sim) {
            // Twice, so that nothing is under way.
            None if quiet == 2 => return,
            None => quiet += 1,
            Some(text) => {
                quiet = 0;
                left = left.saturating_sub(1);
                if left == 0 {
                    let expected = format!("agreement within {} s", AGREE_MAX.as_secs());
                    sim.fail("after healing all regions agree", &expected, &text);
                    return;
                }
            }
        }
    }
}

fn mend(sim: &Sim) {
    {
        let mut net = sim.net();
        net.cut.clear();
        net.cut_regions.clear();
        net.isolated.clear();
        (net.loss, net.twice, net.late_ms, net.hostile) = (0, 0, 0, false);
    }
    for region in 0..sim.regions() {
        let members = members(sim, region);
        for place in sim.places(region) {
            sim.with_node(place, |node| node.disk.set_fault(Fault::default()));
            let is_removed =
                sim.may_be_removed(place) && members.as_ref().is_some_and(|members| !members.contains(&place));
            if !is_removed && sim.running(place).is_none() {
                let sim = sim.clone();
                sim.clone().spawn(async move {
                    node::start(&sim, place).await;
                });
            }
        }
    }
}

/// Two regions of which neither knows a node of the other that is left, since all were replaced while no stream stood, do not
/// find each other by themselves: an operator joins them again, as the product's page says.
fn reintroduce(sim: &Sim) {
    for one in 0..sim.regions() {
        for other in one + 1..sim.regions() {
            if is_lost(sim, one, other) && is_lost(sim, other, one) {
                sim.step("reintroduce", Place::of(one), Place::of(other), 0);
                introduce(sim, one, other);
                introduce(sim, other, one);
            }
        }
    }
}

/// Whether a region knows no address of a peer at which a member of it runs.
fn is_lost(sim: &Sim, region: u8, peer: u8) -> bool {
    let (Some((_, running)), Some(here)) = (sim.any(region), members(sim, peer)) else {
        return false;
    };
    let state = running.replica.state();
    let known = state.peer(&name(peer)).map(|known| known.record.addresses.clone());
    let is_left = |address: &String| here.iter().any(|place| place.address() == *address);
    !known.unwrap_or_default().iter().any(is_left)
}

fn introduce(sim: &Sim, region: u8, peer: u8) {
    let (Some((_, running)), Some(here)) = (sim.any(region), members(sim, peer)) else {
        return;
    };
    let Some(known) = running.replica.state().peer(&name(peer)).cloned() else {
        return;
    };
    let mut record = known.record.clone();
    record.addresses = here.into_iter().map(Place::address).collect();
    sim.spawn(async move {
        // Whatever came of it: it is looked at again.
        let _ = running.replica.propose(Command::PutPeer(record)).await;
    });
}

/// Any node of a region that runs and is a member: others that run were given up while they joined, and hear of nothing.
pub(crate) fn any_member(sim: &Sim, region: u8) -> Option<(Place, Running)> {
    let members = members(sim, region)?.into_iter();
    let mut running: Vec<_> = members.filter_map(|place| Some((place, sim.running(place)?))).collect();
    (!running.is_empty()).then(|| running.swap_remove(fastrand::usize(..running.len())))
}

/// The members of a region, when it has a leader.
fn members(sim: &Sim, region: u8) -> Option<Vec<Place>> {
    let running = sim.places(region).into_iter().filter_map(|place| sim.running(place));
    let leader = running
        .into_iter()
        .find(|running| running.replica.position().is_leader)?;
    let nodes = leader.replica.nodes().into_iter();
    Some(
        nodes
            .map(|node| Place::new(region, u16::try_from(node.id.0).unwrap_or(0)))
            .collect(),
    )
}
