//! Registers: tenants whose limit of endpoints is a version that one writer counts up, so that every loss shows.

use mesh::model::{Quota, Tenant, TenantId};
use registry::{
    catalog::{Command, Reply, State},
    raft::propose,
};

use super::pause;
use crate::sim::{
    place::{Place, REGIONS, region as name},
    world::Sim,
};

/// The id of a register.
pub(crate) fn id(region: u8, number: u8) -> TenantId {
    format!("t-{}-{number}", REGIONS[usize::from(region)]).parse().unwrap()
}

/// What a register holds; 0 = nothing yet.
pub(crate) fn version(state: &State, id: &TenantId) -> u32 {
    state.tenant(id).map_or(0, |tenant| tenant.quota.endpoints)
}

/// Writes one version after the other.
pub(crate) async fn write(sim: Sim, region: u8, number: u8) {
    let id = id(region, number);
    let mut version = 0;
    while pause(&sim, 20, 400).await {
        let Some((place, running)) = sim.any(region) else {
            continue;
        };
        version += 1;
        let tenant = Tenant {
            id: id.clone(),
            namespaces: [format!("n-{id}").parse().unwrap()].into(),
            quota: Quota {
                endpoints: version,
                ..Quota::default()
            },
            region: name(region),
        };
        sim.step("write", Place::of(region), place, version.into());
        let asked = sim.laws(|laws, _| laws.writes.asked(region, &id, version));
        let written = running.replica.propose(Command::PutTenant(tenant)).await;
        match written {
            Ok(committed) => {
                let place = Place::of(region);
                sim.step("written", place, place, committed.revision.0);
                let done = committed.reply == Reply::Done;
                sim.laws(|laws, _| laws.acknowledged(&asked, committed.revision.0, done));
            }
            Err(propose::Error::Unknown { .. } | propose::Error::Stopped) => {
                sim.laws(|laws, _| laws.writes.unknown(&asked));
            }
            // Nothing was changed, it says.
            Err(_) => sim.laws(|laws, _| laws.writes.refused(&asked)),
        }
    }
}

/// Reads all registers of a region, through any node.
pub(crate) async fn read(sim: Sim, region: u8) {
    while pause(&sim, 30, 500).await {
        let Some((place, running)) = sim.any(region) else {
            continue;
        };
        sim.step("read", Place::of(region), place, 0);
        let began = sim.laws(|laws, _| laws.writes.begin_read(region));
        if let Ok(revision) = running.replica.linearize().await {
            let state = running.replica.state();
            sim.step("read done", place, Place::of(region), revision.0);
            sim.laws(|laws, _| laws.read(place, &began, revision.0, &state));
        }
    }
}
