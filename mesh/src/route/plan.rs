//! The plan: where requests for one port of one service may go, tier by tier, and why not elsewhere. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{Serialize, Serializer};

use super::{Carry, Evidence, OVERPROVISIONING, Standing, TierKey, eject::Fault, peer_order, spread};
use crate::model::{
    ClusterId, Endpoint, EndpointId, EndpointState, Gateway, Locality, RegionId, ServiceEntry, Timestamp, View,
};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Region and zone: decides tiers.
    pub locality: Locality,
    /// The network: endpoints of other clusters are reached through gateways.
    pub cluster: ClusterId,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The truth to answer from.
    pub view: &'a View,
    /// The service, of that view.
    pub entry: &'a ServiceEntry,
    /// A port of the service.
    pub port: u16,
    /// Only this region, without failover: for names of the region zone.
    pub region: Option<&'a RegionId>,
    /// Who asks.
    pub source: &'a Source,
    /// Regions in the order of the failover policy; the others follow by round trip.
    pub prefer: &'a [RegionId],
    /// Requests per second to this service that the asker knows of. Bounds what a tier whose endpoints declare their
    /// capacity is given; none = go by health alone.
    pub demand_rps: Option<f64>,
    /// For overrides.
    pub now: Timestamp,
}

/// How to reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// On this network.
    Direct,
    /// Through a gateway of its cluster.
    Gateway(ClusterId),
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Gateway(cluster) => write!(f, "gateway of {cluster}"),
        }
    }
}

impl Serialize for Via {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How good a candidate is. A plan uses the best rank that any candidate has; the others stay in reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Ready, and nothing speaks against it.
    Healthy,
    /// Ready by its last word, but its lease lapsed among many others. Used where verified ones cannot carry the tier:
    /// silence of the control plane withdraws nothing.
    Unverified,
    /// Answers again after a fault, still waiting.
    Held,
    /// Not ready, finishing what it has.
    Serving,
    /// Ejected by evidence, or its cluster's gateways are.
    Ejected,
    /// By its own word. Tried last instead of failing at once.
    Unhealthy,
}

/// Why a candidate has its rank or an endpoint is no candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Nothing speaks against it.
    Ready,
    /// New; gets this part of its share.
    Fresh(f64),
    /// Coming back; gets this part of its share.
    Ramp(f64),
    /// Its lease lapsed together with many others.
    Unverified,
    /// Answers again; waits this many more seconds.
    Held(f64),
    /// Not ready by its own word, still finishing.
    Serving,
    /// Ejected; the next trial follows after this many seconds.
    Ejected(Fault, f64),
    /// All gateways into its cluster are ejected.
    GatewaysOut(ClusterId),
    /// Its own health check fails.
    Unhealthy,
    /// Goes away.
    Draining,
    /// Taken out by an operator.
    Maintenance,
    /// Another network, and no gateway into it is known.
    NoGateway(ClusterId),
    /// Does not serve the port.
    NotThisPort(u16),
    /// The name asks for one region only.
    OtherRegion(RegionId),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Fresh(part) => write!(f, "new, gets {:.0} % of its share so far", part * 100.0),
            Self::Ramp(part) => write!(f, "coming back, gets {:.0} % of its share so far", part * 100.0),
            Self::Unverified => f.write_str("lease lapsed together with many others; only evidence withdraws it"),
            Self::Held(left) => write!(f, "answers again, waits {left:.0} s more before it gets traffic"),
            Self::Serving => f.write_str("not ready, finishing what it has"),
            Self::Ejected(fault, left) => {
                write!(f, "ejected: {}; next trial in {left:.0} s", fault.as_str())
            }
            Self::GatewaysOut(cluster) => write!(f, "all gateways into cluster {cluster} are ejected"),
            Self::Unhealthy => f.write_str("its own health check fails"),
            Self::Draining => f.write_str("draining"),
            Self::Maintenance => f.write_str("in maintenance"),
            Self::NoGateway(cluster) => write!(f, "no gateway into cluster {cluster} is known"),
            Self::NotThisPort(port) => write!(f, "does not serve port {port}"),
            Self::OtherRegion(region) => write!(f, "the name asks for region {region} only"),
        }
    }
}

