//! What a leader proposes about quotas, from time to time: new terms for the tenants of its region, and what becomes of the
//! leases that the region holds. Remembers only since when it has seen something, so that a new leader waits again. Pure.

use std::{collections::BTreeMap, time::Duration};

use mesh::{
    model::{RegionId, Tenant, TenantId, Timestamp},
    quota::SHARE_TTL,
};

use super::{
    lessor::{self, Claim},
    terms::Terms,
};
use crate::catalog::{Command, State};

/// Beyond the time that shares last: timers are late, clocks of two machines do not run at exactly the same speed.
const SETTLE_MARGIN: Duration = Duration::from_secs(1);
/// Most terms of one command.
const TERMS_MAX: usize = 500;

/// The leader's memory. A node that does not lead has none.
#[derive(Debug, Default)]
pub struct Steward {
    /// Epochs that proxies may exceed, and since when this leader has known them to be committed.
    unsettled: BTreeMap<TenantId, (u64, Duration)>,
}

impl Steward {
    /// What to propose. `at` is the leader's clock, `now` the time since any origin that stays the same for this steward.
    pub fn step(&mut self, state: &State, at: Timestamp, now: Duration) -> Vec<Command> {
        let Some(own) = state.region() else { return Vec::new() };
        let mut commands = self.settle(state, now);
        for holding in state.holdings() {
            let lease = &holding.lease;
            if !holding.is_over && lease.rate > 0.0 && at.plus(SHARE_TTL) >= lease.expires_at {
                commands.push(Command::EndLease {
                    tenant: lease.tenant.clone(),
                    epoch: lease.epoch,
                    expires_at: lease.expires_at,
                });
            }
        }
        if state
            .quota_fence()
            .is_some_and(|fence| fence == super::terms::Fence::Restored)
        {
            commands.push(Command::OpenQuotas);
        } else if !state.quotas_are_fenced(at) {
            let own_tenants = state.tenants().filter(|tenant| tenant.region == *own);
            let terms: Vec<Terms> = own_tenants.flat_map(|tenant| terms(state, own, tenant, at)).collect();
            commands.extend(
                terms
                    .chunks(TERMS_MAX)
                    .map(|terms| Command::GrantLeases(terms.to_vec())),
            );
        }
        commands
    }

    /// Smaller parts are settled once every proxy has heard of them or has lost its share.
    fn settle(&mut self, state: &State, now: Duration) -> Vec<Command> {
        let mut before = std::mem::take(&mut self.unsettled);
        let mut commands = Vec::new();
        for holding in state.holdings().filter(|holding| holding.is_unsettled()) {
            let (tenant, epoch) = (&holding.lease.tenant, holding.lease.epoch);
            let seen = before.remove(tenant).filter(|(seen, _)| *seen == epoch);
            let (_, since) = seen.unwrap_or((epoch, now));
            self.unsettled.insert(tenant.clone(), (epoch, since));
            if now.saturating_sub(since) >= SHARE_TTL + SETTLE_MARGIN {
                commands.push(Command::SettleLease {
                    tenant: tenant.clone(),
                    epoch,
                });
            }
        }
        commands
    }
}

/// New terms for one tenant of this region.
#[must_use]
pub fn terms(state: &State, own: &RegionId, tenant: &Tenant, at: Timestamp) -> Vec<Terms> {
    let rate = tenant.quota.requests_per_second;
    if rate == 0.0 {
        return Vec::new();
    }
    let peers = state
        .region_statuses()
        .filter(|status| state.peer(&status.region).is_some());
    let home = Claim {
        region: own,
        is_home: true,
        is_reachable: true,
        has_proxies: state.proxies_here(tenant) > 0,
        wanted: state.demand(&tenant.id).wanted(),
        grant: state.grant(&tenant.id, own).map(AsRef::as_ref),
    };
    let abroad = peers.map(|status| Claim {
        region: &status.region,
        is_home: false,
        is_reachable: status.connected,
        has_proxies: status.tenant_proxies.get(&tenant.id).is_some_and(|count| *count > 0),
        wanted: state
            .report(&tenant.id, &status.region)
            .map_or(0.0, |report| report.usage.wanted()),
        grant: state.grant(&tenant.id, &status.region).map(AsRef::as_ref),
    });
    let claims: Vec<Claim<'_>> = std::iter::once(home).chain(abroad).collect();
    let is_claimed = |region: &RegionId| claims.iter().any(|claim| claim.region == region);
    let elsewhere = state
        .grants_of(&tenant.id)
        .filter(|grant| !is_claimed(&grant.lease.region));
    let elsewhere = elsewhere.map(|grant| grant.exposure(at)).sum();
    lessor::next(&tenant.id, rate, elsewhere, &claims, at)
}
