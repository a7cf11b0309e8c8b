//! How facts travel: resources under keys, in updates that carry their position.

use std::{fmt, sync::Arc};

use super::{
    Endpoint, EndpointId, Gateway, GatewayId, Held, LeaseReport, Override, OverrideId, QuotaLease, RegionId,
    RegionStatus, Service, ServiceName, Tenant, TenantId, TenantShare, Timestamp,
};
use crate::identity::{Bundle, TrustDomain};

/// The name of a resource. An endpoint's key has its service's name, so that a removal can be matched with an interest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `service/<name>.<namespace>`
    Service(ServiceName),
    /// `endpoint/<name>.<namespace>/<id>`
    Endpoint(ServiceName, EndpointId),
    /// `gateway/<id>`
    Gateway(GatewayId),
    /// `bundle/<trust domain>`
    Bundle(TrustDomain),
    /// `share/<tenant>`
    Share(TenantId),
    /// `override/<id>`
    Override(OverrideId),
    /// `tenant/<id>`
    Tenant(TenantId),
    /// `region/<id>`
    Region(RegionId),
    /// `lease/<tenant>/<region>`
    Lease(TenantId, RegionId),
    /// `report/<tenant>/<region>`
    Report(TenantId, RegionId),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service/{name}"),
            Self::Endpoint(service, id) => write!(f, "endpoint/{service}/{id}"),
            Self::Gateway(id) => write!(f, "gateway/{id}"),
            Self::Bundle(domain) => write!(f, "bundle/{domain}"),
            Self::Share(tenant) => write!(f, "share/{tenant}"),
            Self::Override(id) => write!(f, "override/{id}"),
            Self::Tenant(id) => write!(f, "tenant/{id}"),
            Self::Region(id) => write!(f, "region/{id}"),
            Self::Lease(tenant, region) => write!(f, "lease/{tenant}/{region}"),
            Self::Report(tenant, region) => write!(f, "report/{tenant}/{region}"),
        }
    }
}

/// One record as a subscriber or a peer sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// Merged over its origins for subscribers; the sender's own definition for peers.
    Service(Service),
    /// An endpoint: shared with the catalogue or the view that shows it, for there are many of them.
    Endpoint(Arc<Endpoint>),
    /// A gateway.
    Gateway(Gateway),
    /// A trust domain's anchors.
    Bundle(Bundle),
    /// To proxies only.
    Share(TenantShare),
    /// To everybody.
    Override(Override),
    /// To peers only.
    Tenant(Tenant),
    /// To everybody; the entry for the sender's own region carries its live proxies by tenant.
    Region(RegionStatus),
    /// To the one peer that it is for.
    Lease(QuotaLease),
    /// To the tenant's home region.
    Report(LeaseReport),
}

impl Resource {
    /// The key that it is stored and removed under.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Service(service) => Key::Service(service.name.clone()),
            Self::Endpoint(endpoint) => Key::Endpoint(endpoint.service.clone(), endpoint.id.clone()),
            Self::Gateway(gateway) => Key::Gateway(gateway.id.clone()),
            Self::Bundle(bundle) => Key::Bundle(bundle.trust_domain().clone()),
            Self::Share(share) => Key::Share(share.tenant.clone()),
            Self::Override(order) => Key::Override(order.id.clone()),
            Self::Tenant(tenant) => Key::Tenant(tenant.id.clone()),
            Self::Region(status) => Key::Region(status.region.clone()),
            Self::Lease(lease) => Key::Lease(lease.tenant.clone(), lease.region.clone()),
            Self::Report(report) => Key::Report(report.settled.tenant.clone(), report.settled.region.clone()),
        }
    }
}

impl From<Endpoint> for Resource {
    fn from(endpoint: Endpoint) -> Self {
        Self::Endpoint(Arc::new(endpoint))
    }
}

/// A snapshot or a delta, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Whose catalogue.
    pub region: RegionId,
    /// Where the receiver stands after it.
    pub held: Held,
    /// The receiver drops everything that is not in `upserts`.
    pub full: bool,
    /// New or changed records.
    pub upserts: Vec<Resource>,
    /// Records that are gone or no longer visible.
    pub removed: Vec<Key>,
    /// When the oldest change in it was committed; none in a snapshot.
    pub committed_at: Option<Timestamp>,
}
