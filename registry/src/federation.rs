//! Between regions: what is offered to a peer, what is taken from it, and the one stream that carries both.
//!
//! The leader of each region keeps one stream to the leader of each peer, whichever of them dialled. Everything that comes
//! in is proposed like a local change; everything that goes out is a watch with the peer's scope. A stream that breaks
//! withdraws nothing: it only stops news, and it heals by itself.

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
    ops::Metrics,
    runtime::{OnExit, Tasks},
};
use proto::federation::v1::federation_server::FederationServer;

pub use home::Home;
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

/// What all parts of the federation share.
pub(crate) struct Shared {
    pub(crate) home: Arc<dyn Home>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) identity: Identity,
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
        let home = Arc::new(home::Replicated::new(deps.replica, deps.addresses));
        Self::with_home(home, deps.hub, deps.identity, deps.tasks, &deps.metrics)
    }

    pub(crate) fn with_home(
        home: Arc<dyn Home>,
        hub: Arc<Hub>,
        identity: Identity,
        tasks: Tasks,
        metrics: &Metrics,
    ) -> Self {
        let follow = trust::follow(Arc::clone(&hub), identity.clone(), tasks.stop().clone());
        tasks.spawn("federation-trust", OnExit::StopProcess, follow);
        let shared = Arc::new(Shared {
            home,
            hub,
            identity,
            slots: slot::Slots::new(metrics),
            tasks,
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
        if self.shared.home.is_leader() {
            return self.shared.slots.of(peer).status();
        }
        let state = self.shared.hub.state();
        let recorded = state.region_statuses().find(|status| status.region == *peer);
        recorded.map_or_else(PeerStatus::default, |status: &Arc<RegionStatus>| PeerStatus {
            connected: status.connected,
            round_trip: status.round_trip,
            heard_at: Some(status.heard_at),
            ..PeerStatus::default()
        })
    }
}
