//! Makes routes: what the plan says for one authority, with the records and pools of its endpoints. Made anew when the view
//! or a health changes, not per request; a request loads one and picks.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use mesh::{
    model::{ClusterId, EndpointId, GatewayId, Namespace, RegionId, ServiceName, View},
    ops::Metrics,
    route::{
        self, Evidence, Explanation, Pace, Plan, Query, Seen, Source, Standing, Target, TargetError, TierKey,
        TierMemory, Via,
        eject::{self, Elapsed, Fault},
        matcher,
    },
    runtime::clock,
    subscribe::Views,
};
use metrics::Counter;
use tokio::sync::Notify;

use super::{
    pool::Lane,
    record::{Clock, Record},
    route::{GatewayRef, Member, Meters, PreparedTier, Route},
    seek::Missing,
};

/// Most authorities that are prepared; others are answered all the same, at the price of preparing them each time.
const ROUTES_MAX: usize = 4_096;

/// How health is judged, and who wants to know when it changes.
pub(crate) struct Health {
    pub(crate) limits: eject::Limits,
    pub(crate) pace: Pace,
    pub(crate) clock: Clock,
    /// Plans must be made again, or trials begin.
    pub(crate) wake: Notify,
    pub(crate) ejections: Counter,
}

impl Health {
    pub(crate) fn failed(&self, record: &Record, fault: Fault, others: bool) {
        if record.failed(self.clock.elapsed(), fault, others, &self.limits) {
            self.ejections.increment(1);
            self.wake.notify_one();
        }
    }

    pub(crate) fn succeeded(&self, record: &Record, began: Elapsed) {
        let was_out = record.is_out();
        record.succeeded(began, self.clock.elapsed(), &self.pace);
        if was_out && !record.is_out() {
            self.wake.notify_one();
        }
    }

    /// A gateway took a connection.
    pub(crate) fn reached(&self, record: &Record) {
        self.succeeded(record, self.clock.elapsed());
    }
}

type LaneKey = (EndpointId, u16);

#[derive(Default)]
struct Board {
    endpoints: HashMap<EndpointId, Arc<Record>>,
    gateways: HashMap<GatewayId, (Arc<Record>, Arc<AtomicI64>)>,
    lanes: HashMap<LaneKey, Arc<Lane>>,
    memory: HashMap<ServiceName, TierMemory>,
    meters: HashMap<(ServiceName, RegionId), Arc<Meters>>,
}

/// Makes and keeps routes.
pub(crate) struct Balancer {
    views: Views,
    pub(crate) source: Source,
    pub(crate) namespace: Namespace,
    failover: Vec<RegionId>,
    pub(crate) health: Arc<Health>,
    metrics: Metrics,
    routes: ArcSwap<HashMap<Box<str>, Arc<Route>>>,
    /// The view by which routes were made anew last.
    renewed_by: ArcSwap<View>,
    /// Guards the tables that routes are made of; held while one route is made, never while a request is served from a
    /// prepared one.
    board: Mutex<Board>,
}

impl Balancer {
    pub(crate) fn new(
        views: Views,
        source: Source,
        namespace: Namespace,
        failover: Vec<RegionId>,
        health: Arc<Health>,
        metrics: Metrics,
    ) -> Self {
        Self {
            views,
            source,
            namespace,
            failover,
            health,
            metrics,
            routes: ArcSwap::default(),
            renewed_by: ArcSwap::default(),
            board: Mutex::default(),
        }
    }

    /// The route of an authority, prepared or made now.
    pub(crate) fn route(&self, authority: &str) -> Result<Arc<Route>, Missing> {
        if let Some(route) = self.routes.load().get(authority) {
            return Ok(Arc::clone(route));
        }
        let view = self.views.load();
        let target = self.resolve(authority, &view)?;
        let route = Arc::new(self.prepare(&view, target));
        self.routes.rcu(|old| {
            let mut new = HashMap::clone(old);
            if new.len() < ROUTES_MAX {
                new.entry(authority.into()).or_insert_with(|| Arc::clone(&route));
            }
            new
        });
        Ok(route)
    }

    /// What an authority means, where the view can tell where it leads.
    fn resolve(&self, authority: &str, view: &View) -> Result<Target, Missing> {
        let target = matcher::resolve(authority, view, &self.namespace)?;
        if view.holds_endpoints_of(&target.service) {
            Ok(target)
        } else {
            Err(Missing::Endpoints(target.service))
        }
    }

