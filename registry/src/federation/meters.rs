//! What one peering counts about itself, labelled by the peer: few regions, so that the label is cheap.

use std::time::Duration;

use mesh::{
    model::{RegionId, Timestamp},
    ops::Metrics,
    runtime::clock,
};
use metrics::{Counter, Gauge, Histogram};

/// Handles of one peer, taken once.
pub(super) struct Meters {
    pub(super) connected: Gauge,
    pub(super) sessions: Counter,
    pub(super) round_trip: Gauge,
    pub(super) clock_ahead: Gauge,
    exported: Histogram,
    exports: Counter,
    acknowledged: Histogram,
    imported: Histogram,
    imports: Counter,
    far: Histogram,
}

impl Meters {
    pub(super) fn new(peer: &RegionId, metrics: &Metrics) -> Self {
        let label = [("peer", peer.as_str())];
        let gauge = |name, help| metrics.gauge(name, help, &label);
        let counter = |name, help| metrics.counter(name, help, &label);
        let histogram = |name, help| metrics.histogram(name, help, &label);
        Self {
            connected: gauge(
                "isthmus_federation_connected",
                "1 while this node has a stream to the peer",
            ),
            sessions: counter(
                "isthmus_federation_streams_total",
                "streams to the peer that were begun",
            ),
            round_trip: gauge(
                "isthmus_federation_round_trip_seconds",
                "round trip of the stream to the peer, smoothed",
            ),
            clock_ahead: gauge(
                "isthmus_federation_clock_ahead_seconds",
                "how far the clock of the peer's leader is ahead of this node's; negative = behind",
            ),
            exported: histogram(
                "isthmus_federation_commit_to_exported_seconds",
                "from the proposal of a change here to its way to the peer",
            ),
            exports: counter("isthmus_federation_exported_total", "updates sent to the peer"),
            acknowledged: histogram(
                "isthmus_federation_acknowledge_seconds",
                "from sending an update until the peer has committed it",
            ),
            imported: histogram(
                "isthmus_federation_import_seconds",
                "from the arrival of a peer's update to its commit here",
            ),
            imports: counter(
                "isthmus_federation_imported_total",
                "updates of the peer that were committed here",
            ),
            far: histogram(
                "isthmus_federation_commit_to_imported_seconds",
                "from the proposal of a change in the peer's region to its commit here; clocks of two regions are compared",
            ),
        }
    }

    /// An update has gone out.
    pub(super) fn sent(&self, committed_at: Option<Timestamp>, now: Timestamp) {
        self.exports.increment(1);
        if let Some(committed_at) = committed_at {
            self.exported.record(now.since(committed_at).as_secs_f64());
        }
    }

    /// The peer committed it.
    pub(super) fn answered(&self, sent: tokio::time::Instant) {
        self.acknowledged.record(sent.elapsed().as_secs_f64());
    }

    /// An update of the peer is committed here.
    pub(super) fn committed(&self, arrived: tokio::time::Instant, committed_at: Option<Timestamp>, now: Timestamp) {
        self.imports.increment(1);
        self.imported.record(clock::now().duration_since(arrived).as_secs_f64());
        if let Some(committed_at) = committed_at {
            self.far.record(now.since(committed_at).as_secs_f64());
        }
    }

    pub(super) fn round_trip(&self, smooth: Duration) {
        self.round_trip.set(smooth.as_secs_f64());
    }
}
