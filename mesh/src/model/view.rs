//! The view: everything a daemon routes by, immutable. An update makes the next view and shares what did not change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

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
    /// Ordered by id.
    pub endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
}

/// One revision of the truth as a subscriber sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    region: Option<RegionId>,
    held: Held,
    services: HashMap<ServiceName, Arc<ServiceEntry>>,
    by_virtual_ip: HashMap<IpAddr, ServiceName>,
    gateways: BTreeMap<super::GatewayId, Arc<Gateway>>,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    shares: BTreeMap<TenantId, Arc<TenantShare>>,
    overrides: BTreeMap<OverrideId, Arc<Override>>,
    regions: BTreeMap<RegionId, Arc<RegionStatus>>,
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
        self.by_virtual_ip.get(&address)
    }

    /// All services, in no order.
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
    pub fn bundles(&self) -> &BTreeMap<TrustDomain, Arc<Bundle>> {
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
            service.chain(
                entry
                    .endpoints
                    .values()
                    .map(|endpoint| Resource::Endpoint(Endpoint::clone(endpoint))),
            )
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

    fn entry(&mut self, name: &ServiceName) -> &mut ServiceEntry {
        Arc::make_mut(self.services.entry(name.clone()).or_default())
    }

    fn insert(&mut self, resource: Resource, touched: &mut BTreeSet<ServiceName>) {
        match resource {
            Resource::Service(service) => {
                self.forget_virtual_ips(&service.name);
                for address in &service.virtual_ips {
                    self.by_virtual_ip.insert(*address, service.name.clone());
                }
                let name = service.name.clone();
                self.entry(&name).service = Some(Arc::new(service));
            }
            Resource::Endpoint(endpoint) => {
                touched.insert(endpoint.service.clone());
                let name = endpoint.service.clone();
                self.entry(&name)
                    .endpoints
                    .insert(endpoint.id.clone(), Arc::new(endpoint));
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
            Resource::Tenant(_) => {}
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
            Key::Tenant(_) => {}
        }
    }

    fn forget_virtual_ips(&mut self, name: &ServiceName) {
        let Some(service) = self.services.get(name).and_then(|entry| entry.service.clone()) else {
            return;
        };
        for address in &service.virtual_ips {
            self.by_virtual_ip.remove(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, Protocol, Revision};

    fn service(name: &str) -> Service {
        let name = ServiceName::parse(name).expect("valid");
        Service {
            virtual_ips: super::super::virtual_ips(&name, 0).to_vec(),
            name,
            ports: vec![super::super::Port {
                name: String::new(),
                number: 80,
                protocol: Protocol::Http,
            }],
            origins: Vec::new(),
            created_at: Timestamp(1),
            conflict: String::new(),
            exported_to: crate::model::Audience::Nobody,
            headless: false,
        }
    }

    fn update(revision: u64, full: bool, upserts: Vec<Resource>, removed: Vec<Key>) -> Update {
        let held = Held {
            incarnation: Incarnation(7),
            revision: Revision(revision),
        };
        Update {
            region: RegionId::parse("eu").expect("valid"),
            held,
            full,
            upserts,
            removed,
            committed_at: None,
        }
    }

    #[test]
    fn a_delta_shares_what_it_does_not_name() {
        let (pay, cart) = (service("pay.shop"), service("cart.shop"));
        let upserts = vec![Resource::Service(pay.clone()), Resource::Service(cart.clone())];
        let first = View::default().updated(update(1, true, upserts, vec![]));
        let second = first.updated(update(2, false, vec![], vec![Key::Service(pay.name.clone())]));
        assert!(second.service(&pay.name).is_none());
        assert!(
            second.service_at(pay.virtual_ips[0]).is_none(),
            "its address is free again"
        );
        let entry = |view: &View| Arc::clone(&view.services[&cart.name]);
        assert!(Arc::ptr_eq(&entry(&first), &entry(&second)));
        assert!(first.service(&pay.name).is_some(), "the older view is untouched");
    }

    #[test]
    fn a_full_update_drops_what_it_does_not_hold() {
        let first = View::default().updated(update(1, true, vec![Resource::Service(service("pay.shop"))], vec![]));
        let second = first.updated(update(9, true, vec![Resource::Service(service("cart.shop"))], vec![]));
        assert_eq!(second.services().count(), 1);
        assert_eq!(second.held().revision, Revision(9));
    }

    #[test]
    fn resources_rebuild_the_view() {
        let upserts = vec![
            Resource::Service(service("pay.shop")),
            Resource::Service(service("cart.shop")),
        ];
        let view = View::default().updated(update(3, true, upserts, vec![]));
        let again = View::default().updated(update(3, true, view.resources().collect(), vec![]));
        assert_eq!(view, again);
    }
}
