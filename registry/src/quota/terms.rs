//! What was leased to whom, on both sides, and what of it may still be spent by anybody's clock.
//!
//! Clocks are wrong by up to [`SKEW_MAX`] each, so two of them by twice that. The holder stops at the end of a lease by its own
//! clock; the grantor takes it for spendable until twice the bound after the end by its own. Spans instead of ends
//! would need no bound, but a span begins at an instant that one process remembers, and a lease outlives the process: both
//! sides may change their leader meanwhile. Where one process sees both ends of a span, in a region between its nodes and its
//! proxies, spans are used (see `mesh::quota::Holder`). Pure.

use std::{collections::BTreeMap, time::Duration};

use mesh::model::{NodeId, QuotaLease, RegionId, TenantId, Timestamp, Usage};
use serde::{Deserialize, Serialize};

/// How wrong a clock may be.
pub const SKEW_MAX: Duration = Duration::from_secs(30);
/// How long a lease lasts from its grant or renewal. Twice the difference of two clocks: a holder whose clock is ahead of the
/// grantor's by all of that still has it when it is renewed, at a third of its time.
pub const LEASE_TTL: Duration = Duration::from_secs(120);
/// A lease of the home region to itself does not end.
pub const NO_END: Timestamp = Timestamp(i64::MAX);
/// What one node says of demand is forgotten after this time: its streams have moved on.
pub const USAGE_KEPT: Duration = Duration::from_secs(45);

/// Whether a lease that ends at `end` may still be spent by somebody, whatever the clocks.
#[must_use]
pub fn may_be_spent(end: Timestamp, at: Timestamp) -> bool {
    at < end.plus(SKEW_MAX * 2)
}

/// New terms, as they are proposed. The end and the epoch are set when they are applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Whose rate.
    pub tenant: TenantId,
    /// Who may spend it.
    pub region: RegionId,
    /// Requests per second for the time of the lease, on top of the floor.
    pub rate: f64,
    /// Requests per second with no end.
    pub floor: f64,
    /// The epoch that they take the place of; 0 = there is none. Other terms meanwhile make these void.
    pub base: u64,
    /// The same terms for longer: the epoch stays.
    pub renews: bool,
}

/// Terms that the holder may still keep to, since it has not said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Older {
    /// The highest of them.
    pub rate: f64,
    /// The highest of them.
    pub floor: f64,
    /// The latest end.
    pub until: Timestamp,
}

impl Older {
    fn exposure(&self, at: Timestamp) -> f64 {
        self.floor + if may_be_spent(self.until, at) { self.rate } else { 0.0 }
    }
}

/// A lease as the grantor keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The newest terms.
    pub lease: QuotaLease,
    /// What the holder may have instead.
    pub older: Option<Older>,
    /// The end that the holder has acknowledged, under the newest epoch; none = it has not acknowledged that epoch.
    pub known_end: Option<Timestamp>,
}

impl Grant {
    /// The first terms.
    #[must_use]
    pub fn first(lease: QuotaLease) -> Self {
        Self {
            lease,
            older: None,
            known_end: None,
        }
    }

    /// Whether the holder keeps to the newest epoch.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.known_end.is_some()
    }

    /// Whether the rate may still be spent by the holder.
    #[must_use]
    pub fn is_valid(&self, at: Timestamp) -> bool {
        may_be_spent(self.lease.expires_at, at)
    }

    /// The newest rate, nothing once it is over.
    #[must_use]
    pub fn rate(&self, at: Timestamp) -> f64 {
        if self.is_valid(at) { self.lease.rate } else { 0.0 }
    }

    /// The most that the holder may spend at `at`, by any terms that it may keep to.
    #[must_use]
    pub fn exposure(&self, at: Timestamp) -> f64 {
        let newest = self.lease.floor + self.rate(at);
        self.older.map_or(newest, |older| newest.max(older.exposure(at)))
    }

    /// The grant without the rates that are over at `at`. They stay over for another leader whose clock is behind: what was
    /// free by one clock may be granted to others by now.
    #[must_use]
    pub fn without_over(&self, at: Timestamp) -> Self {
        let mut next = self.clone();
        next.lease.rate = self.rate(at);
        if let Some(older) = next.older.as_mut().filter(|older| !may_be_spent(older.until, at)) {
            older.rate = 0.0;
        }
        next
    }

    /// The grant after new terms.
    #[must_use]
    pub fn next(&self, terms: &Terms, expires_at: Timestamp, at: Timestamp) -> Self {
        if terms.renews {
            let mut next = self.clone();
            next.lease.expires_at = expires_at;
            return next;
        }
        let lease = QuotaLease {
            tenant: terms.tenant.clone(),
            region: terms.region.clone(),
            epoch: epoch_after(self.lease.epoch, at),
            rate: terms.rate,
            floor: terms.floor,
            expires_at,
        };
        let newest = Older {
            rate: self.lease.rate,
            floor: self.lease.floor,
            until: self.lease.expires_at,
        };
        let older = self.older.map_or(newest, |older| Older {
            rate: older.rate.max(newest.rate),
            floor: older.floor.max(newest.floor),
            until: older.until.max(newest.until),
        });
        Self {
            lease,
            older: Some(older),
            known_end: None,
        }
    }

    /// The grant after the holder said what it keeps to. A higher epoch than any that is known here was granted in another
    /// life of this catalogue: its terms are taken over.
    #[must_use]
    pub fn heard(&self, settled: &QuotaLease) -> Self {
        let mut next = self.clone();
        if settled.epoch == self.lease.epoch {
            next.older = None;
            next.known_end = Some(settled.expires_at);
        } else if settled.epoch > self.lease.epoch {
            next.lease = settled.clone();
            next.older = None;
            next.known_end = Some(settled.expires_at);
        }
        next
    }
}

