//! Room for each asker: how often it may ask, and how much of the connections and of the forwarding it may take. Addresses
//! over UDP can be forged, so that nothing here grows with their number: askers share buckets, by a hash that nobody
//! outside can aim at. Pure.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{net::newcomers::source, quota::Gcra};

/// Enough that two busy askers seldom share one; 32 KiB in all.
const BUCKETS: usize = 1_024;

/// What one asker may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Requests a second, with as many at once; 0 is no bound.
    pub(super) per_second: u32,
    /// Connections at a time.
    pub(super) connections_max: u32,
    /// Forwarded requests at a time.
    pub(super) forwards_max: u32,
}

struct Bucket {
    rate: Gcra,
    connections: AtomicU32,
    forwards: AtomicU32,
}

/// The buckets of all askers.
pub(super) struct Askers {
    bounds: Bounds,
    hash: RandomState,
    buckets: Vec<Bucket>,
}

/// One of something that an asker holds; back when it is dropped.
pub(super) struct Held<'a>(&'a AtomicU32);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn hold(count: &AtomicU32, max: u32) -> Option<Held<'_>> {
    let more = |held: u32| (held < max).then_some(held + 1);
    // Relaxed: the count stands for itself.
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
    Some(Held(count))
}

impl Askers {
    pub(super) fn new(bounds: Bounds) -> Self {
        let rate = f64::from(bounds.per_second);
        let bucket = || Bucket {
            rate: Gcra::new(rate, rate),
            connections: AtomicU32::new(0),
            forwards: AtomicU32::new(0),
        };
        Self {
            bounds,
            hash: RandomState::new(),
            buckets: (0..BUCKETS).map(|_| bucket()).collect(),
        }
    }

    /// Charges one request at `now`, the time since any origin that stays the same.
    pub(super) fn may_ask(&self, from: IpAddr, now: Duration) -> bool {
        self.bucket(from).rate.admit(now).is_ok()
    }

    /// One more connection.
    pub(super) fn connect(&self, from: IpAddr) -> Option<Held<'_>> {
        hold(&self.bucket(from).connections, self.bounds.connections_max)
    }

    /// One more request to be forwarded.
    pub(super) fn forward(&self, from: IpAddr) -> Option<Held<'_>> {
        hold(&self.bucket(from).forwards, self.bounds.forwards_max)
    }

    fn bucket(&self, from: IpAddr) -> &Bucket {
        #[expect(clippy::cast_possible_truncation, reason = "a remainder below the number of buckets")]
        let at = (self.hash.hash_one(source(from)) % BUCKETS as u64) as usize;
        &self.buckets[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_spends_its_own_room() {
        let askers = Askers::new(Bounds {
            per_second: 10,
            connections_max: 2,
            forwards_max: 1,
        });
        let loud = IpAddr::from([10, 0, 0, 1]);
        let now = Duration::from_secs(1);
        let quiet = (0..=255)
            .map(|last| IpAddr::from([10, 0, 1, last]))
            .find(|quiet| !std::ptr::eq(askers.bucket(*quiet), askers.bucket(loud)))
            .expect("some address has another bucket");
        assert_eq!((0..100).filter(|_| askers.may_ask(loud, now)).count(), 10);
        assert!(askers.may_ask(quiet, now));
        let held = (askers.connect(loud), askers.connect(loud), askers.forward(loud));
        assert!(held.0.is_some() && held.1.is_some() && held.2.is_some());
        assert!(askers.connect(loud).is_none() && askers.forward(loud).is_none());
        assert!(askers.connect(quiet).is_some() && askers.forward(quiet).is_some());
        drop(held);
        assert!(askers.connect(loud).is_some() && askers.forward(loud).is_some());
    }
}
