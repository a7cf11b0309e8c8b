//! What may be sent again, and how often: retries must not turn a small fault into a storm. Pure.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use http::{Method, StatusCode};
use mesh::quota::Gcra;

/// Span of the budget.
const WINDOW: Duration = Duration::from_secs(10);
/// Retries a second that are always allowed: of few requests, a part is nothing.
const FLOOR_PER_SECOND: f64 = 10.0;
/// Longest body that is kept to be sent again.
pub(crate) const REPLAY_BYTES_MAX: u64 = 64 * 1024;

/// Whether doing it twice is the same as doing it once (RFC 9110, 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether an answer speaks of a fault that another endpoint may not have.
pub(crate) fn is_passing_fault(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Whether an answer counts against the endpoint.
pub(crate) fn is_fault(status: StatusCode) -> bool {
    status == StatusCode::INTERNAL_SERVER_ERROR || is_passing_fault(status)
}

/// Allows retries as a part of requests over the last 10 s, and a few always. Counts in two windows, of which the older
/// one fades; a count that a turn of the window loses is off by one.
#[derive(Debug)]
pub(crate) struct Budget {
    ratio: f64,
    floor: Gcra,
    window: AtomicU64,
    requests: [AtomicU64; 2],
    retries: [AtomicU64; 2],
}

impl Budget {
    pub(crate) fn new(ratio: f64) -> Self {
        Self {
            ratio,
            floor: Gcra::new(FLOOR_PER_SECOND, FLOOR_PER_SECOND),
            window: AtomicU64::new(0),
            requests: Default::default(),
            retries: Default::default(),
        }
    }

    /// The slot of this moment, after turning the window where it is due.
    fn turn(&self, now: Duration) -> (usize, f64) {
        let window = now.as_secs() / WINDOW.as_secs();
        let known = self.window.load(Ordering::Relaxed);
        let slot = usize::from(window % 2 == 1);
        if window > known
            && self
                .window
                .compare_exchange(known, window, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.requests[slot].store(0, Ordering::Relaxed);
            self.retries[slot].store(0, Ordering::Relaxed);
            if window > known + 1 {
                self.requests[1 - slot].store(0, Ordering::Relaxed);
                self.retries[1 - slot].store(0, Ordering::Relaxed);
            }
        }
        let passed = (now.as_secs_f64() % WINDOW.as_secs_f64()) / WINDOW.as_secs_f64();
        (slot, 1.0 - passed)
    }

    /// Counts a request.
    pub(crate) fn request(&self, now: Duration) {
        let (slot, _) = self.turn(now);
        self.requests[slot].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry, if there is one.
    pub(crate) fn retry(&self, now: Duration) -> bool {
        let (slot, old) = self.turn(now);
        let sum = |counts: &[AtomicU64; 2]| {
            #[expect(clippy::cast_precision_loss, reason = "counts of 10 s")]
            let count = |slot: usize| counts[slot].load(Ordering::Relaxed) as f64;
            count(slot) + count(1 - slot) * old
        };
        let allowed = sum(&self.retries) < self.ratio * sum(&self.requests) || self.floor.admit(now).is_ok();
        if allowed {
            self.retries[slot].fetch_add(1, Ordering::Relaxed);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_twice_is_safe_or_not() {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert!(is_idempotent(&method), "{method}");
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert!(!is_idempotent(&method), "{method}");
        }
    }

    #[test]
    fn retries_are_a_part_of_requests_and_a_floor() {
        let budget = Budget::new(0.2);
        let now = Duration::from_secs(1_000);
        for _ in 0..1_000 {
            budget.request(now);
        }
        let taken = (0..1_000).filter(|_| budget.retry(now)).count();
        assert!((200..=211).contains(&taken), "{taken}");
        let later = now + Duration::from_secs(1);
        let floor = (0..100).filter(|_| budget.retry(later)).count();
        assert!((9..=11).contains(&floor), "ten a second are always there: {floor}");
        let much_later = now + Duration::from_secs(60);
        let idle = (0..100).filter(|_| budget.retry(much_later)).count();
        assert!(idle <= 11, "old requests pay for nothing: {idle}");
    }
}
