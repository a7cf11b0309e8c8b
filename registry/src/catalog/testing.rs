//! A small world for tests: region `eu` with its commands in short form.

use std::{sync::Arc, time::Duration};

use mesh::{
    identity::{Bundle, TrustDomain},
    model::{
        Audience, Endpoint, EndpointState, Export, Gateway, Held, ImportPolicy, Incarnation, Labels, Locality, NodeId,
        Override, Port, Protocol, Quota, RegionId, Revision, Service, ServiceName, Tenant, Timestamp,
    },
};

use super::{
    Applied, AuthorityRecord, Batch, Command, Drill, GatewayLease, ImportSet, Lessee, PeerRecord, Reply, State,
    WorkloadLease, WorkloadService,
};

pub(crate) fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(crate) fn bundle(region: &str, sequence: u64) -> Bundle {
    Bundle::new(id(&format!("{region}.test")), id(region), sequence, Vec::new()).unwrap()
}

pub(crate) fn init(region: &str, incarnation: u64) -> Command {
    Command::Init {
        region: id(region),
        trust_domain: id(&format!("{region}.test")),
        incarnation: Incarnation(incarnation),
        bundle: bundle(region, 1),
        authority: AuthorityRecord {
            chain: vec![vec![1]],
            key: vec![2],
            not_after: Timestamp(1_000_000),
        },
    }
}

/// A catalogue under a clock that tests turn.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) revision: u64,
    pub(crate) at: i64,
}

impl World {
    pub(crate) fn new(region: &str) -> Self {
        let mut world = Self {
            state: State::default(),
            revision: 0,
            at: 1_000,
        };
        assert_eq!(world.run(init(region, 7)), Reply::Done);
        assert_eq!(world.run(Command::RaiseLevel(crate::catalog::LEVEL)), Reply::Done);
        world
    }

    pub(crate) fn apply(&mut self, commands: Vec<Command>) -> Applied {
        self.revision += 1;
        let at = Timestamp(self.at);
        self.state.apply(Revision(self.revision), &Batch { at, commands })
    }

    pub(crate) fn run(&mut self, command: Command) -> Reply {
        self.apply(vec![command]).replies.remove(0)
    }

    /// Runs a command that must be refused; gives the reason.
    pub(crate) fn refused(&mut self, command: Command) -> String {
        let before = self.state.clone();
        match self.run(command) {
            Reply::Refused(refusal) => {
                assert!(before == self.state, "a refused command changes nothing");
                refusal.to_string()
            }
            other => panic!("{other:?} is no refusal"),
        }
    }

