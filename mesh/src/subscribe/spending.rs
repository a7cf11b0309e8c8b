//! What the lease's heartbeats carry between the registry and the place where a tenant's rate is spent: counts one way,
//! confirmations the other. Charges nothing itself.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use proto::registry::v1 as pb;
use tokio::{sync::watch, time::Instant};

use crate::model::{Incarnation, TenantId};

/// The registry's word that a share is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// Whose.
    pub tenant: TenantId,
    /// Of which catalogue.
    pub incarnation: Incarnation,
    /// This epoch or a later one.
    pub epoch: u64,
    /// Another number = not counted in between.
    pub member: u64,
    /// Good until then.
    pub until: Instant,
}

/// Shared by the lease and the outbound side.
#[derive(Debug, Default)]
pub struct Spending {
    used: AtomicU64,
    refused: AtomicU64,
    confirmed: watch::Sender<Option<Confirmation>>,
}

impl Spending {
    /// A request was let through.
    pub fn used(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was refused for want of quota.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Hears of each confirmation.
    #[must_use]
    pub fn confirmations(&self) -> watch::Receiver<Option<Confirmation>> {
        self.confirmed.subscribe()
    }

    fn counts(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// What an answer to a heartbeat that was sent at `sent_at` is worth. The question came before the answer was known, so
    /// its time is a safe one for the answer's age.
    pub(super) fn hear(&self, share: &pb::ShareConfirmation, sent_at: Instant) {
        let Ok(tenant) = share.tenant.parse() else { return };
        let good = u64::from(share.valid_ms).saturating_sub(share.age_ms.into());
        self.confirmed.send_replace(Some(Confirmation {
            tenant,
            incarnation: Incarnation(share.incarnation),
            epoch: share.epoch,
            member: share.member,
            until: sent_at + Duration::from_millis(good).min(crate::quota::SHARE_TTL),
        }));
    }
}

/// Turns counts into rates, heartbeat by heartbeat.
#[derive(Debug)]
pub(super) struct Rates {
    counts: (u64, u64),
    at: Instant,
}

impl Rates {
    pub(super) fn new(spending: Option<&Spending>, now: Instant) -> Self {
        Self {
            counts: spending.map_or((0, 0), Spending::counts),
            at: now,
        }
    }

    /// The heartbeat that tells what was spent since the one before.
    pub(super) fn heartbeat(&mut self, spending: Option<&Spending>, now: Instant) -> pb::Heartbeat {
        let counts = spending.map_or((0, 0), Spending::counts);
        // Two heartbeats at once are no reason for a huge rate.
        let seconds = now.saturating_duration_since(self.at).as_secs_f64().max(0.1);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate for people and for a division, not for an account"
        )]
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let heartbeat = pb::Heartbeat {
            used: rate(self.counts.0, counts.0),
            refused: rate(self.counts.1, counts.1),
            share: None,
        };
        (self.counts, self.at) = (counts, now);
        heartbeat
    }
}
