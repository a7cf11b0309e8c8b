//! Tiers: how far away an endpoint is, and in which order regions stand in for each other. Pure.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Serialize, Serializer};

use crate::model::{Locality, RegionId, View};

/// How far away. The order of the variants is the order of preference; peers among themselves go by [`peer_order`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TierKey {
    /// The asker's own zone.
    Zone,
    /// Another zone of the asker's region.
    Region,
    /// Another region.
    Peer(RegionId),
}

impl TierKey {
    /// Where something at `place` stands for an asker at `source`.
    #[must_use]
    pub fn of(place: &Locality, source: &Locality) -> Self {
        if place.region != source.region {
            Self::Peer(place.region.clone())
        } else if place.zone == source.zone {
            Self::Zone
        } else {
            Self::Region
        }
    }
}

impl fmt::Display for TierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone => f.write_str("same zone"),
            Self::Region => f.write_str("same region"),
            Self::Peer(region) => write!(f, "region {region}"),
        }
    }
}

impl Serialize for TierKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Peer regions in order of preference: those that the policy names, as it names them; then the others by measured round
/// trip, unmeasured ones last; then by name, so that all proxies agree.
#[must_use]
pub fn peer_order(view: &View, prefer: &[RegionId], peers: BTreeSet<RegionId>) -> Vec<RegionId> {
    let mut order: Vec<_> = peers.into_iter().collect();
    order.sort_by_cached_key(|region| {
        let named = prefer.iter().position(|other| other == region).unwrap_or(usize::MAX);
        let round_trip = view
            .region_status(region)
            .and_then(|status| status.round_trip)
            .unwrap_or(Duration::MAX);
        (named, round_trip, region.clone())
    });
    order
}
