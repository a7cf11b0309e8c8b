//! What one proxy may spend at a time, given the shares that it has seen and the confirmations that it got.
//!
//! The registry divides a region's part of the rate among all of its proxies at once; each change of the division is an epoch.
//! Not all proxies hear of it at the same time, and some do not hear of it at all. The sum still never exceeds the whole,
//! because of three rules, with `T` for [`super::SHARE_TTL`]:
//!
//! 1. A share is spent only until `T` after a time at which the registry knew it, or a later one, to be in force. Both spans
//!    are measured from the sending of the question, on one monotonic clock each: no two clocks are compared.
//! 2. A smaller share counts at once, a larger one only `T` after it was seen; of epochs that were missed, the least rate
//!    counts for that time.
//! 3. Who was not counted before (a new proxy, one that was away, one that has just started) spends its floor for `T` first.
//!
//! So at any time `t` each proxy spends at most what the division that was in force at `t - T` gives it, and nothing if that
//! one did not count it: it knew that division, or a later one, when it was confirmed last, and if a later one, the least of
//! those in between still counts. The parts of one division add up to the whole. Without a confirmation the floor is left, which is
//! set aside for that. Pure.

use std::{sync::Arc, time::Duration};

use super::{NOTHING, SHARE_TTL};
use crate::model::{Incarnation, TenantId, TenantShare};

/// Most remembered lower rates; beyond it two become one, the lower rate for the longer time.
const CAPS_MAX: usize = 16;

/// The registry's word that a share is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Whose.
    pub tenant: TenantId,
    /// Of which catalogue.
    pub incarnation: Incarnation,
    /// This epoch or a later one.
    pub epoch: u64,
    /// Another number = not counted in between.
    pub member: u64,
    /// Good until then, on the clock that [`Holder`] is asked by.
    pub until: Duration,
}

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Requests per second until `until`.
    pub rate: f64,
    /// Requests at once until `until`, at least 1.
    pub burst: f64,
    /// When the rate ends, unless it is confirmed again.
    pub until: Duration,
    /// Requests per second after that, one at once.
    pub floor: f64,
}

/// One proxy's part of one tenant.
#[derive(Clone, Debug, Default)]
pub struct Holder {
    held: Option<Held>,
    /// Newest confirmation, also one that is ahead of the share.
    confirmed: Option<Confirmed>,
}

#[derive(Clone, Debug)]
struct Held {
    share: Arc<TenantShare>,
    incarnation: Incarnation,
    /// Under which number the registry counts this proxy, and since when that is known.
    member: Option<(u64, Duration)>,
    until: Duration,
    /// Rates that still bound this one, and until when.
    caps: Vec<(Duration, f64)>,
}

impl Held {
    fn new(share: &Arc<TenantShare>, incarnation: Incarnation) -> Self {
        Self {
            share: Arc::clone(share),
            incarnation,
            member: None,
            until: Duration::ZERO,
            caps: Vec::new(),
        }
    }

    /// Whether all divisions between this share and `next` are known.
    fn leads_to(&self, next: &TenantShare, incarnation: Incarnation) -> bool {
        self.incarnation == incarnation
            && self.share.tenant == next.tenant
            && self.share.epoch != 0
            && self.share.epoch <= next.epoch
            && (self.share.epoch == next.epoch || next.least_since <= self.share.epoch)
    }

    fn cap(&mut self, rate: f64, now: Duration) {
        self.caps.retain(|(until, _)| *until > now);
        if self.caps.len() == CAPS_MAX {
            let (until, least) = self.caps.remove(0);
            if let Some(next) = self.caps.first_mut() {
                *next = (next.0.max(until), next.1.min(least));
            }
        }
        self.caps.push((now + SHARE_TTL, rate));
    }
}

impl Holder {
    /// Takes over the share of a new view; none = the tenant is not limited.
    pub fn share(&mut self, share: Option<&Arc<TenantShare>>, incarnation: Incarnation, now: Duration) {
        let Some(share) = share else {
            self.held = None;
            return;
        };
        match &mut self.held {
            Some(held) if held.leads_to(share, incarnation) => {
                if held.share.epoch != share.epoch {
                    held.cap(held.share.rate.min(share.least), now);
                }
                held.share = Arc::clone(share);
            }
            held => *held = Some(Held::new(share, incarnation)),
        }
        self.settle(now);
    }

    /// Takes over a confirmation.
    pub fn confirm(&mut self, confirmed: Confirmed, now: Duration) {
        self.confirmed = Some(confirmed);
        self.settle(now);
    }

    /// Brings the share and the newest confirmation together.
    fn settle(&mut self, now: Duration) {
        let (Some(held), Some(confirmed)) = (&mut self.held, &self.confirmed) else {
            return;
        };
        let is_of_it = confirmed.tenant == held.share.tenant
            && confirmed.incarnation == held.incarnation
            && confirmed.epoch <= held.share.epoch;
        if !is_of_it {
            return;
        }
        if held.member.is_none_or(|(member, _)| member != confirmed.member) {
            held.member = Some((confirmed.member, now));
        }
        held.until = held.until.max(confirmed.until);
    }

    /// What may be spent from `now` on; none = no limit.
    #[must_use]
    pub fn allowance(&self, now: Duration) -> Option<Allowance> {
        let held = self.held.as_ref()?;
        let share = &held.share;
        if share.epoch == 0 {
            return Some(Allowance {
                rate: share.rate,
                burst: share.burst.max(1.0),
                until: Duration::MAX,
                floor: share.rate,
            });
        }
        let floor = share.floor.max(NOTHING);
        let counted = held.member.is_some_and(|(_, since)| now >= since + SHARE_TTL);
        let caps = held.caps.iter().filter(|(until, _)| *until > now);
        let least = caps.fold(share.rate, |least, (_, rate)| least.min(*rate));
        let rate = if counted { least } else { floor }.max(NOTHING);
        let part = if share.rate > NOTHING {
            (rate / share.rate).min(1.0)
        } else {
            0.0
        };
        Some(Allowance {
            rate,
            burst: (share.burst * part).max(1.0),
            until: held.until,
            floor,
        })
    }
}

#[cfg(test)]
mod tests;
