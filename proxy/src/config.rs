//! Checked settings of a proxy. One reading reports every fault of the file, each with its key and what to write instead;
//! reads no file itself, and states each default at its field.

mod services;
mod workload;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use mesh::{
    dns,
    model::{ClusterId, Locality, RegionId, Zone},
    ops::{Faults, Section, admin},
};

pub use self::{services::LocalService, workload::WorkloadConfig};
use crate::{inbound, outbound};

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
    pub admin: admin::Settings,
    /// `[drain]`
    pub drain: DrainConfig,
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
        let workload = WorkloadConfig::read(&file.section("workload"));
        let identity = read_identity(&file, data_dir.clone().unwrap_or_default());
        let namespace = workload.as_ref().map(|workload| &workload.namespace);
        let services = services::read(&file.sections("service"), namespace);
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
        let admin = admin::Settings::read(&file.section("admin"));
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

fn read_dns(file: &Section) -> (dns::Settings, Option<SocketAddr>) {
    let section = file.section("dns");
    let enabled = section.or("enabled", true);
    let listen = section.or("listen", SocketAddr::from(([127, 0, 0, 1], 15053)));
    let settings = dns::Settings::read(&section);
    section.finish_section();
    (settings, enabled.then_some(listen))
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
    fn what_the_example_says_to_be_defaults_are_settings_and_the_defaults() {
        let example = include_str!("../../deploy/config/proxy.toml");
        let is_setting = |line: &str| {
            let key = line.split_once(" = ").map_or("", |(key, _)| key);
            line.starts_with("[[") || !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        let lines = example.lines().map(|line| match line.strip_prefix("# ") {
            Some(setting) if is_setting(setting) => setting,
            _ => line,
        });
        let all = Config::parse(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        let least = Config::parse(LEAST).unwrap();
        assert_eq!(all.outbound.upstreams.len(), 1);
        let plain = |config: Config| outbound::Settings {
            upstreams: Vec::new(),
            ..config.outbound
        };
        assert_eq!(format!("{:?}", plain(all)), format!("{:?}", plain(least)));
    }

    #[test]
    fn the_token_is_not_shown() {
        let text = format!("{LEAST}\n[identity]\ntoken = 'isthmus-workload-v1.secret'\n");
        let shown = Config::parse(&text).unwrap().describe();
        assert!(shown.contains("not shown") && !shown.contains("secret"), "{shown}");
    }
}
