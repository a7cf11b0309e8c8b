//! The catalogue as records for the disk and for snapshots: a kind byte and an id as key, a version byte and postcard as
//! value. Reading back refuses what it does not understand, instead of starting with half a catalogue. Pure.

use std::{fmt::Display, io::Write as _, sync::Arc};

use imbl::OrdMap;
use mesh::{
    identity::TrustDomain,
    model::{
        Endpoint, EndpointId, GatewayId, Namespace, NodeId, OverrideId, RegionId, ServiceName, TenantId, WorkloadId,
        virtual_ips,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{LEVEL, State, Subject, TokenDigest, WorkloadHold, digest::Digests};
use crate::codec::encode_onto;

/// Layout of the values. Fields are only ever added in a new version.
const VERSION: u8 = 1;
/// Between the parts of an id; below every character of a label, so that keys sort as the maps do.
const SEPARATOR: u8 = 0;

/// A record that cannot be read: the disk is damaged, or a newer version wrote it.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Its key is of no known kind.
    #[error("record key {0:?} has an unknown kind or id; was it written by a newer version?")]
    Key(Vec<u8>),
    /// Its value has another version.
    #[error("record {key:?} has layout {found}, this version reads {VERSION}; run the version that wrote it")]
    Version {
        /// Which record.
        key: Vec<u8>,
        /// The layout it has.
        found: u8,
    },
    /// All of it is of a newer program.
    #[error(
        "the catalogue is at feature level {found}, this program knows {LEVEL}; use a program as new as the region's others"
    )]
    Level {
        /// The level that it has.
        found: u32,
    },
    /// Its value does not decode.
    #[error("record {key:?} is damaged; restore this node from a peer or a snapshot")]
    Value {
        /// Which record.
        key: Vec<u8>,
        /// What the decoder says.
        #[source]
        source: postcard::Error,
    },
}

/// Names a record. The order of the variants is the order on disk: new kinds go to the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RecordKey {
    Meta,
    Definition(ServiceName, RegionId),
    Endpoint(ServiceName, EndpointId),
    Workload(WorkloadId),
    Gateway(GatewayId),
    GatewayLease(GatewayId),
    Export(ServiceName),
    Peer(RegionId),
    Tenant(TenantId),
    Token(TokenDigest),
    Bundle(TrustDomain),
    Authority,
    Drill(OverrideId),
    Override(OverrideId),
    Region(RegionId),
    Probe(ServiceName),
    Grant(TenantId, RegionId),
    Holding(TenantId),
    Report(TenantId, RegionId),
    Division(TenantId),
    Refused(RegionId),
    Finding(Subject),
    Checkpoint,
    Rotation,
    Level,
    Demand(TenantId),
    Member(WorkloadId),
    Fence,
}

fn join(kind: u8, parts: &[&dyn Display]) -> Vec<u8> {
    let mut key = vec![kind];
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            key.push(SEPARATOR);
        }
        // Writing to a vector cannot fail.
        let _ = write!(key, "{part}");
    }
    key
}

fn service(kind: u8, name: &ServiceName) -> Vec<u8> {
    join(kind, &[name.namespace(), &name.name()])
}

fn service_and(kind: u8, name: &ServiceName, id: &dyn Display) -> Vec<u8> {
    join(kind, &[name.namespace(), &name.name(), id])
}

