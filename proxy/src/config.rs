//! Checked settings of a proxy. One reading reports every fault of the file, each with its key and what to write instead;
//! reads no file itself, and states each default at its field.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use mesh::{
    dns,
    model::{ClusterId, Locality, Namespace, Protocol, RegionId, ServiceAccount, ServiceName, WorkloadId, Zone},
    ops::{Faults, Section},
};

use crate::{agent::probe::Health, inbound, outbound};

/// Everything that a proxy needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `region`: whose registry it obeys. Required.
    pub region: RegionId,
    /// `cluster`: the network that it is on; endpoints on others are reached through gateways. Required.
    pub cluster: ClusterId,
    /// `zone`: its failure domain. Default `a`.
    pub zone: Zone,
    /// `registry`: `host:port` of the region's registry nodes. Required, at least one.
    pub registry: Vec<String>,
    /// `data_dir`: its own folder: identity and the last view, with which it starts when the registry is away. Required.
    pub data_dir: PathBuf,
    /// `[workload]`
    pub workload: WorkloadConfig,
    /// `[identity]`
    pub identity: IdentityConfig,
    /// `[[service]]`: what the application serves; none for one that only calls others.
    pub services: Vec<LocalService>,
    /// `[inbound]`: where the mesh comes in.
    pub inbound: inbound::Settings,
    /// `[outbound]`, with `[outbound.eject]` and the tables `[[upstream]]`: how the application reaches others.
    pub outbound: outbound::Settings,
    /// `[dns]`: how the workload's names are answered.
    pub dns: dns::Settings,
    /// `dns.listen`: UDP and TCP. Default `127.0.0.1:15053`; none when `dns.enabled = false`.
    pub dns_listen: Option<SocketAddr>,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[drain]`
    pub drain: DrainConfig,
}

/// `[workload]`: who the application is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadConfig {
    /// `workload.id`: unique in the mesh, the same after a restart. Required.
    pub id: WorkloadId,
    /// `workload.namespace`. Required: with the service account it is the identity.
    pub namespace: Namespace,
    /// `workload.service_account`. Default `default`, as in Kubernetes.
    pub service_account: ServiceAccount,
    /// `workload.address`: where the cluster's network reaches the inbound listener. Default: the address of
    /// `inbound.listen`, which must then not be 0.0.0.0.
    pub address: Option<IpAddr>,
    /// `workload.hostname`: for names of single endpoints of headless services. Default: made from the address.
    pub hostname: String,
    /// `workload.weight`: relative share among equals, 1 to 1000. Default 100.
    pub weight: u32,
    /// `workload.capacity_rps`: requests per second that it can take; 0, the default, declares none.
    pub capacity_rps: u32,
    /// `[workload.labels]`: free text by key. Default none.
    pub labels: BTreeMap<String, String>,
}

/// `[identity]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// `identity.directory`: where certificate and key are kept. Default `<data_dir>/identity`.
    pub directory: PathBuf,
    /// `identity.token_file`: a file with the join token, needed at the first start only. Default none.
    pub token_file: Option<PathBuf>,
    /// `identity.token`: the join token itself. Default none.
    pub token: Option<String>,
}

/// `[[service]]`: one port that the application serves. A service with several ports stands several times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalService {
    /// `name`: the service's name in the workload's namespace. Required.
    pub name: ServiceName,
    /// `port`: what callers name. Required.
    pub port: u16,
    /// `port_name`: needed for SRV records, and where a service has several ports. Default: the protocol.
    pub port_name: String,
    /// `protocol`: http, http2, grpc or tcp. Default http.
    pub protocol: Protocol,
    /// `app`: where the application listens; on loopback, so that nobody goes around the proxy. Required.
    pub app: SocketAddr,
    /// `headless`: the name resolves to the endpoints instead of a virtual address. Default false.
    pub headless: bool,
    /// `[service.health]`. Default: ready when `app` accepts a connection, asked every 2 s.
    pub health: Health,
}

/// `[admin]`: plain HTTP, therefore on loopback. The same address may be given for all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// `admin.ready`: `/ready`. Default `127.0.0.1:15021`; a Kubernetes probe needs `0.0.0.0:15021`.
    pub ready: SocketAddr,
    /// `admin.metrics`: `/metrics`. Default `127.0.0.1:15090`.
    pub metrics: SocketAddr,
    /// `admin.pages`: all pages. Default `127.0.0.1:15000`.
    pub pages: SocketAddr,
}

