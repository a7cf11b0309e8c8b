//! Tenants, drills and regions between protobuf messages and the model.

use std::{collections::BTreeSet, time::Duration};

use proto::registry::v1 as pb;

use super::{TEXT_BYTES_MAX, WireError, at_most, field};
use crate::model::{
    Key, LeaseReport, Namespace, Override, Quota, QuotaLease, RegionStatus, Tenant, TenantShare, Timestamp, Usage,
};

impl From<Tenant> for pb::Tenant {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.id.to_string(),
            namespaces: tenant.namespaces.iter().map(ToString::to_string).collect(),
            quota: Some(pb::Quota {
                requests_per_second: tenant.quota.requests_per_second,
                burst: tenant.quota.burst,
                services: tenant.quota.services,
                endpoints: tenant.quota.endpoints,
            }),
            region: tenant.region.to_string(),
        }
    }
}

impl TryFrom<pb::Tenant> for Tenant {
    type Error = WireError;
    fn try_from(tenant: pb::Tenant) -> Result<Self, WireError> {
        let quota = tenant.quota.unwrap_or_default();
        Ok(Self {
            id: field("tenant.id", tenant.id.parse())?,
            namespaces: namespaces(&tenant.namespaces)?,
            quota: Quota {
                requests_per_second: rate("tenant.quota.requests_per_second", quota.requests_per_second)?,
                burst: rate("tenant.quota.burst", quota.burst)?,
                services: quota.services,
                endpoints: quota.endpoints,
            },
            region: field("tenant.region", tenant.region.parse())?,
        })
    }
}

fn namespaces(names: &[String]) -> Result<BTreeSet<Namespace>, WireError> {
    at_most("tenant.namespaces", names.len(), 4096)?;
    names
        .iter()
        .map(|name| field("tenant.namespaces", name.parse()))
        .collect()
}

fn rate(name: &'static str, rate: f64) -> Result<f64, WireError> {
    if rate.is_finite() && (0.0..=1e9).contains(&rate) {
        Ok(rate)
    } else {
        Err(WireError::new(name, format!("{rate} is not between 0 and 1e9")))
    }
}

impl From<TenantShare> for pb::TenantShare {
    fn from(share: TenantShare) -> Self {
        Self {
            tenant: share.tenant.to_string(),
            namespaces: share.namespaces.iter().map(ToString::to_string).collect(),
            rate: share.rate,
            burst: share.burst,
            proxies: share.proxies,
            epoch: share.epoch,
            least: share.least,
            least_since: share.least_since,
            floor: share.floor,
        }
    }
}

impl TryFrom<pb::TenantShare> for TenantShare {
    type Error = WireError;
    fn try_from(share: pb::TenantShare) -> Result<Self, WireError> {
        Ok(Self {
            tenant: field("share.tenant", share.tenant.parse())?,
            namespaces: namespaces(&share.namespaces)?,
            rate: rate("share.rate", share.rate)?,
            burst: rate("share.burst", share.burst)?,
            proxies: share.proxies,
            epoch: share.epoch,
            least: rate("share.least", share.least)?,
            least_since: share.least_since,
            floor: rate("share.floor", share.floor)?,
        })
    }
}

/// Kinds of keys that this version knows.
const KINDS: [&str; 10] = [
    "service", "endpoint", "gateway", "bundle", "share", "override", "tenant", "region", "lease", "report",
];

/// Whether a key that was sent means anything here; one without a kind at all does: it is refused.
pub(super) fn is_known_kind(key: &str) -> bool {
    key.split_once('/').is_none_or(|(kind, _)| KINDS.contains(&kind))
}

pub(super) fn lease_key(is_lease: bool, text: &str) -> Result<Key, WireError> {
    let (tenant, region) = text
        .split_once('/')
        .ok_or_else(|| WireError::new("key", "has no region"))?;
    let (tenant, region) = (field("key", tenant.parse())?, field("key", region.parse())?);
    Ok(if is_lease {
        Key::Lease(tenant, region)
    } else {
        Key::Report(tenant, region)
    })
}