impl RecordKey {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Meta => vec![0],
            Self::Definition(name, region) => service_and(1, name, region),
            Self::Endpoint(name, id) => service_and(2, name, id),
            Self::Workload(id) => join(3, &[id]),
            Self::Gateway(id) => join(4, &[id]),
            Self::GatewayLease(id) => join(5, &[id]),
            Self::Export(name) => service(6, name),
            Self::Peer(region) => join(7, &[region]),
            Self::Tenant(id) => join(8, &[id]),
            Self::Token(digest) => [&[9], digest.as_slice()].concat(),
            Self::Bundle(domain) => join(10, &[domain]),
            Self::Authority => vec![11],
            Self::Drill(id) => join(12, &[id]),
            Self::Override(id) => join(13, &[id]),
            Self::Region(region) => join(14, &[region]),
            Self::Probe(name) => service(15, name),
            Self::Refused(region) => join(20, &[region]),
            Self::Finding(Subject::Peer(region)) => join(21, &[&"peer", region]),
            // Of one length, so that they sort as numbers do.
            Self::Finding(Subject::Node(node)) => join(21, &[&"node", &format_args!("{:020}", node.0)]),
            Self::Checkpoint => vec![22],
            Self::Rotation => vec![23],
            Self::Level => vec![24],
            Self::Grant(tenant, region) => join(16, &[tenant, region]),
            Self::Holding(tenant) => join(17, &[tenant]),
            Self::Report(tenant, region) => join(18, &[tenant, region]),
            Self::Division(tenant) => join(19, &[tenant]),
            Self::Demand(tenant) => join(25, &[tenant]),
            Self::Member(id) => join(26, &[id]),
            Self::Fence => vec![27],
        }
    }

    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let (kind, id) = key.split_first()?;
        if *kind == 9 {
            return Some(Self::Token(id.try_into().ok()?));
        }
        let mut parts = id.split(|byte| *byte == SEPARATOR).map(std::str::from_utf8);
        let mut part = || parts.next()?.ok();
        let name = |namespace: Option<&str>, name: Option<&str>| {
            ServiceName::new(name?, Namespace::parse(namespace?).ok()?).ok()
        };
        let decoded = match kind {
            0 => Self::Meta,
            1 => Self::Definition(name(part(), part())?, part()?.parse().ok()?),
            2 => Self::Endpoint(name(part(), part())?, part()?.parse().ok()?),
            3 => Self::Workload(part()?.parse().ok()?),
            4 => Self::Gateway(part()?.parse().ok()?),
            5 => Self::GatewayLease(part()?.parse().ok()?),
            6 => Self::Export(name(part(), part())?),
            7 => Self::Peer(part()?.parse().ok()?),
            8 => Self::Tenant(part()?.parse().ok()?),
            10 => Self::Bundle(part()?.parse().ok()?),
            11 => Self::Authority,
            12 => Self::Drill(part()?.parse().ok()?),
            13 => Self::Override(part()?.parse().ok()?),
            14 => Self::Region(part()?.parse().ok()?),
            15 => Self::Probe(name(part(), part())?),
            20 => Self::Refused(part()?.parse().ok()?),
            21 => Self::Finding(match (part()?, part()?) {
                ("peer", region) => Subject::Peer(region.parse().ok()?),
                ("node", node) => Subject::Node(NodeId(node.parse().ok()?)),
                _ => return None,
            }),
            22 => Self::Checkpoint,
            23 => Self::Rotation,
            24 => Self::Level,
            16 => Self::Grant(part()?.parse().ok()?, part()?.parse().ok()?),
            17 => Self::Holding(part()?.parse().ok()?),
            18 => Self::Report(part()?.parse().ok()?, part()?.parse().ok()?),
            19 => Self::Division(part()?.parse().ok()?),
            25 => Self::Demand(part()?.parse().ok()?),
            26 => Self::Member(part()?.parse().ok()?),
            27 => Self::Fence,
            _ => return None,
        };
        // What does not encode to the same bytes is no key of ours.
        (decoded.encode() == key).then_some(decoded)
    }
}

pub(super) fn value<T: Serialize>(mut out: Vec<u8>, record: &T) -> Option<Vec<u8>> {
    out.push(VERSION);
    // Writing to a vector cannot fail, and all our types have a length: the only faults that postcard knows.
    encode_onto(out, record).ok()
}

fn read<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, RecordError> {
    let key = || key.to_vec();
    match bytes.split_first() {
        Some((&VERSION, body)) => {
            postcard::from_bytes(body).map_err(|source| RecordError::Value { key: key(), source })
        }
        found => Err(RecordError::Version {
            key: key(),
            found: found.map_or(0, |(version, _)| *version),
        }),
    }
}

