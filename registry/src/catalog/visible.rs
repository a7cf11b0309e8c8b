//! How a key looks to those who may ask: to subscribers in the region, and to peers. Pure.
//!
//! To peers only what this region owns is shown: an import is never exported again.

use std::sync::Arc;

use mesh::{
    identity::Bundle,
    model::{Audience, ClusterId, Export, Gateway, Key, Override, RegionStatus, Resource, Service, Tenant, Timestamp},
};

use super::State;

impl State {
    /// A resource as subscribers in this region see it; none when there is nothing under the key.
    #[must_use]
    pub fn resource(&self, key: &Key) -> Option<Resource> {
        Some(match key {
            Key::Service(name) => Resource::Service(self.service(name)?),
            Key::Endpoint(service, id) => Resource::Endpoint(Arc::clone(self.endpoint(service, id)?)),
            Key::Gateway(id) => Resource::Gateway(Gateway::clone(self.gateways.get(id)?)),
            Key::Bundle(domain) => Resource::Bundle(Bundle::clone(self.bundles.get(domain)?)),
            Key::Share(tenant) => Resource::Share(self.share(tenant)?),
            Key::Override(id) => Resource::Override(match self.drills.get(id) {
                Some(drill) => drill.order.clone(),
                None => Override::clone(self.overrides.get(id)?),
            }),
            Key::Tenant(id) => Resource::Tenant(Tenant::clone(self.tenants.get(id)?)),
            Key::Region(region) if self.is_own(region) => Resource::Region(self.own_status()?),
            Key::Region(region) => Resource::Region(RegionStatus::clone(self.regions.get(region)?)),
            Key::Lease(tenant, region) => Resource::Lease(self.grant(tenant, region)?.lease.clone()),
            Key::Report(tenant, region) => Resource::Report(self.own_report(tenant).filter(|_| self.is_own(region))?),
        })
    }

    /// A resource as the peers of its audience see it; none when this region does not own it or offers it to nobody.
    #[must_use]
    pub fn exported(&self, key: &Key) -> Option<(Resource, Audience)> {
        let audience = self.audience(key);
        if audience == Audience::Nobody {
            return None;
        }
        let resource = match key {
            Key::Service(name) => Resource::Service(self.exported_service(name)?),
            _ => self.resource(key)?,
        };
        Some((resource, audience))
    }

    /// The peers that see what is under a key.
    #[must_use]
    pub fn audience(&self, key: &Key) -> Audience {
        let is_offered = match key {
            Key::Service(name) => {
                return match self.own_definition(name) {
                    Some(_) => self.export_of(name),
                    None => Audience::Nobody,
                };
            }
            Key::Endpoint(service, id) => {
                return match self.endpoint(service, id) {
                    Some(endpoint) if self.is_own(&endpoint.locality.region) => self.export_of(service),
                    _ => Audience::Nobody,
                };
            }
            Key::Gateway(id) => self
                .gateways
                .get(id)
                .is_some_and(|gateway| self.is_own(&gateway.region)),
            Key::Bundle(domain) => self
                .bundles
                .get(domain)
                .is_some_and(|bundle| self.is_own(bundle.region())),
            Key::Override(id) => self.drills.contains_key(id),
            Key::Tenant(id) => self.tenants.get(id).is_some_and(|tenant| self.is_own(&tenant.region)),
            Key::Region(region) => self.is_own(region),
            Key::Share(_) => false,
            // Each for one peer only.
            Key::Lease(tenant, region) => {
                let home = self.tenants.get(tenant).map(|tenant| &tenant.region);
                let is_offered = !self.is_own(region) && home.is_some_and(|home| self.is_own(home));
                return only(is_offered.then_some(region));
            }
            Key::Report(tenant, region) => {
                let home = self.tenants.get(tenant).map(|tenant| &tenant.region);
                return only(home.filter(|home| self.is_own(region) && !self.is_own(home)));
            }
        };
        if is_offered {
            Audience::Everybody
        } else {
            Audience::Nobody
        }
    }

