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
                if let Some((name, _)) = self.services.get_key_value(&endpoint.service) {
                    endpoint.service = name.clone();
                }
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

    fn endpoint(service: &str, id: &str) -> Resource {
        Resource::Endpoint(Endpoint {
            id: EndpointId::parse(id).expect("valid"),
            service: ServiceName::parse(service).expect("valid"),
            locality: super::super::Locality {
                region: RegionId::parse("eu").expect("valid"),
                zone: super::super::Zone::parse("a").expect("valid"),
            },
            cluster: ClusterId::parse("eu-1").expect("valid"),
            address: IpAddr::from([10, 0, 0, 1]),
            inbound_port: 15006,
            state: super::super::EndpointState::Ready,
            weight: 100,
            capacity_rps: 0,
            labels: std::collections::BTreeMap::new(),
            identity: "spiffe://eu/ns/shop/sa/pay".parse().expect("valid"),
            ports: vec![80],
            unverified: false,
            hostname: String::new(),
        })
    }

    fn coverage(names: &[&str]) -> Coverage {
        let names = names.iter().map(|name| ServiceName::parse(name).expect("valid"));
        Coverage::Of(Arc::new(names.collect()))
    }

    #[test]
    fn another_coverage_drops_endpoints_and_keeps_names() {
        let upserts = vec![
            Resource::Service(service("pay.shop")),
            Resource::Service(service("cart.shop")),
            endpoint("pay.shop", "ep-1"),
            endpoint("cart.shop", "ep-2"),
            endpoint("undefined.shop", "ep-3"),
        ];
        let count = |view: &View| -> usize { view.services().map(|(_, entry)| entry.endpoints.len()).sum() };
        let all = View::default().updated(update(3, true, upserts, vec![]));
        let pay = ServiceName::parse("pay.shop").expect("valid");
        assert!(all.holds_endpoints_of(&pay) && count(&all) == 3);
        let some = all.clone().covering(coverage(&["pay.shop", "cart.shop"]));
        assert_eq!((count(&some), some.services().count()), (2, 2));
        let none = some.covering(coverage(&["cart.shop", "later.shop"]));
        assert!(!none.holds_endpoints_of(&pay));
        assert_eq!((count(&none), none.services().count()), (1, 2));
        assert_eq!(count(&none.covering(Coverage::All)), 1);
        assert_eq!(count(&all), 3, "the older view is untouched");
    }

    #[test]
    fn only_what_an_update_names_is_made_anew() {
        let upserts: Vec<_> = (0..500)
            .map(|n| endpoint("pay.shop", &format!("ep-{n}")))
            .chain([
                Resource::Service(service("pay.shop")),
                Resource::Service(service("cart.shop")),
            ])
            .collect();
        let first = View::default().updated(update(1, true, upserts, vec![]));
        let second = first.updated(update(2, false, vec![endpoint("pay.shop", "ep-7")], vec![]));
        let (pay, cart) = (service("pay.shop").name, service("cart.shop").name);
        let shared = |name: &ServiceName| Arc::ptr_eq(&first.services[name], &second.services[name]);
        assert!(shared(&cart) && !shared(&pay) && first.has_same_surroundings(&second));
        let of =
            |view: &View, id: &str| Arc::clone(&view.services[&pay].endpoints[&EndpointId::parse(id).expect("valid")]);
        assert!(Arc::ptr_eq(&of(&first, "ep-8"), &of(&second, "ep-8")));
    }

    #[test]
    fn an_address_that_moves_in_one_update_belongs_to_its_new_owner() {
        let (pay, mut cart) = (service("pay.shop"), service("cart.shop"));
        let first = View::default().updated(update(1, true, vec![Resource::Service(pay.clone())], vec![]));
        cart.virtual_ips.clone_from(&pay.virtual_ips);
        let mut moved = pay.clone();
        moved.virtual_ips = super::super::virtual_ips(&pay.name, 1).to_vec();
        let upserts = vec![Resource::Service(cart.clone()), Resource::Service(moved)];
        let second = first.updated(update(2, false, upserts, vec![]));
        assert_eq!(second.service_at(pay.virtual_ips[0]), Some(&cart.name));
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