/// An endpoint that may be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    /// How to reach it.
    pub via: Via,
    /// Its tier.
    pub tier: TierKey,
    /// How good it is.
    pub rank: Rank,
    /// Why.
    pub reason: Reason,
    /// Declared weight times what it gets of it so far; above 0.
    pub weight: f64,
    /// Percent of all requests; 0 in reserve.
    pub percent: f64,
}

/// Candidates that are equally far away.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// Which.
    pub key: TierKey,
    /// Part of all requests, 0 to 1; the shares of all tiers add up to 1.
    pub share: f64,
    /// Part of the tier that is healthy, 0 to 1.
    pub health: f64,
    /// Part of its traffic that a drill leaves it; 1 = no drill.
    pub keep: f64,
    /// Of the plan's rank; never empty.
    pub candidates: Vec<Candidate>,
}

/// How good the plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Healthy candidates carry everything.
    Healthy,
    /// There is nobody healthy: something lesser is tried.
    LastResort,
    /// There is nobody at all.
    Nobody,
}

/// An endpoint that is no candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Excluded {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    /// Why not.
    pub reason: Reason,
}

/// Where requests may go.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How good it is.
    pub level: Level,
    /// In order of preference.
    pub tiers: Vec<Tier>,
    /// Candidates of lesser rank, better ones first: for retries when all of the tiers failed.
    pub reserve: Vec<Candidate>,
    /// The rest.
    pub excluded: Vec<Excluded>,
}

impl Plan {
    /// All candidates in the order in which they should be tried: as DNS lists them.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.tiers.iter().flat_map(|tier| &tier.candidates).chain(&self.reserve)
    }
}

/// Makes the plan.
#[must_use]
pub fn plan(query: &Query<'_>, evidence: &dyn Evidence) -> Plan {
    let mut sorted = Sorted::default();
    for endpoint in query.entry.endpoints.values() {
        sorted.sort(query, evidence, endpoint);
    }
    let mut candidates = sorted.candidates;
    let best = candidates.iter().map(|candidate| candidate.rank).min();
    let level = match best {
        None => Level::Nobody,
        Some(Rank::Healthy | Rank::Unverified) => Level::Healthy,
        Some(_) => Level::LastResort,
    };
    let in_plan = |candidate: &Candidate| match level {
        Level::Healthy => {
            candidate.rank == Rank::Healthy
                || candidate.rank == Rank::Unverified && !sorted.loads[&candidate.tier].verified_suffice()
        }
        _ => Some(candidate.rank) == best,
    };
    let (used, mut reserve): (Vec<_>, Vec<_>) = candidates.drain(..).partition(in_plan);
    let mut by_tier: BTreeMap<TierKey, Vec<Candidate>> = BTreeMap::new();
    for candidate in used {
        by_tier.entry(candidate.tier.clone()).or_default().push(candidate);
    }
    let order = tier_order(
        query,
        by_tier.keys().chain(reserve.iter().map(|candidate| &candidate.tier)),
    );
    let place = |key: &TierKey| order.iter().position(|other| other == key);
    reserve.sort_by_key(|candidate| (candidate.rank, place(&candidate.tier)));
    let mut tiers: Vec<Tier> = order
        .iter()
        .filter_map(|key| Some((key.clone(), by_tier.remove(key)?)))
        .map(|(key, candidates)| tier(query, evidence, &sorted.loads, level, key, candidates))
        .collect();
    share_out(&mut tiers, query, level);
    Plan {
        level,
        tiers,
        reserve,
        excluded: sorted.excluded,
    }
}

fn tier_order<'a>(query: &Query<'_>, keys: impl Iterator<Item = &'a TierKey>) -> Vec<TierKey> {
    let keys: BTreeSet<_> = keys.collect();
    let peers = keys.iter().filter_map(|key| match key {
        TierKey::Peer(region) => Some(region.clone()),
        TierKey::Zone | TierKey::Region => None,
    });
    let peers = peer_order(query.view, query.prefer, peers.collect());
    let own = [TierKey::Zone, TierKey::Region];
    let own = own.into_iter().filter(|key| keys.contains(key));
    own.chain(peers.into_iter().map(TierKey::Peer)).collect()
}

