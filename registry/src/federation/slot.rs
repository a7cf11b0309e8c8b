//! One place for a stream per peer: who may take it when both sides dial at once, and how the stream stands.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh::{
    model::{RegionId, Revision, Timestamp},
    ops::Metrics,
    runtime::Stop,
};
use tokio::sync::watch;

use super::{freshness::Seen, meters::Meters};

/// A stream that was heard more recently than this is alive: pings come every second.
const ALIVE: Duration = Duration::from_secs(3);

/// How the stream to a peer stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Whether it stands.
    pub connected: bool,
    /// Its round trip, smoothed.
    pub round_trip: Option<Duration>,
    /// When the peer was last heard.
    pub heard_at: Option<Timestamp>,
    /// What the peer has committed of this region's exports.
    pub acknowledged: Revision,
    /// Why the last attempt or stream ended; empty while connected.
    pub last_error: String,
    /// Of the program at the other end; empty when it is not known.
    pub version: String,
    /// How far the peer's clock is ahead of this node's, in milliseconds, by the last ping.
    pub clock_ahead_ms: Option<i64>,
}

/// Slots by peer.
pub(crate) struct Slots {
    /// Guards the table only.
    table: Mutex<BTreeMap<RegionId, Arc<Slot>>>,
    metrics: Metrics,
}

impl Slots {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            table: Mutex::default(),
            metrics: metrics.clone(),
        }
    }

    /// The slot of a peer, made when it is asked for first.
    pub(crate) fn of(&self, peer: &RegionId) -> Arc<Slot> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = table
            .entry(peer.clone())
            .or_insert_with(|| Arc::new(Slot::new(peer, &self.metrics)));
        Arc::clone(slot)
    }

    /// Forgets those that are no peers any more.
    pub(crate) fn retain(&self, is_peer: impl Fn(&RegionId) -> bool) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|peer, _| is_peer(peer));
    }
}

/// The place for the one stream to a peer.
pub(crate) struct Slot {
    /// Guards plain fields only.
    inner: Mutex<Inner>,
    taken: watch::Sender<bool>,
    pub(super) meters: Meters,
}

#[derive(Default)]
struct Inner {
    status: PeerStatus,
    /// Of the stream that has the place.
    active: Option<Active>,
    next: u64,
}

struct Active {
    number: u64,
    dialled_by: RegionId,
    stop: Stop,
}

/// The right to run a stream; gives the place back when it is dropped.
pub(crate) struct Place {
    slot: Arc<Slot>,
    number: u64,
    /// Ordered when another stream takes the place.
    pub(crate) stop: Stop,
}