    /// All prepared routes.
    pub(crate) fn routes(&self) -> Arc<HashMap<Box<str>, Arc<Route>>> {
        self.routes.load_full()
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // Tables of counters and connections: a panic leaves nothing half done that matters.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes routes anew: those that a new view changes, or all where health changed. Returns whether time alone will change
    /// any of them.
    pub(crate) fn renew(&self, health_changed: bool) -> bool {
        let view = self.views.load();
        let before = self.renewed_by.swap(Arc::clone(&view));
        let same_surroundings = !health_changed && view.has_same_surroundings(&before);
        let old = self.routes.load_full();
        let mut renewed: HashMap<Box<str>, Option<Arc<Route>>> = HashMap::new();
        for (authority, route) in old.iter() {
            if view.holds_endpoints_of(&route.target.service) && route.stands(&view, same_surroundings) {
                renewed.insert(authority.clone(), Some(Arc::clone(route)));
                continue;
            }
            let next = self.resolve(authority, &view).ok().map(|target| {
                let next = self.prepare(&view, target);
                next.requests
                    .store(route.requests.load(Ordering::Relaxed), Ordering::Relaxed);
                Arc::new(next)
            });
            renewed.insert(authority.clone(), next);
        }
        let unsettled = renewed.values().flatten().any(|route| route.unsettled);
        let used: HashSet<EndpointId> = renewed
            .values()
            .flatten()
            .flat_map(|route| route.members())
            .map(|member| member.endpoint.id.clone())
            .collect();
        self.routes.rcu(|now| {
            let mut new = HashMap::clone(now);
            for (authority, route) in &renewed {
                match route {
                    Some(route) => new.insert(authority.clone(), Arc::clone(route)),
                    None => new.remove(authority),
                };
            }
            new
        });
        if renewed.len() == self.routes.load().len() {
            self.forget(&view, &used);
        }
        unsettled
    }

    /// Lets go of records and connections that no route uses any more.
    fn forget(&self, view: &View, used: &HashSet<EndpointId>) {
        let mut board = self.board();
        board.endpoints.retain(|id, _| used.contains(id));
        board.lanes.retain(|(id, _), _| used.contains(id));
        let known: HashSet<_> = view.gateways().map(|gateway| gateway.id.clone()).collect();
        board.gateways.retain(|id, _| known.contains(id));
        let held = |service: &ServiceName| view.service(service).is_some() && view.holds_endpoints_of(service);
        board.memory.retain(|service, _| held(service));
    }

    fn prepare(&self, view: &View, target: Target) -> Route {
        let now = self.health.clock.elapsed();
        let Some((_, entry)) = view.service(&target.service) else {
            return Route::nobody(target);
        };
        let mut board = self.board();
        let board = &mut *board;
        let memory = board.memory.entry(target.service.clone()).or_default();
        let usable = route::usable_by_tier(entry, &self.source.locality);
        for (id, seen) in memory.observe_all(&usable, now) {
            let fresh = match seen {
                Seen::New => eject::Health::default(),
                Seen::Fresh => eject::Health::fresh(now),
                Seen::Back => eject::Health::returning(now),
            };
            match board.endpoints.get(&id) {
                Some(record) => record.reset(fresh),
                None => {
                    board.endpoints.insert(id, Arc::new(Record::new(fresh)));
                }
            }
        }
        let recovering = memory.settle(now, &self.health.pace);
        let evidence = Seeing {
            board,
            service: &target.service,
            now,
            pace: &self.health.pace,
        };
        let plan = route::plan(&self.query(view, entry, &target), &evidence);
        let unsettled = recovering || plan_is_unsettled(&plan) || view.overrides(clock::wall()).next().is_some();
        let mut route = board.route(self, view, target, plan);
        route.unsettled = unsettled;
        route.entry = Some(Arc::clone(entry));
        route
    }

    fn query<'a>(&'a self, view: &'a View, entry: &'a mesh::model::ServiceEntry, target: &'a Target) -> Query<'a> {
        Query {
            view,
            entry,
            port: target.port,
            region: target.region.as_ref(),
            source: &self.source,
            prefer: &self.failover,
            demand_rps: None,
            now: clock::wall(),
        }
    }

    /// Why requests to an authority go where they go.
    pub(crate) fn explain(&self, authority: &str) -> Result<Explanation, Missing> {
        let view = self.views.load();
        let target = self.resolve(authority, &view)?;
        let Some((_, entry)) = view.service(&target.service) else {
            return Err(TargetError::Unknown(target.service).into());
        };
        let board = self.board();
        let evidence = Seeing {
            board: &board,
            service: &target.service,
            now: self.health.clock.elapsed(),
            pace: &self.health.pace,
        };
        Ok(route::explain(
            &target.service,
            &self.query(&view, entry, &target),
            &evidence,
        ))
    }

    /// All gateways with records, for trials.
    pub(crate) fn gateways(&self) -> Vec<GatewayRef> {
        let view = self.views.load();
        let board = self.board();
        view.gateways()
            .filter_map(|gateway| {
                let (record, connections) = board.gateways.get(&gateway.id)?;
                Some(GatewayRef {
                    gateway: Arc::clone(gateway),
                    record: Arc::clone(record),
                    connections: Arc::clone(connections),
                })
            })
            .collect()
    }

    /// All pools.
    pub(crate) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.board().lanes.values().cloned().collect()
    }
}

