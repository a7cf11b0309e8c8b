//! Out of the application, into the mesh: accepts its requests, decides where each goes, and carries it there over mutual
//! TLS. Reads prepared routes only; never asks the registry: where the endpoints of a service are not held it says that it
//! wants them, and waits a moment for the view that has them.

mod answer;
mod balance;
mod connect;
mod dial;
mod http;
mod listen;
mod meter;
mod pool;
mod record;
mod retry;
mod route;
mod seek;
mod settings;
mod steward;
pub(crate) mod target;
mod tcp;
#[cfg(test)]
mod tests;
mod upgrade;

use std::{net::SocketAddr, sync::Arc};

use mesh::{
    identity::Identity,
    model::{Namespace, ServiceName},
    net::listen::{Acceptor, ListenError, listen as bind},
    ops::Metrics,
    route::{Explanation, Source},
    runtime::{Drain, OnExit, Stop, Tasks},
    subscribe::{Demand, Spending, Views, demand::EndpointsUnknown},
};
use metrics::Counter;
use serde_json::{Value, json};

use self::{
    answer::Refusal,
    balance::{Balancer, Health},
    dial::Dialer,
    meter::Meter,
    pool::Pool,
    record::Clock,
    retry::Budget,
};
pub use seek::Missing;
pub use settings::{Settings, Upstream};

/// What the outbound side is given.
pub struct Deps {
    /// Fills the truth to route by with what the application calls.
    pub demand: Demand,
    /// Who this workload is.
    pub identity: Identity,
    /// Where it runs.
    pub source: Source,
    /// Completes bare names; its tenant pays.
    pub namespace: Namespace,
    /// Where the tenant's spending is told, and confirmed.
    pub spending: Arc<Spending>,
    /// For its metrics.
    pub metrics: Metrics,
    /// Supervises its tasks.
    pub tasks: Tasks,
    /// Ends accepting; connections then finish what they have begun.
    pub accept: Stop,
    /// Held by each connection.
    pub drain: Drain,
}

/// Counters that belong to no service.
pub(crate) struct SharedMeters {
    metrics: Metrics,
    pub(crate) retries: Counter,
}

impl SharedMeters {
    /// A refusal is no hot path: its counter is looked up.
    fn refused(&self, refusal: &Refusal) {
        let label = [("reason", refusal.word())];
        let name = "isthmus_outbound_refused_total";
        self.metrics
            .counter(name, "requests that the proxy answered itself", &label)
            .increment(1);
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) views: Views,
    pub(crate) demand: Demand,
    pub(crate) balancer: Balancer,
    pub(crate) health: Arc<Health>,
    pub(crate) pool: Pool,
    pub(crate) budget: Budget,
    pub(crate) meter: Meter,
    pub(crate) meters: SharedMeters,
    pub(crate) tasks: Tasks,
    pub(crate) accept: Stop,
    pub(crate) drain: Drain,
}

impl Shared {
    /// Takes over what a new view says beside routes.
    pub(crate) fn take_over_view(&self) {
        let (view, now) = (self.views.load(), self.health.clock.elapsed());
        self.meter
            .update(&view, &self.balancer.namespace, &self.meters.metrics, now);
    }
}

/// The outbound side of a proxy. Clones are the same one.
#[derive(Clone)]
pub struct Outbound {
    shared: Arc<Shared>,
    address: SocketAddr,
    upstreams: Arc<[(SocketAddr, ServiceName, u16)]>,
}

impl Outbound {
    /// Binds its listeners and starts.
    ///
    /// # Errors
    /// When an address is taken.
    pub fn new(settings: Settings, deps: Deps) -> Result<Self, ListenError> {
        let acceptor = |address, name| -> Result<(Acceptor, SocketAddr), ListenError> {
            let listener = bind(address)?;
            // A bound socket knows its address.
            let bound = listener.local_addr().unwrap_or(address);
            Ok((
                Acceptor::new(listener, name, settings.connections_max, &deps.metrics),
                bound,
            ))
        };
        let (http, address) = acceptor(settings.listen, "outbound-http")?;
        let mut listeners = Vec::new();
        let mut upstreams = Vec::new();
        for upstream in &settings.upstreams {
            let (acceptor, bound) = acceptor(upstream.listen, "outbound-tcp")?;
            upstreams.push((bound, upstream.service.clone(), upstream.port));
            listeners.push((acceptor, authority(upstream)));
        }
        let shared = Arc::new(share(settings, deps));
        // Before the first request: it must be charged, too.
        shared.take_over_view();
        let tasks = &shared.tasks;
        tasks.spawn(
            "outbound-steward",
            OnExit::StopProcess,
            steward::run(Arc::clone(&shared)),
        );
        tasks.spawn("outbound-meter", OnExit::StopProcess, meter::run(Arc::clone(&shared)));
        tasks.spawn(
            "outbound-listen",
            OnExit::StopProcess,
            listen::accept_http(Arc::clone(&shared), http),
        );
        for (acceptor, authority) in listeners {
            let task = listen::accept_tcp(Arc::clone(&shared), acceptor, authority);
            tasks.spawn("outbound-listen", OnExit::StopProcess, task);
        }
        Ok(Self {
            shared,
            address,
            upstreams: upstreams.into(),
        })
    }

