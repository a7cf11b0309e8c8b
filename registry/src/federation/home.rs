//! The own region as the federation needs it: commit, who leads, where the nodes are.

use futures_util::{FutureExt, future::BoxFuture};
use mesh::model::NodeId;
use tokio::sync::watch;

use crate::{
    catalog::{Command, Reply},
    raft::{Replica, propose},
};

/// The own region. A trait, so that a stream can be tested without a Raft group.
pub trait Home: Send + Sync + 'static {
    /// Commits a command; the answer comes once it is applied.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, propose::Error>>;
    /// Returns once this node has applied all that was committed before the call.
    fn catch_up(&self) -> BoxFuture<'_, Result<(), propose::Error>>;
    /// Whether this node leads.
    fn is_leader(&self) -> bool;
    /// Who leads, whenever that changes.
    fn leader_changed(&self) -> watch::Receiver<Option<NodeId>>;
    /// `host:port` of the federation listeners of all nodes.
    fn addresses(&self) -> Vec<String>;
    /// That of the leader.
    fn leader_address(&self) -> Option<String>;
}

/// A real node.
pub struct Replicated {
    replica: Replica,
    own: Vec<String>,
}

impl Replicated {
    /// A node with its replica; `own` is where peers reach its federation listener.
    #[must_use]
    pub fn new(replica: Replica, own: Vec<String>) -> Self {
        Self { replica, own }
    }
}

impl Home for Replicated {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, propose::Error>> {
        async move { Ok(self.replica.propose(command).await?.reply) }.boxed()
    }

    fn catch_up(&self) -> BoxFuture<'_, Result<(), propose::Error>> {
        async move { self.replica.linearize().await.map(|_| ()) }.boxed()
    }

    fn is_leader(&self) -> bool {
        self.replica.position().is_leader
    }

    fn leader_changed(&self) -> watch::Receiver<Option<NodeId>> {
        self.replica.leader_changed()
    }

    fn addresses(&self) -> Vec<String> {
        let nodes = self.replica.nodes();
        let addresses = nodes.into_iter().map(|status| status.node.federation_address);
        let addresses: Vec<String> = addresses.filter(|address| !address.is_empty()).collect();
        if addresses.is_empty() {
            self.own.clone()
        } else {
            addresses
        }
    }

    fn leader_address(&self) -> Option<String> {
        let leader = self.replica.nodes().into_iter().find(|status| status.leader)?;
        Some(leader.node.federation_address).filter(|address| !address.is_empty())
    }
}
