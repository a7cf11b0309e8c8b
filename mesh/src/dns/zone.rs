//! Which records a name has, by a view. Knows no message and no socket: see `answer` and `server`.
//! Pure.

use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, NS, SOA, SRV, TXT},
};

use crate::model::{
    Endpoint, EndpointState, Locality, Namespace, RegionId, Service, ServiceEntry, ServiceName, Timestamp, View,
};

/// Most endpoints in one answer. The addresses of 16 endpoints fit 512 bytes, so that no client without EDNS is cut; the
/// specification allows a subset.
const ENDPOINTS_MAX: usize = 16;
/// The specification prints this one; the version changes with a release only.
const VERSION_TTL_SECONDS: u32 = 28_800;
/// Of the specification that the answers follow.
const VERSION: &str = "1.0.0";

/// A zone that is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    /// `clusterset.local`
    ClusterSet,
    /// `region.isthmus`
    Region,
}

impl Zone {
    fn labels(self) -> [&'static str; 2] {
        match self {
            Self::ClusterSet => ["clusterset", "local"],
            Self::Region => ["region", "isthmus"],
        }
    }

    /// Two labels, always valid; the root would only stand in if that were ever untrue.
    fn origin(self) -> Name {
        Name::from_labels(self.labels().map(str::as_bytes)).unwrap_or_else(|_| Name::root())
    }

    /// The start of authority, for negative answers and for who asks. `ttl` is how long "no" may be remembered.
    pub(super) fn authority(self, view: &View, ttl: u32) -> Record {
        let origin = self.origin();
        let below = |label: &str| origin.prepend_label(label).unwrap_or_else(|_| origin.clone());
        // Serials are 32 bit and may wrap (RFC 1982); transfers are not offered, so that they matter to people only.
        let serial = (view.held().revision.0 & u64::from(u32::MAX)) as u32;
        let soa = SOA::new(self.name_server(), below("hostmaster"), serial, 7200, 1800, 86_400, ttl);
        Record::from_rdata(origin.clone(), ttl, RData::SOA(soa))
    }

    fn name_server(self) -> Name {
        let [first, last] = self.labels();
        Name::from_labels(["ns", "dns", first, last].map(str::as_bytes)).unwrap_or_else(|_| Name::root())
    }
}

/// Who asks, and what an answer depends on beside the view.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Near endpoints come first.
    pub from: &'a Locality,
    /// Decides which overrides hold.
    pub now: Timestamp,
    /// Any number; rotates endpoints that are equally near, so that callers who take the first one spread.
    pub shuffle: u64,
    /// Of all records but the version's, seconds.
    pub ttl: u32,
}

/// What a name has.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// Not in a zone of ours.
    Outside,
    /// The name does not exist.
    Nowhere(Zone),
    /// The answer lies in the endpoints of a service, and the view does not hold them.
    Unheld(ServiceName),
    /// The name exists; without answers it has nothing of the type that was asked for.
    Records {
        /// Whose authority it is.
        zone: Zone,
        /// For the answer section.
        answers: Vec<Record>,
        /// Addresses of SRV targets; may be left out where they do not fit.
        additionals: Vec<Record>,
    },
}

/// The place of a name in our zones, by its labels alone.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Outside,
    Nowhere(Zone),
    Apex(Zone),
    /// Exists, has no records: something is below it.
    Between(Zone),
    Version,
    Namespace(String),
    Service(ServiceName),
    /// `_<proto>.<service>…`
    Transport(ServiceName, String),
    /// `_<port>._<proto>.<service>…`
    Port(ServiceName, String, String),
    /// `<cluster>.<service>…`, reserved by the specification.
    Cluster(ServiceName, String),
    /// `<hostname>.<cluster>.<service>…`; a cluster may have two labels.
    Member(ServiceName, String, String),
    /// `[svc.]<region>.region.isthmus`
    RegionName(String),
    RegionNamespace(String, String),
    RegionService(RegionId, ServiceName),
}

fn place(labels: &[&str]) -> Place {
    match labels {
        [head @ .., "clusterset", "local"] => place_in_cluster_set(head),
        [head @ .., "region", "isthmus"] => place_in_region(head),
        _ => Place::Outside,
    }
}

fn service_name(name: &str, namespace: &str) -> Option<ServiceName> {
    ServiceName::new(name, Namespace::parse(namespace).ok()?).ok()
}

