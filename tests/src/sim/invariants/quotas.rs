//! What all regions together may spend of a tenant's rate never exceeds it at any true time, whatever the clocks show within
//! their skew. Stricter than `State::spendable`: a lease counts to its end by the slowest clock of the region, also when its
//! leader has ended it before, since a proxy may have been confirmed by a node whose clock is behind. What a region had
//! before it was restored counts as long as proxies may spend by what its nodes said last.

use mesh::{
    model::{QuotaLease, Timestamp},
    quota::SHARE_TTL,
};
use registry::{catalog::State, quota::terms::Holding};

use super::{Found, broken, chronicle::Chronicle};
use crate::sim::{
    clients::{RATE, tenant},
    place::region as name,
    world::Sim,
};

/// How long a proxy spends by what a node said last.
const SHARE_MS: u64 = SHARE_TTL.as_millis() as u64;
/// For sums of fractions.
const TOLERANCE: f64 = 1e-6;

/// Looks at what each region may spend now.
pub(super) fn check(sim: &Sim, chronicles: &[Chronicle]) -> Found {
    let tenant = tenant();
    let spendable = (0..).zip(chronicles).map(|(region, chronicle)| {
        let slowest = sim.slowest_clock(region);
        let by = |state: &State| {
            let holding = state.holding(&tenant);
            holding
                .zip(slowest)
                .map_or(0.0, |(holding, slowest)| most(holding, slowest))
        };
        let newest = chronicle.newest().map_or(0.0, |(_, state)| by(state));
        let former = chronicle
            .former()
            .filter(|(ended_ms, _)| sim.now_ms() < ended_ms + SHARE_MS);
        former.map_or(newest, |(_, state)| newest.max(by(state)))
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
