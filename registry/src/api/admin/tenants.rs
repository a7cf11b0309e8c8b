//! Tenants: who owns which namespaces, and what they may spend.

use mesh::model::{RegionId, Tenant, TenantId, Timestamp, Usage, WireError};
use proto::admin::v1 as pb;

use super::Admin;
use crate::{
    api::{Error, outward::field},
    catalog::{Command, State},
    quota::terms::NO_END,
};

impl Admin {
    pub(crate) async fn list_tenants(&self, options: pb::ReadOptions) -> Result<pb::TenantList, Error> {
        let reading = self.read(Some(options)).await?;
        let state = &reading.state;
        let at = self.parts.clock().wall();
        let row = |tenant: &std::sync::Arc<Tenant>| pb::TenantRow {
            proxies_here: state.proxies_here(tenant),
            proxies_everywhere: state.proxies_everywhere(tenant),
            share_rate: state.share(&tenant.id).map_or(0.0, |share| share.rate),
            region_rate: state.spendable(&tenant.id, at),
            leases: leases(state, tenant, at),
            exposed: state.exposed(&tenant.id, at),
            tenant: Some((**tenant).clone().into()),
        };
        Ok(pb::TenantList {
            tenants: state.tenants().map(row).collect(),
            position: Some(reading.position),
        })
    }

    pub(crate) async fn put_tenant(&self, request: pb::PutTenantRequest) -> Result<pb::Committed, Error> {
        let mut tenant = request.tenant.ok_or_else(|| WireError::new("tenant", "is missing"))?;
        if tenant.region.is_empty() {
            // A tenant is made at home.
            tenant.region = self.parts.config.region.to_string();
        }
        let tenant = Tenant::try_from(tenant)?;
        self.committed(Command::PutTenant(tenant)).await
    }

    pub(crate) async fn remove_tenant(&self, request: pb::RemoveTenantRequest) -> Result<pb::Committed, Error> {
        let id: TenantId = field("id", request.id.parse())?;
        self.committed(Command::RemoveTenant(id)).await
    }
}

/// At home all regions' leases, elsewhere the own one.
fn leases(state: &State, tenant: &Tenant, at: Timestamp) -> Vec<pb::QuotaLeaseRow> {
    let Some(own) = state.region() else { return Vec::new() };
    if tenant.quota.requests_per_second == 0.0 {
        return Vec::new();
    }
    let end = |end: Timestamp| if end == NO_END { 0 } else { end.0 };
    if tenant.region != *own {
        let holding = state.holding(&tenant.id).into_iter();
        let usage = state.demand(&tenant.id);
        let row = |holding: &std::sync::Arc<crate::quota::terms::Holding>| pb::QuotaLeaseRow {
            region: own.to_string(),
            epoch: holding.lease.epoch,
            rate: holding.lease.rate,
            floor: holding.lease.floor,
            expires_at_ms: end(holding.lease.expires_at),
            acknowledged: !holding.is_unsettled(),
            expired: holding.is_over || holding.lease.expires_at <= at,
            used: usage.used,
            refused: usage.refused,
        };
        return holding.map(row).collect();
    }
    let usage = |region: &RegionId| {
        if region == own {
            return state.demand(&tenant.id);
        }
        let report = state.report(&tenant.id, region);
        report.map_or_else(Usage::default, |report| report.usage)
    };
    let row = |grant: &std::sync::Arc<crate::quota::terms::Grant>| {
        let usage = usage(&grant.lease.region);
        pb::QuotaLeaseRow {
            region: grant.lease.region.to_string(),
            epoch: grant.lease.epoch,
            rate: grant.lease.rate,
            floor: grant.lease.floor,
            expires_at_ms: end(grant.lease.expires_at),
            acknowledged: grant.is_acknowledged(),
            expired: grant.lease.expires_at <= at,
            used: usage.used,
            refused: usage.refused,
        }
    };
    state.grants_of(&tenant.id).map(row).collect()
}
