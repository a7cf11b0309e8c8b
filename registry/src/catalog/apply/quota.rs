//! Quota leases: what is granted, taken over, ended, settled; and the division of a region's part after every batch.
//! Whoever proposes, no terms are taken that would let anybody spend more than there is. Pure.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh::model::{
    Key, LeaseReport, Namespace, NodeId, QuotaLease, RegionId, Tenant, TenantId, Timestamp, Usage, WorkloadId,
};

use super::{Outcome, Transaction, not_found};
use crate::{
    catalog::{LeaseSet, Reply, record::RecordKey},
    quota::{
        division::{Division, LAPSED_KEPT, LEFT_KEPT},
        lessor::FLOORS,
        terms::{Demand, Fence, Grant, Holding, LEASE_TTL, NO_END, Terms},
    },
};

/// Sums of many parts differ from the whole by rounding.
const ROUNDING: f64 = 1.0 + 1e-9;
/// An epoch that is further ahead of the clock than this is none of a registry's.
const EPOCH_AHEAD_MAX: Duration = Duration::from_secs(3600);

impl Transaction<'_> {
    pub(super) fn grant_leases(&mut self, terms: &[Terms]) -> Outcome {
        let own = self.own_region()?;
        if self.state.quotas_are_fenced(self.at) {
            return Ok(Reply::Done);
        }
        for of_tenant in terms.chunk_by(|one, other| one.tenant == other.tenant) {
            self.grant_of_tenant(&own, of_tenant);
        }
        Ok(Reply::Done)
    }

    /// All of them, or none.
    fn grant_of_tenant(&mut self, own: &RegionId, terms: &[Terms]) {
        let Some(tenant) = terms.first().and_then(|terms| self.state.tenants.get(&terms.tenant)) else {
            return;
        };
        let rate = tenant.quota.requests_per_second;
        if tenant.region != *own || rate == 0.0 {
            return;
        }
        let (id, at) = (tenant.id.clone(), self.at);
        let known: Vec<Grant> = self.state.grants_of(&id).map(|grant| grant.without_over(at)).collect();
        known.into_iter().for_each(|grant| self.put_grant(grant));
        let before = self.state.exposed(&id, at);
        let mut after = before;
        let mut grants = Vec::new();
        for terms in terms {
            let known = self.state.grant(&id, &terms.region);
            let is_current = terms.base == known.map_or(0, |grant| grant.lease.epoch);
            let is_member = terms.region == *own || self.state.peers.contains_key(&terms.region);
            let is_sane = terms.rate >= 0.0 && terms.floor >= 0.0 && (terms.rate + terms.floor).is_finite();
            if !is_current || !is_member || !is_sane || (terms.renews && known.is_none()) {
                return;
            }
            let end = if terms.region == *own {
                NO_END
            } else {
                at.plus(LEASE_TTL)
            };
            let next = known.map_or_else(|| first(terms, end, at), |grant| grant.next(terms, end, at));
            after += next.exposure(at) - known.map_or(0.0, |grant| grant.exposure(at));
            grants.push(next);
        }
        if after > rate * ROUNDING && after > before * ROUNDING {
            return;
        }
        for grant in grants {
            let lease = grant.lease.clone();
            self.put_grant(grant);
            if lease.region == *own {
                self.take_lease(own, &lease);
            }
        }
    }

    /// A new tenant's home takes its own part at once, so that its proxies need not wait.
    pub(super) fn grant_first(&mut self, tenant: &Tenant) {
        let Ok(own) = self.own_region() else { return };
        let is_known = self.state.grant(&tenant.id, &own).is_some();
        if is_known || !self.state.leases_quotas() || self.state.quotas_are_fenced(self.at) {
            return;
        }
        let regions = f64::from(u32::try_from(self.state.peers.len() + 1).unwrap_or(u32::MAX));
        let rate = tenant.quota.requests_per_second;
        let terms = Terms {
            tenant: tenant.id.clone(),
            region: own.clone(),
            rate: rate * (1.0 - FLOORS) / regions,
            floor: rate * FLOORS / regions,
            base: 0,
            renews: false,
        };
        self.grant_of_tenant(&own, &[terms]);
    }

    /// Takes over the terms of a lease that this region holds, when they are newer.
    fn take_lease(&mut self, home: &RegionId, lease: &QuotaLease) {
        let known = self
            .state
            .holding(&lease.tenant)
            .filter(|holding| holding.home == *home);
        let forgot = self.state.quotas_are_fenced(self.at);
        let next = match known {
            Some(holding) => holding.next(lease, forgot),
            None => Some(Holding {
                home: home.clone(),
                lease: lease.clone(),
                settled: if forgot {
                    QuotaLease::none(lease.tenant.clone(), lease.region.clone())
                } else {
                    lease.clone()
                },
                is_over: false,
            }),
        };
        if let Some(next) = next {
            self.put_holding(next);
        }
    }

    pub(super) fn end_lease(&mut self, tenant: &TenantId, epoch: u64, expires_at: Timestamp) -> Outcome {
        let holding = self.state.holding(tenant);
        if let Some(holding) = holding
            && (holding.lease.epoch, holding.lease.expires_at) == (epoch, expires_at)
        {
            let mut next = Holding::clone(holding);
            next.is_over = true;
            self.put_holding(next);
        }
        Ok(Reply::Done)
    }

    pub(super) fn settle_lease(&mut self, tenant: &TenantId, epoch: u64) -> Outcome {
        let holding = self
            .state
            .holding(tenant)
            .filter(|holding| holding.lease.epoch == epoch);
        if let Some(holding) = holding {
            let mut next = Holding::clone(holding);
            next.settled = next.lease.clone();
            self.put_holding(next);
        }
        Ok(Reply::Done)
    }

    pub(super) fn open_quotas(&mut self) -> Outcome {
        if self.state.quotas.fence == Some(Fence::Restored) {
            self.state.quotas.fence = Some(Fence::set(self.at));
            self.dirty.insert(RecordKey::Fence);
        }
        Ok(Reply::Done)
    }

    pub(super) fn import_leases(&mut self, peer: &RegionId, set: &LeaseSet) -> Outcome {
        let own = self.own_region()?;
        let mut record =
            crate::catalog::Peer::clone(self.state.peers.get(peer).ok_or_else(|| not_found("peer", peer))?);
        if set.full {
            let named: BTreeSet<&TenantId> = set.reports.iter().map(|report| &report.settled.tenant).collect();
            self.remove_reports(peer, |tenant| !named.contains(tenant));
        }
        self.remove_reports(peer, |tenant| set.removed.contains(tenant));
        for lease in &set.leases {
            let home = self.state.tenants.get(&lease.tenant).map(|tenant| &tenant.region);
            if lease.region == own && home.is_none_or(|home| home == peer) && self.is_epoch_sane(lease.epoch) {
                self.take_lease(peer, lease);
            } else {
                record.dropped += 1;
            }
        }
        for report in &set.reports {
            let home = self
                .state
                .tenants
                .get(&report.settled.tenant)
                .map(|tenant| &tenant.region);
            let is_good = report.settled.region == *peer && home == Some(&own);
            if is_good && self.is_epoch_sane(report.settled.epoch) {
                self.hear_report(report);
            } else if home.is_some() {
                // Of a tenant that was removed meanwhile it is no fault.
                record.dropped += 1;
            }
        }
        self.set_peer(peer, Some(record));
        Ok(Reply::Done)
    }

    fn is_epoch_sane(&self, epoch: u64) -> bool {
        epoch <= u64::try_from(self.at.plus(EPOCH_AHEAD_MAX).0).unwrap_or(0)
    }

    fn hear_report(&mut self, report: &LeaseReport) {
        let settled = &report.settled;
        let key = (settled.tenant.clone(), settled.region.clone());
        let known = self.state.quotas.grants.get(&key);
        // Only a catalogue that was restored can have forgotten what it granted.
        let is_believed =
            self.state.quotas.fence.is_some() || known.is_some_and(|grant| settled.epoch <= grant.lease.epoch);
        let heard = match known {
            Some(grant) => Some(grant.heard(settled)),
            None if settled.epoch > 0 => Some(Grant {
                known_end: Some(settled.expires_at),
                ..Grant::first(settled.clone())
            }),
            None => None,
        };
        if let Some(heard) = heard.filter(|_| is_believed) {
            self.put_grant(heard);
        }
        if self.state.quotas.reports.get(&key).is_none_or(|old| **old != *report) {
            self.state.quotas.reports.insert(key.clone(), Arc::new(report.clone()));
            self.dirty.insert(RecordKey::Report(key.0, key.1));
        }
    }

    pub(super) fn remove_reports(&mut self, peer: &RegionId, is_gone: impl Fn(&TenantId) -> bool) {
        let reports = self.state.quotas.reports.keys();
        let gone = reports.filter(|(tenant, region)| region == peer && is_gone(tenant));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.state.quotas.reports.remove(&key);
            self.dirty.insert(RecordKey::Report(key.0, key.1));
        }
    }

    pub(super) fn put_demand(&mut self, node: NodeId, usage: &[(TenantId, Usage)]) -> Outcome {
        for (tenant, usage) in usage {
            if !self.state.tenants.contains_key(tenant) {
                continue;
            }
            let known = self.state.quotas.demands.get(tenant);
            let mut demand = known.map_or_else(Demand::default, |demand| Demand::clone(demand));
            demand.by_node.insert(node, (self.at, *usage));
            self.state.quotas.demands.insert(tenant.clone(), Arc::new(demand));
            self.dirty.insert(RecordKey::Demand(tenant.clone()));
            self.touch_leases(tenant);
        }
        Ok(Reply::Done)
    }

    fn put_grant(&mut self, grant: Grant) {
        let key = (grant.lease.tenant.clone(), grant.lease.region.clone());
        if self.state.quotas.grants.get(&key).is_some_and(|old| **old == grant) {
            return;
        }
        self.state.quotas.grants.insert(key.clone(), Arc::new(grant));
        self.dirty.insert(RecordKey::Grant(key.0.clone(), key.1.clone()));
        self.touched.insert(Key::Lease(key.0, key.1));
    }

    fn put_holding(&mut self, holding: Holding) {
        let tenant = holding.lease.tenant.clone();
        let key = (tenant.clone(), holding.lease.region.clone());
        if self.state.region() == Some(&holding.home)
            && let Some(grant) = self.state.quotas.grants.get(&key)
        {
            // The home region is told by itself.
            let heard = grant.heard(&holding.settled);
            self.put_grant(heard);
        }
        self.state.quotas.holdings.insert(tenant.clone(), Arc::new(holding));
        self.dirty.insert(RecordKey::Holding(tenant.clone()));
        self.touched.insert(Key::Share(tenant.clone()));
        self.touch_leases(&tenant);
    }

    /// The tenant is gone: what this region held of it, too. What it granted stays until it cannot be spent any more.
    pub(super) fn forget_holding(&mut self, tenant: &TenantId) {
        self.state.quotas.holdings.remove(tenant);
        self.state.quotas.demands.remove(tenant);
        self.dirty.insert(RecordKey::Holding(tenant.clone()));
        self.dirty.insert(RecordKey::Demand(tenant.clone()));
        self.touch_leases(tenant);
        if let Ok(own) = self.own_region()
            && self
                .state
                .quotas
                .grants
                .remove(&(tenant.clone(), own.clone()))
                .is_some()
        {
            self.dirty.insert(RecordKey::Grant(tenant.clone(), own));
        }
    }

    /// What others see of a tenant's leases may be different.
    pub(super) fn touch_leases(&mut self, tenant: &TenantId) {
        let grants = self.state.grants_of(tenant).map(|grant| grant.lease.region.clone());
        self.touched
            .extend(grants.map(|region| Key::Lease(tenant.clone(), region)));
        if let Some(own) = self.state.region().cloned() {
            self.touched.insert(Key::Report(tenant.clone(), own.clone()));
            self.touched.insert(Key::Lease(tenant.clone(), own));
        }
    }

    /// A workload is there that was not.
    pub(super) fn count_in(&mut self, id: &WorkloadId, namespace: &Namespace) {
        let owner = self.state.owners.get(namespace).cloned();
        let Some(tenant) = owner.filter(|_| self.state.leases_quotas()) else {
            return;
        };
        self.state.quotas.members.insert(id.clone(), self.state.meta.next_epoch);
        self.dirty.insert(RecordKey::Member(id.clone()));
        self.with_division(&tenant, |division| {
            division.gone.remove(id);
        });
    }

    /// A workload is not there any more; it may be alive all the same.
    pub(super) fn count_out(&mut self, id: &WorkloadId, namespace: &Namespace) {
        if self.state.quotas.members.remove(id).is_some() {
            self.dirty.insert(RecordKey::Member(id.clone()));
        }
        let Some(tenant) = self.state.owners.get(namespace).cloned() else {
            return;
        };
        let until = self.at.plus(LAPSED_KEPT);
        self.with_division(&tenant, |division| {
            division.gone.insert(id.clone(), until);
        });
    }

    /// It went away on purpose, and soon ends.
    pub(super) fn note_left(&mut self, id: &WorkloadId) {
        let until = self.at.plus(LEFT_KEPT);
        let divisions = self.state.quotas.divisions.iter();
        let of = divisions.filter(|(_, division)| division.gone.contains_key(id));
        for tenant in of.map(|(tenant, _)| tenant.clone()).collect::<Vec<_>>() {
            self.with_division(&tenant, |division| {
                division.gone.insert(id.clone(), until);
            });
        }
    }

    /// Other namespaces: who was counted before may not be any more, and the other way round.
    pub(super) fn break_division(&mut self, tenant: &TenantId) {
        self.with_division(tenant, Division::forget);
    }

    fn with_division(&mut self, tenant: &TenantId, change: impl FnOnce(&mut Division)) {
        if let Some(division) = self.state.quotas.divisions.get_mut(tenant) {
            change(Arc::make_mut(division));
            self.dirty.insert(RecordKey::Division(tenant.clone()));
            self.touched.insert(Key::Share(tenant.clone()));
        }
    }

    /// After a batch: whatever changed a region's part or its proxies changes the division.
    pub(super) fn divide(&mut self) {
        if !self.state.leases_quotas() {
            return;
        }
        let shares = self.touched.iter().filter_map(|key| match key {
            Key::Share(tenant) => Some(tenant.clone()),
            _ => None,
        });
        for tenant in shares.collect::<Vec<_>>() {
            let known = self.state.division(&tenant).cloned();
            let next = self.state.whole(&tenant).map(|whole| {
                let before = known.as_deref().cloned().unwrap_or_default();
                before.next(whole, self.at)
            });
            if next.as_ref() == known.as_deref() {
                continue;
            }
            match next {
                Some(next) => self.state.quotas.divisions.insert(tenant.clone(), Arc::new(next)),
                None => self.state.quotas.divisions.remove(&tenant),
            };
            self.dirty.insert(RecordKey::Division(tenant));
        }
    }

    /// From now on rates are leased.
    pub(super) fn begin_leasing(&mut self) {
        let tenants: Vec<Arc<Tenant>> = self.state.tenants.values().cloned().collect();
        for tenant in tenants {
            if self.state.is_own(&tenant.region) {
                self.grant_first(&tenant);
            }
            self.touched.insert(Key::Share(tenant.id.clone()));
            self.touch_leases(&tenant.id);
        }
    }

    pub(super) fn restart_quotas(&mut self) {
        if !self.state.leases_quotas() {
            return;
        }
        self.state.restart_quotas();
        let quotas = &self.state.quotas;
        for (tenant, region) in quotas.grants.keys() {
            self.dirty.insert(RecordKey::Grant(tenant.clone(), region.clone()));
        }
        for tenant in quotas.holdings.keys() {
            self.dirty.insert(RecordKey::Holding(tenant.clone()));
        }
        for tenant in quotas.divisions.keys() {
            self.dirty.insert(RecordKey::Division(tenant.clone()));
            self.touched.insert(Key::Share(tenant.clone()));
        }
        self.dirty.insert(RecordKey::Fence);
        let tenants: Vec<TenantId> = self.state.tenants.keys().cloned().collect();
        for tenant in &tenants {
            self.touch_leases(tenant);
        }
    }

    /// Leases of tenants that are gone, and of regions that are no peers any more, once nobody can spend them.
    pub(super) fn sweep_leases(&mut self) {
        let (state, at) = (&self.state, self.at);
        let over = state.quotas.grants.iter().filter(|((tenant, region), grant)| {
            let is_wanted =
                state.tenants.contains_key(tenant) && (state.is_own(region) || state.peers.contains_key(region));
            !is_wanted && !grant.is_valid(at)
        });
        for (tenant, region) in over.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.state.quotas.grants.remove(&(tenant.clone(), region.clone()));
            self.dirty.insert(RecordKey::Grant(tenant.clone(), region.clone()));
            self.touched.insert(Key::Lease(tenant, region));
        }
    }
}

fn first(terms: &Terms, end: Timestamp, at: Timestamp) -> Grant {
    Grant::first(QuotaLease {
        tenant: terms.tenant.clone(),
        region: terms.region.clone(),
        epoch: crate::quota::terms::epoch_after(0, at),
        rate: terms.rate,
        floor: terms.floor,
        expires_at: end,
    })
}
