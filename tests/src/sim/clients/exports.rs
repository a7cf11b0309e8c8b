//! An operator who changes what is exported, and what is taken from the peers.

use mesh::model::{Audience, Export, ImportPolicy, ServiceName};
use registry::catalog::Command;

use super::{pause, workloads::SERVICES};
use crate::sim::{
    place::{Place, region as name},
    world::Sim,
};

fn service() -> ServiceName {
    format!("s{}.shop", fastrand::u8(..SERVICES)).parse().unwrap()
}

fn other(sim: &Sim, region: u8) -> u8 {
    (region + fastrand::u8(1..sim.regions())) % sim.regions()
}

/// Runs the operator of a region.
pub(crate) async fn run(sim: Sim, region: u8) {
    while pause(&sim, 200, 2_500).await {
        let Some((place, running)) = sim.any(region) else {
            continue;
        };
        let peers = sim.regions() > 1;
        let command = match fastrand::u8(..8) {
            0..4 => Command::PutExport(Export {
                service: service(),
                to: match fastrand::u8(..4) {
                    0 if peers => Audience::Regions([name(other(&sim, region))].into()),
                    1 => Audience::Nobody,
                    _ => Audience::Everybody,
                },
                created_at: sim.true_wall(),
            }),
            4..6 => Command::RemoveExport(service()),
            _ if peers => Command::PutImportPolicy {
                peer: name(other(&sim, region)),
                policy: match fastrand::u8(..3) {
                    0 => ImportPolicy::Services([service(), service()].into()),
                    _ => ImportPolicy::All,
                },
            },
            _ => continue,
        };
        sim.step("operator", Place::of(region), place, 0);
        // Whatever came of it: the laws see what was applied.
        let _ = running.replica.propose(command).await;
    }
}