fn place_in_cluster_set(head: &[&str]) -> Place {
    const ZONE: Zone = Zone::ClusterSet;
    let head = match head {
        [] => return Place::Apex(ZONE),
        ["dns-version"] => return Place::Version,
        ["dns"] | ["ns", "dns"] | ["svc"] => return Place::Between(ZONE),
        [head @ .., "svc"] => head,
        _ => return Place::Nowhere(ZONE),
    };
    let (below, name, namespace) = match head {
        [namespace] => return Place::Namespace((*namespace).to_owned()),
        [below @ .., name, namespace] => (below, *name, *namespace),
        [] => return Place::Between(ZONE),
    };
    let Some(service) = service_name(name, namespace) else {
        return Place::Nowhere(ZONE);
    };
    match below {
        [] => Place::Service(service),
        [port, transport] if port.starts_with('_') && transport.starts_with('_') => {
            Place::Port(service, port[1..].to_owned(), transport[1..].to_owned())
        }
        [transport] if transport.starts_with('_') => Place::Transport(service, transport[1..].to_owned()),
        [cluster] => Place::Cluster(service, (*cluster).to_owned()),
        [hostname, cluster @ ..] => Place::Member(service, (*hostname).to_owned(), cluster.join(".")),
    }
}

fn place_in_region(head: &[&str]) -> Place {
    const ZONE: Zone = Zone::Region;
    match head {
        [] => Place::Apex(ZONE),
        ["dns"] | ["ns", "dns"] => Place::Between(ZONE),
        [region] | ["svc", region] => Place::RegionName((*region).to_owned()),
        [namespace, "svc", region] => Place::RegionNamespace((*namespace).to_owned(), (*region).to_owned()),
        [name, namespace, "svc", region] => match (service_name(name, namespace), RegionId::parse(region)) {
            (Some(service), Ok(region)) => Place::RegionService(region, service),
            _ => Place::Nowhere(ZONE),
        },
        _ => Place::Nowhere(ZONE),
    }
}

/// The records of `name` that are of type `kind`.
pub(super) fn find(view: &View, asker: Asker<'_>, name: &Name, kind: RecordType) -> Found {
    let labels: Vec<String> = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let search = Search {
        view,
        asker,
        name,
        kind,
    };
    search.at(place(&labels))
}

struct Search<'a> {
    view: &'a View,
    asker: Asker<'a>,
    name: &'a Name,
    kind: RecordType,
}

