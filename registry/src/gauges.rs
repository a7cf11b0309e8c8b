//! Takes the gauges of a node once a second: what it holds, how its peers and subscribers are, what runs too long. Reads
//! only what others already know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mesh::{
    model::{EndpointState, OverrideId, RegionId, Timestamp},
    ops::Metrics,
    runtime::clock,
};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{app::Parts, catalog::State};

/// How often they are taken.
const EVERY: Duration = Duration::from_secs(1);

/// The task that takes them.
pub(crate) struct Gauges {
    parts: Arc<Parts>,
    metrics: Metrics,
    /// Running drills, and since when this node has seen them.
    drills: BTreeMap<OverrideId, Instant>,
    /// Whoever was a peer since the start: its gauges cannot be taken back, only set.
    known: BTreeSet<RegionId>,
}

impl Gauges {
    pub(crate) fn new(parts: Arc<Parts>, metrics: &Metrics) -> Self {
        Self {
            parts,
            metrics: metrics.clone(),
            drills: BTreeMap::new(),
            known: BTreeSet::new(),
        }
    }

    /// Runs until the stop.
    pub(crate) async fn run(mut self) {
        let stop = self.parts.tasks.stop().clone();
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.ordered() => return,
                _ = tick.tick() => {}
            }
            let (state, now) = (self.parts.replica.state(), self.parts.clock().wall());
            self.parts.meters.clock.set(now.0 as f64 / 1e3);
            self.holdings(&state);
            self.peers(&state, now);
            self.drills(&state, now);
            let lag = self.parts.hub.subscribers().lag_max(now);
            self.parts.meters.subscriber_lag.set(lag.as_secs_f64());
        }
    }

    fn holdings(&self, state: &State) {
        let meters = &self.parts.meters;
        meters.services.set(state.service_count() as f64);
        meters.endpoints.set(state.all_endpoints().count() as f64);
        meters.unverified.set(state.unverified_count() as f64);
        meters.exports.set(state.exports().count() as f64);
        let own = &self.parts.config.region;
        let ready = state
            .gateways()
            .filter(|gateway| gateway.region == *own && gateway.state == EndpointState::Ready);
        meters.gateways_ready.set(ready.count() as f64);
        if let Some(authority) = state.authority() {
            meters.authority_not_after.set(authority.not_after.0 as f64 / 1e3);
        }
    }

    fn peers(&mut self, state: &State, now: Timestamp) {
        let meters = &self.parts.meters;
        meters.peers.set(state.peers().count() as f64);
        let connected = state.region_statuses().filter(|status| status.connected).count();
        meters.peers_connected.set(connected as f64);
        for peer in state.peers() {
            let region = &peer.record.region;
            let heard_at = self.parts.federation.status(region).heard_at.filter(|at| at.0 > 0);
            let Some(heard_at) = heard_at else { continue };
            self.of_peer(
                region,
                "isthmus_federation_heard_age_seconds",
                "since the peer was last heard; a node that does not lead hears of it every 30 s",
                now.since(heard_at).as_secs_f64(),
            );
        }
        self.known.extend(state.peers().map(|peer| peer.record.region.clone()));
        for region in &self.known {
            self.of_peer(
                region,
                "isthmus_federation_peer",
                "1 while the region is a peer, 0 after it was removed",
                f64::from(u8::from(state.peer(region).is_some())),
            );
        }
    }

    /// Few peers, once a second: the handle need not be kept.
    fn of_peer(&self, region: &RegionId, name: &'static str, help: &'static str, value: f64) {
        self.metrics.gauge(name, help, &[("peer", region.as_str())]).set(value);
    }

    fn drills(&mut self, state: &State, now: Timestamp) {
        let running: Vec<OverrideId> = state.overrides(now).map(|order| order.id.clone()).collect();
        self.drills.retain(|id, _| running.contains(id));
        for id in running {
            self.drills.entry(id).or_insert_with(clock::now);
        }
        let oldest = self.drills.values().map(Instant::elapsed).max().unwrap_or_default();
        self.parts.meters.drills.set(self.drills.len() as f64);
        self.parts.meters.drill_age.set(oldest.as_secs_f64());
    }
}
