//! Tenants: owners of namespaces, holders of a mesh-wide quota.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Namespace, RegionId, TenantId, Timestamp};

/// Mesh-wide limits; 0 = unlimited, in every field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quota {
    /// Requests per second that the tenant's workloads may send.
    pub requests_per_second: f64,
    /// Requests that may come at once above the rate.
    pub burst: f64,
    /// Registered services.
    pub services: u32,
    /// Registered endpoints.
    pub endpoints: u32,
}

/// A tenant. Its home region owns the record; peers hold a copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// A namespace belongs to at most one tenant.
    pub namespaces: BTreeSet<Namespace>,
    /// Its limits.
    pub quota: Quota,
    /// The home region, which divides the quota.
    pub region: RegionId,
}

/// What one proxy of a tenant may spend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantShare {
    /// Whose.
    pub tenant: TenantId,
    /// The proxies in these namespaces spend it.
    pub namespaces: BTreeSet<Namespace>,
    /// Requests per second; 0 = unlimited (a quota of none has no share at all).
    pub rate: f64,
    /// Requests at once above the rate, at least 1.
    pub burst: f64,
    /// How many parts the region's share is divided into.
    pub proxies: u32,
    /// Grows with every change of the division. 0 = of a registry that confirms nothing: such a share does not expire.
    pub epoch: u64,
    /// The least rate of all epochs from `least_since` to this one.
    pub least: f64,
    /// See `least`.
    pub least_since: u64,
    /// Requests per second while the share is not confirmed.
    pub floor: f64,
}

/// What a tenant's home region lets a region spend: the terms of a lease on a part of the rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaLease {
    /// Whose rate.
    pub tenant: TenantId,
    /// Who may spend it.
    pub region: RegionId,
    /// Fences: a region that has heard of an epoch never goes back to a lower one.
    pub epoch: u64,
    /// Requests per second until the end, on top of the floor.
    pub rate: f64,
    /// Requests per second with no end.
    pub floor: f64,
    /// By the clock of whoever looks; clocks differ.
    pub expires_at: Timestamp,
}

impl QuotaLease {
    /// What a region has before it has heard of any: epoch 0, nothing to spend.
    #[must_use]
    pub fn none(tenant: TenantId, region: RegionId) -> Self {
        Self {
            tenant,
            region,
            epoch: 0,
            rate: 0.0,
            floor: 0.0,
            expires_at: Timestamp(0),
        }
    }

    /// All that may be spent while it lasts.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.rate + self.floor
    }
}

/// What proxies let through and refused, requests per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Let through.
    pub used: f64,
    /// Refused for want of quota.
    pub refused: f64,
}

impl Usage {
    /// What would have been spent without a limit.
    #[must_use]
    pub fn wanted(self) -> f64 {
        self.used + self.refused
    }
}

/// What a region tells the home of a tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaseReport {
    /// None of its proxies spends by older terms than these.
    pub settled: QuotaLease,
    /// What its proxies want.
    pub usage: Usage,
}
