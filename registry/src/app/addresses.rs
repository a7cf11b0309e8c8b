//! Where a node listens, once it does: ports that were left to the kernel are known then.

use std::net::SocketAddr;

/// Where a node really listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Registration, watch, certificates, admin.
    pub api: SocketAddr,
    /// The other nodes.
    pub raft: SocketAddr,
    /// Health, metrics, JSON.
    pub http: SocketAddr,
    /// Other regions.
    pub federation: SocketAddr,
    /// DNS over UDP and TCP.
    pub dns: SocketAddr,
}
