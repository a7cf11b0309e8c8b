//! What the catalogue keeps about quotas, and what can be asked of it: leases granted, held and reported, a region's
//! division among its proxies, and demand. Pure.

use std::sync::Arc;

use imbl::OrdMap;
use mesh::model::{LeaseReport, QuotaLease, RegionId, Tenant, TenantId, TenantShare, Timestamp, Usage, WorkloadId};

use super::State;
use crate::quota::{
    division::{Division, Whole},
    terms::{Demand, Fence, Grant, Holding, NO_END},
};

/// Everything about quotas. All of it is recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Quotas {
    /// Leases of this region's tenants, by holder.
    pub(super) grants: OrdMap<(TenantId, RegionId), Arc<Grant>>,
    /// Leases that this region holds.
    pub(super) holdings: OrdMap<TenantId, Arc<Holding>>,
    /// What peers say of this region's tenants.
    pub(super) reports: OrdMap<(TenantId, RegionId), Arc<LeaseReport>>,
    pub(super) divisions: OrdMap<TenantId, Arc<Division>>,
    pub(super) demands: OrdMap<TenantId, Arc<Demand>>,
    /// Workloads of limited tenants, and the number under which they are counted since they came.
    pub(super) members: OrdMap<WorkloadId, u64>,
    pub(super) fence: Option<Fence>,
}

impl State {
    /// A lease of one of this region's tenants.
    #[must_use]
    pub fn grant(&self, tenant: &TenantId, region: &RegionId) -> Option<&Arc<Grant>> {
        self.quotas.grants.get(&(tenant.clone(), region.clone()))
    }

    /// All leases of one of this region's tenants, those of former peers included.
    pub fn grants_of<'a>(&'a self, tenant: &'a TenantId) -> impl Iterator<Item = &'a Arc<Grant>> {
        // "0" is the least of all labels.
        let first = RegionId::parse("0").ok().map(|region| (tenant.clone(), region));
        let grants = first.map(|first| self.quotas.grants.range(first..));
        let grants = grants.into_iter().flatten();
        grants
            .take_while(move |((of, _), _)| of == tenant)
            .map(|(_, grant)| grant)
    }

    /// Leases that this region holds, of its own tenants and of others.
    pub fn holdings(&self) -> impl Iterator<Item = &Arc<Holding>> {
        self.quotas.holdings.values()
    }

    /// The lease that this region holds of a tenant's rate.
    #[must_use]
    pub fn holding(&self, tenant: &TenantId) -> Option<&Arc<Holding>> {
        self.quotas.holdings.get(tenant)
    }

    /// What a peer said of one of this region's tenants.
    #[must_use]
    pub fn report(&self, tenant: &TenantId, region: &RegionId) -> Option<&Arc<LeaseReport>> {
        self.quotas.reports.get(&(tenant.clone(), region.clone()))
    }

    /// What this region's proxies want of a tenant's rate.
    #[must_use]
    pub fn demand(&self, tenant: &TenantId) -> Usage {
        self.quotas
            .demands
            .get(tenant)
            .map_or_else(Usage::default, |demand| demand.usage())
    }

    /// Whether rates are leased and shares confirmed: every program of the region must know how.
    #[must_use]
    pub fn leases_quotas(&self) -> bool {
        self.level() >= 2
    }

    /// Whether any tenant's rate is limited, or leases are left of one that was.
    #[must_use]
    pub fn has_quotas(&self) -> bool {
        !(self.quotas.divisions.is_empty() && self.quotas.grants.is_empty() && self.quotas.holdings.is_empty())
            || self
                .tenants
                .values()
                .any(|tenant| tenant.quota.requests_per_second != 0.0)
    }

    /// How this region's part is divided.
    #[must_use]
    pub fn division(&self, tenant: &TenantId) -> Option<&Arc<Division>> {
        self.quotas.divisions.get(tenant)
    }

    /// Under which number a proxy is counted; 0 when it was there before its tenant.
    #[must_use]
    pub fn member(&self, workload: &WorkloadId) -> u64 {
        self.quotas.members.get(workload).copied().unwrap_or(0)
    }

    /// Whether and until when leases of an old life are waited out.
    #[must_use]
    pub fn quota_fence(&self) -> Option<Fence> {
        self.quotas.fence
    }

    /// Whether this region may grant nothing yet, since leases of an old life may still be spent.
    #[must_use]
    pub fn quotas_are_fenced(&self, at: Timestamp) -> bool {
        self.quotas.fence.is_some_and(|fence| fence.holds(at))
    }

    /// The most that all regions together may spend of one of this region's tenants, as far as the home region must assume
    /// at `at` by its clock; never above the rate, unless the rate was lowered and some region has not heard of it.
    #[must_use]
    pub fn exposed(&self, tenant: &TenantId, at: Timestamp) -> f64 {
        self.grants_of(tenant).map(|grant| grant.exposure(at)).sum()
    }

    /// The most that this region's proxies may spend together of a tenant's rate at `at` by this region's clock: by the
    /// newest terms or, while proxies may not have heard of them, by those before.
    #[must_use]
    pub fn spendable(&self, tenant: &TenantId, at: Timestamp) -> f64 {
        let Some(holding) = self.holding(tenant) else {
            return 0.0;
        };
        let by = |lease: &QuotaLease| lease.floor + if at < lease.expires_at { lease.rate } else { 0.0 };
        let newest = if holding.is_over {
            holding.lease.floor
        } else {
            by(&holding.lease)
        };
        if holding.is_unsettled() {
            newest.max(by(&holding.settled))
        } else {
            newest
        }
    }

