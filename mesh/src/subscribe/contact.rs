//! Whether the registry answers, and since when it does not.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{model::Timestamp, runtime::clock};

/// When the registry was last known to agree with the view.
#[derive(Debug)]
pub struct Contact {
    connected: AtomicBool,
    /// Unix milliseconds; 0 = never.
    heard_at: AtomicI64,
    began: Instant,
    /// Milliseconds after `began`.
    lost: AtomicU64,
}

impl Contact {
    /// Not connected yet; the registry was last heard then, perhaps by an earlier process.
    #[must_use]
    pub fn new(heard_at: Option<Timestamp>) -> Self {
        Self {
            connected: AtomicBool::new(false),
            heard_at: AtomicI64::new(heard_at.map_or(0, |at| at.0)),
            began: clock::now(),
            lost: AtomicU64::new(0),
        }
    }

    /// Notes that the stream stands, or that it ended.
    pub fn connect(&self, connected: bool) {
        self.heard_at.store(clock::wall().0, Ordering::Relaxed);
        let lost = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.lost.store(lost, Ordering::Relaxed);
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Whether the stream stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// How long ago the registry last agreed with the view; zero while connected, none when it never did.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        if self.is_connected() {
            return Some(Duration::ZERO);
        }
        let heard_at = self.heard_at.load(Ordering::Relaxed);
        (heard_at != 0).then(|| now.since(Timestamp(heard_at)))
    }

    /// For how long this process has been without the registry; zero while connected.
    #[must_use]
    pub fn lost_for(&self) -> Duration {
        if self.is_connected() {
            return Duration::ZERO;
        }
        let lost = Duration::from_millis(self.lost.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(lost)
    }
}
