//! Checked settings of a registry node. Promises that one reading reports every fault of the file, each with its key and
//! what to write instead; reads no file itself and fills no gap silently: each default is stated at its field.

mod limits;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use mesh::{
    dns,
    identity::TrustDomain,
    model::{NodeId, RegionId, Zone},
    ops::{Faults, Section},
};

pub use self::limits::LimitConfig;
use crate::raft;

/// Ports that users of Istio know; each can be changed.
const API_PORT: u16 = 15012;
const RAFT_PORT: u16 = 15013;
const HTTP_PORT: u16 = 15014;
const FEDERATION_PORT: u16 = 15016;
const DNS_PORT: u16 = 8053;

/// Everything that one node needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `region`: the region's name, the same on all of its nodes, for good. Required: nothing sensible can be guessed.
    pub region: RegionId,
    /// `trust_domain`: the region's SPIFFE trust domain, for good. Default: the region's name, so that every region has a
    /// domain of its own and none can mint another's identities.
    pub trust_domain: TrustDomain,
    /// `data_dir`: the node's own folder (log, catalogue, snapshots, certificates). Required; two nodes never share one.
    pub data_dir: PathBuf,
    /// `[node]`: who this node is.
    pub node: NodeConfig,
    /// `[listen]`: where it listens.
    pub listen: ListenConfig,
    /// `[advertise]`: under which addresses others reach it.
    pub advertise: AdvertiseConfig,
    /// `[lease]`: how long silence is tolerated.
    pub lease: LeaseConfig,
    /// `[certificates]`: what is issued.
    pub certificates: CertificateConfig,
    /// `[authority]`: an existing root to begin with, instead of a new one.
    pub authority: Option<AuthorityFiles>,
    /// `[limits]`: the bounds of what callers may hold and send.
    pub limits: LimitConfig,
    /// `[raft]`: timers and disk of the replica; the same on all nodes of a region. Its folder and node id are not read
    /// from the file: they follow from `data_dir` and from how the node was made.
    pub raft: raft::Settings,
    /// `[dns]`: how names are answered; where is `listen.dns`.
    pub dns: dns::Settings,
    /// `stop.deadline`: how long streams may drain when the node is told to stop. Default 5 s: agents attach to another
    /// node at once, and a supervisor's own patience is usually 10 s or more.
    pub stop_deadline: Duration,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// `node.name`: shown in logs and status. Default `<region>-registry`.
    pub name: String,
    /// `node.zone`: its failure domain; nodes of one region belong in different ones. Default `a`.
    pub zone: Zone,
}

/// `[listen]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// `listen.api`: registration, watch, certificates, admin; mTLS. Default `0.0.0.0:15012`.
    pub api: SocketAddr,
    /// `listen.raft`: the other nodes of the region; mTLS. Default `0.0.0.0:15013`.
    pub raft: SocketAddr,
    /// `listen.http`: health, metrics, JSON; no TLS and no writes, therefore on loopback. Default `127.0.0.1:15014`.
    pub http: SocketAddr,
    /// `listen.federation`: registries of other regions; mTLS. Default `0.0.0.0:15016`.
    pub federation: SocketAddr,
    /// `listen.dns`: UDP and TCP. Default `127.0.0.1:8053`: port 53 needs a privilege.
    pub dns: SocketAddr,
}

/// `[advertise]`: `host:port`, a name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertiseConfig {
    /// `advertise.api`: goes into tokens and status. Default: `listen.api`, which must then be a reachable address.
    pub api: String,
    /// `advertise.raft`: goes into the membership of the Raft group. Default: `listen.raft`.
    pub raft: String,
    /// `advertise.federation`: goes into peering tokens. Default: `listen.federation`.
    pub federation: String,
}

/// `[lease]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// `lease.ttl`: an agent that was not heard for so long loses its lease. Default 10 s: longer than a leader election
    /// with its retries, shorter than an operator's patience; failing endpoints are avoided much sooner by evidence.
    pub ttl: Duration,
    /// `lease.grace`: on top of the ttl where not the agent but its node went silent. Default 10 s: agents need time to
    /// notice and to attach elsewhere.
    pub grace: Duration,
}

/// `[certificates]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateConfig {
    /// `certificates.lifetime`: of SVIDs; they are renewed at half of it. Default 1 h: short enough to need no
    /// revocation, long enough to live through half an hour without any registry.
    pub lifetime: Duration,
}

/// `[authority]`: PEM files of an authority that exists. Read once, when the region is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityFiles {
    /// `authority.certificate`: the issuing CA certificate, followed by what lies between it and the root.
    pub certificate: PathBuf,
    /// `authority.key`: the issuing certificate's key, PKCS#8.
    pub key: PathBuf,
    /// `authority.root`: the certificates that become the region's anchors.
    pub root: PathBuf,
}

