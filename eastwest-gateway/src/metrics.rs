//! What the gateway counts. Handles are made once, those of a service when its first tunnel comes; the path of a tunnel
//! only increments.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mesh::{
    model::ServiceName,
    net::copy::{End, Meters},
    ops::Metrics,
    runtime::clock,
};
use metrics::{Counter, Gauge, Histogram};
use tokio::time::Instant;
use tracing::warn;

use crate::refusal::Refusal;

/// At most one log line per refusal in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// What belongs to no service.
pub(crate) struct GatewayMetrics {
    refused: Vec<Refused>,
    started: Instant,
    /// From the first byte of a client to its relay.
    pub(crate) open_seconds: Histogram,
    /// Probes that were answered.
    pub(crate) probes: Counter,
    ended: [Counter; 4],
}

struct Refused {
    count: Counter,
    /// Milliseconds since the start at which the next line may be written.
    next_line_ms: AtomicU64,
}

impl GatewayMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let refused = Refusal::ALL.map(|refusal| Refused {
            count: metrics.counter(
                "isthmus_gateway_refused_total",
                "connections that were not relayed, by reason",
                &[("reason", refusal.as_str())],
            ),
            next_line_ms: AtomicU64::new(0),
        });
        let ended = ["finished", "idle", "stalled", "broken"].map(|how| {
            metrics.counter(
                "isthmus_gateway_ended_total",
                "tunnels that ended, by how",
                &[("how", how)],
            )
        });
        Self {
            refused: refused.into(),
            started: clock::now(),
            open_seconds: metrics.histogram(
                "isthmus_gateway_open_seconds",
                "time from accepting a connection to relaying it",
                &[],
            ),
            probes: metrics.counter("isthmus_gateway_probes_total", "probes that were answered", &[]),
            ended,
        }
    }

    /// Counts a refusal, and tells about it from time to time. `detail` is what the client said, if it said anything.
    pub(crate) fn refused(&self, refusal: Refusal, peer: std::net::SocketAddr, detail: &dyn fmt::Display) {
        let Some(refused) = self.refused.get(refusal as usize) else {
            return;
        };
        refused.count.increment(1);
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next_ms = refused.next_line_ms.load(Ordering::Relaxed);
        let line_ms = now_ms + u64::try_from(LOG_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        if now_ms >= next_ms
            && refused
                .next_line_ms
                .compare_exchange(next_ms, line_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            warn!(reason = refusal.as_str(), %peer, server_name = %detail, "connection refused");
        }
    }

    pub(crate) fn ended(&self, end: &End) {
        let at = match end {
            End::Finished => 0,
            End::Idle => 1,
            End::Stalled => 2,
            End::Broken(_) => 3,
        };
        self.ended[at].increment(1);
    }
}

/// What belongs to one service.
pub(crate) struct ServiceMetrics {
    pub(crate) tunnels: Counter,
    pub(crate) active: Gauge,
    pub(crate) dial_failed: Counter,
    pub(crate) meters: Meters,
}

impl ServiceMetrics {
    pub(crate) fn new(metrics: &Metrics, service: &ServiceName) -> Self {
        let service = service.to_string();
        let label = [("service", service.as_str())];
        let bytes = |direction| {
            let labels = [("service", service.as_str()), ("direction", direction)];
            metrics.counter(
                "isthmus_gateway_bytes_total",
                "bytes relayed; in = from clients",
                &labels,
            )
        };
        Self {
            tunnels: metrics.counter("isthmus_gateway_tunnels_total", "tunnels that were relayed", &label),
            active: metrics.gauge("isthmus_gateway_tunnels", "tunnels that are open", &label),
            dial_failed: metrics.counter(
                "isthmus_gateway_dial_failed_total",
                "endpoints that could not be dialled",
                &label,
            ),
            meters: Meters {
                forth: bytes("in"),
                back: bytes("out"),
            },
        }
    }
}
