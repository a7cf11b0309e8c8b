//! Why a proposal or a linearizable read was not answered. Each variant is one decision of the caller.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

/// A proposal was not committed, or nobody can say whether it was.
#[derive(Clone, Debug, ThisError, PartialEq, Eq, Serialize, Deserialize)]
pub enum Error {
    /// Nothing was changed; try later.
    #[error("no leader within {waited:?}; are {majority} voters up?")]
    NoLeader {
        /// How long was waited.
        waited: Duration,
        /// How many voters make a quorum.
        majority: usize,
    },
    /// Nothing was changed; try later.
    #[error("{bound} proposals wait already; try again later")]
    Full {
        /// The queue's bound.
        bound: usize,
    },
    /// Nothing was changed; send it in smaller parts.
    #[error("a command of {bytes} bytes is over the limit of {max}; split it")]
    TooLarge {
        /// Its encoded length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Nothing was changed; an operator has to make room.
    #[error("node {node} has {free_mib} MiB free in its data directory, under the reserve of {reserve_mib}; make room")]
    DiskFull {
        /// Which node.
        node: u64,
        /// What is free.
        free_mib: u64,
        /// What must be free.
        reserve_mib: u64,
    },
    /// It may be committed or not; read before trying again.
    #[error("the leader did not answer within {waited:?}: the outcome is unknown; read before trying again")]
    Unknown {
        /// How long was waited.
        waited: Duration,
    },
    /// This node was removed from its region.
    #[error("this node was removed from the region; use another one")]
    Removed,
    /// This node is going away, or its disk failed (its log says which).
    #[error("this node has stopped; use another one")]
    Stopped,
    /// Nothing was changed; every node needs a program that knows it.
    #[error(
        "this needs feature level {needs} and the region is at {level}: at least one node runs an older program; upgrade it"
    )]
    Level {
        /// From which on it is known.
        needs: u32,
        /// The region's.
        level: u32,
    },
}
