//! Whoever runs a drill: begins it, renews it for a while, and ends it, or dies.

use std::time::Duration;

use mesh::model::Override;
use registry::catalog::{Command, Drill, Reply};

use super::pause;
use crate::sim::{
    place::{Place, REGIONS, region as name},
    world::Sim,
};

/// How long an order holds without being renewed, as the admin API gives it.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// A drill's end, however often it is renewed.
const LENGTH: Duration = Duration::from_secs(60);

/// Runs drills of a region.
pub(crate) async fn run(sim: Sim, region: u8) {
    let mut number = 0_u64;
    while pause(&sim, 1_000, 15_000).await {
        let Some((place, running)) = sim.any(region) else {
            continue;
        };
        number += 1;
        let now = running.replica.clock().wall();
        let id = format!("d-{}-{number}", REGIONS[usize::from(region)]);
        let order = Override {
            id: id.parse().unwrap(),
            region: name(fastrand::u8(..sim.regions())),
            percent: fastrand::u8(1..=100),
            expires_at: now.plus(LEASE),
            origin: name(region),
            reason: String::new(),
        };
        let drill = Drill {
            order,
            ends_at: now.plus(LENGTH),
            lease: LEASE,
        };
        let id = drill.order.id.clone();
        sim.step("drill", Place::of(region), place, number);
        let mut command = Command::StartDrill(drill);
        loop {
            sim.laws(|laws, sim| laws.drills.touched(&id, sim.now_ms()));
            let Some((_, running)) = sim.any(region) else { break };
            let said = running.replica.propose(command).await;
            sim.laws(|laws, sim| laws.drills.touched(&id, sim.now_ms()));
            let goes_on = matches!(said.map(|committed| committed.reply), Ok(Reply::Drill(_)));
            if !goes_on || fastrand::u8(..5) == 0 || !pause(&sim, 2_000, 4_000).await {
                break;
            }
            command = Command::RenewDrill(id.clone());
        }
        if fastrand::bool()
            && let Some((_, running)) = sim.any(region)
        {
            // Otherwise it ends by itself.
            let _ = running.replica.propose(Command::EndDrill(id)).await;
        }
    }
}
