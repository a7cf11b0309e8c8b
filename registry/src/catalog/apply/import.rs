//! What a peer sent. A peer changes only what it owns: everything else in its message is dropped and counted. Pure.

use std::collections::BTreeSet;

use mesh::{
    identity::Bundle,
    model::{Endpoint, Gateway, Held, Key, Override, RegionId, RegionStatus, Service, Tenant},
};

use super::{Outcome, Transaction, not_found};
use crate::catalog::{
    Definition, ImportSet, Peer, Refusal, Reply, State,
    digest::{self, Part, Refused},
    record::RecordKey,
};

impl Transaction<'_> {
    pub(super) fn import(&mut self, region: &RegionId, set: &ImportSet) -> Outcome {
        self.own_region()?;
        let known = self.state.peers.get(region);
        let mut peer = Peer::clone(known.ok_or_else(|| not_found("peer", region))?);
        if set.base.is_some() && set.base != peer.held {
            let text = format!("imports from region {region} are held at another position; ask it for a snapshot");
            return Err(Refusal::Conflict(text));
        }
        let mut refused = self
            .state
            .refused
            .get(region)
            .map(|refused| Refused::clone(refused))
            .unwrap_or_default();
        // A snapshot begins, in one set or in the first of several: what was refused before it counts no more.
        if set.full || (set.base.is_none() && set.held == Held::default()) {
            refused = Refused::default();
        }
        if set.full {
            let named = named(set);
            for key in self.state.imported_keys(region) {
                if !named.contains(&key) {
                    self.remove_imported(region, &key);
                }
            }
        }
        for key in &set.removed {
            match Key::parse(key) {
                Ok(key) => {
                    refused.forget(&key);
                    self.remove_imported(region, &key);
                }
                Err(_) => peer.dropped += 1,
            }
        }
        self.import_records(&mut peer, set, &mut refused);
        self.set_refused(region, refused);
        if let (Some(proxies), Some(status)) = (&set.tenant_proxies, self.state.regions.get(region)) {
            self.put_status(RegionStatus {
                tenant_proxies: proxies.clone(),
                ..RegionStatus::clone(status)
            });
        }
        peer.held = Some(set.held);
        self.set_peer(region, Some(peer));
        Ok(Reply::Done)
    }

    fn import_records(&mut self, peer: &mut Peer, set: &ImportSet, refused: &mut Refused) {
        let region = peer.record.region.clone();
        let mut dropped = 0;
        let mut taken = |is_owned: bool, key: Key, part: Part, sum: &dyn Fn() -> u128| {
            if is_owned {
                refused.forget(&key);
            } else {
                dropped += 1;
                refused.note(&key, part, sum());
            }
        };
        for bundle in &set.bundles {
            let domain = bundle.trust_domain();
            let is_owned = self.import_bundle(peer, bundle);
            let sum = || digest::of(&RecordKey::Bundle(domain.clone()), bundle);
            taken(is_owned, Key::Bundle(domain.clone()), Part::Trust, &sum);
        }
        for service in &set.services {
            let is_owned = self.import_service(peer, service);
            let sum = || digest::definition(&service.name, &region, &definition(service));
            taken(is_owned, Key::Service(service.name.clone()), Part::Services, &sum);
        }
        for endpoint in &set.endpoints {
            let (name, id) = (&endpoint.service, &endpoint.id);
            let is_owned = self.import_endpoint(peer, endpoint);
            let sum = || digest::of(&RecordKey::Endpoint(name.clone(), id.clone()), endpoint);
            taken(is_owned, Key::Endpoint(name.clone(), id.clone()), Part::Endpoints, &sum);
        }
        for gateway in &set.gateways {
            let is_owned = self.import_gateway(peer, gateway);
            let sum = || digest::of(&RecordKey::Gateway(gateway.id.clone()), gateway);
            taken(is_owned, Key::Gateway(gateway.id.clone()), Part::Gateways, &sum);
        }
        for tenant in &set.tenants {
            let is_owned = self.import_tenant(&region, tenant);
            let sum = || digest::of(&RecordKey::Tenant(tenant.id.clone()), tenant);
            taken(is_owned, Key::Tenant(tenant.id.clone()), Part::Tenants, &sum);
        }
        for order in &set.overrides {
            // No part of any digest.
            dropped += u64::from(!self.import_override(&region, order));
        }
        peer.dropped += dropped;
    }

    // Each of these gives false for a record that the peer may not send.

    fn import_bundle(&mut self, peer: &mut Peer, bundle: &Bundle) -> bool {
        let held = &peer.record.bundle;
        if *bundle.region() != peer.record.region || bundle.trust_domain() != held.trust_domain() {
            return false;
        }
        // Of one sequence there is one bundle: the origin's, whatever is here.
        if bundle.sequence() >= held.sequence() {
            peer.record.bundle = bundle.clone();
            self.put_bundle(bundle.clone());
        }
        true
    }

    fn import_service(&mut self, peer: &Peer, service: &Service) -> bool {
        let region = &peer.record.region;
        if service.origins.iter().any(|origin| origin != region) {
            return false;
        }
        if peer.record.import.accepts(&service.name) {
            self.put_definition(&service.name, region, definition(service));
        }
        true
    }

    fn import_endpoint(&mut self, peer: &Peer, endpoint: &Endpoint) -> bool {
        let region = &peer.record.region;
        let owner = self.state.endpoint(&endpoint.service, &endpoint.id);
        let is_owner = owner.is_none_or(|other| other.locality.region == *region);
        // A peer speaks for its own trust domain only: it cannot say who of ours serves something.
        let is_theirs = endpoint.identity.trust_domain() == *peer.record.bundle.trust_domain();
        if endpoint.locality.region != *region || !is_owner || !is_theirs {
            return false;
        }
        if peer.record.import.accepts(&endpoint.service) {
            let mut endpoint = endpoint.clone();
            self.state.share_endpoint(&mut endpoint);
            self.put_endpoint(endpoint);
        }
        true
    }

    fn import_gateway(&mut self, peer: &Peer, gateway: &Gateway) -> bool {
        let region = &peer.record.region;
        let owner = self.state.gateways.get(&gateway.id);
        let is_owner = owner.is_none_or(|other| other.region == *region);
        let is_theirs = gateway.identity.trust_domain() == *peer.record.bundle.trust_domain();
        let is_good = gateway.region == *region && is_owner && is_theirs;
        if is_good {
            self.put_gateway(gateway.clone());
        }
        is_good
    }

    fn import_tenant(&mut self, region: &RegionId, tenant: &Tenant) -> bool {
        let owner = self.state.tenants.get(&tenant.id);
        let is_owner = owner.is_none_or(|other| other.region == *region);
        let is_good = tenant.region == *region && is_owner && self.namespace_taken(tenant).is_none();
        if is_good {
            self.put_tenant(tenant.clone());
        }
        is_good
    }

    fn import_override(&mut self, region: &RegionId, order: &Override) -> bool {
        let owner = self.state.overrides.get(&order.id);
        let is_owner = owner.is_none_or(|other| other.origin == *region) && !self.state.drills.contains_key(&order.id);
        let is_good = order.origin == *region && is_owner;
        if is_good {
            self.set_override(&order.id, Some(order.clone()));
        }
        is_good
    }

    /// Removes what the peer owns under a key; what it does not own stays.
    fn remove_imported(&mut self, region: &RegionId, key: &Key) {
        match key {
            Key::Service(name) => self.remove_definition(name, region),
            Key::Endpoint(name, id) => {
                let endpoint = self.state.endpoint(name, id);
                if endpoint.is_some_and(|endpoint| endpoint.locality.region == *region) {
                    self.remove_endpoint(name, id);
                }
            }
            Key::Gateway(id) => {
                if self
                    .state
                    .gateways
                    .get(id)
                    .is_some_and(|gateway| gateway.region == *region)
                {
                    self.remove_gateway(id);
                }
            }
            Key::Tenant(id) => {
                if self
                    .state
                    .tenants
                    .get(id)
                    .is_some_and(|tenant| tenant.region == *region)
                {
                    self.remove_tenant(id);
                    self.forget_holding(id);
                }
            }
            Key::Override(id) => {
                if self
                    .state
                    .overrides
                    .get(id)
                    .is_some_and(|order| order.origin == *region)
                {
                    self.set_override(id, None);
                }
            }
            // A bundle goes with the peer only: losing it by accident would be an outage of all connections to it.
            // Leases end by themselves; reports come in sets of their own.
            Key::Bundle(_) | Key::Share(_) | Key::Region(_) | Key::Lease(..) | Key::Report(..) => {}
        }
    }

    /// Removes all that a peer gave.
    pub(super) fn remove_imports(&mut self, region: &RegionId) {
        for key in self.state.imported_keys(region) {
            self.remove_imported(region, &key);
        }
        self.remove_reports(region, |_| true);
    }

    /// Removes services and endpoints of a peer that are no longer taken from it.
    pub(super) fn remove_unwanted(&mut self, peer: &Peer) {
        let region = &peer.record.region;
        for key in self.state.imported_keys(region) {
            if let Key::Service(name) | Key::Endpoint(name, _) = &key
                && !peer.record.import.accepts(name)
            {
                self.remove_imported(region, &key);
            }
        }
    }
}

