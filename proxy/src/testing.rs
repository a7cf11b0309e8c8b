//! A small mesh in one process, for tests: regions with their own authority, workloads with an application each, a gateway
//! that splices by server name, and a caller whose view the test writes.

mod application;
mod client;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{
    identity::{Bundle, Identity, SpiffeId, Svid, TrustDomain},
    model::{
        Audience, ClusterId, Coverage, Endpoint, EndpointId, EndpointState, Gateway, GatewayId, Held, Incarnation,
        Labels, Locality, Namespace, Port, Protocol, RegionId, RegionStatus, Resource, Revision, Service, ServiceName,
        Timestamp, Update, View, Zone,
    },
    ops::Metrics,
    route::{Pace, Source, eject},
    runtime::{Drain, OnExit, Stop, Tasks, clock},
    subscribe::{Contact, Demand, Interest, Publisher, Views, demand},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use self::application::serve_application;
pub(crate) use self::client::{Reply, eventually, get, names, raw, request};
use crate::{inbound, outbound};

/// Room for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A region's authority.
pub(crate) struct Ca {
    pub(crate) domain: TrustDomain,
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            domain: TrustDomain::parse(domain).unwrap(),
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn bundle(&self) -> Arc<Bundle> {
        let region = RegionId::parse(self.domain.as_str()).unwrap();
        Arc::new(Bundle::new(self.domain.clone(), region, 1, vec![self.certificate.clone()]).unwrap())
    }

    pub(crate) fn id(&self, account: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://{}/ns/shop/sa/{account}", self.domain)).unwrap()
    }

    pub(crate) fn identity(&self, account: &str, bundles: &[Arc<Bundle>]) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(self.id(account).as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let now = epoch + Duration::from_millis(u64::try_from(clock::wall().0).unwrap());
        params.not_before = now - Duration::from_secs(60);
        params.not_after = now + Duration::from_secs(3600);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let svid = Svid::parse(vec![leaf.der().to_vec()], key.serialize_der()).unwrap();
        Identity::new(svid, bundles.iter().cloned()).unwrap()
    }
}

/// A workload: an application and the inbound side of its proxy.
pub(crate) struct Workload {
    pub(crate) endpoint: Endpoint,
    pub(crate) inbound: inbound::Inbound,
    pub(crate) tasks: Tasks,
    pub(crate) application: Application,
}

/// An application that says who it is.
#[derive(Clone)]
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicU64>,
    /// Answers 500 while true.
    pub(crate) sick: Arc<AtomicBool>,
    stop: Stop,
}

impl Application {
    pub(crate) fn stop(&self) {
        self.stop.order();
    }
}

/// The mesh of one test.
pub(crate) struct World {
    pub(crate) regions: BTreeMap<&'static str, Ca>,
    pub(crate) publisher: Publisher,
    pub(crate) views: Views,
    /// What callers want, and whether their registry answers.
    pub(crate) interest: watch::Sender<Interest>,
    pub(crate) contact: Arc<Contact>,
    /// What the registry of the test sends of.
    pub(crate) coverage: Coverage,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
    pub(crate) resources: Vec<Resource>,
    revision: u64,
}

impl World {
    /// With the regions eu and us, and the services of the tests.
    pub(crate) fn new() -> Self {
        let regions = ["eu", "us"].map(|region| (region, Ca::new(region))).into();
        let (publisher, views) = Publisher::new(View::default());
        let contact = Arc::new(Contact::new(None));
        contact.connect(true);
        let mut world = Self {
            regions,
            publisher,
            views,
            interest: watch::Sender::new(Interest::everything()),
            contact,
            coverage: Coverage::All,
            metrics: Metrics::default(),
            tasks: Tasks::new(Stop::default()),
            resources: Vec::new(),
            revision: 0,
        };
        for region in ["eu", "us"] {
            world.resources.push(Resource::Region(RegionStatus {
                region: RegionId::parse(region).unwrap(),
                trust_domain: TrustDomain::parse(region).unwrap(),
                round_trip: None,
                heard_at: Timestamp(0),
                connected: true,
                tenant_proxies: BTreeMap::new(),
            }));
        }
        world.service("pay.shop", 80, Protocol::Http);
        world.service("grpc.shop", 80, Protocol::Grpc);
        world.service("db.shop", 5432, Protocol::Tcp);
        world
    }