/// `[drain]`: how it goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    /// `drain.delay`: from telling the registry until nothing new is accepted. Default 1 s: callers in other regions hear
    /// of it within half of that.
    pub delay: Duration,
    /// `drain.deadline`: for requests that are on their way. Default 20 s: within what Kubernetes grants in all.
    pub deadline: Duration,
    /// `drain.application`: for the application to end by itself after SIGTERM. Default 10 s; then it is killed.
    pub application: Duration,
}

impl Config {
    /// Reads a file's text.
    ///
    /// # Errors
    /// All faults of the file at once.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let file = Section::parse(text)?;
        let region = file.required("region");
        let cluster = file.required("cluster");
        let zone = file.optional("zone").or_else(|| Zone::parse("a").ok());
        let registry = read_registry(&file);
        let data_dir: Option<PathBuf> = file.required("data_dir");
        let workload = read_workload(&file);
        let identity = read_identity(&file, data_dir.clone().unwrap_or_default());
        let namespace = workload.as_ref().map(|workload| &workload.namespace);
        let services = read_services(&file, namespace);
        let (inbound_section, outbound_section) = (file.section("inbound"), file.section("outbound"));
        let inbound = inbound::Settings::read(&inbound_section);
        inbound_section.finish_section();
        let outbound = outbound::Settings::read(&outbound_section, &file.sections("upstream"));
        outbound_section.finish_section();
        if inbound.listen.ip().is_unspecified() && workload.as_ref().is_some_and(|workload| workload.address.is_none())
        {
            let fault = format!(
                "is missing, and inbound.listen = \"{}\" is no address that others could reach",
                inbound.listen
            );
            file.fault("workload.address", fault);
        }
        let (dns, dns_listen) = read_dns(&file);
        let admin = read_admin(&file);
        let drain = read_drain(&file);
        file.finish()?;
        let whole = (region, cluster, zone, registry, data_dir, workload);
        let (Some(region), Some(cluster), Some(zone), Some(registry), Some(data_dir), Some(workload)) = whole else {
            return Err(Faults(vec!["the settings are incomplete".into()]));
        };
        Ok(Self {
            region,
            cluster,
            zone,
            registry,
            data_dir,
            workload,
            identity,
            services,
            inbound,
            outbound,
            dns,
            dns_listen,
            admin,
            drain,
        })
    }

    /// Where this proxy runs.
    #[must_use]
    pub fn locality(&self) -> Locality {
        Locality {
            region: self.region.clone(),
            zone: self.zone.clone(),
        }
    }

    /// The settings in force, for `/config`. The join token is not among them.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut shown = self.clone();
        shown.identity.token = shown.identity.token.map(|_| "(given, not shown)".to_owned());
        format!("{shown:#?}\n")
    }
}

fn read_registry(file: &Section) -> Option<Vec<String>> {
    let registry: Option<Vec<String>> = file.required("registry");
    for (at, address) in registry.iter().flatten().enumerate() {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let good = port
            .and_then(|(_, port)| port.parse().ok())
            .is_some_and(|port: u16| port != 0);
        if !good {
            file.fault(
                &format!("registry[{at}]"),
                format!("{address:?} is not of the form host:port with a port from 1 to 65535"),
            );
        }
    }
    if registry.as_ref().is_some_and(Vec::is_empty) {
        file.fault("registry", "is empty; name at least one node of the region's registry");
    }
    registry
}

fn read_workload(file: &Section) -> Option<WorkloadConfig> {
    let section = file.section("workload");
    let (id, namespace) = (section.required("id"), section.required("namespace"));
    let account = section.optional("service_account");
    let address: Option<String> = section.optional("address");
    let address = address.and_then(|text| {
        let parsed = text.parse::<IpAddr>();
        let unusable = |ip: &IpAddr| ip.is_unspecified() || ip.is_multicast();
        if parsed.as_ref().map_or(true, unusable) {
            section.fault(
                "address",
                format!("{text:?} is no address that others could reach; write for example \"10.0.0.5\""),
            );
        }
        parsed.ok()
    });
    let hostname: String = section.or("hostname", String::new());
    if !hostname.is_empty() && WorkloadId::parse(&hostname).is_err() {
        section.fault(
            "hostname",
            format!("{hostname:?} is no label of a name; use lower-case letters, digits and '-'"),
        );
    }
    let weight = section.or("weight", 100);
    if !(1..=1000).contains(&weight) {
        section.fault("weight", format!("{weight} is not from 1 to 1000"));
    }
    let labels = section.or("labels", BTreeMap::new());
    let capacity_rps = section.or("capacity_rps", 0);
    section.finish_section();
    Some(WorkloadConfig {
        id: id?,
        namespace: namespace?,
        service_account: account.or_else(|| ServiceAccount::parse("default").ok())?,
        address,
        hostname,
        weight,
        capacity_rps,
        labels,
    })
}

