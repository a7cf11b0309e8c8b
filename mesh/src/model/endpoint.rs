//! Endpoints and gateways: where traffic can go.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{ClusterId, EndpointId, GatewayId, Labels, RegionId, ServiceName, Texts, Zone};
use crate::identity::SpiffeId;

/// First class everywhere, also across federation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// Takes new work.
    Ready,
    /// Not ready, still finishing what it has; takes new work only when nobody else can.
    Serving,
    /// Goes away: finishes what it has, takes nothing new.
    Draining,
    /// Taken out by an operator.
    Maintenance,
    /// Its own health check fails. The default, so that nothing is trusted before it was checked.
    #[default]
    Unhealthy,
}

impl EndpointState {
    /// The name in answers and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where something runs, or where a question comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Locality {
    /// The region.
    pub region: RegionId,
    /// The failure domain in it.
    pub zone: Zone,
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.zone)
    }
}

/// One running copy of one service. Only its region may change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Unique in the mesh.
    pub id: EndpointId,
    /// The service it serves.
    pub service: ServiceName,
    /// Region (the owner of this record) and zone.
    pub locality: Locality,
    /// The network it is on; others reach it through that cluster's gateways.
    pub cluster: ClusterId,
    /// Where its inbound proxy listens, inside its network.
    pub address: IpAddr,
    /// Port of its inbound proxy (not of the application).
    pub inbound_port: u16,
    /// As its agent reports it.
    pub state: EndpointState,
    /// Relative share among equals, 1 to 1000; default 100.
    pub weight: u32,
    /// Requests per second it says it can take; 0 = not declared.
    pub capacity_rps: u32,
    /// Free text by key.
    pub labels: Labels,
    /// Whom its certificate must name.
    pub identity: SpiffeId,
    /// Numbers of the service's ports that it serves.
    pub ports: Vec<u16>,
    /// Its lease lapsed, but too many lapsed at once to believe it (mass-loss protection).
    pub unverified: bool,
    /// For per-endpoint names of headless services; empty = made from the address.
    pub hostname: String,
}

impl Endpoint {
    /// Keeps once what endpoints of all services repeat.
    pub fn share(&mut self, texts: &mut Texts) {
        self.locality.region.share(texts);
        self.locality.zone.share(texts);
        self.cluster.share(texts);
        self.identity.share(texts);
        self.ports.shrink_to_fit();
        self.hostname.shrink_to_fit();
    }
}

/// An east-west gateway. Only its region may change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Unique in the mesh.
    pub id: GatewayId,
    /// The owner of this record.
    pub region: RegionId,
    /// The network that it leads into.
    pub cluster: ClusterId,
    /// `host:port` as other clusters reach it; a name is resolved again at each dial.
    pub address: String,
    /// As it reports itself.
    pub state: EndpointState,
    /// Whom its certificate names (on its probe port; it never terminates workload traffic).
    pub identity: SpiffeId,
}
