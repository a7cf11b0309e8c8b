//! Who may see what: an export is opt-in, per service; an import is the other side's consent.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{RegionId, ServiceName, Timestamp};

/// The peers that something is visible to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audience {
    /// Nobody outside the region: the default.
    #[default]
    Nobody,
    /// The named peers.
    Regions(BTreeSet<RegionId>),
    /// Every peer, also those that join later.
    Everybody,
}

impl Audience {
    /// Whether `peer` belongs to it.
    #[must_use]
    pub fn includes(&self, peer: &RegionId) -> bool {
        match self {
            Self::Nobody => false,
            Self::Regions(regions) => regions.contains(peer),
            Self::Everybody => true,
        }
    }
}

/// A service that a region offers to peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The service; it need not exist yet.
    pub service: ServiceName,
    /// To whom.
    pub to: Audience,
    /// Oldest export wins a conflict of definitions (MCS rule).
    pub created_at: Timestamp,
}

/// What a region takes from one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImportPolicy {
    /// Everything that the peer exports: the default when peering.
    #[default]
    All,
    /// Only these services.
    Services(BTreeSet<ServiceName>),
}

impl ImportPolicy {
    /// Whether the service is taken.
    #[must_use]
    pub fn accepts(&self, service: &ServiceName) -> bool {
        match self {
            Self::All => true,
            Self::Services(services) => services.contains(service),
        }
    }
}