fn read_identity(file: &Section, data_dir: PathBuf) -> IdentityConfig {
    let section = file.section("identity");
    let identity = IdentityConfig {
        directory: section.or("directory", data_dir.join("identity")),
        token_file: section.optional("token_file"),
        token: section.optional("token"),
    };
    if identity.token.is_some() && identity.token_file.is_some() {
        section.fault("token", "stands beside token_file; keep one of them");
    }
    section.finish_section();
    identity
}

fn read_services(file: &Section, namespace: Option<&Namespace>) -> Vec<LocalService> {
    let mut services: Vec<LocalService> = Vec::new();
    let mut seen = BTreeSet::new();
    for section in file.sections("service") {
        let name: Option<String> = section.required("name");
        let port: Option<u16> = section.required("port");
        let app: Option<SocketAddr> = section.required("app");
        let protocol = section.or("protocol", Protocol::Http);
        let port_name = section.or("port_name", protocol.as_str().to_owned());
        let headless = section.or("headless", false);
        let health = Health::read(&section.section("health"));
        if port == Some(0) {
            section.fault("port", "0 cannot be called; write 1 to 65535");
        }
        if !is_port_name(&port_name) {
            section.fault(
                "port_name",
                format!("{port_name:?} is no port name; use up to 15 lower-case letters, digits and '-', one letter at least"),
            );
        }
        // Where the namespace is bad it has its own fault; any other lets the rest be checked.
        let stand_in = Namespace::parse("default").ok();
        let name = name.zip(namespace.cloned().or(stand_in)).and_then(|(name, namespace)| {
            let parsed = ServiceName::new(&name, namespace);
            parsed.map_err(|error| section.fault("name", error)).ok()
        });
        if let (Some(name), Some(port), Some(app)) = (name, port, app) {
            if !seen.insert((name.clone(), port)) {
                section.fault("port", format!("{port} of {name} stands twice"));
            }
            if let Some(other) = services.iter().find(|other| other.name == name) {
                if other.headless != headless {
                    section.fault("headless", format!("differs between the ports of {name}"));
                }
                let same_name = services
                    .iter()
                    .any(|other| other.name == name && other.port_name == port_name);
                if same_name && seen.len() > services.len() {
                    section.fault(
                        "port_name",
                        format!("{port_name:?} names two ports of {name}; give each its own"),
                    );
                }
            }
            services.push(LocalService {
                name,
                port,
                port_name,
                protocol,
                app,
                headless,
                health,
            });
        }
        section.finish_section();
    }
    services
}

/// RFC 6335: up to 15 letters, digits and inner single hyphens, with a letter.
fn is_port_name(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=15).contains(&text.len())
        && text.bytes().all(good)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

fn read_dns(file: &Section) -> (dns::Settings, Option<SocketAddr>) {
    let section = file.section("dns");
    let enabled = section.or("enabled", true);
    let listen = section.or("listen", SocketAddr::from(([127, 0, 0, 1], 15053)));
    let settings = dns::Settings::read(&section);
    section.finish_section();
    (settings, enabled.then_some(listen))
}

fn read_admin(file: &Section) -> AdminConfig {
    let section = file.section("admin");
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let admin = AdminConfig {
        ready: section.or("ready", local(15021)),
        metrics: section.or("metrics", local(15090)),
        pages: section.or("pages", local(15000)),
    };
    section.finish_section();
    admin
}