    /// Where it takes HTTP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it takes opaque TCP, and for whom.
    #[must_use]
    pub fn upstreams(&self) -> Vec<(SocketAddr, ServiceName, u16)> {
        self.upstreams.to_vec()
    }

    /// Why requests to an authority go where they go, by this proxy's own evidence.
    ///
    /// # Errors
    /// When the authority names nothing that the view knows, or a service whose endpoints are not held.
    pub fn explain(&self, authority: &str) -> Result<Explanation, Missing> {
        self.shared.balancer.explain(authority)
    }

    /// Asks for the endpoints of a service as a request for it would, and waits as long.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn fetch(&self, service: &ServiceName) -> Result<(), EndpointsUnknown> {
        self.shared.demand.ensure(service).await
    }

    /// All that it keeps, for the admin page: routes with their endpoints, load and pools, and gateways.
    #[must_use]
    pub fn status(&self) -> Value {
        let routes = self.shared.balancer.routes();
        let mut routes: Vec<_> = routes.iter().collect();
        routes.sort_by_key(|(authority, _)| (*authority).clone());
        let routes: Vec<_> = routes
            .into_iter()
            .map(|(authority, route)| self.route(authority, route))
            .collect();
        let gateways: Vec<_> = self
            .shared
            .balancer
            .gateways()
            .iter()
            .map(|gateway| {
                json!({
                    "gateway": gateway.gateway.id,
                    "cluster": gateway.gateway.cluster,
                    "address": gateway.gateway.address,
                    "ejected": gateway.record.is_out(),
                    "connections": gateway.connections(),
                })
            })
            .collect();
        json!({ "routes": routes, "gateways": gateways })
    }

    fn route(&self, authority: &str, route: &route::Route) -> Value {
        let endpoints: Vec<_> = route
            .members()
            .map(|member| {
                let (connections, streams) = member.lane.load();
                json!({
                    "endpoint": member.endpoint.id,
                    "region": member.endpoint.locality.region,
                    "ejected": member.record.is_out(),
                    "in_flight": member.record.in_flight(),
                    "latency_us": member.record.latency_us().round(),
                    "connections": connections,
                    "streams": streams,
                })
            })
            .collect();
        json!({
            "authority": authority,
            "service": route.target.service,
            "port": route.target.port,
            "level": route.level,
            "requests": route.requests.load(std::sync::atomic::Ordering::Relaxed),
            "endpoints": endpoints,
        })
    }
}

/// The name that an upstream's listener stands for.
fn authority(upstream: &Upstream) -> Arc<str> {
    let (service, port) = (&upstream.service, upstream.port);
    match &upstream.region {
        Some(region) => format!("{service}.svc.{region}.region.isthmus:{port}").into(),
        None => format!("{service}:{port}").into(),
    }
}

fn share(settings: Settings, deps: Deps) -> Shared {
    let clock = Clock::start();
    let views = deps.demand.views().clone();
    let health = Arc::new(Health {
        limits: settings.eject,
        pace: settings.pace,
        clock,
        wake: tokio::sync::Notify::new(),
        ejections: deps.metrics.counter(
            "isthmus_outbound_ejections_total",
            "endpoints and gateways ejected by evidence of this proxy",
            &[],
        ),
    });
    Shared {
        balancer: Balancer::new(
            views.clone(),
            deps.source,
            deps.namespace,
            settings.failover.clone(),
            Arc::clone(&health),
            deps.metrics.clone(),
        ),
        pool: Pool {
            dialer: Dialer {
                identity: deps.identity,
                timeout: settings.connect_timeout,
                health: Arc::clone(&health),
            },
            tasks: deps.tasks.clone(),
            clock,
            idle: settings.pool_idle,
            age: settings.pool_age,
            connections_max: settings.pool_connections_max,
            streams: settings.pool_streams,
            silence: settings.silence,
        },
        budget: Budget::new(settings.retry_ratio),
        meter: Meter::new(deps.spending),
        meters: SharedMeters {
            retries: deps.metrics.counter(
                "isthmus_outbound_retries_total",
                "tries of requests after the first one",
                &[],
            ),
            metrics: deps.metrics,
        },
        views,
        demand: deps.demand,
        health,
        settings,
        tasks: deps.tasks,
        accept: deps.accept,
        drain: deps.drain,
    }
}
