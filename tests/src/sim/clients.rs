//! Who asks the registries for something: workloads, operators, tenants' registers, readers, drills. Each is a task that
//! tells the laws what it asked and what it was answered.

mod drills;
mod exports;
mod quotas;
mod registers;
mod workloads;

use std::time::Duration;

pub(crate) use drills::LEASE;
pub(crate) use quotas::{RATE, record, tenant};
pub(crate) use registers::version;

use super::world::Sim;

/// Starts the clients of all regions.
pub(crate) fn start(sim: &Sim) {
    for region in 0..sim.regions() {
        for number in 0..3 {
            sim.spawn(workloads::run(sim.clone(), region, number));
        }
        for number in 0..2 {
            sim.spawn(registers::write(sim.clone(), region, number));
            sim.spawn(registers::read(sim.clone(), region));
        }
        sim.spawn(exports::run(sim.clone(), region));
        sim.spawn(drills::run(sim.clone(), region));
        sim.spawn(quotas::run(sim.clone(), region));
    }
}

/// Waits for a while; false when the clients are to stop.
async fn pause(sim: &Sim, from_ms: u64, to_ms: u64) -> bool {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(from_ms..to_ms))).await;
    !sim.is_calm() && !sim.is_over()
}
