//! Between regions: what is offered to a peer, what is taken from it, and the one stream that carries both.
//!
//! The leader of each region keeps one stream to the leader of each peer, whichever of them dialled. Everything that comes
//! in is proposed like a local change; everything that goes out is a watch with the peer's scope. A stream that breaks
//! withdraws nothing: it only stops news, and it heals by itself.

mod compare;
mod dial;
pub mod export;
pub mod freshness;
mod home;
pub mod import;
mod join;
mod link;
pub mod merge;
mod meters;
mod server;
mod session;
mod slot;
#[cfg(test)]
mod tests;
pub mod trust;

use std::sync::Arc;

use mesh::{
    identity::{Identity, Token},
    model::{RegionId, RegionStatus},
    net::grpc::Caller,
    ops::Metrics,
    runtime::{Clock, OnExit, Tasks},
};
use proto::federation::v1::{PeerMessage, federation_server::FederationServer};
use tokio::sync::mpsc;
use tonic::Status;

pub use compare::names as part_names;
pub use dial::{Dial, Incoming, NoStream};
pub use home::{Home, Replicated};
pub use join::JoinError;
pub use server::Service;
pub use slot::PeerStatus;

use crate::{raft::Replica, watch::Hub};

/// What the federation needs of the node.
pub struct Deps {
    /// The way to commit, and who leads.
    pub replica: Replica,
    /// The way to hear what was committed.
    pub hub: Arc<Hub>,
    /// The registry's own identity; its bundles will follow the catalogue's.
    pub identity: Identity,
    /// `host:port` of this node's federation listener as peers reach it; used until the membership names all nodes'.
    pub addresses: Vec<String>,
    /// For the streams.
    pub tasks: Tasks,
    /// For the streams' states.
    pub metrics: Metrics,
}

/// What the streams to the peers need.
pub struct Links {
    /// The own region.
    pub home: Arc<dyn Home>,
    /// The way to hear what was committed.
    pub hub: Arc<Hub>,
    /// The way to the peers.
    pub dial: Arc<dyn Dial>,
    /// The node's wall clock.
    pub clock: Clock,
    /// For the streams.
    pub tasks: Tasks,
    /// For the streams' states.
    pub metrics: Metrics,
}

/// What all parts of the federation share.
pub(crate) struct Shared {
    pub(crate) home: Arc<dyn Home>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) clock: Clock,
    pub(crate) slots: slot::Slots,
    pub(crate) tasks: Tasks,
}

/// This region's side of all its peerings. Clones are the same.
#[derive(Clone)]
pub struct Federation {
    shared: Arc<Shared>,
}

impl Federation {
    /// Starts the tasks that keep the streams and the trusted bundles; on a node that does not lead they wait.
    #[must_use]
    pub fn start(deps: Deps) -> Self {
        let clock = deps.replica.clock();
        let home = Arc::new(Replicated::new(deps.replica, deps.addresses));
        let links = Links {
            home,
            hub: deps.hub,
            dial: Arc::new(dial::Grpc(deps.identity.clone())),
            clock,
            tasks: deps.tasks,
            metrics: deps.metrics,
        };
        Self::trusting(links, deps.identity)
    }

    /// As [`Federation::start`] over these links; the identity's bundles follow the catalogue's.
    pub(crate) fn trusting(links: Links, identity: Identity) -> Self {
        let follow = trust::follow(Arc::clone(&links.hub), identity, links.tasks.stop().clone());
        links.tasks.spawn("federation-trust", OnExit::StopProcess, follow);
        Self::over(links)
    }

    /// Starts the tasks that keep the streams, over another way to the peers; follows no bundles.
    #[must_use]
    pub fn over(links: Links) -> Self {
        let shared = Arc::new(Shared {
            home: links.home,
            hub: links.hub,
            dial: links.dial,
            clock: links.clock,
            slots: slot::Slots::new(&links.metrics),
            tasks: links.tasks,
        });
        let keep = link::keep(Arc::clone(&shared));
        shared.tasks.spawn("federation", OnExit::StopProcess, keep);
        Self { shared }
    }

    /// The gRPC server for peers. Serve it where clients need no certificate: who redeems a token has none that is trusted
    /// yet. Everything else asks for one.
    #[must_use]
    pub fn server(&self) -> FederationServer<Service> {
        Service::server(Arc::clone(&self.shared))
    }

    /// Takes a stream that a peer dialled, however it came; gives what this side sends on it.
    ///
    /// # Errors
    /// When the caller is no peer's registry, or this node does not lead: the status names who does.
    pub fn accept(&self, caller: Option<&Caller>, incoming: Incoming) -> Result<mpsc::Receiver<PeerMessage>, Status> {
        server::accept(&self.shared, caller, incoming)
    }

    /// Redeems a peering token at the region that gave it out: from then on both are peers.
    ///
    /// # Errors
    /// Says what stands in the way; the token stays good unless its region took it.
    pub async fn join(&self, token: &Token) -> Result<RegionId, JoinError> {
        join::join(&self.shared, token).await
    }

    /// How the stream to a peer stands. A node that does not lead knows what the leader committed last.
    #[must_use]
    pub fn status(&self, peer: &RegionId) -> PeerStatus {
        let state = self.shared.hub.state();
        let recorded = state.region_statuses().find(|status| status.region == *peer);
        let recorded = recorded.map_or_else(PeerStatus::default, |status: &Arc<RegionStatus>| PeerStatus {
            connected: status.connected,
            round_trip: status.round_trip,
            // Before the first round trip the record has the time of the peering: the peer itself was never heard.
            heard_at: (status.connected || status.round_trip.is_some()).then_some(status.heard_at),
            ..PeerStatus::default()
        });
        if !self.shared.home.is_leader() {
            return recorded;
        }
        let mut own = self.shared.slots.of(peer).status();
        // A new leader has heard nobody yet, and others have.
        own.heard_at = own.heard_at.max(recorded.heard_at);
        own.round_trip = own.round_trip.or(recorded.round_trip);
        own
    }
}
