//! What the daemon counts about itself. Handles are taken once; Raft, watch and federation count their own.

use std::sync::Arc;

use mesh::ops::Metrics;
use metrics::{Counter, Gauge, Histogram};

/// Handles of one daemon.
#[derive(Clone)]
pub struct Meters {
    inner: Arc<Handles>,
}

impl std::ops::Deref for Meters {
    type Target = Handles;
    fn deref(&self) -> &Handles {
        &self.inner
    }
}

/// See the help texts.
pub struct Handles {
    pub(crate) services: Gauge,
    pub(crate) endpoints: Gauge,
    pub(crate) unverified: Gauge,
    pub(crate) peers: Gauge,
    pub(crate) peers_connected: Gauge,
    pub(crate) leases_held: Gauge,
    pub(crate) lapses: Counter,
    pub(crate) lapses_held_back: Counter,
    pub(crate) attached: Counter,
    pub(crate) attaches_refused: Counter,
    pub(crate) changes_delayed: Counter,
    pub(crate) attach: Histogram,
    pub(crate) issued_by_token: Counter,
    pub(crate) issued_by_svid: Counter,
    pub(crate) issue_refused: Counter,
    pub(crate) admin_calls: Counter,
    pub(crate) admin_refused: Counter,
    pub(crate) certificate_not_after: Gauge,
    pub(crate) authority_not_after: Gauge,
    pub(crate) gateways_ready: Gauge,
    pub(crate) exports: Gauge,
    pub(crate) drills: Gauge,
    pub(crate) drill_age: Gauge,
    pub(crate) subscriber_lag: Gauge,
    pub(crate) clock: Gauge,
}

impl Meters {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let gauge = |name, help| metrics.gauge(name, help, &[]);
        let counter = |name, help| metrics.counter(name, help, &[]);
        let issued = |by| {
            metrics.counter(
                "isthmus_registry_certificates_issued_total",
                "SVIDs issued, by what the caller showed",
                &[("by", by)],
            )
        };
        let handles = Handles {
            services: gauge(
                "isthmus_registry_services",
                "services in the catalogue, imported ones included",
            ),
            endpoints: gauge(
                "isthmus_registry_endpoints",
                "endpoints in the catalogue, imported ones included",
            ),
            unverified: gauge(
                "isthmus_registry_endpoints_unverified",
                "endpoints that mass-loss protection holds",
            ),
            peers: gauge("isthmus_registry_peers", "regions that this one federates with"),
            peers_connected: gauge(
                "isthmus_registry_peers_connected",
                "peers whose federation stream stands",
            ),
            leases_held: gauge("isthmus_registry_leases_held", "leases whose streams this node holds"),
            lapses: counter(
                "isthmus_registry_lapses_total",
                "leases that this node found silent and reported",
            ),
            lapses_held_back: counter(
                "isthmus_registry_lapses_held_back_total",
                "lapses that mass-loss protection held back when this node reported them",
            ),
            attached: counter("isthmus_registry_attached_total", "attachments that were committed"),
            attaches_refused: counter(
                "isthmus_registry_attaches_refused_total",
                "attachments that were turned away",
            ),
            changes_delayed: counter(
                "isthmus_registry_changes_delayed_total",
                "changes of state that waited because their caller is at limits.changes_per_caller",
            ),
            attach: metrics.histogram(
                "isthmus_registry_attach_seconds",
                "from an agent's attachment to its commit",
                &[],
            ),
            issued_by_token: issued("token"),
            issued_by_svid: issued("svid"),
            issue_refused: counter(
                "isthmus_registry_certificates_refused_total",
                "requests for an SVID that were turned away",
            ),
            admin_calls: counter("isthmus_registry_admin_calls_total", "calls of the operator's API"),
            admin_refused: counter(
                "isthmus_registry_admin_refused_total",
                "calls of the operator's API that failed or were not allowed",
            ),
            certificate_not_after: gauge(
                "isthmus_registry_certificate_not_after_timestamp_seconds",
                "end of this node's own certificate, unix seconds",
            ),
            authority_not_after: gauge(
                "isthmus_registry_authority_not_after_timestamp_seconds",
                "end of the region's issuing certificate, unix seconds",
            ),
            gateways_ready: gauge(
                "isthmus_registry_gateways_ready",
                "gateways of this region that are ready",
            ),
            exports: gauge("isthmus_registry_exports", "services that are offered to peers"),
            drills: gauge("isthmus_registry_drills", "failover drills that bend routing now"),
            drill_age: gauge(
                "isthmus_registry_drill_age_seconds",
                "how long the oldest running drill has been seen by this node",
            ),
            clock: gauge(
                "isthmus_registry_clock_timestamp_seconds",
                "this node's wall clock, taken once a second; compare it with the time of the scrape",
            ),
            subscriber_lag: gauge(
                "isthmus_watch_subscriber_lag_seconds",
                "how long the slowest subscriber of this node has owed an acknowledgement, which comes one to two seconds after an update",
            ),
        };
        Self {
            inner: Arc::new(handles),
        }
    }
}
