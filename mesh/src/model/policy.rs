//! What bends routing for a while or in general: drills' overrides, and how regions see each other.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{OverrideId, RegionId, TenantId, Timestamp};
use crate::identity::TrustDomain;

/// A drill's order: move traffic away from a region until it ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Which drill.
    pub id: OverrideId,
    /// The region to evacuate.
    pub region: RegionId,
    /// Share of the region's traffic to move, 1 to 100.
    pub percent: u8,
    /// Whoever holds the override drops it then, even when nobody tells it to.
    pub expires_at: Timestamp,
    /// The region whose operator ordered it; only that region may change it.
    pub origin: RegionId,
    /// For people.
    pub reason: String,
}

impl Override {
    /// Whether it still bends routing.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }
}

/// How this region sees another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionStatus {
    /// The other region.
    pub region: RegionId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Of the federation stream; none = not measured yet.
    pub round_trip: Option<Duration>,
    /// When it was last heard; only shown, never a reason to withdraw anything.
    pub heard_at: Timestamp,
    /// Whether the federation stream stands.
    pub connected: bool,
    /// Live proxies by tenant over there.
    pub tenant_proxies: BTreeMap<TenantId, u32>,
}