    /// What one proxy of a tenant may spend; none when its rate is unlimited or it is not known.
    #[must_use]
    pub fn share(&self, tenant: &TenantId) -> Option<TenantShare> {
        let tenant = self.tenants.get(tenant)?;
        if !self.leases_quotas() {
            return self.even_share(tenant);
        }
        let division = self.division(&tenant.id)?;
        let (least, least_since) = division.least();
        Some(TenantShare {
            tenant: tenant.id.clone(),
            namespaces: tenant.namespaces.clone(),
            rate: division.rate,
            burst: division.burst,
            proxies: division.parts,
            epoch: division.epoch,
            least,
            least_since,
            floor: division.floor,
        })
    }

    /// As regions did it before they leased: an even part of the whole, that does not end.
    fn even_share(&self, tenant: &Tenant) -> Option<TenantShare> {
        let quota = tenant.quota;
        let proxies = self.proxies_everywhere(tenant).max(1);
        let rate = quota.requests_per_second / f64::from(proxies);
        (rate > 0.0).then(|| TenantShare {
            tenant: tenant.id.clone(),
            namespaces: tenant.namespaces.clone(),
            rate,
            burst: (quota.burst / f64::from(proxies)).max(1.0),
            proxies,
            epoch: 0,
            least: rate,
            least_since: 0,
            floor: rate,
        })
    }

    /// What is to be divided of a tenant's rate here; none when it is not limited.
    pub(super) fn whole(&self, tenant: &TenantId) -> Option<Whole> {
        let tenant = self.tenants.get(tenant)?;
        let rate = tenant.quota.requests_per_second;
        if rate == 0.0 {
            return None;
        }
        let holding = self.holding(&tenant.id).filter(|holding| holding.home == tenant.region);
        Some(Whole {
            total: holding.map_or(0.0, |holding| holding.total()).min(rate),
            floor: holding.map_or(0.0, |holding| holding.lease.floor),
            burst_per_rate: tenant.quota.burst / rate,
            proxies: self.proxies_here(tenant),
        })
    }

    /// What this region tells the home of a tenant; none for its own ones and for those without a limit.
    #[must_use]
    pub fn own_report(&self, tenant: &TenantId) -> Option<LeaseReport> {
        let (tenant, own) = (self.tenants.get(tenant)?, self.meta.region.as_ref()?);
        if tenant.region == *own || tenant.quota.requests_per_second == 0.0 || !self.leases_quotas() {
            return None;
        }
        let holding = self.holding(&tenant.id).filter(|holding| holding.home == tenant.region);
        let none = || QuotaLease::none(tenant.id.clone(), own.clone());
        let usage = self.demand(&tenant.id);
        Some(LeaseReport {
            settled: holding.map_or_else(none, |holding| holding.settled.clone()),
            usage: Usage {
                used: rounded(usage.used),
                refused: rounded(usage.refused),
            },
        })
    }

    /// In a new life: what the old one granted after the copy was made is not known. Of what this region holds, and of what
    /// it granted itself, the floors are left; others are taken to hold all that they may until the fence is passed.
    pub(super) fn restart_quotas(&mut self) {
        let Some(own) = self.meta.region.clone().filter(|_| self.leases_quotas()) else {
            return;
        };
        self.quotas.fence = Some(Fence::Restored);
        let grants = self.quotas.grants.iter().map(|(key, grant)| {
            let mut grant = Grant::clone(grant);
            let end = if key.1 == own { NO_END } else { Timestamp(0) };
            let older = grant.older.take();
            grant.lease.floor = older.map_or(grant.lease.floor, |older| older.floor.max(grant.lease.floor));
            (grant.lease.rate, grant.lease.expires_at) = (0.0, end);
            grant.known_end = (key.1 == own).then_some(end);
            (key.clone(), Arc::new(grant))
        });
        self.quotas.grants = grants.collect();
        let holdings = self.quotas.holdings.iter().map(|(tenant, holding)| {
            let mut holding = Holding::clone(holding);
            holding.lease.rate = 0.0;
            holding.is_over = true;
            // What was not settled is not called so: proxies of the old life may still spend more.
            holding.settled = QuotaLease {
                epoch: holding.settled.epoch,
                ..holding.lease.clone()
            };
            (tenant.clone(), Arc::new(holding))
        });
        self.quotas.holdings = holdings.collect();
        let divisions = self.quotas.divisions.iter().filter_map(|(tenant, division)| {
            let mut division = Division::clone(division);
            division.forget();
            let next = division.next(self.whole(tenant)?, Timestamp(0));
            Some((tenant.clone(), Arc::new(next)))
        });
        self.quotas.divisions = divisions.collect();
    }
}

/// Two digits: smaller changes are not worth a word to another region.
fn rounded(rate: f64) -> f64 {
    if rate < 0.01 {
        return 0.0;
    }
    let unit = 10_f64.powf(rate.log10().floor() - 1.0);
    (rate / unit).round() * unit
}
