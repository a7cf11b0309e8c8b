//! Waiting between attempts: exponential, with full jitter, so that a crowd does not come back at once.

use std::time::Duration;

/// Gives the wait before each next attempt.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits between half of `first` and `first` at the beginning, at most `max` later.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, attempt: 0 }
    }

    /// The next wait: doubled each time, of which a random half is taken off.
    pub fn next_wait(&mut self) -> Duration {
        let factor = 1_u32 << self.attempt.min(16);
        self.attempt = self.attempt.saturating_add(1);
        let ceiling = self.first.saturating_mul(factor).min(self.max);
        ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// After a success: begin again with the first wait.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for ceiling in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next_wait();
            let ceiling = Duration::from_millis(ceiling);
            assert!(wait <= ceiling && wait >= ceiling / 2, "{wait:?} of {ceiling:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