impl Slot {
    fn new(peer: &RegionId, metrics: &Metrics) -> Self {
        Self {
            inner: Mutex::default(),
            taken: watch::Sender::new(false),
            meters: Meters::new(peer, metrics),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place for a stream that `dialled_by` opened. A newer stream takes over, since the older one is likely dead,
    /// unless that one is alive and was dialled by the region with the smaller name, and the newer one was not.
    pub(crate) fn enter(
        self: &Arc<Self>,
        dialled_by: &RegionId,
        other_end: &RegionId,
        stop: &Stop,
        now: Timestamp,
    ) -> Option<Place> {
        let mut inner = self.lock();
        let is_alive = inner
            .status
            .heard_at
            .is_some_and(|heard_at| now.since(heard_at) < ALIVE);
        if let Some(active) = &inner.active {
            let smaller = dialled_by.min(other_end);
            if is_alive && active.dialled_by == *smaller && dialled_by != smaller {
                return None;
            }
            active.stop.order();
        }
        let (number, stop) = (inner.next, stop.child());
        inner.next += 1;
        inner.active = Some(Active {
            number,
            dialled_by: dialled_by.clone(),
            stop: stop.clone(),
        });
        drop(inner);
        self.taken.send_replace(true);
        self.meters.sessions.increment(1);
        let slot = Arc::clone(self);
        Some(Place { slot, number, stop })
    }

    /// Whether a stream has the place, whenever that changes.
    pub(crate) fn taken(&self) -> watch::Receiver<bool> {
        self.taken.subscribe()
    }

    pub(crate) fn status(&self) -> PeerStatus {
        self.lock().status.clone()
    }

    pub(crate) fn seen(&self) -> Seen {
        let inner = self.lock();
        Seen {
            connected: inner.status.connected,
            round_trip: inner.status.round_trip,
            heard_at: inner.status.heard_at,
        }
    }

    /// No stream came about.
    pub(crate) fn failed(&self, error: &str) {
        let mut inner = self.lock();
        if inner.active.is_none() {
            error.clone_into(&mut inner.status.last_error);
        }
    }
}

impl Place {
    fn with(&self, change: impl FnOnce(&mut PeerStatus)) {
        let mut inner = self.slot.lock();
        if inner.active.as_ref().is_some_and(|active| active.number == self.number) {
            change(&mut inner.status);
        }
    }

    /// For what its stream counts.
    pub(super) fn meters(&self) -> &Meters {
        &self.slot.meters
    }

    /// Both sides have introduced themselves.
    pub(crate) fn connected(&self, now: Timestamp, version: &str) {
        self.with(|status| {
            status.connected = true;
            status.version = version.chars().take(32).collect();
            status.heard_at = Some(now);
            status.last_error.clear();
        });
        self.slot.meters.connected.set(1.0);
    }

    /// A message came.
    pub(crate) fn heard(&self, now: Timestamp) {
        self.with(|status| status.heard_at = Some(now));
    }

    /// A ping came back.
    pub(crate) fn round_trip(&self, sample: Duration) {
        // An eighth of each sample, as TCP smooths: one slow answer changes no route.
        self.with(|status| {
            let smooth = status.round_trip.map_or(sample, |old| (old * 7 + sample) / 8);
            status.round_trip = Some(smooth);
            self.slot.meters.round_trip(smooth);
        });
    }

    /// The peer's clock is so far ahead of this node's.
    pub(crate) fn clock_ahead(&self, ahead_ms: i64) {
        self.with(|status| status.clock_ahead_ms = Some(ahead_ms));
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.slot.meters.clock_ahead.set(ahead_ms as f64 / 1e3);
    }

    /// The peer has committed up to here.
    pub(crate) fn acknowledged(&self, revision: Revision) {
        self.with(|status| status.acknowledged = revision);
    }

    /// Why the stream ends.
    pub(crate) fn ended(&self, error: &str) {
        self.with(|status| {
            status.connected = false;
            error.clone_into(&mut status.last_error);
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.slot.lock();
        if inner.active.as_ref().is_some_and(|active| active.number == self.number) {
            inner.active = None;
            inner.status.connected = false;
            drop(inner);
            self.slot.meters.connected.set(0.0);
            self.slot.taken.send_replace(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::region;

    #[test]
    fn of_two_streams_the_one_dialled_by_the_smaller_name_stays() {
        let (eu, us) = (region("eu"), region("us"));
        let now = Timestamp(10_000);
        // (who dialled the first, its age since it was heard, who dialled the second) -> the second takes over
        for (first, age, second, takes) in [
            (&eu, 0, &us, false),
            (&us, 0, &eu, true),
            (&eu, 0, &eu, true),
            (&us, 0, &us, true),
            (&eu, 3_000, &us, true),
        ] {
            let slots = Slots::new(&Metrics::default());
            let slot = slots.of(&us);
            let other = |dialler: &RegionId| if *dialler == eu { us.clone() } else { eu.clone() };
            let stop = Stop::default();
            let old = slot.enter(first, &other(first), &stop, now).unwrap();
            old.connected(Timestamp(now.0 - age), "");
            let new = slot.enter(second, &other(second), &stop, now);
            assert_eq!(new.is_some(), takes, "{first} {age} {second}");
            assert_eq!(old.stop.is_ordered(), takes);
            drop(old);
            assert_eq!(
                *slot.taken().borrow(),
                takes,
                "the new one's place is not given back by the old one"
            );
            drop(new);
            assert!(!*slot.taken().borrow());
        }
    }

    #[test]
    fn a_replaced_stream_no_longer_speaks_for_the_slot() {
        let slots = Slots::new(&Metrics::default());
        let (slot, stop) = (slots.of(&region("us")), Stop::default());
        let old = slot.enter(&region("us"), &region("eu"), &stop, Timestamp(0)).unwrap();
        let new = slot.enter(&region("us"), &region("eu"), &stop, Timestamp(0)).unwrap();
        new.connected(Timestamp(5), "");
        old.ended("replaced");
        assert!(slot.status().connected && slot.status().last_error.is_empty());
    }
}