impl From<QuotaLease> for pb::QuotaLease {
    fn from(lease: QuotaLease) -> Self {
        Self {
            tenant: lease.tenant.to_string(),
            region: lease.region.to_string(),
            epoch: lease.epoch,
            rate: lease.rate,
            floor: lease.floor,
            expires_at_ms: lease.expires_at.0,
        }
    }
}

impl TryFrom<pb::QuotaLease> for QuotaLease {
    type Error = WireError;
    fn try_from(lease: pb::QuotaLease) -> Result<Self, WireError> {
        Ok(Self {
            tenant: field("lease.tenant", lease.tenant.parse())?,
            region: field("lease.region", lease.region.parse())?,
            epoch: lease.epoch,
            rate: rate("lease.rate", lease.rate)?,
            floor: rate("lease.floor", lease.floor)?,
            expires_at: Timestamp(lease.expires_at_ms),
        })
    }
}

impl From<LeaseReport> for pb::LeaseReport {
    fn from(report: LeaseReport) -> Self {
        Self {
            settled: Some(report.settled.into()),
            used: report.usage.used,
            refused: report.usage.refused,
        }
    }
}

impl TryFrom<pb::LeaseReport> for LeaseReport {
    type Error = WireError;
    fn try_from(report: pb::LeaseReport) -> Result<Self, WireError> {
        let settled = report
            .settled
            .ok_or_else(|| WireError::new("report.settled", "is missing"))?;
        Ok(Self {
            settled: settled.try_into()?,
            usage: Usage {
                used: rate("report.used", report.used)?,
                refused: rate("report.refused", report.refused)?,
            },
        })
    }
}

impl From<Override> for pb::Override {
    fn from(order: Override) -> Self {
        Self {
            id: order.id.to_string(),
            region: order.region.to_string(),
            percent: order.percent.into(),
            expires_at_ms: order.expires_at.0,
            origin: order.origin.to_string(),
            reason: order.reason,
        }
    }
}

impl TryFrom<pb::Override> for Override {
    type Error = WireError;
    fn try_from(order: pb::Override) -> Result<Self, WireError> {
        let percent = u8::try_from(order.percent)
            .ok()
            .filter(|percent| (1..=100).contains(percent));
        Ok(Self {
            id: field("override.id", order.id.parse())?,
            region: field("override.region", order.region.parse())?,
            percent: percent.ok_or_else(|| WireError::new("override.percent", "must be 1 to 100"))?,
            expires_at: Timestamp(order.expires_at_ms),
            origin: field("override.origin", order.origin.parse())?,
            reason: order.reason.chars().take(TEXT_BYTES_MAX).collect(),
        })
    }
}

impl From<RegionStatus> for pb::RegionStatus {
    fn from(status: RegionStatus) -> Self {
        let round_trip = status
            .round_trip
            .map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1));
        Self {
            region: status.region.to_string(),
            trust_domain: status.trust_domain.to_string(),
            round_trip_us: round_trip,
            heard_at_ms: status.heard_at.0,
            connected: status.connected,
            tenant_proxies: status
                .tenant_proxies
                .into_iter()
                .map(|(tenant, n)| (tenant.to_string(), n))
                .collect(),
        }
    }
}

impl TryFrom<pb::RegionStatus> for RegionStatus {
    type Error = WireError;
    fn try_from(status: pb::RegionStatus) -> Result<Self, WireError> {
        let proxies = status.tenant_proxies.into_iter();
        let proxies = proxies.map(|(tenant, n)| Ok((field("region.tenant_proxies", tenant.parse())?, n)));
        Ok(Self {
            region: field("region.region", status.region.parse())?,
            trust_domain: field("region.trust_domain", status.trust_domain.parse())?,
            round_trip: (status.round_trip_us > 0).then(|| Duration::from_micros(status.round_trip_us)),
            heard_at: Timestamp(status.heard_at_ms),
            connected: status.connected,
            tenant_proxies: proxies.collect::<Result<_, WireError>>()?,
        })
    }
}
