//! The only place that writes the maps: every write notes its record, and the resources that may look different. Pure.

use std::sync::Arc;

use mesh::{
    identity::{Bundle, TrustDomain},
    model::{
        Endpoint, EndpointId, Export, Gateway, GatewayId, Key, Namespace, Override, OverrideId, RegionId, RegionStatus,
        ServiceName, Tenant, TenantId, WorkloadId, virtual_ips,
    },
};

use super::{super::record::RecordKey, Transaction};
use crate::catalog::{
    Checkpoint, Definition, Drill, Finding, GatewayHold, Peer, Rotation, Subject, TokenDigest, TokenRecord,
    WorkloadHold, digest::Refused, entry::Meta,
};

/// Slots that are tried for a virtual address. With 20,000 services a quarter of them are taken, and a chain of this length
/// does not occur; a service without a slot resolves to its endpoints.
const PROBES_MAX: u16 = 1024;

impl Transaction<'_> {
    pub(super) fn meta(&mut self) -> &mut Meta {
        self.dirty.insert(RecordKey::Meta);
        &mut self.state.meta
    }

    pub(super) fn put_definition(&mut self, name: &ServiceName, region: &RegionId, definition: Definition) {
        let origins = match self.state.definitions.get_mut(name) {
            Some(origins) => origins,
            None => {
                let mut name = name.clone();
                name.share(&mut self.state.texts);
                self.state.definitions.entry(name).or_default()
            }
        };
        if origins.get(region).is_some_and(|old| **old == definition) {
            return;
        }
        origins.insert(region.clone(), Arc::new(definition));
        self.dirty.insert(RecordKey::Definition(name.clone(), region.clone()));
        self.touched.insert(Key::Service(name.clone()));
        self.assign_address(name);
    }

    pub(super) fn remove_definition(&mut self, name: &ServiceName, region: &RegionId) {
        let Some(origins) = self.state.definitions.get_mut(name) else {
            return;
        };
        if origins.remove(region).is_none() {
            return;
        }
        self.dirty.insert(RecordKey::Definition(name.clone(), region.clone()));
        self.touched.insert(Key::Service(name.clone()));
        if origins.is_empty() {
            self.state.definitions.remove(name);
            self.free_address(name);
        }
    }

    /// A name keeps its slot as long as any region defines it.
    fn assign_address(&mut self, name: &ServiceName) {
        if self.state.probes.contains_key(name) {
            return;
        }
        let mut free = (0..PROBES_MAX).filter(|probe| {
            let address = virtual_ips(name, *probe)[0];
            !self.state.virtual_v4.contains_key(&address)
        });
        if let Some(probe) = free.next() {
            self.state.virtual_v4.insert(virtual_ips(name, probe)[0], name.clone());
            self.state.probes.insert(name.clone(), probe);
            self.dirty.insert(RecordKey::Probe(name.clone()));
        }
    }

    fn free_address(&mut self, name: &ServiceName) {
        if let Some(probe) = self.state.probes.remove(name) {
            self.state.virtual_v4.remove(&virtual_ips(name, probe)[0]);
            self.dirty.insert(RecordKey::Probe(name.clone()));
        }
    }

    pub(super) fn put_endpoint(&mut self, endpoint: Endpoint) {
        let (name, id) = (endpoint.service.clone(), endpoint.id.clone());
        let set = self.state.endpoints.entry(name.clone()).or_default();
        if set.get(&id).is_some_and(|old| **old == endpoint) {
            return;
        }
        set.insert(id.clone(), Arc::new(endpoint));
        self.note_endpoint(name, id);
    }

    pub(super) fn remove_endpoint(&mut self, name: &ServiceName, id: &EndpointId) {
        let Some(set) = self.state.endpoints.get_mut(name) else {
            return;
        };
        if set.remove(id).is_none() {
            return;
        }
        if set.is_empty() {
            self.state.endpoints.remove(name);
        }
        self.note_endpoint(name.clone(), id.clone());
    }

    fn note_endpoint(&mut self, name: ServiceName, id: EndpointId) {
        self.dirty.insert(RecordKey::Endpoint(name.clone(), id.clone()));
        self.touched.insert(Key::Endpoint(name, id));
    }

    pub(super) fn put_workload(&mut self, id: &WorkloadId, hold: WorkloadHold) {
        let namespace = hold.lease.namespace.clone();
        self.dirty.insert(RecordKey::Workload(id.clone()));
        let before = self.state.workloads.insert(id.clone(), Arc::new(hold));
        // A workload keeps its namespace: another identity may not take its id.
        if before.is_none() {
            self.count_in(id, &namespace);
            *self.state.proxies.entry(namespace.clone()).or_default() += 1;
            self.note_proxies(&namespace);
        }
    }

    pub(super) fn remove_workload(&mut self, id: &WorkloadId) {
        let Some(hold) = self.state.workloads.remove(id) else {
            return;
        };
        self.dirty.insert(RecordKey::Workload(id.clone()));
        let namespace = hold.lease.namespace.clone();
        self.count_out(id, &namespace);
        if let Some(count) = self.state.proxies.get_mut(&namespace) {
            *count -= 1;
            if *count == 0 {
                self.state.proxies.remove(&namespace);
            }
        }
        self.note_proxies(&namespace);
    }

    /// The number of live proxies in a namespace is another one.
    fn note_proxies(&mut self, namespace: &Namespace) {
        if let Some(tenant) = self.state.owners.get(namespace) {
            self.touched.insert(Key::Share(tenant.clone()));
            self.note_own_region();
        }
    }

    fn note_own_region(&mut self) {
        self.touched.extend(self.state.region().cloned().map(Key::Region));
    }

    pub(super) fn put_gateway(&mut self, gateway: Gateway) {
        let id = gateway.id.clone();
        if self.state.gateways.get(&id).is_some_and(|old| **old == gateway) {
            return;
        }
        self.state.gateways.insert(id.clone(), Arc::new(gateway));
        self.dirty.insert(RecordKey::Gateway(id.clone()));
        self.touched.insert(Key::Gateway(id));
    }

    pub(super) fn remove_gateway(&mut self, id: &GatewayId) {
        if self.state.gateways.remove(id).is_some() {
            self.dirty.insert(RecordKey::Gateway(id.clone()));
            self.touched.insert(Key::Gateway(id.clone()));
        }
    }

    pub(super) fn put_gateway_lease(&mut self, id: &GatewayId, hold: GatewayHold) {
        self.state.gateway_leases.insert(id.clone(), Arc::new(hold));
        self.dirty.insert(RecordKey::GatewayLease(id.clone()));
    }

    pub(super) fn remove_gateway_lease(&mut self, id: &GatewayId) {
        if self.state.gateway_leases.remove(id).is_some() {
            self.dirty.insert(RecordKey::GatewayLease(id.clone()));
        }
    }

    /// Puts or removes the export of a service: it and its endpoints look different to peers.
    pub(super) fn set_export(&mut self, service: &ServiceName, export: Option<Export>) {
        self.touched.extend(self.state.service_keys(service));
        match export {
            Some(export) => self.state.exports.insert(service.clone(), Arc::new(export)),
            None => self.state.exports.remove(service),
        };
        self.dirty.insert(RecordKey::Export(service.clone()));
    }

    pub(super) fn set_peer(&mut self, region: &RegionId, peer: Option<Peer>) {
        match peer {
            Some(peer) if self.state.peers.get(region).is_some_and(|old| **old == peer) => return,
            Some(peer) => self.state.peers.insert(region.clone(), Arc::new(peer)),
            None => self.state.peers.remove(region),
        };
        self.dirty.insert(RecordKey::Peer(region.clone()));
    }

    pub(super) fn set_refused(&mut self, region: &RegionId, refused: Refused) {
        if self
            .state
            .refused
            .get(region)
            .map_or(refused.is_empty(), |old| **old == refused)
        {
            return;
        }
        if refused.is_empty() {
            self.state.refused.remove(region);
        } else {
            self.state.refused.insert(region.clone(), Arc::new(refused));
        }
        self.dirty.insert(RecordKey::Refused(region.clone()));
    }

    pub(super) fn set_finding(&mut self, subject: &Subject, finding: Option<Finding>) {
        match finding {
            Some(finding) => self.state.findings.insert(subject.clone(), Arc::new(finding)),
            None => self.state.findings.remove(subject),
        };
        self.dirty.insert(RecordKey::Finding(subject.clone()));
    }

    pub(super) fn set_checkpoint(&mut self, checkpoint: Option<Checkpoint>) {
        self.state.checkpoint = checkpoint;
        self.dirty.insert(RecordKey::Checkpoint);
    }

    pub(super) fn set_rotation(&mut self, rotation: Option<Rotation>) {
        self.state.rotation = rotation.map(Arc::new);
        self.dirty.insert(RecordKey::Rotation);
    }

    pub(super) fn put_status(&mut self, status: RegionStatus) {
        let region = status.region.clone();
        let before = self.state.regions.get(&region);
        if before.is_some_and(|old| **old == status) {
            return;
        }
        let old = before.map(|old| old.tenant_proxies.clone()).unwrap_or_default();
        if old != status.tenant_proxies {
            let tenants = old.into_keys().chain(status.tenant_proxies.keys().cloned());
            self.touched.extend(tenants.map(Key::Share));
        }
        self.state.regions.insert(region.clone(), Arc::new(status));
        self.note_status(region);
    }

    pub(super) fn remove_status(&mut self, region: &RegionId) {
        if let Some(old) = self.state.regions.remove(region) {
            let tenants = old.tenant_proxies.keys().cloned();
            self.touched.extend(tenants.map(Key::Share));
            self.note_status(region.clone());
        }
    }

    fn note_status(&mut self, region: RegionId) {
        self.dirty.insert(RecordKey::Region(region.clone()));
        self.touched.insert(Key::Region(region));
    }

    pub(super) fn put_tenant(&mut self, tenant: Tenant) {
        let id = tenant.id.clone();
        if self.state.tenants.get(&id).is_some_and(|old| **old == tenant) {
            return;
        }
        if let Some(old) = self.state.tenants.get(&id)
            && old.namespaces != tenant.namespaces
        {
            self.break_division(&id);
        }
        self.remove_tenant(&id);
        for namespace in &tenant.namespaces {
            self.state.owners.insert(namespace.clone(), id.clone());
        }
        self.state.tenants.insert(id.clone(), Arc::new(tenant));
        self.note_tenant(id);
    }

    pub(super) fn remove_tenant(&mut self, id: &TenantId) {
        if let Some(tenant) = self.state.tenants.remove(id) {
            for namespace in &tenant.namespaces {
                self.state.owners.remove(namespace);
            }
            self.note_tenant(id.clone());
        }
    }

    fn note_tenant(&mut self, id: TenantId) {
        self.dirty.insert(RecordKey::Tenant(id.clone()));
        self.touched.insert(Key::Share(id.clone()));
        self.touch_leases(&id);
        self.touched.insert(Key::Tenant(id));
        self.note_own_region();
    }

    pub(super) fn set_token(&mut self, digest: &TokenDigest, token: Option<TokenRecord>) {
        match token {
            Some(token) => self.state.tokens.insert(*digest, Arc::new(token)),
            None => self.state.tokens.remove(digest),
        };
        self.dirty.insert(RecordKey::Token(*digest));
    }

    pub(super) fn put_bundle(&mut self, bundle: Bundle) {
        let domain = bundle.trust_domain().clone();
        if self.state.bundles.get(&domain).is_some_and(|old| **old == bundle) {
            return;
        }
        self.state.bundles.insert(domain.clone(), Arc::new(bundle));
        self.note_bundle(domain);
    }

    pub(super) fn remove_bundle(&mut self, domain: &TrustDomain) {
        if self.state.bundles.remove(domain).is_some() {
            self.note_bundle(domain.clone());
        }
    }

    fn note_bundle(&mut self, domain: TrustDomain) {
        self.dirty.insert(RecordKey::Bundle(domain.clone()));
        self.touched.insert(Key::Bundle(domain));
    }

    pub(super) fn set_drill(&mut self, id: &OverrideId, drill: Option<Drill>) {
        match drill {
            Some(drill) => self.state.drills.insert(id.clone(), Arc::new(drill)),
            None => self.state.drills.remove(id),
        };
        self.dirty.insert(RecordKey::Drill(id.clone()));
        self.touched.insert(Key::Override(id.clone()));
    }

    pub(super) fn set_override(&mut self, id: &OverrideId, order: Option<Override>) {
        match order {
            Some(order) => self.state.overrides.insert(id.clone(), Arc::new(order)),
            None => self.state.overrides.remove(id),
        };
        self.dirty.insert(RecordKey::Override(id.clone()));
        self.touched.insert(Key::Override(id.clone()));
    }

    pub(super) fn set_authority(&mut self, authority: crate::catalog::AuthorityRecord) {
        self.state.authority = Some(Arc::new(authority));
        self.dirty.insert(RecordKey::Authority);
    }
}
