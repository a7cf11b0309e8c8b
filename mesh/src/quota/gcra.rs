//! The generic cell rate algorithm: admits a rate with a burst in one atomic word, so that the request path takes no lock.
//! Remembers when the admitted requests will have been paid for; says how long to wait instead of queueing. Pure.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Longest time between two admitted requests, nanoseconds (11 days): keeps all sums far from overflow.
const INTERVAL_NANOS_MAX: f64 = 1e15;

/// A limiter for one rate. Its three words are read one by one: while a new rate is being set, a request may be judged by
/// the old burst and the new rate, which is off by one request at most.
#[derive(Debug)]
pub struct Gcra {
    /// When everything admitted so far will have been paid for, nanoseconds since the caller's origin.
    paid_at: AtomicU64,
    /// Nanoseconds that one request costs; 0 = unlimited.
    interval: AtomicU64,
    /// How far `paid_at` may lie ahead of now, nanoseconds.
    tolerance: AtomicU64,
}

/// Interval and tolerance of a rate. Rounded up, so that rounding never admits more than the rate.
fn words(rate_per_second: f64, burst: f64) -> (u64, u64) {
    // 0 means unlimited everywhere; NaN and negative rates cannot pass the wire, and are not taken for unlimited.
    if rate_per_second == 0.0 {
        return (0, 0);
    }
    let interval = (1e9 / rate_per_second.max(0.0)).ceil().clamp(1.0, INTERVAL_NANOS_MAX);
    let tolerance = interval * (burst.max(1.0) - 1.0).min(1e9);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped above")]
    let words = (interval as u64, tolerance.min(u64::MAX as f64 / 4.0) as u64);
    words
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Gcra {
    /// A limiter that has spent nothing. `rate_per_second` 0 is unlimited; `burst` is how many requests may come at once,
    /// at least 1.
    #[must_use]
    pub fn new(rate_per_second: f64, burst: f64) -> Self {
        let (interval, tolerance) = words(rate_per_second, burst);
        Self {
            paid_at: AtomicU64::new(0),
            interval: AtomicU64::new(interval),
            tolerance: AtomicU64::new(tolerance),
        }
    }

    /// A limiter that has spent its burst and one request more: whoever starts anew gets no fresh burst.
    #[must_use]
    pub fn spent(rate_per_second: f64, burst: f64, now: Duration) -> Self {
        let (interval, tolerance) = words(rate_per_second, burst);
        Self {
            paid_at: AtomicU64::new(nanos(now).saturating_add(tolerance).saturating_add(interval)),
            interval: AtomicU64::new(interval),
            tolerance: AtomicU64::new(tolerance),
        }
    }

    /// Admits one request at `now`, the time since any origin that stays the same for this limiter.
    ///
    /// # Errors
    /// How long until a request would be admitted, when the rate and the burst are spent. Nothing is charged then.
    pub fn admit(&self, now: Duration) -> Result<(), Duration> {
        let interval = self.interval.load(Ordering::Relaxed);
        if interval == 0 {
            return Ok(());
        }
        let tolerance = self.tolerance.load(Ordering::Relaxed);
        let now = nanos(now);
        let mut paid_at = self.paid_at.load(Ordering::Relaxed);
        loop {
            let ahead = paid_at.saturating_sub(now);
            if ahead > tolerance {
                return Err(Duration::from_nanos(ahead - tolerance));
            }
            let next = paid_at.max(now).saturating_add(interval);
            // Relaxed: the word stands for itself, nothing else is published through it.
            match self
                .paid_at
                .compare_exchange_weak(paid_at, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(current) => paid_at = current,
            }
        }
    }

    /// Goes on with another rate and burst. What was spent above the old rate is still owed, counted in requests, and what
    /// the new burst has more than the old one counts as spent: a new share is no fresh burst. Has one caller at a time;
    /// `admit` may run meanwhile.
    pub fn set(&self, rate_per_second: f64, burst: f64, now: Duration) {
        let (interval, tolerance) = words(rate_per_second, burst);
        let before = self.interval.swap(interval, Ordering::Relaxed);
        let burst_before = self.tolerance.swap(tolerance, Ordering::Relaxed);
        if before == 0 || (before == interval && burst_before == tolerance) {
            return;
        }
        let now = nanos(now);
        // In old intervals and new ones; what is owed is rounded up, so that rounding never admits more.
        let at_new = |span: u64| u128::from(span) * u128::from(interval);
        let grown = u128::from(tolerance).saturating_sub(at_new(burst_before) / u128::from(before));
        let scaled = |paid_at: u64| {
            let debt = at_new(paid_at.saturating_sub(now)).div_ceil(u128::from(before)) + grown;
            Some(now.saturating_add(u64::try_from(debt).unwrap_or(u64::MAX / 2)))
        };
        // The closure always gives a value, so the update cannot fail.
        let _ = self.paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, scaled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn admitted(limiter: &Gcra, at: Duration, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.admit(at).is_ok()).count()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let limiter = Gcra::new(10.0, 5.0);
        assert_eq!(admitted(&limiter, ms(1000), 100), 5, "the burst");
        let wait = limiter.admit(ms(1000)).expect_err("spent");
        assert_eq!(wait, ms(100), "one request's worth");
        assert!(
            limiter.admit(ms(1000) + wait).is_ok(),
            "the wait that it named is enough"
        );
        assert_eq!(admitted(&limiter, ms(1200), 100), 1);
        assert_eq!(
            admitted(&limiter, ms(60_000), 100),
            5,
            "an idle hour saves up no more than the burst"
        );
    }

    #[test]
    fn ten_seconds_at_many_tries_give_the_rate_and_the_burst() {
        for (rate, burst) in [(100.0, 1.0), (100.0, 20.0), (0.5, 1.0), (7.3, 3.0), (100_000.0, 10.0)] {
            let limiter = Gcra::new(rate, burst);
            let total: usize = (0..100_000_u64)
                .map(|step| admitted(&limiter, Duration::from_micros(step * 100), 20))
                .sum();
            let most = rate * 10.0 + burst;
            assert!(total as f64 <= most + 1e-6, "{total} of {most}");
            assert!(total as f64 >= (rate * 10.0).floor() * 0.99, "{total} of {most}");
        }
    }

    #[test]
    fn zero_is_unlimited_and_a_tiny_rate_is_not() {
        assert_eq!(admitted(&Gcra::new(0.0, 0.0), ms(0), 1000), 1000);
        for rate in [1e-30, f64::NAN, -1.0] {
            assert_eq!(admitted(&Gcra::new(rate, 0.0), ms(0), 1000), 1, "{rate}");
        }
    }

    #[test]
    fn a_new_rate_keeps_the_debt() {
        let limiter = Gcra::new(10.0, 5.0);
        assert_eq!(admitted(&limiter, ms(0), 100), 5);
        limiter.set(20.0, 5.0, ms(0));
        assert_eq!(admitted(&limiter, ms(0), 100), 0, "no fresh burst");
        let wait = limiter.admit(ms(0)).expect_err("spent");
        assert!(wait.abs_diff(ms(50)) < ms(1), "at the new rate: {wait:?}");
        limiter.set(0.0, 0.0, ms(0));
        assert_eq!(admitted(&limiter, ms(0), 100), 100, "unlimited at once");
    }

    #[test]
    fn a_larger_burst_and_a_new_start_begin_spent() {
        let limiter = Gcra::new(10.0, 5.0);
        limiter.set(20.0, 10.0, ms(0));
        assert_eq!(
            admitted(&limiter, ms(0), 100),
            5,
            "the old burst is still there, the rest is earned"
        );
        assert_eq!(admitted(&limiter, ms(60_000), 100), 10);
        let fresh = Gcra::spent(10.0, 5.0, ms(0));
        assert_eq!(admitted(&fresh, ms(99), 100), 0);
        assert_eq!(admitted(&fresh, ms(100), 100), 1);
    }

    #[test]
    fn threads_share_one_budget() {
        let limiter = Gcra::new(1.0, 1000.0);
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| admitted(&limiter, ms(0), 1000)))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("counts")).sum()
        });
        assert_eq!(total, 1000);
    }
}
