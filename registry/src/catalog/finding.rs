//! What comparing copies found: between this region and a peer, and between the nodes of the region. Kept in the catalogue,
//! so that every node can tell, also after a change of leader. Pure.

use std::fmt;

use mesh::model::{NodeId, RegionId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use super::digest::Part;

/// Whose copy is compared. In the order of their records' keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A node's catalogue, with the leader's.
    Node(NodeId),
    /// What this region holds of a peer, with what the peer shows.
    Peer(RegionId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(region) => write!(f, "peer/{region}"),
            Self::Node(node) => write!(f, "node/{node}"),
        }
    }
}

/// Two copies that should be equal and are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The revision of the original at which they were compared.
    pub revision: Revision,
    /// When that was.
    pub at: Timestamp,
    /// What differs; empty where it is not known.
    pub parts: Vec<Part>,
}

/// The leader's digest of the catalogue, for the others to compare theirs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The revision that was summed.
    pub revision: Revision,
    /// See [`super::State::sum`].
    pub sum: u128,
    /// [`super::digest::SCHEME`] of the leader.
    pub scheme: u32,
}