fn tier(
    query: &Query<'_>,
    evidence: &dyn Evidence,
    loads: &BTreeMap<TierKey, Load>,
    level: Level,
    key: TierKey,
    candidates: Vec<Candidate>,
) -> Tier {
    let region = match &key {
        TierKey::Peer(region) => region,
        TierKey::Zone | TierKey::Region => &query.source.locality.region,
    };
    let evacuated = query
        .view
        .overrides(query.now)
        .filter(|order| order.region == *region)
        .map(|order| order.percent)
        .max();
    let able: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let whole = loads
        .get(&key)
        .map_or(able, |load| load.whole)
        .max(evidence.steady_weight(&key));
    Tier {
        share: 0.0,
        health: if level == Level::Healthy && whole > 0.0 {
            able / whole
        } else {
            0.0
        },
        keep: 1.0 - f64::from(evacuated.unwrap_or(0).min(100)) / 100.0,
        key,
        candidates,
    }
}

fn share_out(tiers: &mut [Tier], query: &Query<'_>, level: Level) {
    let carries: Vec<_> = tiers
        .iter()
        .map(|tier| Carry {
            // Of a last resort nothing is known; the nearest gets it all.
            can: if level == Level::Healthy {
                can_carry(tier, query)
            } else {
                1.0
            },
            keep: tier.keep,
        })
        .collect();
    for (tier, share) in tiers.iter_mut().zip(spread(&carries)) {
        tier.share = share;
        let sum: f64 = tier.candidates.iter().map(|candidate| candidate.weight).sum();
        for candidate in &mut tier.candidates {
            candidate.percent = 100.0 * share * candidate.weight / sum;
        }
    }
}

/// By health; and no more than the endpoints say they can take, when all of them say so and the demand is known.
fn can_carry(tier: &Tier, query: &Query<'_>) -> f64 {
    let by_health = (tier.health * OVERPROVISIONING).min(1.0);
    let declared = tier
        .candidates
        .iter()
        .all(|candidate| candidate.endpoint.capacity_rps > 0);
    match query.demand_rps {
        Some(demand) if declared && demand > 0.0 => {
            let capacity: f64 = tier
                .candidates
                .iter()
                .map(|candidate| {
                    let part = candidate.weight / f64::from(candidate.endpoint.weight.max(1));
                    f64::from(candidate.endpoint.capacity_rps) * part
                })
                .sum();
            by_health.min(capacity / demand)
        }
        _ => by_health,
    }
}

/// The weight of a tier.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// Of everything that is meant to take traffic, whether it can now or not.
    whole: f64,
    /// Of what is healthy and verified.
    verified: f64,
}

impl Load {
    fn verified_suffice(&self) -> bool {
        self.verified * OVERPROVISIONING >= self.whole
    }
}

#[derive(Default)]
struct Sorted {
    candidates: Vec<Candidate>,
    excluded: Vec<Excluded>,
    loads: BTreeMap<TierKey, Load>,
}

impl Sorted {
    fn sort(&mut self, query: &Query<'_>, evidence: &dyn Evidence, endpoint: &Arc<Endpoint>) {
        let tier = TierKey::of(&endpoint.locality, &query.source.locality);
        let full = f64::from(endpoint.weight.max(1));
        let (rank, reason, part) = match judge(query, evidence, endpoint) {
            Ok(judgement) => judgement,
            Err(reason) => {
                // Maintenance and lost reach take capacity away that somebody else must bring; the others never had any.
                if matches!(reason, Reason::Maintenance | Reason::NoGateway(_)) {
                    self.loads.entry(tier).or_default().whole += full;
                }
                let endpoint = Arc::clone(endpoint);
                return self.excluded.push(Excluded { endpoint, reason });
            }
        };
        let load = self.loads.entry(tier.clone()).or_default();
        load.whole += if let Reason::Fresh(_) = reason {
            full * part
        } else {
            full
        };
        if rank == Rank::Healthy {
            load.verified += full * part;
        }
        let via = if endpoint.cluster == query.source.cluster {
            Via::Direct
        } else {
            Via::Gateway(endpoint.cluster.clone())
        };
        self.candidates.push(Candidate {
            endpoint: Arc::clone(endpoint),
            via,
            tier,
            rank,
            reason,
            weight: full * part,
            percent: 0.0,
        });
    }
}