    pub(crate) fn service(&mut self, name: &str, port: u16, protocol: Protocol) {
        let name = ServiceName::parse(name).unwrap();
        self.resources.push(Resource::Service(Service {
            virtual_ips: mesh::model::virtual_ips(&name, 0).to_vec(),
            name,
            ports: vec![Port {
                name: String::new(),
                number: port,
                protocol,
            }],
            origins: Vec::new(),
            created_at: Timestamp(1),
            conflict: String::new(),
            headless: false,
            exported_to: Audience::Everybody,
        }));
    }

    pub(crate) fn bundles(&self) -> Vec<Arc<Bundle>> {
        self.regions.values().map(Ca::bundle).collect()
    }

    pub(crate) fn identity(&self, region: &str, account: &str) -> Identity {
        self.regions[region].identity(account, &self.bundles())
    }

    /// Starts a workload of `service` in `region` (also its cluster), with this application behind it.
    pub(crate) fn workload(&mut self, id: &str, service: &str, region: &str, application: Application) -> Workload {
        let service = ServiceName::parse(service).unwrap();
        let defined = self.resources.iter().find_map(|resource| match resource {
            Resource::Service(defined) if defined.name == service => defined.ports.first().cloned(),
            _ => None,
        });
        let port = defined.unwrap();
        let served = inbound::Served {
            service: service.clone(),
            endpoint: EndpointId::parse(id).ok(),
            ports: vec![inbound::ServedPort {
                port: port.number,
                protocol: port.protocol,
                application: application.address,
            }],
            allow: None,
        };
        let tasks = Tasks::new(self.tasks.stop().child());
        let deps = inbound::Deps {
            identity: self.identity(region, service.name()),
            views: self.views.clone(),
            metrics: self.metrics.clone(),
            tasks: tasks.clone(),
            accept: tasks.stop().clone(),
            drain: Drain::default(),
        };
        let settings = inbound::Settings {
            listen: ([127, 0, 0, 1], 0).into(),
            ..inbound::Settings::default()
        };
        let inbound = inbound::Inbound::new(settings, vec![served], deps).unwrap();
        let endpoint = Endpoint {
            id: EndpointId::parse(id).unwrap(),
            service: service.clone(),
            locality: locality(region, "a"),
            cluster: ClusterId::parse(region).unwrap(),
            address: inbound.address().ip(),
            inbound_port: inbound.address().port(),
            state: EndpointState::Ready,
            weight: 100,
            capacity_rps: 0,
            labels: Labels::default(),
            identity: self.regions[region].id(service.name()),
            ports: vec![port.number],
            unverified: false,
            hostname: String::new(),
        };
        self.resources.push(Resource::from(endpoint.clone()));
        Workload {
            endpoint,
            inbound,
            tasks,
            application,
        }
    }

    /// A gateway of a cluster at this address.
    pub(crate) fn gateway(&mut self, id: &str, region: &str, address: SocketAddr) {
        self.resources.push(Resource::Gateway(Gateway {
            id: GatewayId::parse(id).unwrap(),
            region: RegionId::parse(region).unwrap(),
            cluster: ClusterId::parse(region).unwrap(),
            address: address.to_string(),
            state: EndpointState::Ready,
            identity: self.regions[region].id("gateway"),
        }));
    }

    /// Makes what the test wrote the newest view.
    pub(crate) fn publish(&mut self) {
        self.revision += 1;
        let held = Held {
            incarnation: Incarnation(1),
            revision: Revision(self.revision),
        };
        let view = View::default().updated(Update {
            region: RegionId::parse("eu").unwrap(),
            held,
            full: true,
            upserts: self.resources.clone(),
            removed: Vec::new(),
            committed_at: None,
        });
        self.publisher.publish(view.covering(self.coverage.clone()));
    }

    /// Settings of a caller that eject and come back within a test.
    pub(crate) fn settings() -> outbound::Settings {
        outbound::Settings {
            listen: ([127, 0, 0, 1], 0).into(),
            connect_timeout: Duration::from_secs(2),
            eject: eject::Limits {
                base: Duration::from_millis(300),
                ..eject::Limits::default()
            },
            demand: demand::Settings {
                wait: Duration::from_millis(500),
                ..demand::Settings::default()
            },
            pace: Pace {
                hold: Duration::from_millis(200),
                ramp: Duration::from_millis(400),
            },
            ..outbound::Settings::default()
        }
    }

    /// The caller: `web` in eu.
    pub(crate) fn caller(&mut self, settings: outbound::Settings) -> outbound::Outbound {
        let identity = self.identity("eu", "web");
        self.caller_as(settings, identity)
    }

