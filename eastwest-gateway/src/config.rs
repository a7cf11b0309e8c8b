//! Checked settings of a gateway. Promises that one reading reports every fault of the file, each with its key and what to
//! write instead; reads no file itself, and states each default at its field.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use mesh::{
    model::{ClusterId, GatewayId, RegionId, Zone},
    net::{copy::Patience, hello::HELLO_BYTES_MAX, newcomers},
    ops::{Faults, Section, admin},
};

/// Smallest bound of a hello that lets real clients through: a post-quantum one has about 1.7 KiB.
const HELLO_BYTES_MIN: usize = 4 * 1024;

/// Everything that a gateway needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `region`: the region whose registry it obeys. Required.
    pub region: RegionId,
    /// `cluster`: the network that it leads into; it never dials outside. Required.
    pub cluster: ClusterId,
    /// `id`: its name, unique in the mesh and the same after a restart. Required.
    pub id: GatewayId,
    /// `zone`: its failure domain, shown in logs. Default `a`.
    pub zone: Zone,
    /// `listen`: where other clusters' proxies connect. Default `0.0.0.0:15443`, the port that Istio's users know.
    pub listen: SocketAddr,
    /// `advertise`: `host:port` under which other clusters reach it; a name is resolved at each dial. Default: `listen`,
    /// which must then be a reachable address.
    pub advertise: String,
    /// `registry`: `host:port` of the region's registry nodes. Required, at least one; more let it start while some are
    /// away.
    pub registry: Vec<String>,
    /// `data_dir`: its own folder: identity and the last view, with which it starts when the registry is away. Required.
    pub data_dir: PathBuf,
    /// `[identity]`
    pub identity: IdentityConfig,
    /// `[admin]`
    pub admin: admin::Settings,
    /// `[limits]`
    pub limits: LimitConfig,
    /// `[timeouts]`
    pub timeouts: TimeoutConfig,
}

/// `[identity]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// `identity.directory`: where its certificate and key are kept. Default `<data_dir>/identity`.
    pub directory: PathBuf,
    /// `identity.token_file`: a file with the join token, needed at the first start only. Default none.
    pub token_file: Option<PathBuf>,
    /// `identity.token`: the join token itself, for those who have no file. Default none.
    pub token: Option<String>,
}

/// `[limits]`: at each bound newcomers are refused and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitConfig {
    /// `limits.connections`: open connections in all. Default 20 000; a tunnel needs two descriptors.
    pub connections: usize,
    /// `limits.connections_per_service`: tunnels of one service. Default 10 000, so that one service leaves room for
    /// others.
    pub connections_per_service: u32,
    /// `limits.connections_per_source`: connections of one client address. Default: no bound, because a whole cluster may
    /// come from one address.
    pub connections_per_source: u32,
    /// `limits.handshakes`: clients whose tunnel is not open yet; beyond, each takes the place of an older one. Default
    /// 2 000: a second of the busiest core. At most a quarter of `connections` counts.
    pub handshakes: usize,
    /// `limits.handshakes_per_source`: of those, of one client address. Default half of them: a whole cluster may come
    /// from one address.
    pub handshakes_per_source: usize,
    /// `limits.hello_bytes`: longest ClientHello. Default 16 KiB.
    pub hello_bytes: usize,
    /// `limits.pipes`: directions of tunnels that are spliced at the same moment, with 256 KiB and two descriptors each;
    /// others are copied. Default 64.
    pub pipes: usize,
    /// `limits.spare_buffers`: idle buffers of 64 KiB that are kept. Default 16.
    pub spare_buffers: usize,
}

impl LimitConfig {
    pub(crate) fn newcomers(&self) -> newcomers::Bounds {
        newcomers::Bounds {
            total_max: self.handshakes,
            source_max: self.handshakes_per_source,
        }
    }
}

/// `[timeouts]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutConfig {
    /// `timeouts.hello`: from accepting to the last byte of the hello. Default 5 s.
    pub hello: Duration,
    /// `timeouts.dial`: to connect to an endpoint. Default 2 s: it is on the same network.
    pub dial: Duration,
    /// `timeouts.idle`: a tunnel with no byte in either direction. Default 1 h, as Envoy's.
    pub idle: Duration,
    /// `timeouts.stall`: a peer that does not take what it was sent. Default 2 min: longer than a pause of a busy
    /// process, shorter than it takes until buffers of others run out.
    pub stall: Duration,
    /// `timeouts.drain`: from the order to stop until open tunnels are cut. Default 30 s, what Kubernetes grants.
    pub drain: Duration,
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
        let id = file.required("id");
        let zone = file.optional("zone").or_else(|| Zone::parse("a").ok());
        let listen = file.or("listen", SocketAddr::from(([0, 0, 0, 0], 15443)));
        let advertise = read_advertise(&file, listen);
        let registry: Option<Vec<String>> = file.required("registry");
        for (at, address) in registry.iter().flatten().enumerate() {
            check_host_port(&file, &format!("registry[{at}]"), address);
        }
        if registry.as_ref().is_some_and(Vec::is_empty) {
            file.fault("registry", "is empty; name at least one node of the region's registry");
        }
        let data_dir: Option<PathBuf> = file.required("data_dir");
        let identity = read_identity(&file, data_dir.clone().unwrap_or_default());
        let admin = admin::Settings::read(&file.section("admin"));
        let limits = read_limits(&file);
        let timeouts = read_timeouts(&file);
        file.finish()?;
        let whole = (region, cluster, id, zone, registry, data_dir);
        let (Some(region), Some(cluster), Some(id), Some(zone), Some(registry), Some(data_dir)) = whole else {
            return Err(Faults(vec!["the settings are incomplete".into()]));
        };
        Ok(Self {
            region,
            cluster,
            id,
            zone,
            listen,
            advertise,
            registry,
            data_dir,
            identity,
            admin,
            limits,
            timeouts,
        })
    }

    /// How long a tunnel may be silent or stuck.
    #[must_use]
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            idle: self.timeouts.idle,
            stall: self.timeouts.stall,
        }
    }
}

