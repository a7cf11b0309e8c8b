//! What all regions together may spend of a tenant's rate never exceeds it at any true time, whatever the clocks show within
//! their skew. Stricter than `State::spendable`: a lease counts to its end by the slowest clock of the region, also when its
//! leader has ended it before, since a proxy may have been confirmed by a node whose clock is behind.

use mesh::model::{QuotaLease, Timestamp};
use registry::quota::terms::Holding;

use super::{Found, broken, chronicle::Chronicle};
use crate::sim::{
    clients::{RATE, tenant},
    place::region as name,
    world::Sim,
};

/// For sums of fractions.
const TOLERANCE: f64 = 1e-6;

/// Looks at what each region may spend now.
pub(super) fn check(sim: &Sim, chronicles: &[Chronicle]) -> Found {
    let tenant = tenant();
    let spendable = (0..).zip(chronicles).map(|(region, chronicle)| {
        let holding = chronicle.newest().and_then(|(_, state)| state.holding(&tenant));
        let slowest = sim.slowest_clock(region);
        holding
            .zip(slowest)
            .map_or(0.0, |(holding, slowest)| most(holding, slowest))
    });
    let spendable: Vec<f64> = spendable.collect();
    let sum: f64 = spendable.iter().sum();
    if sum <= RATE * (1.0 + TOLERANCE) {
        return Ok(());
    }
    let parts: Vec<String> = (0..)
        .zip(&spendable)
        .map(|(region, rate)| format!("{rate} in {}", name(region)))
        .collect();
    Err(broken(
        "quota leases that may be spent and floors never exceed the quota",
        format_args!("at most {RATE} a second in all regions together"),
        format_args!("{sum}: {}", parts.join(", ")),
    ))
}

/// By the newest terms, or by those before while proxies may not have heard of them.
fn most(holding: &Holding, at: Timestamp) -> f64 {
    let by = |lease: &QuotaLease| lease.floor + if at < lease.expires_at { lease.rate } else { 0.0 };
    let newest = by(&holding.lease);
    if holding.is_unsettled() {
        newest.max(by(&holding.settled))
    } else {
        newest
    }
}