    /// What a gateway of `cluster` needs of a key.
    #[must_use]
    pub fn admitted_by(&self, cluster: &ClusterId, key: &Key) -> Option<Resource> {
        let is_wanted = match key {
            Key::Service(name) => self.own_definition(name).is_some() && self.is_exported(name),
            Key::Endpoint(service, id) => self.endpoint(service, id).is_some_and(|endpoint| {
                endpoint.cluster == *cluster && self.is_own(&endpoint.locality.region) && self.is_exported(service)
            }),
            Key::Gateway(id) => self
                .gateways
                .get(id)
                .is_some_and(|gateway| gateway.cluster == *cluster && self.is_own(&gateway.region)),
            Key::Bundle(_) | Key::Region(_) => true,
            Key::Share(_) | Key::Override(_) | Key::Tenant(_) | Key::Lease(..) | Key::Report(..) => false,
        };
        if is_wanted { self.resource(key) } else { None }
    }

    fn is_exported(&self, service: &mesh::model::ServiceName) -> bool {
        self.exports.get(service).is_some_and(|export| is_offer(export))
    }

    fn exported_service(&self, name: &mesh::model::ServiceName) -> Option<Service> {
        let (region, definition) = (self.region()?, self.own_definition(name)?);
        let export = self.exports.get(name)?;
        Some(Service {
            name: name.clone(),
            ports: definition.ports.clone(),
            // Each region settles its own collisions.
            virtual_ips: Vec::new(),
            origins: vec![region.clone()],
            created_at: export.created_at,
            conflict: String::new(),
            exported_to: Audience::Nobody,
            headless: definition.headless,
        })
    }

    fn own_status(&self) -> Option<RegionStatus> {
        Some(RegionStatus {
            region: self.region()?.clone(),
            trust_domain: self.trust_domain()?.clone(),
            round_trip: None,
            heard_at: Timestamp(0),
            connected: true,
            tenant_proxies: self.tenant_proxies(),
        })
    }

    /// Keys that every subscriber gets, whatever it is interested in.
    pub fn common_keys(&self) -> impl Iterator<Item = Key> + '_ {
        let gateways = self.gateways.keys().cloned().map(Key::Gateway);
        let bundles = self.bundles.keys().cloned().map(Key::Bundle);
        let shares = self.tenants.values();
        let shares = shares
            .filter(|tenant| tenant.quota.requests_per_second != 0.0)
            .map(|tenant| Key::Share(tenant.id.clone()));
        let overrides = self.drills.keys().chain(self.overrides.keys());
        let regions = self.regions.keys().chain(self.meta.region.iter());
        gateways
            .chain(bundles)
            .chain(shares)
            .chain(overrides.cloned().map(Key::Override))
            .chain(regions.cloned().map(Key::Region))
    }

    /// Keys of a service and its endpoints.
    pub fn service_keys<'a>(&'a self, name: &'a mesh::model::ServiceName) -> impl Iterator<Item = Key> + 'a {
        let service = self.definitions.contains_key(name).then(|| Key::Service(name.clone()));
        let endpoints = self.endpoints(name);
        service
            .into_iter()
            .chain(endpoints.map(|endpoint| Key::Endpoint(name.clone(), endpoint.id.clone())))
    }

    /// Keys of all services that are defined.
    pub fn names(&self) -> impl Iterator<Item = Key> + '_ {
        self.definitions.keys().cloned().map(Key::Service)
    }

    /// Every key that there is.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        let endpoints = self.all_endpoints();
        let endpoints = endpoints.map(|endpoint| Key::Endpoint(endpoint.service.clone(), endpoint.id.clone()));
        self.definitions
            .keys()
            .cloned()
            .map(Key::Service)
            .chain(endpoints)
            .chain(self.tenants.keys().cloned().map(Key::Tenant))
            .chain(self.lease_keys())
            .chain(self.common_keys())
    }

    /// Keys of quota leases and of reports about them.
    pub fn lease_keys(&self) -> impl Iterator<Item = Key> + '_ {
        let grants = self.quotas.grants.keys().cloned();
        let own = self.meta.region.clone();
        let reports = self.tenants.keys().filter(|id| self.own_report(id).is_some());
        let reports = reports.filter_map(move |id| Some(Key::Report(id.clone(), own.clone()?)));
        grants.map(|(tenant, region)| Key::Lease(tenant, region)).chain(reports)
    }
}

fn only(region: Option<&mesh::model::RegionId>) -> Audience {
    region.map_or(Audience::Nobody, |region| {
        Audience::Regions(std::iter::once(region.clone()).collect())
    })
}

/// An export to an empty list is none.
fn is_offer(export: &Export) -> bool {
    match &export.to {
        Audience::Nobody => false,
        Audience::Regions(regions) => !regions.is_empty(),
        Audience::Everybody => true,
    }
}