fn check_host_port(file: &Section, key: &str, text: &str) {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let good = port
        .and_then(|(_, port)| port.parse::<u16>().ok())
        .is_some_and(|port| port != 0);
    if !good {
        file.fault(
            key,
            format!("{text:?} is not of the form host:port with a port from 1 to 65535"),
        );
    }
}

fn read_advertise(file: &Section, listen: SocketAddr) -> String {
    if let Some(advertise) = file.optional::<String>("advertise") {
        check_host_port(file, "advertise", &advertise);
        return advertise;
    }
    if (listen.ip().is_unspecified() || listen.port() == 0) && !file.has("advertise") {
        let fault = format!(
            "is missing, and listen = \"{listen}\" is no address that other clusters could dial; write host:port"
        );
        file.fault("advertise", fault);
    }
    listen.to_string()
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

fn read_limits(file: &Section) -> LimitConfig {
    let section = file.section("limits");
    let handshakes = section.or("handshakes", 2_000_usize);
    let limits = LimitConfig {
        connections: section.or("connections", 20_000),
        connections_per_service: section.or("connections_per_service", 10_000),
        connections_per_source: section.or("connections_per_source", u32::MAX),
        handshakes,
        handshakes_per_source: section.or("handshakes_per_source", handshakes.div_ceil(2)),
        hello_bytes: section.or("hello_bytes", HELLO_BYTES_MAX),
        pipes: section.or("pipes", 64),
        spare_buffers: section.or("spare_buffers", 16),
    };
    if !(HELLO_BYTES_MIN..=HELLO_BYTES_MAX * 4).contains(&limits.hello_bytes) {
        let most = HELLO_BYTES_MAX * 4;
        section.fault(
            "hello_bytes",
            format!("{} is not from {HELLO_BYTES_MIN} to {most}", limits.hello_bytes),
        );
    }
    for (key, zero) in [
        ("connections", limits.connections == 0),
        ("connections_per_service", limits.connections_per_service == 0),
        ("connections_per_source", limits.connections_per_source == 0),
        ("handshakes", limits.handshakes == 0),
        (
            "handshakes_per_source",
            limits.handshakes_per_source == 0 && limits.handshakes != 0,
        ),
    ] {
        if zero {
            section.fault(key, "0 would let nobody in; leave it out for the default");
        }
    }
    section.finish_section();
    limits
}

fn read_timeouts(file: &Section) -> TimeoutConfig {
    let section = file.section("timeouts");
    let seconds = Duration::from_secs;
    let timeouts = TimeoutConfig {
        hello: section.or("hello", seconds(5)),
        dial: section.or("dial", seconds(2)),
        idle: section.or("idle", seconds(3600)),
        stall: section.or("stall", seconds(120)),
        drain: section.or("drain", seconds(30)),
    };
    for (key, value) in [
        ("hello", timeouts.hello),
        ("dial", timeouts.dial),
        ("idle", timeouts.idle),
        ("stall", timeouts.stall),
    ] {
        if value.is_zero() {
            section.fault(key, "0 would end everything at once; write for example \"5s\"");
        }
    }
    section.finish_section();
    timeouts
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        region = "eu"
        cluster = "eu-1"
        id = "eu-1-gateway-1"
        advertise = "gateway.eu.example:15443"
        registry = ["registry-1:15012", "127.0.0.1:15012"]
        data_dir = "/var/lib/isthmus"
    "#;

    #[test]
    fn the_least_file_gets_the_stated_defaults() {
        let config = Config::parse(LEAST).unwrap();
        assert_eq!(config.listen, "0.0.0.0:15443".parse().unwrap());
        assert_eq!(config.identity.directory, PathBuf::from("/var/lib/isthmus/identity"));
        assert_eq!(config.admin.ready, "127.0.0.1:15021".parse().unwrap());
        assert_eq!(config.limits.hello_bytes, 16 * 1024);
        assert_eq!(config.timeouts.hello, Duration::from_secs(5));
        assert_eq!(config.patience().idle, Duration::from_secs(3600));
    }

    #[test]
    fn all_faults_are_told_together() {
        let text = r#"
            region = "EU"
            id = "gateway"
            registry = ["no-port"]
            data_dir = "/tmp/x"
            cluster_id = "eu-1"
            [identity]
            token = "t"
            token_file = "f"
            [limits]
            connections = 0
            hello_bytes = 10
            [timeouts]
            idle = "0s"
        "#;
        let faults = Config::parse(text).expect_err("many faults").0;
        for key in [
            "region",
            "cluster",
            "advertise",
            "registry[0]",
            "cluster_id",
            "identity.token",
            "limits.connections",
            "limits.hello_bytes",
            "timeouts.idle",
        ] {
            let start = format!("{key}:");
            assert!(
                faults.iter().any(|fault| fault.starts_with(&start)),
                "{key}: {faults:?}"
            );
        }
        assert_eq!(faults.len(), 9, "{faults:?}");
    }

    #[test]
    fn a_listen_address_that_can_be_dialled_is_advertised() {
        let text = LEAST.replace(
            "advertise = \"gateway.eu.example:15443\"",
            "listen = \"10.0.0.1:15443\"",
        );
        assert_eq!(Config::parse(&text).unwrap().advertise, "10.0.0.1:15443");
    }
}
