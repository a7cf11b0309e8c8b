//! The only place that asks what time it is. Pure code is given the time.
#![allow(clippy::disallowed_methods, reason = "this is the one place that may read a clock")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::model::Timestamp;

/// For spans: monotonic, and virtual in tests that pause time.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// For facts that travel: wall-clock time, which another machine's clock may contradict by up to 30 s.
#[must_use]
pub fn wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// A node's wall clock as a value: the system's in a daemon; in a simulation one that follows the runtime's virtual time,
/// off by what it was told. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    simulated: Option<Arc<Simulated>>,
}

#[derive(Debug)]
struct Simulated {
    origin: Instant,
    begins: Timestamp,
    skew_ms: AtomicI64,
}

impl Clock {
    /// The machine's own.
    #[must_use]
    pub const fn system() -> Self {
        Self { simulated: None }
    }

    /// Shows `begins` at `origin`, and goes with the runtime's time from there.
    #[must_use]
    pub fn simulated(origin: Instant, begins: Timestamp) -> Self {
        let skew_ms = AtomicI64::new(0);
        let simulated = Simulated {
            origin,
            begins,
            skew_ms,
        };
        Self {
            simulated: Some(Arc::new(simulated)),
        }
    }

    /// From now on a simulated clock is ahead by so much, or behind. A system's clock is left alone.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        if let Some(simulated) = &self.simulated {
            simulated.skew_ms.store(skew_ms, Ordering::Relaxed);
        }
    }

    /// What this clock shows.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        let Some(simulated) = &self.simulated else {
            return wall();
        };
        let since = now().saturating_duration_since(simulated.origin).as_millis();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        let skew_ms = simulated.skew_ms.load(Ordering::Relaxed);
        Timestamp(simulated.begins.0.saturating_add(since).saturating_add(skew_ms))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_follows_virtual_time_and_its_skew() {
        let clock = Clock::simulated(now(), Timestamp(1_000));
        let same = clock.clone();
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(clock.wall(), Timestamp(1_250));
        clock.set_skew_ms(-400);
        assert_eq!(same.wall(), Timestamp(850));
    }
}