fn read_drain(file: &Section) -> DrainConfig {
    let section = file.section("drain");
    let drain = DrainConfig {
        delay: section.or("delay", Duration::from_secs(1)),
        deadline: section.or("deadline", Duration::from_secs(20)),
        application: section.or("application", Duration::from_secs(10)),
    };
    section.finish_section();
    drain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::probe::Question;

    const LEAST: &str = r#"
        region = "eu"
        cluster = "eu-1"
        registry = ["127.0.0.1:15012"]
        data_dir = "/var/lib/isthmus"
        [workload]
        id = "pay-1"
        namespace = "shop"
        address = "10.0.0.5"
    "#;

    #[test]
    fn the_least_file_gets_the_stated_defaults() {
        let config = Config::parse(LEAST).unwrap();
        assert_eq!(config.workload.service_account.as_str(), "default");
        assert_eq!(config.identity.directory, PathBuf::from("/var/lib/isthmus/identity"));
        assert_eq!(config.dns_listen, Some("127.0.0.1:15053".parse().unwrap()));
        assert_eq!(config.admin.pages, "127.0.0.1:15000".parse().unwrap());
        assert_eq!((config.workload.weight, config.services.len()), (100, 0));
    }

    #[test]
    fn services_take_the_namespace_of_the_workload() {
        let text = format!(
            "{LEAST}\n[workload.labels]\nversion = 'v2'\n[[service]]\nname = 'pay'\nport = 80\napp = '127.0.0.1:8080'\n\
             [service.health]\nkind = 'http'\npath = '/healthz'\ninterval = '200ms'\n[[service]]\nname = 'pay'\nport = 90\n\
             protocol = 'grpc'\napp = '127.0.0.1:8090'\n"
        );
        let config = Config::parse(&text).unwrap();
        let [http, grpc] = config.services.as_slice() else {
            panic!("two ports: {:?}", config.services)
        };
        assert_eq!(http.name.to_string(), "pay.shop");
        assert_eq!(
            http.health.question,
            Question::Http {
                path: "/healthz".into()
            }
        );
        assert_eq!(http.health.interval, Duration::from_millis(200));
        assert_eq!(
            (grpc.port_name.as_str(), &grpc.health.question),
            ("grpc", &Question::Tcp)
        );
        assert_eq!(config.workload.labels["version"], "v2");
    }

    #[test]
    fn all_faults_are_told_together() {
        let text = r#"
            region = "EU"
            registry = ["no-port", "ok:1"]
            data_dir = "/tmp/x"
            cluster_id = "eu-1"
            [workload]
            namespace = "shop"
            address = "0.0.0.0"
            weight = 0
            [identity]
            token = "t"
            token_file = "f"
            [[service]]
            name = "Pay"
            port = 70000
            app = "8080"
            [service.health]
            kind = "ping"
            [[service]]
            name = "cart"
            port = 80
            app = "127.0.0.1:8081"
            port_name = "No_Port"
            [service.health]
            path = "/x"
            interval = "0s"
            retries = 3
            [dns]
            upstreams = "somewhere"
            [drain]
            delay = 5
        "#;
        let faults = Config::parse(text).expect_err("many faults").0;
        for key in [
            "region",
            "cluster",
            "cluster_id",
            "registry[0]",
            "workload.id",
            "workload.address",
            "workload.weight",
            "identity.token",
            "service[0].name",
            "service[0].port",
            "service[0].app",
            "service[0].health.kind",
            "service[1].port_name",
            "service[1].health.path",
            "service[1].health.interval",
            "service[1].health.retries",
            "dns.upstreams",
            "drain.delay",
        ] {
            let start = format!("{key}:");
            assert!(
                faults.iter().any(|fault| fault.starts_with(&start)),
                "{key}: {faults:#?}"
            );
        }
        assert_eq!(faults.len(), 18, "{faults:#?}");
    }

    #[test]
    fn ports_of_one_service_must_not_collide() {
        for (second, key) in [
            ("port = 80\nport_name = 'other'", "service[1].port:"),
            ("port = 81", "service[1].port_name:"),
            (
                "port = 81\nport_name = 'other'\nheadless = true",
                "service[1].headless:",
            ),
        ] {
            let text = format!(
                "{LEAST}\n[[service]]\nname = 'pay'\nport = 80\napp = '127.0.0.1:8080'\n[[service]]\nname = 'pay'\n\
                 app = '127.0.0.1:8081'\n{second}\n"
            );
            let faults = Config::parse(&text).expect_err(second).0;
            assert!(faults.len() == 1 && faults[0].starts_with(key), "{second}: {faults:?}");
        }
    }

    #[test]
    fn the_token_is_not_shown() {
        let text = format!("{LEAST}\n[identity]\ntoken = 'isthmus-workload-v1.secret'\n");
        let shown = Config::parse(&text).unwrap().describe();
        assert!(shown.contains("not shown") && !shown.contains("secret"), "{shown}");
    }
}
