//! The view: everything a daemon routes by, immutable. An update makes the next view, at a price in proportion to what it
//! changes, and shares the rest. A view may hold all names and the endpoints of some services only: it says of which.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use imbl::OrdMap;

use super::{
    ClusterId, Endpoint, EndpointId, Gateway, Held, Key, Override, OverrideId, RegionId, RegionStatus, Resource,
    Service, ServiceName, TenantId, TenantShare, Timestamp, Update,
};
use crate::identity::{Bundle, TrustDomain};

/// A service with its endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceEntry {
    /// None while endpoints are known and the definition is not: such a service does not resolve.
    pub service: Option<Arc<Service>>,
    /// Ordered by id. None of a service whose endpoints the view does not hold: see [`View::holds_endpoints_of`].
    pub endpoints: OrdMap<EndpointId, Arc<Endpoint>>,
}

/// Of which services a view holds the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Coverage {
    /// Of all that it names.
    #[default]
    All,
    /// Of these; of others nothing is known, which is not the same as none.
    Of(Arc<BTreeSet<ServiceName>>),
}

impl Coverage {
    fn includes(&self, name: &ServiceName) -> bool {
        match self {
            Self::All => true,
            Self::Of(names) => names.contains(name),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, Self::All) => true,
            (Self::Of(one), Self::Of(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// One revision of the truth as a subscriber sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    region: Option<RegionId>,
    held: Held,
    coverage: Coverage,
    services: OrdMap<ServiceName, Arc<ServiceEntry>>,
    by_virtual_ip: OrdMap<IpAddr, Arc<Service>>,
    gateways: OrdMap<super::GatewayId, Arc<Gateway>>,
    bundles: OrdMap<TrustDomain, Arc<Bundle>>,
    shares: OrdMap<TenantId, Arc<TenantShare>>,
    overrides: OrdMap<OverrideId, Arc<Override>>,
    regions: OrdMap<RegionId, Arc<RegionStatus>>,
}

impl View {
    /// The region that it comes from; none before the first update.
    #[must_use]
    pub fn region(&self) -> Option<&RegionId> {
        self.region.as_ref()
    }

    /// Which truth this is.
    #[must_use]
    pub fn held(&self) -> Held {
        self.held
    }

    /// A service that is defined.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<(&Arc<Service>, &Arc<ServiceEntry>)> {
        let entry = self.services.get(name)?;
        Some((entry.service.as_ref()?, entry))
    }

    /// Of which services it holds the endpoints.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Whether all endpoints of a service are here; where they are not, the entry's lack of endpoints means nothing.
    #[must_use]
    pub fn holds_endpoints_of(&self, name: &ServiceName) -> bool {
        self.coverage.includes(name)
    }

    /// Whether what decides between endpoints, beside themselves, is the same as in another view: gateways, overrides and
    /// regions. Never says yes wrongly.
    #[must_use]
    pub fn has_same_surroundings(&self, other: &Self) -> bool {
        self.gateways.ptr_eq(&other.gateways)
            && self.overrides.ptr_eq(&other.overrides)
            && self.regions.ptr_eq(&other.regions)
    }

    /// Whether this region lets callers of a peer's trust domain reach a service: the region whose domain it is must be
    /// among those that the service is exported to. No for a domain that no peer has.
    #[must_use]
    pub fn is_exported_to(&self, name: &ServiceName, domain: &TrustDomain) -> bool {
        let Some((service, _)) = self.service(name) else {
            return false;
        };
        let mut peers = self.regions.values().filter(|status| status.trust_domain == *domain);
        peers.any(|status| service.exported_to.includes(&status.region))
    }

    /// The service that owns a virtual address.
    #[must_use]
    pub fn service_at(&self, address: IpAddr) -> Option<&ServiceName> {
        self.by_virtual_ip.get(&address).map(|service| &service.name)
    }

    /// All services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Arc<ServiceEntry>)> {
        self.services.iter()
    }

    /// The gateways into a cluster, in whatever state.
    pub fn gateways_into<'a>(&'a self, cluster: &'a ClusterId) -> impl Iterator<Item = &'a Arc<Gateway>> {
        self.gateways
            .values()
            .filter(move |gateway| gateway.cluster == *cluster)
    }

    /// All gateways.
    pub fn gateways(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.gateways.values()
    }

    /// The bundles by trust domain.
    #[must_use]
    pub fn bundles(&self) -> &OrdMap<TrustDomain, Arc<Bundle>> {
        &self.bundles
    }

    /// The share of the tenant that owns a namespace.
    #[must_use]
    pub fn share_of(&self, namespace: &super::Namespace) -> Option<&Arc<TenantShare>> {
        self.shares.values().find(|share| share.namespaces.contains(namespace))
    }

    /// Overrides that hold at `now`.
    pub fn overrides(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Override>> {
        self.overrides.values().filter(move |order| order.is_active(now))
    }

    /// How the own region sees another one.
    #[must_use]
    pub fn region_status(&self, region: &RegionId) -> Option<&Arc<RegionStatus>> {
        self.regions.get(region)
    }

    /// All regions that are known.
    pub fn regions(&self) -> impl Iterator<Item = &Arc<RegionStatus>> {
        self.regions.values()
    }

    /// Everything in it, in no order: what the cache on disk keeps.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        let services = self.services.values().flat_map(|entry| {
            let service = entry
                .service
                .iter()
                .map(|service| Resource::Service(Service::clone(service)));
            service.chain(entry.endpoints.values().cloned().map(Resource::Endpoint))
        });
        services
            .chain(
                self.gateways
                    .values()
                    .map(|gateway| Resource::Gateway(Gateway::clone(gateway))),
            )
            .chain(
                self.bundles
                    .values()
                    .map(|bundle| Resource::Bundle(Bundle::clone(bundle))),
            )
            .chain(
                self.shares
                    .values()
                    .map(|share| Resource::Share(TenantShare::clone(share))),
            )
            .chain(
                self.overrides
                    .values()
                    .map(|order| Resource::Override(Override::clone(order))),
            )
            .chain(
                self.regions
                    .values()
                    .map(|status| Resource::Region(RegionStatus::clone(status))),
            )
    }

    /// The next view. Services that the update does not name are shared with this one.
    #[must_use]
    pub fn updated(&self, update: Update) -> Self {
        let mut next = if update.full { Self::default() } else { self.clone() };
        next.region = Some(update.region);
        next.held = update.held;
        let mut touched = BTreeSet::new();
        for key in update.removed {
            next.remove(key, &mut touched);
        }
        for resource in update.upserts {
            next.insert(resource, &mut touched);
        }
        for name in touched {
            if next
                .services
                .get(&name)
                .is_some_and(|entry| entry.service.is_none() && entry.endpoints.is_empty())
            {
                next.services.remove(&name);
            }
        }
        next
    }

    /// The same view for another coverage: endpoints of services that it does not include are dropped.
    #[must_use]
    pub fn covering(mut self, coverage: Coverage) -> Self {
        let dropped: Vec<ServiceName> = match (&self.coverage, &coverage) {
            (before, now) if before.is_same(now) => return self,
            (_, Coverage::All) => Vec::new(),
            (Coverage::Of(before), Coverage::Of(now)) => before.difference(now).cloned().collect(),
            (Coverage::All, Coverage::Of(now)) => {
                let held = self.services.iter().filter(|(_, entry)| !entry.endpoints.is_empty());
                let dropped = held.filter(|(name, _)| !now.contains(*name));
                dropped.map(|(name, _)| name.clone()).collect()
            }
        };
        for name in dropped {
            let Some(entry) = self.services.get_mut(&name) else {
                continue;
            };
            if entry.service.is_none() {
                self.services.remove(&name);
            } else if !entry.endpoints.is_empty() {
                Arc::make_mut(entry).endpoints = OrdMap::new();
            }
        }
        self.coverage = coverage;
        self
    }

    /// The endpoints of a service as a whole: a map that its other holders share.
    pub fn set_endpoints(&mut self, name: &ServiceName, endpoints: OrdMap<EndpointId, Arc<Endpoint>>) {
        let is_defined = self.services.get(name).is_some_and(|entry| entry.service.is_some());
        if is_defined || !endpoints.is_empty() {
            self.entry(name).endpoints = endpoints;
        } else {
            self.services.remove(name);
        }
    }

    fn entry(&mut self, name: &ServiceName) -> &mut ServiceEntry {
        Arc::make_mut(self.services.entry(name.clone()).or_default())
    }

    /// Takes texts from the service before in the order of names, which is most often of the same namespace and origins.
    fn compact(&self, service: &mut Service) {
        service.ports.shrink_to_fit();
        service.virtual_ips.shrink_to_fit();
        if let Some((name, _)) = self.services.get_key_value(&service.name) {
            service.name = name.clone();
        }
        let Some((name, entry)) = self.services.get_prev(&service.name) else {
            return;
        };
        service.name.share_namespace(name);
        match &entry.service {
            Some(before) if before.origins == service.origins => service.origins.clone_from(&before.origins),
            _ => service.origins.shrink_to_fit(),
        }
    }

    fn insert(&mut self, resource: Resource, touched: &mut BTreeSet<ServiceName>) {
        match resource {
            Resource::Service(mut service) => {
                self.forget_virtual_ips(&service.name);
                self.compact(&mut service);
                let service = Arc::new(service);
                for address in &service.virtual_ips {
                    self.by_virtual_ip.insert(*address, Arc::clone(&service));
                }
                self.entry(&service.name).service = Some(Arc::clone(&service));
            }
            Resource::Endpoint(mut endpoint) => {
                touched.insert(endpoint.service.clone());
                // What a catalogue holds too stays as it is: a copy would cost more than a name.
                if let Some(endpoint) = Arc::get_mut(&mut endpoint)
                    && let Some((name, _)) = self.services.get_key_value(&endpoint.service)
                {
                    endpoint.service = name.clone();
                }
                let name = endpoint.service.clone();
                self.entry(&name).endpoints.insert(endpoint.id.clone(), endpoint);
            }
            Resource::Gateway(gateway) => {
                self.gateways.insert(gateway.id.clone(), Arc::new(gateway));
            }
            Resource::Bundle(bundle) => {
                self.bundles.insert(bundle.trust_domain().clone(), Arc::new(bundle));
            }
            Resource::Share(share) => {
                self.shares.insert(share.tenant.clone(), Arc::new(share));
            }
            Resource::Override(order) => {
                self.overrides.insert(order.id.clone(), Arc::new(order));
            }
            Resource::Region(status) => {
                self.regions.insert(status.region.clone(), Arc::new(status));
            }
            // For peers; a view has no use for another tenant's quota.
            Resource::Tenant(_) | Resource::Lease(_) | Resource::Report(_) => {}
        }
    }

    fn remove(&mut self, key: Key, touched: &mut BTreeSet<ServiceName>) {
        match key {
            Key::Service(name) => {
                self.forget_virtual_ips(&name);
                if self.services.contains_key(&name) {
                    self.entry(&name).service = None;
                    touched.insert(name);
                }
            }
            Key::Endpoint(name, id) => {
                if self.services.contains_key(&name) {
                    self.entry(&name).endpoints.remove(&id);
                    touched.insert(name);
                }
            }
            Key::Gateway(id) => {
                self.gateways.remove(&id);
            }
            Key::Bundle(domain) => {
                self.bundles.remove(&domain);
            }
            Key::Share(tenant) => {
                self.shares.remove(&tenant);
            }
            Key::Override(id) => {
                self.overrides.remove(&id);
            }
            Key::Region(region) => {
                self.regions.remove(&region);
            }
            Key::Tenant(_) | Key::Lease(..) | Key::Report(..) => {}
        }
    }

    fn forget_virtual_ips(&mut self, name: &ServiceName) {
        let Some(service) = self.services.get(name).and_then(|entry| entry.service.clone()) else {
            return;
        };
        for address in &service.virtual_ips {
            // Another one may have been given the address in the same update.
            if self.service_at(*address) == Some(name) {
                self.by_virtual_ip.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
