//! A tenant of the first region whose rate all regions spend: what they want changes all the time.

use mesh::model::{Quota, Tenant, TenantId, Usage};
use registry::catalog::Command;

use super::pause;
use crate::sim::{
    place::{Place, REGIONS, region as name},
    world::Sim,
};

/// Requests per second in all regions together.
pub(crate) const RATE: f64 = 1000.0;

/// The tenant, at home in the first region.
pub(crate) fn tenant() -> TenantId {
    format!("t-{}-acme", REGIONS[0]).parse().unwrap()
}

/// Its record; the workloads of all regions are in its namespace.
pub(crate) fn record() -> Tenant {
    Tenant {
        id: tenant(),
        namespaces: ["shop".parse().unwrap()].into(),
        quota: Quota {
            requests_per_second: RATE,
            burst: 100.0,
            ..Quota::default()
        },
        region: name(0),
    }
}

/// Says what a region's proxies want.
pub(crate) async fn run(sim: Sim, region: u8) {
    while pause(&sim, 500, 10_000).await {
        let Some((place, running)) = sim.any(region) else {
            continue;
        };
        let wanted = f64::from(fastrand::u16(..1_500));
        let used = wanted.min(RATE);
        let usage = Usage {
            used,
            refused: wanted - used,
        };
        let command = Command::PutDemand {
            node: place.id(),
            usage: vec![(tenant(), usage)],
        };
        sim.step("demand", Place::of(region), place, wanted as u64);
        // Whatever came of it: the law looks at what is leased.
        let _ = running.replica.propose(command).await;
    }
}