impl Config {
    /// Reads a file's text.
    ///
    /// # Errors
    /// All faults of the file at once.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let file = Section::parse(text)?;
        let region: Option<RegionId> = file.required("region");
        let trust_domain = file.optional::<TrustDomain>("trust_domain");
        let data_dir: Option<PathBuf> = file.required("data_dir");
        let node = read_node(&file, region.as_ref());
        let listen = read_listen(&file);
        let advertise = read_advertise(&file, &listen);
        let lease = read_lease(&file);
        let certificates = read_certificates(&file);
        let authority = read_authority(&file);
        let limits = LimitConfig::read(&file.section("limits"), certificates.lifetime);
        let raft = raft::Settings::read(&file.section("raft"));
        let dns = read_dns(&file);
        let stop_deadline = read_stop(&file);
        file.finish()?;
        let (Some(region), Some(data_dir), Some(node)) = (region, data_dir, node) else {
            // A required value that is missing or bad was noted, so `finish` has failed; this is its echo.
            return Err(Faults(vec!["region and data_dir are required".to_owned()]));
        };
        let trust_domain = match trust_domain.map_or_else(|| TrustDomain::parse(region.as_str()), Ok) {
            Ok(domain) => domain,
            Err(fault) => return Err(Faults(vec![format!("trust_domain: {fault}")])),
        };
        Ok(Self {
            region,
            trust_domain,
            data_dir,
            node,
            listen,
            advertise,
            lease,
            certificates,
            authority,
            limits,
            raft,
            dns,
            stop_deadline,
        })
    }

    /// The replica's settings for the node that this one has become.
    #[must_use]
    pub fn replica(&self, node: NodeId) -> raft::Settings {
        raft::Settings {
            data_dir: self.data_dir.join("raft"),
            node_id: node,
            ..self.raft.clone()
        }
    }
}

fn read_dns(file: &Section) -> dns::Settings {
    let section = file.section("dns");
    let settings = dns::Settings::read(&section);
    section.finish_section();
    settings
}

fn read_node(file: &Section, region: Option<&RegionId>) -> Option<NodeConfig> {
    let section = file.section("node");
    let default = region.map_or_else(String::new, |region| format!("{region}-registry"));
    let name: String = section.or("name", default);
    if name.len() > 253 || name.chars().any(char::is_control) {
        section.fault("name", "is longer than 253 characters or has control characters");
    }
    let zone = section.optional("zone").or_else(|| Zone::parse("a").ok());
    section.finish_section();
    Some(NodeConfig { name, zone: zone? })
}

fn read_listen(file: &Section) -> ListenConfig {
    let section = file.section("listen");
    let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let listen = ListenConfig {
        api: section.or("api", any(API_PORT)),
        raft: section.or("raft", any(RAFT_PORT)),
        http: section.or("http", loopback(HTTP_PORT)),
        federation: section.or("federation", any(FEDERATION_PORT)),
        dns: section.or("dns", loopback(DNS_PORT)),
    };
    let all = [
        ("api", listen.api),
        ("raft", listen.raft),
        ("http", listen.http),
        ("federation", listen.federation),
        ("dns", listen.dns),
    ];
    for (at, (key, address)) in all.iter().enumerate() {
        for (other_key, other) in &all[..at] {
            if clash(*address, *other) {
                section.fault(
                    key,
                    format!("{address} is also listen.{other_key}; give each its own port"),
                );
            }
        }
    }
    section.finish_section();
    listen
}

/// Whether two listeners cannot both be bound. Port 0 asks for any free one.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let shared = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && shared
}

fn read_advertise(file: &Section, listen: &ListenConfig) -> AdvertiseConfig {
    let section = file.section("advertise");
    let read = |key: &str, listen: SocketAddr| {
        let Some(text) = section.optional::<String>(key) else {
            if !section.has(key) && (listen.ip().is_unspecified() || listen.port() == 0) {
                section.fault(
                    key,
                    format!("is missing, and others cannot reach listen.{key} {listen}; write host:port"),
                );
            }
            return listen.to_string();
        };
        if let Err(fault) = check_host_port(&text) {
            section.fault(key, format!("{text:?} {fault}"));
        }
        text
    };
    let advertise = AdvertiseConfig {
        api: read("api", listen.api),
        raft: read("raft", listen.raft),
        federation: read("federation", listen.federation),
    };
    section.finish_section();
    advertise
}