impl Search<'_> {
    fn at(&self, place: Place) -> Found {
        const SET: Zone = Zone::ClusterSet;
        match place {
            Place::Outside => Found::Outside,
            Place::Nowhere(zone) => Found::Nowhere(zone),
            Place::Between(zone) => empty(zone),
            Place::Apex(zone) => self.apex(zone),
            Place::Version => {
                let version = RData::TXT(TXT::new(vec![VERSION.to_owned()]));
                let record = Record::from_rdata(self.name.clone(), VERSION_TTL_SECONDS, version);
                records(SET, self.of_kind(RecordType::TXT, || vec![record]))
            }
            Place::Namespace(namespace) => self.exists_if(
                SET,
                self.view.services().any(|(name, entry)| {
                    name.namespace().as_str() == namespace
                        && entry.service.as_ref().is_some_and(|it| self.may_be_there(it, entry))
                }),
            ),
            Place::Service(service) => self.with_service(&service, |service, entry| self.service(service, entry)),
            Place::Transport(service, transport) => self.with_service(&service, |service, _| {
                self.exists_if(
                    SET,
                    transport == "tcp" && service.ports.iter().any(|port| !port.name.is_empty()),
                )
            }),
            Place::Port(service, port, transport) => self.with_service(&service, |service, entry| {
                let known = transport == "tcp" && service.ports.iter().any(|it| is_named(it.name.as_str(), &port));
                if !known {
                    return Found::Nowhere(SET);
                }
                self.ports(service, entry, Some(&port))
            }),
            Place::Cluster(service, cluster) => self.with_service(&service, |service, entry| {
                // Never a record, by the specification. Where names of endpoints are below, "does not exist" would make
                // resolvers that follow RFC 8020 deny those too, so that it is then empty instead.
                let below = service.headless && ready(entry).any(|endpoint| endpoint.cluster.as_str() == cluster);
                self.exists_if(SET, below)
            }),
            Place::Member(service, hostname, cluster) => self.with_service(&service, |service, entry| {
                self.member(service, entry, &hostname, &cluster)
            }),
            Place::RegionName(region) => self.exists_if(Zone::Region, self.knows_region(&region)),
            Place::RegionNamespace(namespace, region) => self.exists_if(
                Zone::Region,
                self.view.services().any(|(name, entry)| {
                    let unheld = || !self.view.holds_endpoints_of(name) && self.knows_region(&region);
                    name.namespace().as_str() == namespace && (!self.in_region(entry, &region).is_empty() || unheld())
                }),
            ),
            Place::RegionService(region, service) => {
                let found = self.view.service(&service);
                if found.is_some() && self.knows_region(region.as_str()) && !self.view.holds_endpoints_of(&service) {
                    return Found::Unheld(service);
                }
                let members = found.map_or_else(Vec::new, |(_, entry)| self.in_region(entry, region.as_str()));
                self.addresses_of(Zone::Region, &members)
            }
        }
    }

    fn apex(&self, zone: Zone) -> Found {
        let record = match self.kind {
            RecordType::SOA => zone.authority(self.view, self.asker.ttl),
            RecordType::NS => Record::from_rdata(zone.origin(), self.asker.ttl, RData::NS(NS(zone.name_server()))),
            _ => return empty(zone),
        };
        records(zone, vec![record])
    }

    fn with_service(&self, name: &ServiceName, found: impl FnOnce(&Service, &ServiceEntry) -> Found) -> Found {
        match self.view.service(name) {
            Some((service, _)) if service.headless && !self.view.holds_endpoints_of(name) => {
                Found::Unheld(name.clone())
            }
            // A headless service without a ready endpoint has no name at all.
            Some((service, entry)) if self.is_there(service, entry) => found(service, entry),
            _ => Found::Nowhere(Zone::ClusterSet),
        }
    }

    fn is_there(&self, service: &Service, entry: &ServiceEntry) -> bool {
        !service.headless || ready(entry).next().is_some()
    }

    /// Of something above it: that a name is not there must not be said where its endpoints are not known.
    fn may_be_there(&self, service: &Service, entry: &ServiceEntry) -> bool {
        self.is_there(service, entry) || !self.view.holds_endpoints_of(&service.name)
    }

    fn service(&self, service: &Service, entry: &ServiceEntry) -> Found {
        if self.kind == RecordType::SRV {
            return self.ports(service, entry, None);
        }
        if service.headless {
            return self.addresses_of(Zone::ClusterSet, &self.members(ready(entry)));
        }
        let addresses = service.virtual_ips.iter().copied();
        records(Zone::ClusterSet, self.addresses(self.name, addresses, Some(self.kind)))
    }

    /// SRV records of one named port, or of all; one for each port and target.
    fn ports(&self, service: &Service, entry: &ServiceEntry, port: Option<&str>) -> Found {
        if self.kind != RecordType::SRV {
            return empty(Zone::ClusterSet);
        }
        let mut targets: Vec<(u16, u16, Name, IpAddr)> = Vec::new();
        if service.headless {
            for endpoint in self.members(ready(entry)) {
                // Priority tells the tier, so that clients that follow RFC 2782 go to the nearest first.
                let tier = self.tier(endpoint);
                let Some(target) = member_name(service, endpoint) else {
                    continue; // A name of over 255 bytes cannot be said.
                };
                targets.push((tier, endpoint.weight.min(1000) as u16, target, endpoint.address));
            }
        } else if let Some(target) = service_fqdn(&service.name) {
            let addresses = service.virtual_ips.iter();
            targets.extend(addresses.map(|address| (0, 100, target.clone(), *address)));
        }
        let named = service
            .ports
            .iter()
            .filter(|it| !it.name.is_empty() && port.is_none_or(|port| is_named(&it.name, port)));
        let (mut said, mut answers) = (BTreeSet::new(), Vec::new());
        for port in named {
            for (priority, weight, target, _) in &targets {
                if said.insert((port.number, target.clone())) {
                    let srv = SRV::new(*priority, *weight, port.number, target.clone());
                    answers.push(Record::from_rdata(self.name.clone(), self.asker.ttl, RData::SRV(srv)));
                }
            }
        }
        let (mut told, mut additionals) = (BTreeSet::new(), Vec::new());
        for (.., target, address) in targets.iter().filter(|_| !answers.is_empty()) {
            if told.insert((target.clone(), *address)) {
                additionals.extend(self.addresses(target, [*address], None));
            }
        }
        Found::Records {
            zone: Zone::ClusterSet,
            answers,
            additionals,
        }
    }

    fn member(&self, service: &Service, entry: &ServiceEntry, hostname: &str, cluster: &str) -> Found {
        let members: Vec<_> = ready(entry)
            .filter(|it| service.headless && it.cluster.as_str() == cluster && label_of(it) == hostname)
            .collect();
        self.addresses_of(Zone::ClusterSet, &members)
    }

    /// The endpoints of a region that take work: ready ones first, then those that only take it when nobody else can.
    fn in_region<'e>(&self, entry: &'e ServiceEntry, region: &str) -> Vec<&'e Endpoint> {
        let able = |state| matches!(state, EndpointState::Ready | EndpointState::Serving);
        let endpoints = entry.endpoints.values().map(AsRef::as_ref);
        self.members(endpoints.filter(|it: &&Endpoint| it.locality.region.as_str() == region && able(it.state)))
    }

    /// In order of state and locality, a bounded number. Chosen before the families part, so that A and AAAA name the same.
    fn members<'e>(&self, endpoints: impl Iterator<Item = &'e Endpoint>) -> Vec<&'e Endpoint> {
        let mut members: Vec<_> = endpoints.collect();
        if members.is_empty() {
            return members;
        }
        let turn = (self.asker.shuffle % members.len() as u64) as usize;
        members.rotate_left(turn);
        members.sort_by(|one, other| {
            let nearness = || {
                self.tier(one)
                    .cmp(&self.tier(other))
                    .then_with(|| self.by_region(one, other))
            };
            one.state.cmp(&other.state).then_with(nearness)
        });
        members.truncate(ENDPOINTS_MAX);
        members
    }

    /// 0 = same zone, 1 = same region, 2 = elsewhere, 3 = in a region that a drill evacuates.
    fn tier(&self, endpoint: &Endpoint) -> u16 {
        let (here, there) = (self.asker.from, &endpoint.locality);
        let evacuated = |order: &crate::model::Override| order.region == there.region && order.percent >= 100;
        if self.view.overrides(self.asker.now).any(|order| evacuated(order)) {
            3
        } else if here == there {
            0
        } else {
            1 + u16::from(here.region != there.region)
        }
    }

    /// Among regions elsewhere the nearest by round trip; those that were not measured last, by name.
    fn by_region(&self, one: &Endpoint, other: &Endpoint) -> Ordering {
        let (one, other) = (&one.locality.region, &other.locality.region);
        let round_trip = |region| self.view.region_status(region).and_then(|status| status.round_trip);
        let far = std::time::Duration::MAX;
        let by_time = round_trip(one).unwrap_or(far).cmp(&round_trip(other).unwrap_or(far));
        by_time.then_with(|| one.cmp(other))
    }

    fn addresses_of(&self, zone: Zone, members: &[&Endpoint]) -> Found {
        if members.is_empty() {
            return Found::Nowhere(zone);
        }
        let addresses = members.iter().map(|endpoint| endpoint.address);
        records(zone, self.addresses(self.name, addresses, Some(self.kind)))
    }

    /// Address records, each once, in the order given; all families where `kind` is none.
    fn addresses(&self, name: &Name, of: impl IntoIterator<Item = IpAddr>, kind: Option<RecordType>) -> Vec<Record> {
        let mut said = BTreeSet::new();
        let data = of
            .into_iter()
            .filter(|address| said.insert(*address))
            .map(|address| match address {
                IpAddr::V4(v4) => RData::A(A(v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
            });
        data.filter(|data| kind.is_none_or(|kind| data.record_type() == kind))
            .map(|data| Record::from_rdata(name.clone(), self.asker.ttl, data))
            .collect()
    }

    fn of_kind(&self, kind: RecordType, records: impl FnOnce() -> Vec<Record>) -> Vec<Record> {
        if self.kind == kind { records() } else { Vec::new() }
    }

    fn exists_if(&self, zone: Zone, exists: bool) -> Found {
        if exists { empty(zone) } else { Found::Nowhere(zone) }
    }

    fn knows_region(&self, region: &str) -> bool {
        let own = self.view.region().is_some_and(|own| own.as_str() == region);
        own || self.view.regions().any(|status| status.region.as_str() == region)
    }
}

fn ready(entry: &ServiceEntry) -> impl Iterator<Item = &Endpoint> {
    let endpoints = entry.endpoints.values().map(AsRef::as_ref);
    endpoints.filter(|endpoint: &&Endpoint| endpoint.state == EndpointState::Ready)
}

fn records(zone: Zone, answers: Vec<Record>) -> Found {
    Found::Records {
        zone,
        answers,
        additionals: Vec::new(),
    }
}

fn empty(zone: Zone) -> Found {
    records(zone, Vec::new())
}

fn is_named(name: &str, asked: &str) -> bool {
    name.eq_ignore_ascii_case(asked)
}

/// The label of an endpoint: its hostname, or its address with dashes, which conformance tests look for.
fn label_of(endpoint: &Endpoint) -> String {
    if endpoint.hostname.is_empty() {
        endpoint.address.to_string().replace(['.', ':'], "-")
    } else {
        endpoint.hostname.to_ascii_lowercase()
    }
}

fn service_fqdn(service: &ServiceName) -> Option<Name> {
    let labels = [
        service.name(),
        service.namespace().as_str(),
        "svc",
        "clusterset",
        "local",
    ];
    Name::from_labels(labels.map(str::as_bytes)).ok()
}

fn member_name(service: &Service, endpoint: &Endpoint) -> Option<Name> {
    let name = service_fqdn(&service.name)?;
    let name = name.prepend_label(endpoint.cluster.as_str()).ok()?;
    name.prepend_label(label_of(endpoint).as_str()).ok()
}
