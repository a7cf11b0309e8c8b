//! After healing, all regions agree within a bounded time: the nodes of a region among each other, each region with what its
//! peers export to it, and every watcher with its region.

use std::collections::BTreeSet;

use mesh::model::{Key, Resource};
use registry::catalog::State;

use super::owners;
use crate::sim::{
    place::{Place, index, region as name},
    world::Sim,
};

/// What still differs; none when all agree.
pub(crate) fn differs(sim: &Sim) -> Option<String> {
    for region in 0..sim.regions() {
        if let Some(text) = within(sim, region) {
            return Some(text);
        }
    }
    sim.laws(|laws, _| {
        for region in 0..sim.regions() {
            let (revision, state) = laws.chronicles[usize::from(region)].newest()?;
            for other in (0..sim.regions()).filter(|other| *other != region) {
                let (_, theirs) = laws.chronicles[usize::from(other)].newest()?;
                if let Some(text) = between(state, theirs) {
                    return Some(format!("{} of {}: {text}", name(region), name(other)));
                }
            }
            for (who, held) in laws.watchers.held.iter().filter(|(who, _)| who.0 == region) {
                if held.incarnation != state.incarnation() {
                    return Some(format!("watcher {who:?} is at {held:?}, of a life before"));
                }
                if held.revision.0 + 50 < revision {
                    return Some(format!("watcher {who:?} is at {}, not at {revision}", held.revision));
                }
            }
        }
        None
    })
}

/// The nodes of a region.
fn within(sim: &Sim, region: u8) -> Option<String> {
    let places = sim.places(region);
    let running = |place: &Place| sim.running(*place);
    let Some(leader) = places
        .iter()
        .filter_map(running)
        .find(|node| node.replica.position().is_leader)
    else {
        return Some(format!("{} has no leader", name(region)));
    };
    let newest = leader.replica.position().revision;
    for member in leader.replica.nodes() {
        let place = Place::new(region, u16::try_from(member.id.0).unwrap_or(0));
        let Some(node) = sim.running(place) else {
            let starts = sim.with_node(place, |node| node.busy);
            return Some(match starts {
                Some(true) => format!("{place} is still starting or stopping"),
                Some(false) => format!("{place} does not run"),
                None => format!("{place} is not known"),
            });
        };
        let position = node.replica.position();
        if position.revision != newest {
            return Some(format!("{place} is at {}, its leader at {newest}", position.revision));
        }
    }
    None
}

/// What a state holds of a peer, against what that peer's state exports to it.
fn between(state: &State, theirs: &State) -> Option<String> {
    let (own, other) = (state.region()?, theirs.region()?);
    let Some(peer) = state.peer(other) else {
        return Some("is no peer".to_owned());
    };
    if let Some(held) = peer.held.filter(|held| held.incarnation != theirs.incarnation()) {
        return Some(format!("{held:?} is of a life before"));
    }
    let held: BTreeSet<Key> = state.imported_keys(other).into_iter().collect();
    let accepted = |key: &Key| match key {
        Key::Service(service) | Key::Endpoint(service, _) => peer.record.import.accepts(service),
        Key::Gateway(_) | Key::Tenant(_) | Key::Override(_) => true,
        // Leases are kept by their own terms, not by position.
        Key::Bundle(_) | Key::Share(_) | Key::Region(_) | Key::Lease(..) | Key::Report(..) => false,
    };
    let exported: BTreeSet<Key> = theirs
        .keys()
        .filter(|key| accepted(key) && theirs.exported(key).is_some_and(|(_, audience)| audience.includes(own)))
        .collect();
    if let Some(key) = exported.symmetric_difference(&held).next() {
        let is_held = held.contains(key);
        return Some(format!(
            "{key} is {}held at {:?}",
            if is_held { "" } else { "not " },
            peer.held
        ));
    }
    let same = |key: &&Key| match state.resource(key) {
        Some(
            resource @ (Resource::Endpoint(_) | Resource::Gateway(_) | Resource::Tenant(_) | Resource::Override(_)),
        ) => {
            debug_assert!(owners::owner(&resource).and_then(index).is_some());
            theirs.exported(key).is_some_and(|(theirs, _)| theirs == resource)
        }
        _ => true,
    };
    held.iter().find(|key| !same(key)).map(|key| format!("{key} differs"))
}
