//! Settings of the inbound side.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mesh::{
    identity::SpiffeId,
    model::{EndpointId, Protocol, ServiceName},
    ops::Section,
};

/// How the inbound side behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the mesh comes in. Default 0.0.0.0:15006.
    pub listen: SocketAddr,
    /// Most connections. Default 10000.
    pub connections_max: usize,
    /// TLS must be done by then. Default 5 s.
    pub handshake_timeout: Duration,
    /// For the application to accept a connection. Default 1 s.
    pub connect_timeout: Duration,
    /// A connection takes no new requests after this long, less up to a tenth. Default 1 h.
    pub connection_age: Duration,
    /// A tunnel without any byte for this long is closed. Default 1 h.
    pub tunnel_idle: Duration,
    /// Requests at a time on one connection. Default 1000.
    pub streams_max: u32,
    /// An unused connection to the application is closed. Default 60 s.
    pub application_idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15006)),
            connections_max: 10_000,
            handshake_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            connection_age: Duration::from_secs(3600),
            tunnel_idle: Duration::from_secs(3600),
            streams_max: 1_000,
            application_idle: Duration::from_secs(60),
        }
    }
}

impl Settings {
    /// Reads the table `[inbound]`. Faults are noted in the section, which the caller finishes, after keys of its own.
    #[must_use]
    pub fn read(section: &Section) -> Self {
        let default = Self::default();
        let settings = Self {
            listen: section.or("listen", default.listen),
            connections_max: section.or("connections_max", default.connections_max),
            handshake_timeout: section.or("handshake_timeout", default.handshake_timeout),
            connect_timeout: section.or("connect_timeout", default.connect_timeout),
            connection_age: section.or("connection_age", default.connection_age),
            tunnel_idle: section.or("tunnel_idle", default.tunnel_idle),
            streams_max: section.or("streams_max", default.streams_max),
            application_idle: section.or("application_idle", default.application_idle),
        };
        for (key, value) in [
            ("handshake_timeout", settings.handshake_timeout),
            ("connect_timeout", settings.connect_timeout),
            ("connection_age", settings.connection_age),
            ("tunnel_idle", settings.tunnel_idle),
        ] {
            if value.is_zero() {
                section.fault(key, "must be longer than zero");
            }
        }
        for (key, value) in [
            ("connections_max", settings.connections_max),
            ("streams_max", settings.streams_max as usize),
        ] {
            if value == 0 {
                section.fault(key, "must be at least 1");
            }
        }
        settings
    }
}

/// One port of a service that this workload serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedPort {
    /// The service's port, as callers name it.
    pub port: u16,
    /// What the application speaks there.
    pub protocol: Protocol,
    /// Where the application listens, usually on loopback.
    pub application: SocketAddr,
}

/// One service that this workload serves. The agent makes it: see [`super::Inbound::serve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The service.
    pub service: ServiceName,
    /// The own endpoint, once the registry has named it. Until then a caller that names any endpoint is believed.
    pub endpoint: Option<EndpointId>,
    /// Its ports.
    pub ports: Vec<ServedPort>,
    /// Who may call; none = everybody of this region, and of those to which the service is exported.
    pub allow: Option<BTreeSet<SpiffeId>>,
}