fn plan_is_unsettled(plan: &Plan) -> bool {
    use route::Reason;
    plan.candidates().any(|candidate| {
        matches!(
            candidate.reason,
            Reason::Fresh(_) | Reason::Ramp(_) | Reason::Held(_) | Reason::Ejected(..) | Reason::GatewaysOut(_)
        )
    })
}

impl Board {
    fn route(&mut self, balancer: &Balancer, view: &View, target: Target, plan: Plan) -> Route {
        let has_others = plan.candidates().count() > 1;
        let mut gateways: BTreeMap<ClusterId, Arc<[GatewayRef]>> = BTreeMap::new();
        let mut member = |candidate: &route::Candidate| {
            let gateways = match &candidate.via {
                Via::Direct => Arc::default(),
                Via::Gateway(cluster) => Arc::clone(
                    gateways
                        .entry(cluster.clone())
                        .or_insert_with(|| self.gateways_into(view, cluster)),
                ),
            };
            let id = &candidate.endpoint.id;
            let record = self
                .endpoints
                .entry(id.clone())
                .or_insert_with(|| Arc::new(Record::new(eject::Health::default())));
            let lane = self
                .lanes
                .entry((id.clone(), target.port))
                .or_insert_with(|| Arc::new(Lane::new()));
            let region = &candidate.endpoint.locality.region;
            let meters = self
                .meters
                .entry((target.service.clone(), region.clone()))
                .or_insert_with(|| Arc::new(Meters::new(&balancer.metrics, &target.service, region)));
            Arc::new(Member {
                endpoint: Arc::clone(&candidate.endpoint),
                record: Arc::clone(record),
                lane: Arc::clone(lane),
                gateways,
                meters: Arc::clone(meters),
                has_others,
                weight: candidate.weight,
            })
        };
        let tiers = plan
            .tiers
            .iter()
            .map(|tier| PreparedTier {
                share: tier.share,
                members: tier.candidates.iter().map(&mut member).collect(),
            })
            .collect();
        let reserve = plan.reserve.iter().map(&mut member).collect();
        Route {
            target,
            entry: None,
            level: plan.level,
            tiers,
            reserve,
            requests: AtomicU64::new(0),
            unsettled: false,
        }
    }

    fn gateways_into(&mut self, view: &View, cluster: &ClusterId) -> Arc<[GatewayRef]> {
        let dialled = route::gateways_to_dial(view, cluster, &route::NoEvidence);
        dialled
            .into_iter()
            .map(|gateway| {
                let (record, connections) = self
                    .gateways
                    .entry(gateway.id.clone())
                    .or_insert_with(|| (Arc::new(Record::new(eject::Health::default())), Arc::default()));
                GatewayRef {
                    record: Arc::clone(record),
                    connections: Arc::clone(connections),
                    gateway,
                }
            })
            .collect()
    }
}

/// The evidence of this proxy.
struct Seeing<'a> {
    board: &'a Board,
    service: &'a ServiceName,
    now: Elapsed,
    pace: &'a Pace,
}

impl Evidence for Seeing<'_> {
    fn endpoint(&self, id: &EndpointId) -> Standing {
        let record = self.board.endpoints.get(id);
        record.map_or(Standing::Up, |record| record.standing(self.now, self.pace))
    }

    fn gateway(&self, id: &GatewayId) -> Standing {
        let record = self.board.gateways.get(id);
        record.map_or(Standing::Up, |(record, _)| record.standing(self.now, self.pace))
    }

    fn steady_weight(&self, tier: &TierKey) -> f64 {
        let memory = self.board.memory.get(self.service);
        memory.map_or(0.0, |memory| memory.steady_weight(tier, self.now, self.pace))
    }
}
