//! `[[service]]`: what the application beside this proxy serves. Refuses ports of one service that cannot be told apart.

use std::{collections::BTreeSet, net::SocketAddr};

use mesh::{
    model::{Namespace, Protocol, ServiceName},
    ops::Section,
};

use crate::agent::probe::Health;

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

/// Reads the tables `[[service]]`; every fault is noted in its own table.
pub(super) fn read(sections: &[Section], namespace: Option<&Namespace>) -> Vec<LocalService> {
    let mut services: Vec<LocalService> = Vec::new();
    let mut seen = BTreeSet::new();
    for section in sections {
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