/// Checks `host:port`: a name, an IPv4 address, or an IPv6 address in brackets.
fn check_host_port(text: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "is not host:port; write for example \"registry-1.eu:15012\" or \"10.0.0.1:15012\"";
    let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err("has no port from 1 to 65535");
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inner
            .parse::<std::net::Ipv6Addr>()
            .map(drop)
            .map_err(|_| "has no IPv6 address in its brackets");
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(good) {
        return Err(EXPECTED);
    }
    if host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        return Err("names no machine; write the address under which others reach this node");
    }
    Ok(())
}

fn read_lease(file: &Section) -> LeaseConfig {
    let section = file.section("lease");
    let lease = LeaseConfig {
        ttl: within(&section, "ttl", (10, 1, 600)),
        grace: within(&section, "grace", (10, 0, 600)),
    };
    section.finish_section();
    lease
}

fn read_certificates(file: &Section) -> CertificateConfig {
    let section = file.section("certificates");
    let lifetime = within(&section, "lifetime", (3600, 60, 7 * 24 * 3600));
    section.finish_section();
    CertificateConfig { lifetime }
}

fn read_stop(file: &Section) -> Duration {
    let section = file.section("stop");
    let deadline = within(&section, "deadline", (5, 0, 600));
    section.finish_section();
    deadline
}

/// A duration with its default and bounds in seconds. Below the lower bound only with reason: tests want short leases.
fn within(section: &Section, key: &str, (default, least, most): (u64, u64, u64)) -> Duration {
    let value = section.or(key, Duration::from_secs(default));
    if value < Duration::from_secs(least) || value > Duration::from_secs(most) {
        section.fault(key, format!("{value:?} is not between {least}s and {most}s"));
    }
    value
}

fn read_authority(file: &Section) -> Option<AuthorityFiles> {
    if !file.has("authority") {
        return None;
    }
    let section = file.section("authority");
    let (certificate, key, root) = (
        section.required("certificate"),
        section.required("key"),
        section.required("root"),
    );
    section.finish_section();
    Some(AuthorityFiles {
        certificate: certificate?,
        key: key?,
        root: root?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "region = 'eu'\ndata_dir = '/var/lib/isthmus'\n\
        [advertise]\napi = 'r1.eu:15012'\nraft = 'r1.eu:15013'\nfederation = 'r1.eu:15016'\n";

    #[test]
    fn the_smallest_file_takes_the_defaults() {
        let config = Config::parse(SMALLEST).expect("good");
        assert_eq!(config.listen.api.port(), 15012);
        assert!(config.listen.http.ip().is_loopback(), "plain HTTP stays on the machine");
        assert_eq!(config.lease.ttl, Duration::from_secs(10));
        assert_eq!(config.certificates.lifetime, Duration::from_secs(3600));
        assert_eq!(config.trust_domain.as_str(), "eu");
        assert_eq!(config.node.name, "eu-registry");
    }

    #[test]
    fn all_faults_are_reported_together() {
        let text = "region = 'EU'\nzone = 'b'\n\
            [listen]\napi = '0.0.0.0:15012'\nhttp = '127.0.0.1:15012'\nraft = '10.0.0.1:15013'\n\
            [advertise]\nfederation = 'nowhere'\n[lease]\nttl = '0s'\n[limits]\nagents = 0\n[authority]\nkey = 'k'\n";
        let faults = Config::parse(text).expect_err("many faults");
        for start in [
            "region:",
            "data_dir: is missing",
            "listen.http: 127.0.0.1:15012 is also listen.api",
            "advertise.api: is missing",
            "advertise.federation:",
            "lease.ttl:",
            "limits.agents:",
            "authority.certificate: is missing",
            "authority.root: is missing",
            "zone: is unknown",
        ] {
            assert!(
                faults.0.iter().any(|fault| fault.starts_with(start)),
                "{start}: {faults}"
            );
        }
        assert_eq!(faults.0.len(), 10, "{faults}");
    }

    #[test]
    fn advertised_addresses_must_be_reachable() {
        for (text, good) in [
            ("r1.eu:15012", true),
            ("10.0.0.1:1", true),
            ("[fd00::1]:15012", true),
            ("r1.eu", false),
            ("r1.eu:0", false),
            ("r1.eu:70000", false),
            (":15012", false),
            ("0.0.0.0:15012", false),
            ("fd00::1:15012", false),
            ("a b:15012", false),
        ] {
            assert_eq!(check_host_port(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn equal_ports_on_different_addresses_do_not_clash() {
        let text = format!("{SMALLEST}[listen]\nraft = '10.0.0.1:15012'\napi = '10.0.0.2:15012'\n");
        Config::parse(&text).expect("two addresses");
    }
}
