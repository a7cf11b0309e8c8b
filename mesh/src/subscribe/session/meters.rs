//! What a subscription shows of itself.

use metrics::{Counter, Gauge, Histogram};

use crate::ops::Metrics;

/// Handles, taken once.
pub(super) struct Meters {
    pub(super) age: Gauge,
    pub(super) revision: Gauge,
    pub(super) connected: Gauge,
    pub(super) updates: Counter,
    pub(super) snapshots: Counter,
    pub(super) ended: Counter,
    pub(super) applied: Histogram,
}

impl Meters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let updates = |kind: &str| {
            let help = "updates of the view that were applied";
            metrics.counter("isthmus_view_updates_total", help, &[("kind", kind)])
        };
        Self {
            age: metrics.gauge(
                "isthmus_view_age_seconds",
                "since the registry last agreed with the view",
                &[],
            ),
            revision: metrics.gauge("isthmus_view_revision", "revision of the view", &[]),
            connected: metrics.gauge("isthmus_view_connected", "1 while the subscription stands", &[]),
            updates: updates("delta"),
            snapshots: updates("full"),
            ended: metrics.counter("isthmus_view_stream_ended_total", "subscriptions that ended", &[]),
            applied: metrics.histogram(
                "isthmus_view_commit_to_applied_seconds",
                "from the commit of a change to its use here; clocks of two machines are compared",
                &[],
            ),
        }
    }
}