fn keep<K: Ord + Clone, T: DeserializeOwned>(
    map: &mut OrdMap<K, Arc<T>>,
    id: K,
    key: &[u8],
    bytes: &[u8],
) -> Result<(), RecordError> {
    map.insert(id, Arc::new(read(key, bytes)?));
    Ok(())
}

/// Puts a state together from records as they are read, in any order.
#[derive(Default)]
pub struct Loader(State);

impl Loader {
    /// Takes one record.
    ///
    /// # Errors
    /// Names the record when it is damaged or a newer version wrote it.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        self.0.read_record(key, value)
    }

    /// The state of all records.
    ///
    /// # Errors
    /// When a newer program has raised the level of the region.
    pub fn finish(mut self) -> Result<State, RecordError> {
        let found = self.0.level();
        if found > LEVEL {
            return Err(RecordError::Level { found });
        }
        self.0.derive();
        Ok(self.0)
    }
}

impl State {
    /// The value of a record; none when it is gone (or never was).
    #[must_use]
    pub fn record(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.value(Vec::new(), &RecordKey::decode(key)?)
    }

    /// The value behind what is in `out`, which may be used again.
    pub(super) fn value(&self, out: Vec<u8>, key: &RecordKey) -> Option<Vec<u8>> {
        match key {
            RecordKey::Meta => value(out, &self.meta),
            RecordKey::Definition(name, region) => value(out, self.definitions.get(name)?.get(region)?),
            RecordKey::Endpoint(name, id) => value(out, self.endpoint(name, id)?),
            RecordKey::Workload(id) => value(out, self.workloads.get(id)?),
            RecordKey::Gateway(id) => value(out, self.gateways.get(id)?),
            RecordKey::GatewayLease(id) => value(out, self.gateway_leases.get(id)?),
            RecordKey::Export(name) => value(out, self.exports.get(name)?),
            RecordKey::Peer(region) => value(out, self.peers.get(region)?),
            RecordKey::Tenant(id) => value(out, self.tenants.get(id)?),
            RecordKey::Token(digest) => value(out, self.tokens.get(digest)?),
            RecordKey::Bundle(domain) => value(out, self.bundles.get(domain)?),
            RecordKey::Authority => value(out, self.authority.as_ref()?),
            RecordKey::Drill(id) => value(out, self.drills.get(id)?),
            RecordKey::Override(id) => value(out, self.overrides.get(id)?),
            RecordKey::Region(region) => value(out, self.regions.get(region)?),
            RecordKey::Probe(name) => value(out, self.probes.get(name)?),
            RecordKey::Refused(region) => value(out, self.refused.get(region)?),
            RecordKey::Finding(subject) => value(out, self.findings.get(subject)?),
            RecordKey::Checkpoint => value(out, self.checkpoint.as_ref()?),
            RecordKey::Rotation => value(out, self.rotation.as_ref()?),
            RecordKey::Level => value(out, &self.level).filter(|_| self.level > 0),
            RecordKey::Grant(tenant, region) => value(out, self.quotas.grants.get(&(tenant.clone(), region.clone()))?),
            RecordKey::Holding(tenant) => value(out, self.quotas.holdings.get(tenant)?),
            RecordKey::Report(tenant, region) => {
                value(out, self.quotas.reports.get(&(tenant.clone(), region.clone()))?)
            }
            RecordKey::Division(tenant) => value(out, self.quotas.divisions.get(tenant)?),
            RecordKey::Demand(tenant) => value(out, self.quotas.demands.get(tenant)?),
            RecordKey::Member(id) => value(out, self.quotas.members.get(id)?),
            RecordKey::Fence => value(out, self.quotas.fence.as_ref()?),
        }
    }