/// Rank, reason and the part of its share; or why it is no candidate.
fn judge(query: &Query<'_>, evidence: &dyn Evidence, endpoint: &Endpoint) -> Result<(Rank, Reason, f64), Reason> {
    if let Some(region) = query.region.filter(|region| **region != endpoint.locality.region) {
        return Err(Reason::OtherRegion(region.clone()));
    }
    if !endpoint.ports.contains(&query.port) {
        return Err(Reason::NotThisPort(query.port));
    }
    match endpoint.state {
        EndpointState::Draining => return Err(Reason::Draining),
        EndpointState::Maintenance => return Err(Reason::Maintenance),
        EndpointState::Ready | EndpointState::Serving | EndpointState::Unhealthy => {}
    }
    let mut gateways_out = false;
    if endpoint.cluster != query.source.cluster {
        let mut gateways = usable_gateways(query.view, &endpoint.cluster).peekable();
        if gateways.peek().is_none() {
            return Err(Reason::NoGateway(endpoint.cluster.clone()));
        }
        gateways_out = gateways.all(|gateway| matches!(evidence.gateway(&gateway.id), Standing::Out { .. }));
    }
    Ok(match (endpoint.state, evidence.endpoint(&endpoint.id)) {
        (EndpointState::Unhealthy, _) => (Rank::Unhealthy, Reason::Unhealthy, 1.0),
        (_, Standing::Out { left, fault }) => (Rank::Ejected, Reason::Ejected(fault, left.as_secs_f64()), 1.0),
        _ if gateways_out => (Rank::Ejected, Reason::GatewaysOut(endpoint.cluster.clone()), 1.0),
        (EndpointState::Serving, _) => (Rank::Serving, Reason::Serving, 1.0),
        (_, Standing::Held { left }) => (Rank::Held, Reason::Held(left.as_secs_f64()), 1.0),
        _ if endpoint.unverified => (Rank::Unverified, Reason::Unverified, 1.0),
        (_, Standing::Fresh(part)) => (Rank::Healthy, Reason::Fresh(part), part.clamp(1e-3, 1.0)),
        (_, Standing::Ramp(part)) => (Rank::Healthy, Reason::Ramp(part), part.clamp(1e-3, 1.0)),
        (_, Standing::Up) => (Rank::Healthy, Reason::Ready, 1.0),
    })
}

/// The gateways into a cluster that may carry new connections, best state first: ready ones, else those that still serve.
pub(crate) fn usable_gateways<'a>(
    view: &'a View,
    cluster: &'a ClusterId,
) -> impl Iterator<Item = &'a Arc<Gateway>> + 'a {
    let state = [EndpointState::Ready, EndpointState::Serving, EndpointState::Unhealthy]
        .into_iter()
        .find(|state| view.gateways_into(cluster).any(|gateway| gateway.state == *state));
    view.gateways_into(cluster)
        .filter(move |gateway| Some(gateway.state) == state)
}

/// The gateways into a cluster that an asker should dial now: those that are not ejected, or all when all are.
#[must_use]
pub fn gateways_to_dial(view: &View, cluster: &ClusterId, evidence: &dyn Evidence) -> Vec<Arc<Gateway>> {
    let all: Vec<_> = usable_gateways(view, cluster).cloned().collect();
    let up: Vec<_> = all
        .iter()
        .filter(|gateway| !matches!(evidence.gateway(&gateway.id), Standing::Out { .. }))
        .cloned()
        .collect();
    if up.is_empty() { all } else { up }
}

/// The ids of the endpoints of an entry by tier, with their weights, as far as they could take work by their own word:
/// what [`super::TierMemory::observe`] wants.
#[must_use]
pub fn usable_by_tier(entry: &ServiceEntry, source: &Locality) -> BTreeMap<TierKey, BTreeMap<EndpointId, f64>> {
    let mut tiers: BTreeMap<TierKey, BTreeMap<EndpointId, f64>> = BTreeMap::new();
    for endpoint in entry.endpoints.values() {
        let tier = tiers.entry(TierKey::of(&endpoint.locality, source)).or_default();
        if endpoint.state == EndpointState::Ready {
            tier.insert(endpoint.id.clone(), f64::from(endpoint.weight.max(1)));
        }
    }
    tiers
}

#[cfg(test)]
mod tests;
