//! The state that commands make, and what can be asked of it. Clones are O(1). Pure.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use imbl::OrdMap;
use mesh::{
    identity::{Bundle, TrustDomain},
    model::{
        Audience, Endpoint, EndpointId, Export, Gateway, GatewayId, Incarnation, Namespace, NodeId, Override,
        OverrideId, RegionId, RegionStatus, Service, ServiceName, Tenant, TenantId, Texts, Timestamp, WorkloadId,
        virtual_ips,
    },
};

use super::{
    AuthorityRecord, Checkpoint, Definition, Drill, Finding, GatewayHold, Peer, Rotation, Subject, TokenDigest,
    TokenRecord, WorkloadHold,
    digest::{Digests, Refused},
    entry::Meta,
    quota::Quotas,
    record::RecordKey,
};
use crate::federation::merge;

/// One region's catalogue at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub(super) meta: Meta,
    pub(super) definitions: OrdMap<ServiceName, OrdMap<RegionId, Arc<Definition>>>,
    pub(super) endpoints: OrdMap<ServiceName, OrdMap<EndpointId, Arc<Endpoint>>>,
    pub(super) workloads: OrdMap<WorkloadId, Arc<WorkloadHold>>,
    pub(super) gateways: OrdMap<GatewayId, Arc<Gateway>>,
    pub(super) gateway_leases: OrdMap<GatewayId, Arc<GatewayHold>>,
    pub(super) exports: OrdMap<ServiceName, Arc<Export>>,
    pub(super) peers: OrdMap<RegionId, Arc<Peer>>,
    pub(super) tenants: OrdMap<TenantId, Arc<Tenant>>,
    pub(super) tokens: OrdMap<TokenDigest, Arc<TokenRecord>>,
    pub(super) bundles: OrdMap<TrustDomain, Arc<Bundle>>,
    pub(super) authority: Option<Arc<AuthorityRecord>>,
    pub(super) drills: OrdMap<OverrideId, Arc<Drill>>,
    pub(super) overrides: OrdMap<OverrideId, Arc<Override>>,
    pub(super) regions: OrdMap<RegionId, Arc<RegionStatus>>,
    /// Slot of each service's virtual address.
    pub(super) probes: OrdMap<ServiceName, u16>,
    /// Zero = never raised.
    pub(super) level: u32,
    /// What peers sent that is not theirs to send.
    pub(super) refused: OrdMap<RegionId, Arc<Refused>>,
    pub(super) findings: OrdMap<Subject, Arc<Finding>>,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) rotation: Option<Arc<Rotation>>,
    pub(super) quotas: Quotas,
    /// From here on derived from the maps above, not recorded.
    pub(super) virtual_v4: OrdMap<IpAddr, ServiceName>,
    pub(super) proxies: OrdMap<Namespace, u32>,
    pub(super) owners: OrdMap<Namespace, TenantId>,
    pub(super) digests: Digests,
    /// What the records repeat.
    pub(super) texts: Texts,
}

impl State {
    /// This region's name; none before `Init`.
    #[must_use]
    pub fn region(&self) -> Option<&RegionId> {
        self.meta.region.as_ref()
    }

