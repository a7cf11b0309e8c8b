//! Going away in four steps: unready, stop accepting, drain until a deadline, cut.

use std::time::Duration;

use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// The order to stop; clones hear it too.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
}

impl Stop {
    /// Gives the order. Twice is once.
    pub fn order(&self) {
        self.token.cancel();
    }

    /// Returns once the order was given; safe to cancel.
    pub async fn ordered(&self) {
        self.token.cancelled().await;
    }

    /// Whether the order was given.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// A stop of its own, which also hears this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
        }
    }
}

/// Counts what is still being served.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    tracker: TaskTracker,
}

impl Drain {
    /// One thing that must finish; drop it when it has.
    #[must_use]
    pub fn guard(&self) -> DrainGuard {
        DrainGuard {
            _token: self.tracker.token(),
        }
    }

    /// How many guards live.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until all guards are dropped, at most `deadline`. Returns how many are left to be cut.
    pub async fn finish(&self, deadline: Duration) -> usize {
        self.tracker.close();
        // The count below tells what the timeout would.
        let _ = tokio::time::timeout(deadline, self.tracker.wait()).await;
        self.tracker.len()
    }
}

/// Held by whatever drain has to wait for.
#[derive(Debug)]
pub struct DrainGuard {
    _token: TaskTrackerToken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_guards_but_not_for_ever() {
        let drain = Drain::default();
        let guard = drain.guard();
        assert_eq!(drain.finish(Duration::from_secs(5)).await, 1);
        drop(guard);
        assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    }
}