/// The epoch after another one. It grows with time too, so that a catalogue that was restored from an older copy goes on
/// above all that its old life has granted: before it grants anything it waits for longer than clocks differ.
#[must_use]
pub fn epoch_after(before: u64, at: Timestamp) -> u64 {
    u64::try_from(at.0).unwrap_or(0).max(before.saturating_add(1))
}

/// A lease as the holder keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holding {
    /// Who granted it.
    pub home: RegionId,
    /// The newest terms.
    pub lease: QuotaLease,
    /// The newest terms that no proxy exceeds any more; these are what the home region is told.
    pub settled: QuotaLease,
    /// The time is over: the floor is left.
    pub is_over: bool,
}

impl Holding {
    /// What the region may spend by the newest terms.
    #[must_use]
    pub fn total(&self) -> f64 {
        if self.is_over {
            self.lease.floor
        } else {
            self.lease.total()
        }
    }

    /// The holding after newer terms; none when they are not newer. Where they allow less, older ones may still be spent by
    /// proxies: they are settled later. So are all of them where `forgot`: a catalogue that was restored does not know by
    /// which terms the proxies of its old life spend.
    #[must_use]
    pub fn next(&self, lease: &QuotaLease, forgot: bool) -> Option<Self> {
        let is_renewal = lease.epoch == self.lease.epoch && lease.expires_at > self.lease.expires_at;
        if lease.epoch <= self.lease.epoch && !is_renewal {
            return None;
        }
        let mut next = Self {
            lease: lease.clone(),
            is_over: false,
            ..self.clone()
        };
        let allows_no_less = !forgot && lease.floor >= self.settled.floor && lease.total() >= self.settled.total();
        if lease.epoch == self.settled.epoch || (self.settled.epoch == self.lease.epoch && allows_no_less) {
            next.settled = lease.clone();
        }
        Some(next)
    }

    /// Whether proxies may still spend by older terms than the newest.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.settled.epoch != self.lease.epoch
    }
}

/// When a catalogue in a new life may grant again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fence {
    /// It was restored, and has not looked at a clock since.
    Restored,
    /// Leases of the old life last until then at most, by the clock that looked first.
    Until(Timestamp),
}

impl Fence {
    /// Whether leases of another life may still be spent.
    #[must_use]
    pub fn holds(self, at: Timestamp) -> bool {
        match self {
            Self::Restored => true,
            Self::Until(end) => may_be_spent(end, at),
        }
    }

    /// Set at `at`: the clock that granted may have been ahead of this one.
    #[must_use]
    pub fn set(at: Timestamp) -> Self {
        Self::Until(at.plus(LEASE_TTL + SKEW_MAX * 2))
    }
}

/// What a region's proxies want of one tenant, by the node that they are attached to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// What each node said last, and when.
    pub by_node: BTreeMap<NodeId, (Timestamp, Usage)>,
}

impl Demand {
    /// The sum of what is not too old.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let newest = self.by_node.values().map(|(at, _)| *at).max().unwrap_or_default();
        let fresh = self.by_node.values().filter(|(at, _)| newest.since(*at) < USAGE_KEPT);
        fresh.fold(Usage::default(), |sum, (_, usage)| Usage {
            used: sum.used + usage.used,
            refused: sum.refused + usage.refused,
        })
    }
}
