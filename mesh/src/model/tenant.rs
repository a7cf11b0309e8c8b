//! Tenants: owners of namespaces, holders of a mesh-wide quota.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Namespace, RegionId, TenantId};

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
    /// Live proxies that the quota is divided by.
    pub proxies: u32,
}
