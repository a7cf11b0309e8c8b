//! The nodes of a region as its members know them. Pure.

use std::time::Duration;

use mesh::model::{NodeId, Revision};
use serde::{Deserialize, Serialize};

/// How a node is reached; part of the replicated membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `host:port` of its Raft listener.
    pub raft_address: String,
    /// `host:port` of its API listener.
    pub api_address: String,
    /// `host:port` of its federation listener.
    pub federation_address: String,
    /// Its failure domain.
    pub zone: String,
}

/// A node as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub id: NodeId,
    /// How it is reached.
    pub node: Node,
    /// Votes; a node that does not is still catching up.
    pub voter: bool,
    /// Leads.
    pub leader: bool,
    /// Entries that it still lacks; only the leader knows.
    pub lag: Option<u64>,
    /// Whether it answered within the longest election timeout; only the leader knows it of all, a follower of itself and
    /// of the leader.
    pub reachable: Option<bool>,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The newest revision that it has applied.
    pub revision: Revision,
    /// How long ago it last knew that nothing newer was committed. None: never since its start.
    pub age: Option<Duration>,
    /// Leads.
    pub is_leader: bool,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
}
