//! What this proxy has seen of one endpoint or gateway: load in atomics, health behind a leaf lock that a good answer
//! does not touch.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{
    route::{
        Pace, Standing,
        eject::{Elapsed, Fault, Health, Limits},
        pick,
    },
    runtime::clock,
};
use tokio::time::Instant;

/// Time since this proxy started its outbound side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: clock::now() }
    }

    pub(crate) fn elapsed(&self) -> Elapsed {
        clock::now().duration_since(self.origin)
    }
}

/// The record. All in it is relaxed: each word stands for itself.
#[derive(Debug)]
pub(crate) struct Record {
    /// Peak-EWMA, the bits of an f64, in microseconds.
    latency_us: AtomicU64,
    /// When it was updated, microseconds.
    latency_at: AtomicU64,
    in_flight: AtomicU32,
    /// Copies of what `health` says, for the hot path.
    out: AtomicBool,
    clean: AtomicBool,
    /// Somebody is trying it.
    trying: AtomicBool,
    /// Something fell silent behind it: try it soon, though it is not out.
    suspect: AtomicBool,
    /// Guards this word of state only; held for a few instructions, by faults, trials and the making of plans.
    health: Mutex<Health>,
}

impl Record {
    pub(crate) fn new(health: Health) -> Self {
        Self {
            latency_us: AtomicU64::new(pick::LATENCY_UNKNOWN_US.to_bits()),
            latency_at: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            out: AtomicBool::new(health.is_out()),
            clean: AtomicBool::new(health.is_clean()),
            trying: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            health: Mutex::new(health),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // Nothing behind this lock can be left half done by a panic.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the health and the copies of it.
    fn change<T>(&self, change: impl FnOnce(&mut Health) -> T) -> T {
        let mut health = self.health();
        let result = change(&mut health);
        self.out.store(health.is_out(), Ordering::Relaxed);
        self.clean.store(health.is_clean(), Ordering::Relaxed);
        result
    }

    /// Begins anew with this health, unless evidence put it out.
    pub(crate) fn reset(&self, fresh: Health) {
        self.change(|health| {
            if !health.is_out() {
                *health = fresh;
            }
        });
    }

    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    pub(crate) fn standing(&self, now: Elapsed, pace: &Pace) -> Standing {
        self.health().standing(now, pace)
    }

    /// A request begins; drop the guard when it is over.
    pub(crate) fn begin(self: &std::sync::Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(std::sync::Arc::clone(self))
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn latency_us(&self) -> f64 {
        f64::from_bits(self.latency_us.load(Ordering::Relaxed))
    }

    /// A good answer to a request that began at `began`.
    pub(crate) fn succeeded(&self, began: Elapsed, now: Elapsed, pace: &Pace) {
        let sample = now.saturating_sub(began).as_secs_f64() * 1e6;
        self.observe(sample, now);
        if !self.clean.load(Ordering::Relaxed) || self.is_out() {
            self.change(|health| {
                health.succeeded();
                health.proved(now, began, pace);
            });
        }
    }

    /// Two that observe at once may lose one sample: an average does not mind.
    fn observe(&self, sample_us: f64, now: Elapsed) {
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let since = now_us.saturating_sub(self.latency_at.swap(now_us, Ordering::Relaxed));
        let next = pick::peak_ewma(self.latency_us(), Duration::from_micros(since), sample_us);
        self.latency_us.store(next.to_bits(), Ordering::Relaxed);
    }

    /// A fault; true when it is ejected now.
    pub(crate) fn failed(&self, now: Elapsed, fault: Fault, others: bool, limits: &Limits) -> bool {
        self.change(|health| health.failed(now, fault, others, fastrand::f64(), limits))
    }

    /// Asks for a trial although it is not out.
    pub(crate) fn suspect(&self) {
        self.suspect.store(true, Ordering::Relaxed);
    }

    /// Claims the trial that is due, if one is and nobody has claimed it.
    pub(crate) fn claim_trial(&self, now: Elapsed) -> bool {
        let due = self.health().trial_due(now) || self.suspect.load(Ordering::Relaxed);
        due && !self.trying.swap(true, Ordering::Relaxed)
    }

    /// Ends a claimed trial. True when its standing changed.
    pub(crate) fn tried(&self, good: bool, now: Elapsed, limits: &Limits) -> bool {
        let was_out = self.is_out();
        self.suspect.store(false, Ordering::Relaxed);
        self.change(|health| match (good, was_out) {
            (true, _) => health.trial_succeeded(now),
            (false, true) => health.trial_failed(now, fastrand::f64(), limits),
            (false, false) => {
                health.failed(now, Fault::Connect, true, fastrand::f64(), limits);
            }
        });
        self.trying.store(false, Ordering::Relaxed);
        self.is_out() != was_out
    }
}

/// Counts a request until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(std::sync::Arc<Record>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
