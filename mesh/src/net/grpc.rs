//! gRPC over the mesh's own TLS: every handler knows its caller, and every client says who must answer. A connection whose
//! peer is no longer trusted is cut when bundles change, on both ends.

mod body;
mod client;
mod connection;
mod exchange;
mod gate;
mod merge;
mod reach;
mod server;

use std::net::SocketAddr;

pub use client::{Credentials, DialError, Timeouts, connect_any, dial};
pub use exchange::Hangup;
pub use gate::{Gate, Open, Pass};
pub use reach::{Unreached, reach, reach_port};
pub use server::{Serve, serve};

use crate::identity::{Role, SpiffeId, TrustDomain, system};

/// Largest message that either end takes, in bytes; to be set on each generated client and server.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Who calls, in the extensions of each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// From its verified certificate; none when it showed no certificate.
    pub id: Option<SpiffeId>,
    /// Where from.
    pub address: SocketAddr,
}

impl Caller {
    /// The caller of a request; none when it did not come through [`serve`].
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get()
    }

    /// Its role in the infrastructure of `domain`; none for workloads, strangers and those of other domains.
    #[must_use]
    pub fn role(&self, domain: &TrustDomain) -> Option<Role> {
        let id = self.id.as_ref().filter(|id| id.trust_domain() == *domain)?;
        system::role(id)
    }
}

#[cfg(test)]
mod tests;