    pub(crate) fn attach(&mut self, lease: WorkloadLease) -> (u64, Vec<String>) {
        match self.run(Command::AttachWorkload(Arc::new(lease))) {
            Reply::Attached { epoch, endpoints } => (epoch, endpoints.iter().map(ToString::to_string).collect()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn endpoint_ids(&self, service: &str) -> Vec<String> {
        let endpoints = self.state.endpoints.get(&id::<ServiceName>(service));
        let ids = endpoints.into_iter().flat_map(|set| set.keys());
        ids.map(ToString::to_string).collect()
    }
}

pub(crate) fn port(name: &str, number: u16, protocol: Protocol) -> Port {
    Port {
        name: name.into(),
        number,
        protocol,
    }
}

/// Workload `name` in namespace `shop`, serving `services` on 80/http.
pub(crate) fn workload(name: &str, services: &[&str]) -> WorkloadLease {
    let services = services.iter().map(|service| WorkloadService {
        name: id(service),
        ports: vec![port("", 80, Protocol::Http)],
        headless: false,
        endpoint: id(&format!("ep-{name}-{}", service.replace('.', "-"))),
    });
    WorkloadLease {
        id: id(name),
        namespace: id("shop"),
        service_account: id("pay"),
        identity: id("spiffe://eu.test/ns/shop/sa/pay"),
        cluster: id("eu-1"),
        zone: id("a"),
        address: [10, 0, 0, 1].into(),
        inbound_port: 15006,
        services: services.collect(),
        state: EndpointState::Ready,
        labels: Labels::default(),
        weight: 100,
        capacity_rps: 0,
        hostname: String::new(),
        holder: NodeId(1),
    }
}

pub(crate) fn gateway(name: &str, region: &str) -> Gateway {
    Gateway {
        id: id(name),
        region: id(region),
        cluster: id(&format!("{region}-1")),
        address: "gw.test:15443".into(),
        state: EndpointState::Ready,
        identity: id(&format!("spiffe://{region}.test/ns/isthmus-system/sa/gateway")),
    }
}

pub(crate) fn gateway_lease(name: &str, region: &str) -> GatewayLease {
    GatewayLease {
        gateway: gateway(name, region),
        holder: NodeId(1),
    }
}

pub(crate) fn lapse(workload: &str, epoch: u64) -> Command {
    Command::Lapse {
        lessee: Lessee::Workload(id(workload)),
        epoch,
    }
}

pub(crate) fn export(service: &str, to: Audience) -> Command {
    Command::PutExport(Export {
        service: id(service),
        to,
        created_at: Timestamp(500),
    })
}

pub(crate) fn regions(names: &[&str]) -> Audience {
    Audience::Regions(names.iter().map(|name| id(name)).collect())
}

pub(crate) fn peer(region: &str) -> PeerRecord {
    PeerRecord {
        region: id(region),
        bundle: bundle(region, 1),
        addresses: vec!["registry.test:15016".into()],
        incarnation: Incarnation(1),
        import: ImportPolicy::All,
    }
}

pub(crate) fn service(name: &str, region: &str) -> Service {
    Service {
        name: id(name),
        ports: vec![port("", 80, Protocol::Http)],
        virtual_ips: Vec::new(),
        origins: vec![id(region)],
        created_at: Timestamp(100),
        conflict: String::new(),
        exported_to: mesh::model::Audience::Nobody,
        headless: false,
    }
}

pub(crate) fn endpoint(name: &str, service: &str, region: &str) -> Endpoint {
    Endpoint {
        id: id(name),
        service: id(service),
        locality: Locality {
            region: id(region),
            zone: id("a"),
        },
        cluster: id(&format!("{region}-1")),
        address: [10, 9, 0, 1].into(),
        inbound_port: 15006,
        state: EndpointState::Ready,
        weight: 100,
        capacity_rps: 0,
        labels: Labels::default(),
        identity: id(&format!("spiffe://{region}.test/ns/shop/sa/pay")),
        ports: vec![80],
        unverified: false,
        hostname: String::new(),
    }
}

pub(crate) fn import_set(revision: u64, full: bool) -> ImportSet {
    ImportSet {
        held: Held {
            incarnation: Incarnation(1),
            revision: Revision(revision),
        },
        full,
        services: Vec::new(),
        endpoints: Vec::new(),
        gateways: Vec::new(),
        bundles: Vec::new(),
        tenants: Vec::new(),
        overrides: Vec::new(),
        tenant_proxies: None,
        removed: Vec::new(),
        base: None,
    }
}

pub(crate) fn import(peer: &str, set: ImportSet) -> Command {
    Command::Import {
        peer: id(peer),
        set: Box::new(set),
    }
}

pub(crate) fn tenant(name: &str, namespaces: &[&str], region: &str, requests_per_second: f64) -> Tenant {
    Tenant {
        id: id(name),
        namespaces: namespaces.iter().map(|name| id(name)).collect(),
        quota: Quota {
            requests_per_second,
            burst: 10.0,
            ..Quota::default()
        },
        region: id(region),
    }
}

pub(crate) fn drill(name: &str, region: &str, origin: &str) -> Drill {
    Drill {
        order: Override {
            id: id(name),
            region: id(region),
            percent: 100,
            expires_at: Timestamp(0),
            origin: id(origin),
            reason: "a test".into(),
        },
        ends_at: Timestamp(21_000),
        lease: Duration::from_secs(15),
    }
}

pub(crate) fn domain(region: &str) -> TrustDomain {
    id(&format!("{region}.test"))
}

pub(crate) fn region(name: &str) -> RegionId {
    id(name)
}
