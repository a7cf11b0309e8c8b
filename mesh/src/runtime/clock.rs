//! The only place that asks what time it is. Pure code is given the time.
#![allow(clippy::disallowed_methods, reason = "this is the one place that may read a clock")]

use std::time::{SystemTime, UNIX_EPOCH};

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
