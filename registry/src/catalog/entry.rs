//! What the catalogue keeps beyond the nouns that travel: definitions by origin, who holds which lease, peers. Pure.

use std::{collections::BTreeMap, sync::Arc};

use mesh::{
    identity::TrustDomain,
    model::{Held, Incarnation, Port, RegionId, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::{GatewayLease, PeerRecord, WorkloadLease};

/// A service as one region defines it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// United over the workloads of the region, by number.
    pub ports: Vec<Port>,
    /// Resolves to endpoints instead of a virtual address.
    pub headless: bool,
    /// When a workload first defined it; for an import, when its origin exported it.
    pub created_at: Timestamp,
    /// Since when no workload of this region serves it; a while later it is swept away. None for imports.
    pub empty_since: Option<Timestamp>,
}

/// A workload's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadHold {
    /// Commands that name another epoch come from a node that lost the lease.
    pub epoch: u64,
    /// The workload as it attached, with the endpoint ids that it keeps and its newest state.
    pub lease: Arc<WorkloadLease>,
    /// It lapsed, but too many lapsed at once to believe it.
    pub unverified: bool,
}

/// A gateway's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayHold {
    /// As for a workload.
    pub epoch: u64,
    /// The gateway as it attached, with its newest state.
    pub lease: Arc<GatewayLease>,
    /// As for a workload.
    pub unverified: bool,
}

/// A peer and how far its exports are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// As it introduced itself, and what is taken from it.
    pub record: PeerRecord,
    /// Where its exports are held; none = a snapshot is needed.
    pub held: Option<Held>,
    /// Records that it sent and does not own.
    pub dropped: u64,
}

/// What belongs to the region itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) region: Option<RegionId>,
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) incarnation: Incarnation,
    pub(super) next_node: u64,
    pub(super) next_epoch: u64,
    /// Lapses of the newest window, by the time of their batch.
    pub(super) lapses: BTreeMap<Timestamp, Lapses>,
}

/// Leases that lapsed in one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lapses {
    /// All of them.
    pub(super) all: u32,
    /// Those that were believed, and are gone.
    pub(super) believed: u32,
}