impl State {
    /// Keys of everything that a peer gave and that an import can take away.
    #[must_use]
    pub fn imported_keys(&self, region: &RegionId) -> Vec<Key> {
        let services = self.definitions.iter();
        let services = services.filter(|(_, origins)| origins.contains_key(region));
        let endpoints = self.all_endpoints();
        let endpoints = endpoints.filter(|endpoint| endpoint.locality.region == *region);
        let gateways = self.gateways.values().filter(|gateway| gateway.region == *region);
        let tenants = self.tenants.values().filter(|tenant| tenant.region == *region);
        let overrides = self.overrides.values().filter(|order| order.origin == *region);
        services
            .map(|(name, _)| Key::Service(name.clone()))
            .chain(endpoints.map(|endpoint| Key::Endpoint(endpoint.service.clone(), endpoint.id.clone())))
            .chain(gateways.map(|gateway| Key::Gateway(gateway.id.clone())))
            .chain(tenants.map(|tenant| Key::Tenant(tenant.id.clone())))
            .chain(overrides.map(|order| Key::Override(order.id.clone())))
            .collect()
    }
}

/// A peer's service as it is kept.
fn definition(service: &Service) -> Definition {
    Definition {
        ports: service.ports.clone(),
        headless: service.headless,
        created_at: service.created_at,
        empty_since: None,
    }
}

fn named(set: &ImportSet) -> BTreeSet<Key> {
    let services = set.services.iter().map(|service| Key::Service(service.name.clone()));
    let endpoints = set.endpoints.iter();
    let endpoints = endpoints.map(|endpoint| Key::Endpoint(endpoint.service.clone(), endpoint.id.clone()));
    services
        .chain(endpoints)
        .chain(set.gateways.iter().map(|gateway| Key::Gateway(gateway.id.clone())))
        .chain(set.tenants.iter().map(|tenant| Key::Tenant(tenant.id.clone())))
        .chain(set.overrides.iter().map(|order| Key::Override(order.id.clone())))
        .collect()
}
