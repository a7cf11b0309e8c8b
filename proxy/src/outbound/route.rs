//! A prepared route: tiers of endpoints with their load and health beside them, from which a request picks. Immutable;
//! what moves is in the records.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use mesh::{
    model::{Endpoint, Gateway, RegionId, ServiceEntry, ServiceName, View},
    ops::Metrics,
    route::{Level, Target, pick},
};
use metrics::Counter;

use super::{pool::Lane, record::Record};

/// A gateway with its record.
#[derive(Clone)]
pub(crate) struct GatewayRef {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) record: Arc<Record>,
    pub(crate) connections: Arc<AtomicI64>,
}

impl GatewayRef {
    /// Connections of this proxy through it.
    pub(crate) fn connections(&self) -> i64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// A connection through it begins (1) or ends (-1).
    pub(crate) fn carried(&self, by: i64) {
        self.connections.fetch_add(by, Ordering::Relaxed);
    }
}

/// Counters of requests to one service in one region, by class of status.
pub(crate) struct Meters {
    classes: [Counter; 5],
    failed: Counter,
}

impl Meters {
    pub(crate) fn new(metrics: &Metrics, service: &ServiceName, region: &RegionId) -> Self {
        let (service, region) = (service.to_string(), region.to_string());
        let counter = |code: &str| {
            metrics.counter(
                "isthmus_outbound_requests_total",
                "tries of requests by service, region of the endpoint and class of status",
                &[("service", &service), ("region", &region), ("code", code)],
            )
        };
        Self {
            classes: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(counter),
            failed: counter("failed"),
        }
    }

    pub(crate) fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.classes[class].increment(1);
    }

    pub(crate) fn failed(&self) {
        self.failed.increment(1);
    }
}

/// An endpoint in a route.
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) record: Arc<Record>,
    pub(crate) lane: Arc<Lane>,
    /// Empty = on this network.
    pub(crate) gateways: Arc<[GatewayRef]>,
    pub(crate) meters: Arc<Meters>,
    /// Whether anybody else could do its work.
    pub(crate) has_others: bool,
    /// What it gets of its tier, against the others.
    pub(crate) weight: f64,
}

impl Member {
    fn is_out(&self) -> bool {
        self.record.is_out() || !self.gateways.is_empty() && self.gateways.iter().all(|gateway| gateway.record.is_out())
    }

    fn cost(&self) -> f64 {
        pick::cost(self.record.latency_us(), self.record.in_flight(), self.weight)
    }
}

/// Endpoints that are equally far away.
pub(crate) struct PreparedTier {
    /// Part of all requests.
    pub(crate) share: f64,
    pub(crate) members: Vec<Arc<Member>>,
}

/// Where requests for one authority go.
pub(crate) struct Route {
    pub(crate) target: Target,
    /// What it was made of.
    pub(crate) entry: Option<Arc<ServiceEntry>>,
    pub(crate) level: Level,
    pub(crate) tiers: Vec<PreparedTier>,
    /// For when all of the tiers failed, better ones first.
    pub(crate) reserve: Vec<Arc<Member>>,
    /// Requests so far.
    pub(crate) requests: AtomicU64,
    /// Whether time alone changes it.
    pub(crate) unsettled: bool,
}

impl Route {
    /// Nobody serves it.
    pub(crate) fn nobody(target: Target) -> Self {
        Self {
            target,
            entry: None,
            level: Level::Nobody,
            tiers: Vec::new(),
            reserve: Vec::new(),
            requests: AtomicU64::new(0),
            unsettled: false,
        }
    }

    /// `service:port`, for people.
    pub(crate) fn label(&self) -> String {
        format!("{}:{}", self.target.service, self.target.port)
    }

    /// All endpoints that may be used.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.tiers.iter().flat_map(|tier| &tier.members).chain(&self.reserve)
    }

    /// Whether making it anew would give the same: its service has not changed, nor what else the plan depends on, nor does
    /// time alone change it.
    pub(crate) fn stands(&self, view: &View, same_surroundings: bool) -> bool {
        let made_of = || Some((self.entry.as_ref()?, view.service(&self.target.service)?.1));
        same_surroundings && !self.unsettled && made_of().is_some_and(|(old, new)| Arc::ptr_eq(old, new))
    }

    /// Whether it carries something now.
    pub(crate) fn is_busy(&self) -> bool {
        self.members().any(|member| member.record.in_flight() > 0)
    }

    /// Picks whom to try next. `far` prefers a tier that none of `tried` is of.
    pub(crate) fn pick(&self, tried: &[Arc<Member>], far: bool) -> Option<&Arc<Member>> {
        let is_tried = |member: &Arc<Member>| tried.iter().any(|other| other.endpoint.id == member.endpoint.id);
        let shares = self.tiers.iter().map(|tier| tier.share);
        let first = pick::by_weight(shares, fastrand::f64()).unwrap_or(0);
        let order = || std::iter::once(first).chain((0..self.tiers.len()).filter(move |at| *at != first));
        for with_out in [false, true] {
            let usable = |member: &Arc<Member>| (with_out || !member.is_out()) && !is_tried(member);
            for avoid_near in [true, false] {
                if avoid_near && !far {
                    continue;
                }
                for tier in order().filter_map(|at| self.tiers.get(at)) {
                    if avoid_near && tier.members.iter().any(is_tried) {
                        continue;
                    }
                    let weights = tier
                        .members
                        .iter()
                        .map(|member| if usable(member) { member.weight } else { 0.0 });
                    let dice = [fastrand::f64(), fastrand::f64()];
                    if let Some(at) = pick::two_choices(weights, dice, |at| tier.members[at].cost()) {
                        return tier.members.get(at);
                    }
                }
            }
            if let Some(member) = self.reserve.iter().find(|member| usable(member)) {
                return Some(member);
            }
        }
        None
    }
}
