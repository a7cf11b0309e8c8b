//! What a replica stands on, and what a simulation may look at inside of it.

use std::sync::Arc;

use mesh::runtime::Clock;

use super::{Transport, storage::Storage};

/// What a replica stands on, and a simulation puts its own in the place of.
pub struct Seams {
    /// Where it keeps its data.
    pub storage: Storage,
    /// The way to the other nodes.
    pub transport: Arc<dyn Transport>,
    /// The node's wall clock.
    pub clock: Clock,
}

/// How Raft stands on a node, for tests that look inside. Leaders are ordered by term, then by node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// The vote that it gave last: term, node, and whether that node was elected.
    pub vote: (u64, u64, bool),
    /// It leads.
    pub leads: bool,
    /// The index of the newest entry of its log.
    pub last: Option<u64>,
    /// The newest applied entry: term and node of the leader that wrote it, and its index.
    pub applied: Option<(u64, u64, u64)>,
    /// Up to where its log was purged.
    pub purged: Option<u64>,
    /// Up to where its newest snapshot goes.
    pub snapshot: Option<u64>,
}
