//! Nothing is visible at a peer that was not exported to it and accepted by it: neither on the wire nor in its catalogue.

use mesh::model::{Held, Key, Resource};
use proto::registry::v1 as pb;
use registry::{catalog::State, watch::Published};

use super::{Found, broken, chronicle::Chronicle, owners};
use crate::sim::place::{index, region as name};

const LAW: &str = "nothing that was not exported and accepted is visible at a peer";

/// What a region's newest state shows of its peers.
pub(super) fn check(chronicles: &[Chronicle], region: u8, published: &Published) -> Found {
    let state = &published.state;
    let before = chronicles[usize::from(region)].before(published.revision);
    // A narrower policy takes away, which names no key here: then everything is looked at.
    let policies = |state: &State| -> Vec<_> { state.peers().map(|peer| peer.record.import.clone()).collect() };
    if before.is_none_or(|before| policies(before) != policies(state)) {
        for endpoint in state.all_endpoints() {
            let key = Key::Endpoint(endpoint.service.clone(), endpoint.id.clone());
            one(chronicles, region, state, &key)?;
        }
        return Ok(());
    }
    published
        .changes
        .iter()
        .try_for_each(|change| one(chronicles, region, state, &change.key))
}

fn one(chronicles: &[Chronicle], region: u8, state: &State, key: &Key) -> Found {
    let Some(resource) = state.resource(key) else {
        return Ok(());
    };
    let Some(owner) = owners::owner(&resource).filter(|owner| **owner != name(region)) else {
        return Ok(());
    };
    let fault = |fault: String| Err(broken(LAW, format_args!("{} sees no such thing", name(region)), fault));
    let Some(peer) = state.peer(owner) else {
        return fault(format!("{key} of {owner}, which is no peer"));
    };
    if let Resource::Endpoint(endpoint) = &resource
        && !peer.record.import.accepts(&endpoint.service)
    {
        return fault(format!("{key} of {owner}, which is not accepted"));
    }
    let shown = peer
        .held
        .and_then(|held| chronicles[usize::from(index(owner)?)].held(held));
    if let Some(shown) = shown
        && !shown.audience(key).includes(&name(region))
    {
        return fault(format!("{key} of {owner}, which is not exported at {:?}", peer.held));
    }
    Ok(())
}

/// What a region sends to a peer.
pub(super) fn on_wire(chronicle: &Chronicle, from: u8, to: u8, update: &pb::Update) -> Found {
    let Some(state) = update.held.and_then(|held| chronicle.held(Held::from(held))) else {
        return Ok(()); // forgotten
    };
    for upsert in &update.upserts {
        let Some(Ok(resource)) = upsert.kind.clone().map(Resource::try_from) else {
            continue;
        };
        let key = resource.key();
        if !state.audience(&key).includes(&name(to)) {
            let found = format!("{} sent {key} at {:?}", name(from), update.held);
            return Err(broken(
                LAW,
                format_args!("nothing of it is sent to {}", name(to)),
                found,
            ));
        }
    }
    Ok(())
}