    pub(crate) fn caller_as(&mut self, settings: outbound::Settings, identity: Identity) -> outbound::Outbound {
        self.publish();
        let demand = Demand::new(
            settings.demand,
            settings.pinned(),
            self.views.clone(),
            self.interest.clone(),
            Arc::clone(&self.contact),
            &self.metrics,
        );
        let deps = outbound::Deps {
            demand,
            identity,
            source: Source {
                locality: locality("eu", "a"),
                cluster: ClusterId::parse("eu").unwrap(),
            },
            namespace: Namespace::parse("shop").unwrap(),
            spending: Arc::default(),
            metrics: self.metrics.clone(),
            tasks: self.tasks.clone(),
            accept: self.tasks.stop().clone(),
            drain: Drain::default(),
        };
        outbound::Outbound::new(settings, deps).unwrap()
    }

    /// An HTTP application called `name`.
    pub(crate) async fn application(&self, name: &'static str) -> Application {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = Application {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            sick: Arc::default(),
            stop: self.tasks.stop().child(),
        };
        let (tasks, serving) = (self.tasks.clone(), application.clone());
        self.tasks.spawn("application", OnExit::Ignore, async move {
            loop {
                let stream = tokio::select! {
                    () = serving.stop.ordered() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let serving = serving.clone();
                tasks.spawn("application", OnExit::Ignore, async move {
                    let stop = serving.stop.clone();
                    tokio::select! {
                        () = stop.ordered() => {}
                        () = serve_application(stream, name, serving) => {}
                    }
                });
            }
        });
        application
    }

    /// An application of opaque bytes: reads to the end, then answers what it read, in capitals.
    pub(crate) async fn shouter(&self) -> Application {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = Application {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            sick: Arc::default(),
            stop: self.tasks.stop().child(),
        };
        let tasks = self.tasks.clone();
        self.tasks.spawn("shouter", OnExit::Ignore, async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tasks.spawn("shouter", OnExit::Ignore, async move {
                    let mut text = String::new();
                    stream.read_to_string(&mut text).await.unwrap();
                    stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                });
            }
        });
        application
    }

    /// A gateway that reads the ClientHello and splices to the endpoint that its server name picks.
    pub(crate) async fn splicer(&self, endpoints: Vec<Endpoint>) -> Splicer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = self.tasks.stop().child();
        let splicer = Splicer {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            stop: stop.clone(),
        };
        let (tasks, count) = (self.tasks.clone(), Arc::clone(&splicer.connections));
        self.tasks.spawn("splicer", OnExit::Ignore, async move {
            loop {
                let stream = tokio::select! {
                    () = stop.ordered() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                count.fetch_add(1, Ordering::Relaxed);
                let (stop, endpoints) = (stop.clone(), endpoints.clone());
                tasks.spawn("splice", OnExit::Ignore, async move {
                    tokio::select! {
                        () = stop.ordered() => {}
                        () = splice(stream, endpoints) => {}
                    }
                });
            }
        });
        splicer
    }
}

pub(crate) struct Splicer {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicU64>,
    stop: Stop,
}

impl Splicer {
    pub(crate) fn stop(&self) {
        self.stop.order();
    }
}

async fn splice(mut near: TcpStream, endpoints: Vec<Endpoint>) {
    use mesh::{
        identity::Sni,
        net::hello::{HELLO_BYTES_MAX, HelloReader, Progress},
    };
    let mut reader = HelloReader::new(HELLO_BYTES_MAX);
    let mut buffer = [0; 4096];
    let hello = loop {
        let read = near.read(&mut buffer).await.unwrap();
        if read == 0 {
            return;
        }
        if let Progress::Done(hello) = reader.feed(&buffer[..read]).unwrap() {
            break hello;
        }
    };
    let sni: Sni = hello.server_name.parse().unwrap();
    let Some(endpoint) = endpoints
        .iter()
        .find(|endpoint| Some(&endpoint.id) == sni.subset.as_ref())
    else {
        return;
    };
    let Ok(mut far) = TcpStream::connect((endpoint.address, endpoint.inbound_port)).await else {
        return;
    };
    far.write_all(reader.bytes()).await.unwrap();
    // How a test's connection ends is checked at its ends.
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

pub(crate) fn locality(region: &str, zone: &str) -> Locality {
    Locality {
        region: RegionId::parse(region).unwrap(),
        zone: Zone::parse(zone).unwrap(),
    }
}
