//! How a world begins: each region with its nodes, and all regions peers of each other.

use std::time::Duration;

use mesh::{
    identity::Bundle,
    model::{ImportPolicy, Incarnation, Timestamp},
};
use registry::catalog::{AuthorityRecord, Command, LEVEL, PeerRecord, Reply};

use super::{
    node,
    place::{Place, domain, region as name},
    world::Sim,
};

fn bundle(region: u8) -> Bundle {
    Bundle::new(domain(region), name(region), 1, Vec::new()).unwrap()
}

/// Founds all regions.
pub(crate) async fn found(sim: &Sim) {
    let mut sizes = Vec::new();
    for region in 0..sim.regions() {
        let size = if fastrand::u8(..4) == 0 { fastrand::u16(1..3) } else { 3 };
        found_region(sim, region, size).await;
        sizes.push(size);
    }
    for region in 0..sim.regions() {
        for other in (0..sim.regions()).filter(|other| *other != region) {
            let members = 1..=sizes[usize::from(other)];
            let peer = PeerRecord {
                region: name(other),
                bundle: bundle(other),
                addresses: members.map(|node| Place::new(other, node).address()).collect(),
                incarnation: Incarnation(u64::from(other) + 1),
                import: ImportPolicy::All,
            };
            commit(sim, region, Command::PutPeer(peer)).await;
        }
    }
    commit(sim, 0, Command::PutTenant(super::clients::record())).await;
}

async fn found_region(sim: &Sim, region: u8, size: u16) {
    let first = Place::new(region, 1);
    sim.add_node(first);
    node::start(sim, first).await;
    let running = sim.running(first).unwrap();
    running.replica.initialise(first.member()).await.unwrap();
    let init = Command::Init {
        region: name(region),
        trust_domain: domain(region),
        incarnation: Incarnation(u64::from(region) + 1),
        bundle: bundle(region),
        authority: AuthorityRecord {
            chain: vec![vec![1]],
            key: vec![2],
            not_after: Timestamp(i64::MAX),
        },
    };
    commit(sim, region, init).await;
    commit(sim, region, Command::RaiseLevel(LEVEL)).await;
    for number in 2..=size {
        let place = Place::new(region, number);
        sim.add_node(place);
        node::start(sim, place).await;
        while running.replica.add_node(place.id(), place.member()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Until it is done.
async fn commit(sim: &Sim, region: u8, command: Command) {
    loop {
        if let Some((_, running)) = sim.any(region)
            && let Ok(committed) = running.replica.propose(command.clone()).await
        {
            assert!(!matches!(committed.reply, Reply::Refused(_)), "{committed:?}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
