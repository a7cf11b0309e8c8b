//! A region's part of a tenant's rate, divided evenly among the tenant's live proxies. Each change is an epoch. A small part
//! is set aside as floors of proxies that are cut off from their registry: they are not counted any more and still spend.
//!
//! Floors come in classes of 8, 64, 512 ... proxies; class `n` has the `2^-(n+1)`th of what is set aside. A region uses the
//! least class in which all proxies find room that live or may still be alive: so that those who were given the floor of a
//! class never are more than it has room for, and all classes together never exceed what is set aside. Pure.

use std::{collections::BTreeMap, time::Duration};

use mesh::{
    model::{Timestamp, WorkloadId},
    quota::NOTHING,
};
use serde::{Deserialize, Serialize};

use super::terms::epoch_after;

/// Part of a region's floor that is set aside for proxies that are cut off.
pub const ASIDE: f64 = 1.0 / 8.0;
/// A proxy whose lease lapsed counts among those that may still spend a floor for so long.
pub const LAPSED_KEPT: Duration = Duration::from_secs(24 * 3600);
/// One that went away on purpose, while it drains.
pub const LEFT_KEPT: Duration = Duration::from_secs(600);
/// Most proxies that are remembered so. A region that loses more of one tenant's in a day forgets the oldest.
pub const GONE_MAX: usize = 1_024;
/// Epochs that are told along, so that who missed some knows the least of them.
const PAST_MAX: usize = 8;
/// Proxies of the first class, and the factor from one to the next.
const CLASS: u64 = 8;

/// One tenant's division in this region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Division {
    /// Of the newest change.
    pub epoch: u64,
    /// Number of parts.
    pub parts: u32,
    /// Requests per second of one part.
    pub rate: f64,
    /// Requests at once of one part.
    pub burst: f64,
    /// Requests per second of a proxy without confirmation.
    pub floor: f64,
    /// The newest epochs and their rates, this one included; the oldest first.
    pub past: Vec<(u64, f64)>,
    /// Proxies that are not counted and may be alive, and until when they are taken for it.
    pub gone: BTreeMap<WorkloadId, Timestamp>,
}

/// What is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whole {
    /// What the region may spend, requests per second, its floor included.
    pub total: f64,
    /// Its floor.
    pub floor: f64,
    /// Burst of the tenant per request per second.
    pub burst_per_rate: f64,
    /// Live proxies.
    pub proxies: u32,
}

impl Division {
    /// The division of another whole. The epoch is a new one only if the parts are.
    #[must_use]
    pub fn next(&self, whole: Whole, at: Timestamp) -> Self {
        let mut next = self.clone();
        next.gone.retain(|_, until| at < *until);
        while next.gone.len() > GONE_MAX {
            let oldest = next.gone.iter().min_by_key(|(_, until)| **until);
            let Some(id) = oldest.map(|(id, _)| id.clone()) else {
                break;
            };
            next.gone.remove(&id);
        }
        next.parts = parts(self.parts, whole.proxies);
        let aside = whole.floor * ASIDE;
        next.rate = ((whole.total - aside).max(0.0) / f64::from(next.parts)).max(NOTHING);
        next.burst = (whole.burst_per_rate * next.rate).max(1.0);
        next.floor = floor(aside, u64::from(whole.proxies) + next.gone.len() as u64);
        let is_same = self.epoch != 0
            && (self.parts, self.rate, self.burst, self.floor) == (next.parts, next.rate, next.burst, next.floor);
        if !is_same {
            next.epoch = epoch_after(self.epoch, at);
            next.past.push((next.epoch, next.rate));
            let old = next.past.len().saturating_sub(PAST_MAX);
            next.past.drain(..old);
        }
        next
    }

    /// Breaks with what was: to whoever holds an older share this one is the first.
    pub fn forget(&mut self) {
        self.past.clear();
        self.parts = 0;
    }

    /// The least rate of the epochs that are told along, and the first of them.
    #[must_use]
    pub fn least(&self) -> (f64, u64) {
        let least = self.past.iter().map(|(_, rate)| *rate).fold(self.rate, f64::min);
        (least, self.past.first().map_or(self.epoch, |(epoch, _)| *epoch))
    }
}

/// Few proxies get exact parts. Of many, some may come and go without a change for all the others.
fn parts(before: u32, proxies: u32) -> u32 {
    let proxies = proxies.max(1);
    if proxies <= before && proxies >= before - before / 10 {
        before
    } else {
        proxies + proxies / 16
    }
}

fn floor(aside: f64, proxies: u64) -> f64 {
    let (mut room, mut aside) = (CLASS, aside / 2.0);
    while room < proxies {
        (room, aside) = (room * CLASS, aside / 2.0);
    }
    #[expect(clippy::cast_precision_loss, reason = "powers of eight are exact")]
    let floor = aside / room as f64;
    floor
}