    /// This region's trust domain; none before `Init`.
    #[must_use]
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.meta.trust_domain.as_ref()
    }

    /// Which life of the catalogue this is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.meta.incarnation
    }

    /// The same catalogue in another life: after a restore, so that no subscriber takes it for what it held.
    #[must_use]
    pub fn with_incarnation(&self, incarnation: Incarnation) -> Self {
        let mut next = self.clone();
        next.meta.incarnation = incarnation;
        next.restart_quotas();
        let mut changed: std::collections::BTreeSet<RecordKey> = next.quota_record_keys().collect();
        changed.insert(RecordKey::Meta);
        next.digests.follow(self, &next.clone(), &changed);
        next
    }

    /// The next id that [`super::Command::AllocateNode`] gives out.
    #[must_use]
    pub fn next_node(&self) -> NodeId {
        // The node that formed the region has the first id.
        NodeId(self.meta.next_node.max(2))
    }

    pub(super) fn is_own(&self, region: &RegionId) -> bool {
        self.meta.region.as_ref() == Some(region)
    }

    /// Services that are defined by any region, in order of name.
    pub fn services(&self) -> impl Iterator<Item = Service> + '_ {
        self.definitions.keys().filter_map(|name| self.service(name))
    }

    /// How many services are defined.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.definitions.len()
    }

    /// A service, the definitions of its origins merged.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<Service> {
        let definitions = self.definitions.get(name)?;
        let origins = definitions.iter().map(|(region, definition)| merge::Origin {
            region,
            ports: &definition.ports,
            headless: definition.headless,
            created_at: self.age_of(name, region, definition),
        });
        let mut service = merge::merge(name, origins.collect())?;
        if !service.headless
            && let Some(probe) = self.probes.get(name)
        {
            service.virtual_ips = virtual_ips(name, *probe).to_vec();
        }
        service.exported_to = self.export_of(name);
        Some(service)
    }

    /// An own definition is as old as its export once it is exported: so every region orders the origins alike.
    fn age_of(&self, name: &ServiceName, region: &RegionId, definition: &Definition) -> Timestamp {
        match self.exports.get(name) {
            Some(export) if self.is_own(region) => export.created_at,
            _ => definition.created_at,
        }
    }

    /// A service as this region defines it.
    #[must_use]
    pub fn own_definition(&self, name: &ServiceName) -> Option<&Arc<Definition>> {
        self.definitions.get(name)?.get(self.meta.region.as_ref()?)
    }

    /// Services whose origins disagree; the text says about what.
    pub fn conflicts(&self) -> impl Iterator<Item = Service> + '_ {
        self.definitions
            .iter()
            .filter(|(_, origins)| origins.len() > 1)
            .filter_map(|(name, _)| self.service(name))
            .filter(|service| !service.conflict.is_empty())
    }

    /// The endpoints of a service, of all regions, in order of id.
    pub fn endpoints<'a>(&'a self, service: &ServiceName) -> impl Iterator<Item = &'a Arc<Endpoint>> + use<'a> {
        self.endpoints.get(service).into_iter().flat_map(OrdMap::values)
    }

    /// The same as a map that is shared with the catalogue.
    #[must_use]
    pub fn endpoint_map(&self, service: &ServiceName) -> OrdMap<EndpointId, Arc<Endpoint>> {
        self.endpoints.get(service).cloned().unwrap_or_default()
    }

    /// All endpoints.
    pub fn all_endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values().flat_map(OrdMap::values)
    }

    /// One endpoint.
    #[must_use]
    pub fn endpoint(&self, service: &ServiceName, id: &EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(service)?.get(id)
    }

    /// How many endpoints mass-loss protection holds, in all regions.
    #[must_use]
    pub fn unverified_count(&self) -> usize {
        self.all_endpoints().filter(|endpoint| endpoint.unverified).count()
    }

    /// How many endpoints a peer gave.
    #[must_use]
    pub fn imported_endpoint_count(&self, peer: &RegionId) -> usize {
        self.all_endpoints()
            .filter(|endpoint| endpoint.locality.region == *peer)
            .count()
    }

    /// Gateways of all regions.
    pub fn gateways(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.gateways.values()
    }

    /// What this region offers to peers.
    pub fn exports(&self) -> impl Iterator<Item = &Arc<Export>> {
        self.exports.values()
    }

    /// The export of a service.
    #[must_use]
    pub fn export(&self, service: &ServiceName) -> Option<&Arc<Export>> {
        self.exports.get(service)
    }

    /// To whom this region exports a service.
    #[must_use]
    pub fn export_of(&self, service: &ServiceName) -> Audience {
        self.exports
            .get(service)
            .map_or(Audience::Nobody, |export| export.to.clone())
    }

    /// The peers.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, region: &RegionId) -> Option<&Arc<Peer>> {
        self.peers.get(region)
    }

    /// How this region sees the others (itself not among them).
    pub fn region_statuses(&self) -> impl Iterator<Item = &Arc<RegionStatus>> {
        self.regions.values()
    }

    /// The anchors of every known trust domain, this region's own among them.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.bundles.values()
    }

    /// This region's anchors.
    #[must_use]
    pub fn own_bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundles.get(self.meta.trust_domain.as_ref()?)
    }

    /// The issuing certificate and its key.
    #[must_use]
    pub fn authority(&self) -> Option<&Arc<AuthorityRecord>> {
        self.authority.as_ref()
    }

    /// The change of the root that is under way.
    #[must_use]
    pub fn rotation(&self) -> Option<&Arc<Rotation>> {
        self.rotation.as_ref()
    }

    /// Copies that differ.
    pub fn findings(&self) -> impl Iterator<Item = (&Subject, &Arc<Finding>)> {
        self.findings.iter()
    }

    /// How a copy differs; none when it agrees, as far as is known.
    #[must_use]
    pub fn finding(&self, subject: &Subject) -> Option<&Arc<Finding>> {
        self.findings.get(subject)
    }

    /// The leader's newest digest.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// Tokens that were given out.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<TokenRecord>> {
        self.tokens.values()
    }

    /// Drills that this region's operators ordered.
    pub fn drills(&self) -> impl Iterator<Item = &Arc<Drill>> {
        self.drills.values()
    }

    /// Every override that is in force at `now`, whoever ordered it.
    pub fn overrides(&self, now: Timestamp) -> impl Iterator<Item = &Override> {
        let own = self.drills.values().map(|drill| &drill.order);
        own.chain(self.overrides.values().map(AsRef::as_ref))
            .filter(move |order| order.is_active(now))
    }

    /// Leases of workloads.
    pub fn workloads(&self) -> impl Iterator<Item = (&WorkloadId, &Arc<WorkloadHold>)> {
        self.workloads.iter()
    }

    /// One workload's lease.
    #[must_use]
    pub fn workload(&self, id: &WorkloadId) -> Option<&Arc<WorkloadHold>> {
        self.workloads.get(id)
    }

    /// Leases of gateways.
    pub fn gateway_leases(&self) -> impl Iterator<Item = (&GatewayId, &Arc<GatewayHold>)> {
        self.gateway_leases.iter()
    }

    /// One gateway's lease.
    #[must_use]
    pub fn gateway_lease(&self, id: &GatewayId) -> Option<&Arc<GatewayHold>> {
        self.gateway_leases.get(id)
    }

    /// Leases of workloads and gateways, those that are held back included.
    #[must_use]
    pub fn lease_count(&self) -> usize {
        self.workloads.len() + self.gateway_leases.len()
    }

    /// How many leases a node holds: its streams, by the catalogue.
    #[must_use]
    pub fn leases_held_by(&self, node: NodeId) -> usize {
        let workloads = self.workloads.values().filter(|hold| hold.lease.holder == node);
        let gateways = self.gateway_leases.values().filter(|hold| hold.lease.holder == node);
        workloads.count() + gateways.count()
    }

    /// Tenants of all regions.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.values()
    }

    /// One tenant.
    #[must_use]
    pub fn tenant(&self, id: &TenantId) -> Option<&Arc<Tenant>> {
        self.tenants.get(id)
    }

    /// The tenant that owns a namespace.
    #[must_use]
    pub fn tenant_of(&self, namespace: &Namespace) -> Option<&Arc<Tenant>> {
        self.tenants.get(self.owners.get(namespace)?)
    }

    /// Live proxies of a tenant in this region.
    #[must_use]
    pub fn proxies_here(&self, tenant: &Tenant) -> u32 {
        let counts = tenant.namespaces.iter().filter_map(|name| self.proxies.get(name));
        counts.sum()
    }

    /// Live proxies of a tenant in all regions, as far as this one was told.
    #[must_use]
    pub fn proxies_everywhere(&self, tenant: &Tenant) -> u32 {
        let elsewhere = self.regions.values();
        let elsewhere = elsewhere.filter_map(|status| status.tenant_proxies.get(&tenant.id));
        elsewhere.fold(self.proxies_here(tenant), |sum, n| sum.saturating_add(*n))
    }

    /// Live proxies in this region by tenant, those without any left out.
    #[must_use]
    pub fn tenant_proxies(&self) -> BTreeMap<TenantId, u32> {
        let counts = self.tenants.values();
        let counts = counts.map(|tenant| (tenant.id.clone(), self.proxies_here(tenant)));
        counts.filter(|(_, n)| *n > 0).collect()
    }

    /// Services and endpoints in a tenant's namespaces, in all regions as far as they are visible here.
    #[must_use]
    pub fn usage(&self, tenant: &Tenant) -> (usize, usize) {
        let (mut services, mut endpoints) = (0, 0);
        for namespace in &tenant.namespaces {
            services += in_namespace(&self.definitions, namespace).count();
            let sets = in_namespace(&self.endpoints, namespace);
            endpoints += sets.map(|(_, set)| set.len()).sum::<usize>();
        }
        (services, endpoints)
    }
}

/// The entries of one namespace: service names are ordered by namespace first.
fn in_namespace<'a, T: Clone>(
    map: &'a OrdMap<ServiceName, T>,
    namespace: &'a Namespace,
) -> impl Iterator<Item = (&'a ServiceName, &'a T)> {
    // "0" is the least of all labels.
    let first = ServiceName::new("0", namespace.clone()).ok();
    let range = first.map(|first| map.range(first..));
    range
        .into_iter()
        .flatten()
        .take_while(move |(name, _)| name.namespace() == namespace)
}
