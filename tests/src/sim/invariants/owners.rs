//! A record changes only by its owner: what a region holds of another one is what that one showed at the position held, and
//! what is a region's own was made there.

use mesh::model::{Key, RegionId, Resource};
use registry::{catalog::State, watch::Published};

use super::{Found, broken, chronicle::Chronicle};
use crate::sim::{
    hostile::FORGED,
    place::{REGIONS, index, region as name},
};

const LAW: &str = "a record changes only by its owner";

/// Whose record it is.
pub(super) fn owner(resource: &Resource) -> Option<&RegionId> {
    match resource {
        Resource::Endpoint(endpoint) => Some(&endpoint.locality.region),
        Resource::Gateway(gateway) => Some(&gateway.region),
        Resource::Tenant(tenant) => Some(&tenant.region),
        Resource::Override(order) => Some(&order.origin),
        Resource::Bundle(bundle) => Some(bundle.region()),
        Resource::Service(_) | Resource::Share(_) | Resource::Region(_) | Resource::Lease(_) | Resource::Report(_) => {
            None
        }
    }
}

pub(super) fn check(chronicles: &[Chronicle], region: u8, published: &Published) -> Found {
    let state = &published.state;
    for change in &published.changes {
        let Some(resource) = state.resource(&change.key) else {
            continue;
        };
        let Some(owner) = owner(&resource) else { continue };
        if *owner == name(region) {
            own(region, state, &change.key)?;
            continue;
        }
        let Some(held) = state.peer(owner).and_then(|peer| peer.held) else {
            continue;
        };
        let Some(shown) = index(owner).and_then(|owner| chronicles[usize::from(owner)].held(held)) else {
            continue; // forgotten
        };
        if matches!(change.key, Key::Bundle(_)) {
            continue; // kept by sequence, not by position
        }
        let theirs = shown.exported(&change.key).map(|(resource, _)| resource);
        if theirs.as_ref() != Some(&resource) {
            let expected = format!("{} as {owner} has it at {}: {theirs:?}", change.key, held.revision);
            let found = format!("{} has at {}: {resource:?}", name(region), published.revision);
            return Err(broken(LAW, expected, found));
        }
    }
    Ok(())
}

/// A record that is said to be of this region has been made here: by its name, and by the lease that it stands for.
fn own(region: u8, state: &State, key: &Key) -> Found {
    let mine = REGIONS[usize::from(region)];
    let is_good = match key {
        Key::Endpoint(_, id) => {
            let workload = id.as_str().strip_prefix("ep-").and_then(|rest| rest.rsplit_once('-'));
            let workload = workload.and_then(|(workload, _)| workload.parse().ok());
            !id.as_str().starts_with(FORGED) && workload.is_some_and(|workload| state.workload(&workload).is_some())
        }
        Key::Tenant(id) => id.as_str().starts_with(&format!("t-{mine}-")),
        Key::Override(id) => id.as_str().starts_with(&format!("d-{mine}-")),
        _ => true,
    };
    if is_good {
        return Ok(());
    }
    let found = format!("{key} is said to be its own: {:?}", state.resource(key));
    Err(broken(LAW, format_args!("only {mine} makes records of {mine}"), found))
}