    /// All records, in order of their keys.
    pub fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        self.record_keys()
            .filter_map(|key| Some((key.encode(), self.value(Vec::new(), &key)?)))
    }

    pub(super) fn record_keys(&self) -> impl Iterator<Item = RecordKey> + '_ {
        let definitions = self.definitions.iter();
        let definitions =
            definitions.flat_map(|(name, set)| set.keys().map(|id| RecordKey::Definition(name.clone(), id.clone())));
        let endpoints = self.endpoints.iter();
        let endpoints =
            endpoints.flat_map(|(name, set)| set.keys().map(|id| RecordKey::Endpoint(name.clone(), id.clone())));
        std::iter::once(RecordKey::Meta)
            .chain(definitions)
            .chain(endpoints)
            .chain(self.workloads.keys().cloned().map(RecordKey::Workload))
            .chain(self.gateways.keys().cloned().map(RecordKey::Gateway))
            .chain(self.gateway_leases.keys().cloned().map(RecordKey::GatewayLease))
            .chain(self.exports.keys().cloned().map(RecordKey::Export))
            .chain(self.peers.keys().cloned().map(RecordKey::Peer))
            .chain(self.tenants.keys().cloned().map(RecordKey::Tenant))
            .chain(self.tokens.keys().copied().map(RecordKey::Token))
            .chain(self.bundles.keys().cloned().map(RecordKey::Bundle))
            .chain(self.authority.iter().map(|_| RecordKey::Authority))
            .chain(self.drills.keys().cloned().map(RecordKey::Drill))
            .chain(self.overrides.keys().cloned().map(RecordKey::Override))
            .chain(self.regions.keys().cloned().map(RecordKey::Region))
            .chain(self.probes.keys().cloned().map(RecordKey::Probe))
            .chain(self.lease_record_keys())
            .chain(self.refused.keys().cloned().map(RecordKey::Refused))
            .chain(self.findings.keys().cloned().map(RecordKey::Finding))
            .chain(self.checkpoint.iter().map(|_| RecordKey::Checkpoint))
            .chain(self.rotation.iter().map(|_| RecordKey::Rotation))
            .chain(std::iter::once(RecordKey::Level))
            .chain(self.demand_record_keys())
    }

    /// Of everything about quotas.
    pub(super) fn quota_record_keys(&self) -> impl Iterator<Item = RecordKey> + '_ {
        self.lease_record_keys().chain(self.demand_record_keys())
    }

    fn lease_record_keys(&self) -> impl Iterator<Item = RecordKey> + '_ {
        let quotas = &self.quotas;
        let grants = quotas.grants.keys().cloned();
        let reports = quotas.reports.keys().cloned();
        grants
            .map(|(tenant, region)| RecordKey::Grant(tenant, region))
            .chain(quotas.holdings.keys().cloned().map(RecordKey::Holding))
            .chain(reports.map(|(tenant, region)| RecordKey::Report(tenant, region)))
            .chain(quotas.divisions.keys().cloned().map(RecordKey::Division))
    }

    fn demand_record_keys(&self) -> impl Iterator<Item = RecordKey> + '_ {
        let quotas = &self.quotas;
        let demands = quotas.demands.keys().cloned().map(RecordKey::Demand);
        demands
            .chain(quotas.members.keys().cloned().map(RecordKey::Member))
            .chain(quotas.fence.iter().map(|_| RecordKey::Fence))
    }

    /// Puts a state together again, from records in any order.
    ///
    /// # Errors
    /// Names the record that is damaged or that a newer version wrote.
    pub fn from_records<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        records: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, RecordError> {
        let mut loader = Loader::default();
        for (key, bytes) in records {
            loader.add(key.as_ref(), bytes.as_ref())?;
        }
        loader.finish()
    }

    fn read_record(&mut self, key: &[u8], bytes: &[u8]) -> Result<(), RecordError> {
        match RecordKey::decode(key).ok_or_else(|| RecordError::Key(key.to_vec()))? {
            RecordKey::Meta => self.meta = read(key, bytes)?,
            RecordKey::Definition(mut name, region) => {
                name.share(&mut self.texts);
                keep(self.definitions.entry(name).or_default(), region, key, bytes)?;
            }
            RecordKey::Endpoint(name, id) => {
                let mut endpoint: Endpoint = read(key, bytes)?;
                if endpoint.id == id {
                    endpoint.id = id.clone();
                }
                self.share_endpoint(&mut endpoint);
                let name = self.known(name);
                let set = self.endpoints.entry(name).or_default();
                set.insert(id, Arc::new(endpoint));
            }
            RecordKey::Workload(id) => {
                let mut hold: WorkloadHold = read(key, bytes)?;
                // Just read, so that nobody else has it.
                if let Some(lease) = Arc::get_mut(&mut hold.lease) {
                    if lease.id == id {
                        lease.id = id.clone();
                    }
                    self.share_lease(lease);
                }
                self.workloads.insert(id, Arc::new(hold));
            }
            RecordKey::Gateway(id) => keep(&mut self.gateways, id, key, bytes)?,
            RecordKey::GatewayLease(id) => keep(&mut self.gateway_leases, id, key, bytes)?,
            RecordKey::Export(name) => {
                let name = self.known(name);
                keep(&mut self.exports, name, key, bytes)?;
            }
            RecordKey::Peer(region) => keep(&mut self.peers, region, key, bytes)?,
            RecordKey::Tenant(id) => keep(&mut self.tenants, id, key, bytes)?,
            RecordKey::Token(digest) => keep(&mut self.tokens, digest, key, bytes)?,
            RecordKey::Bundle(domain) => keep(&mut self.bundles, domain, key, bytes)?,
            RecordKey::Authority => self.authority = Some(Arc::new(read(key, bytes)?)),
            RecordKey::Drill(id) => keep(&mut self.drills, id, key, bytes)?,
            RecordKey::Override(id) => keep(&mut self.overrides, id, key, bytes)?,
            RecordKey::Region(region) => keep(&mut self.regions, region, key, bytes)?,
            RecordKey::Probe(name) => {
                let name = self.known(name);
                self.probes.insert(name, read(key, bytes)?);
            }
            RecordKey::Refused(region) => keep(&mut self.refused, region, key, bytes)?,
            RecordKey::Finding(subject) => keep(&mut self.findings, subject, key, bytes)?,
            RecordKey::Checkpoint => self.checkpoint = Some(read(key, bytes)?),
            RecordKey::Rotation => self.rotation = Some(Arc::new(read(key, bytes)?)),
            RecordKey::Level => self.level = read(key, bytes)?,
            RecordKey::Grant(tenant, region) => keep(&mut self.quotas.grants, (tenant, region), key, bytes)?,
            RecordKey::Holding(tenant) => keep(&mut self.quotas.holdings, tenant, key, bytes)?,
            RecordKey::Report(tenant, region) => keep(&mut self.quotas.reports, (tenant, region), key, bytes)?,
            RecordKey::Division(tenant) => keep(&mut self.quotas.divisions, tenant, key, bytes)?,
            RecordKey::Demand(tenant) => keep(&mut self.quotas.demands, tenant, key, bytes)?,
            RecordKey::Member(id) => {
                self.quotas.members.insert(id, read(key, bytes)?);
            }
            RecordKey::Fence => self.quotas.fence = Some(read(key, bytes)?),
        }
        Ok(())
    }

    /// Fills the maps that are not recorded.
    fn derive(&mut self) {
        for (name, probe) in &self.probes {
            self.virtual_v4.insert(virtual_ips(name, *probe)[0], name.clone());
        }
        for hold in self.workloads.values() {
            *self.proxies.entry(hold.lease.namespace.clone()).or_default() += 1;
        }
        for tenant in self.tenants.values() {
            for namespace in &tenant.namespaces {
                self.owners.insert(namespace.clone(), tenant.id.clone());
            }
        }
        self.digests = Digests::of(self);
    }
}
