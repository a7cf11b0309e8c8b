//! Builds a node: opens its replica, binds its listeners, and wires what others only know as a trait or a handle. The only
//! file that knows everybody; decides nothing itself.

mod addresses;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use mesh::{
    dns,
    identity::{ClientAuth, Identity, Svid, TrustDomain},
    model::{Locality, NodeId},
    net::{
        grpc::{self, Serve},
        listen::listen,
    },
    ops::{self, Metrics},
    runtime::{Clock, OnExit, Ready, Stop, Tasks},
    subscribe::Views,
};
use proto::{
    admin::v1::{self as admin_pb, admin_server::AdminServer},
    registry::v1::{certificates_server::CertificatesServer, register_server::RegisterServer},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::service::Routes;
use tracing::{info, warn};

pub use addresses::Addresses;

use crate::{
    api::{self, Admin, AdminApi, CertificateApi, Door, Joins, RegisterApi, watch::WatchService},
    audit::Audit,
    catalog::{Command, Reply},
    config::Config,
    federation::{self, Federation},
    gauges::Gauges,
    ingest::{self, Agents},
    machine::Machine,
    metrics::Meters,
    node::{self, Card, Disk, Error, Renewal, Rotator},
    quota::desk::Desk,
    raft::{
        Channels, Replica, Seams,
        propose::Committed,
        storage::{Files, Storage},
    },
    watch::Hub,
};

/// On top of the streams' own deadline: the replica closes its database last.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// What the parts of a node share.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) node: NodeId,
    pub(crate) identity: Identity,
    pub(crate) replica: Replica,
    pub(crate) hub: Arc<Hub>,
    pub(crate) views: Views,
    pub(crate) federation: Federation,
    pub(crate) meters: Meters,
    pub(crate) desk: Desk,
    pub(crate) tasks: Tasks,
    /// The replica's folder.
    pub(crate) files: Arc<dyn Files>,
    /// Where this node listens, once it does.
    pub(crate) addresses: OnceLock<Addresses>,
    /// Room for those who look for what is wrong.
    pub(crate) diagnosing: Semaphore,
}

impl Parts {
    /// The region as the federation sees it.
    pub(crate) fn home(&self) -> Arc<dyn federation::Home> {
        Arc::new(federation::Replicated::new(self.replica.clone(), Vec::new()))
    }

    /// The node's wall clock.
    pub(crate) fn clock(&self) -> Clock {
        self.replica.clock()
    }

    /// Proposes; what the catalogue refuses is an error.
    pub(crate) async fn propose(&self, command: Command) -> Result<Committed, api::Error> {
        let committed = self.replica.propose(command).await?;
        match committed.reply {
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Ok(committed),
        }
    }

    /// Who watches this node.
    pub(crate) fn subscribers(&self) -> Vec<admin_pb::Subscriber> {
        let subscribers = self.hub.subscribers().list(self.clock().wall());
        subscribers
            .into_iter()
            .map(|subscriber| admin_pb::Subscriber {
                name: subscriber.name,
                version: subscriber.version,
                acknowledged_revision: subscriber.acknowledged.0,
                lag_ms: u64::try_from(subscriber.lag.as_millis()).unwrap_or(u64::MAX),
            })
            .collect()
    }
}

/// A node that runs.
pub struct Running {
    /// Where it listens.
    pub addresses: Addresses,
    /// Its id.
    pub node: NodeId,
    /// What it still waits for.
    pub ready: Ready,
    parts: Arc<Parts>,
}

impl Running {
    /// Its replica, for tests that look inside.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.parts.replica
    }

    /// Waits for the order to stop, then until everything has ended.
    ///
    /// # Errors
    /// The first critical part that ended by itself.
    pub async fn finish(self) -> Result<(), Error> {
        let tasks = self.parts.tasks.clone();
        let patience = self.parts.config.stop_deadline + CLOSE_WAIT;
        // The parts hold the replica, and the replica its database.
        drop(self);
        Ok(tasks.join(patience).await?)
    }
}

/// Runs a node until it is told to stop. `join` is a node token, used at the first start only.
///
/// # Errors
/// When it cannot start, or a critical part ends by itself.
pub async fn run(config: Config, join: Option<String>, stop: Stop) -> Result<(), Error> {
    let running = Box::pin(start(config, join, stop)).await?;
    info!(node = %running.node, addresses = ?running.addresses, "registry node runs");
    running.finish().await
}

/// Starts a node and returns once it listens. See [`run`].
///
/// # Errors
/// When it cannot start; whatever was started is then stopped.
pub async fn start(config: Config, join: Option<String>, stop: Stop) -> Result<Running, Error> {
    let machine = Machine::real(&config);
    Box::pin(start_on(machine, config, join, stop)).await
}

/// As [`start`], by another clock or on another disk than the machine's own: for tests.
///
/// # Errors
/// As [`start`].
pub async fn start_on(
    machine: Machine,
    mut config: Config,
    join: Option<String>,
    stop: Stop,
) -> Result<Running, Error> {
    let disk = Disk::new(&config.data_dir);
    let card = card(&config, &disk, join).await?;
    config.trust_domain = card.trust_domain.clone();
    let tasks = Tasks::new(Stop::default());
    let started = Box::pin(assemble(config, card, disk, machine, tasks.clone())).await;
    if let Ok(running) = &started {
        let replica = running.parts.replica.clone();
        tasks.spawn(
            "farewell",
            OnExit::Ignore,
            farewell(stop, replica, tasks.stop().clone()),
        );
    } else {
        tasks.stop().order();
        // The failure to start is what matters; what had been started ends in its own time.
        let _ = tasks.join(CLOSE_WAIT).await;
    }
    started
}

/// Passes the order to stop on once another node leads: until then this one goes on serving.
async fn farewell(ordered: Stop, replica: Replica, stop: Stop) {
    tokio::select! {
        () = stop.ordered() => return,
        () = ordered.ordered() => {}
    }
    replica.hand_over().await;
    drop(replica);
    stop.order();
}

async fn card(config: &Config, disk: &Disk, join: Option<String>) -> Result<Card, Error> {
    let card = match (disk.card()?, join) {
        (Some(card), None) => card,
        (Some(card), Some(_)) => {
            info!(node = %card.node, "this node has joined before; the token is ignored");
            card
        }
        (None, Some(token)) => Box::pin(node::join(config, &token)).await?,
        (None, None) => return Err(Error::NoNode(config.data_dir.clone())),
    };
    if card.region != config.region {
        return Err(Error::OtherRegion {
            found: card.region,
            wanted: config.region.clone(),
        });
    }
    if card.trust_domain != config.trust_domain {
        warn!(kept = %card.trust_domain, ignored = %config.trust_domain, "trust domain is the one that the region was made with");
    }
    Ok(card)
}

/// The node's identity. A certificate that ended while the node was down cannot vouch for it any more; until the replica is
/// open and the region's authority known, a throw-away one stands in, which nobody trusts.
fn identity(disk: &Disk, card: &Card) -> Result<(Identity, Standing), Error> {
    let spoiled = |fault| Error::Spoiled {
        path: disk.identity(),
        fault,
    };
    let bundle = card
        .bundle()
        .ok_or_else(|| spoiled("its anchors are no certificates"))?;
    let svid = Svid::load(&disk.identity())?.ok_or_else(|| spoiled("the certificate is gone"))?;
    match Identity::new(svid, [Arc::new(bundle)]) {
        Ok(identity) => Ok((identity, Standing::Own)),
        Err(error) => {
            warn!(%error, "own certificate is not good any more; the region's authority issues another");
            Ok((node::stand_in(&card.region, &card.trust_domain)?, Standing::ThrowAway))
        }
    }
}

/// Whose certificate a node begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Own,
    ThrowAway,
}

async fn assemble(config: Config, card: Card, disk: Disk, machine: Machine, tasks: Tasks) -> Result<Running, Error> {
    let (metrics, ready) = (Metrics::default(), Ready::default());
    let meters = Meters::new(&metrics);
    let (identity, standing) = identity(&disk, &card)?;
    let hub = Hub::new(&metrics);
    let publish = Arc::clone(&hub);
    let settings = config.replica(card.node);
    let seams = Seams {
        storage: Storage {
            files: Arc::clone(&machine.files),
            ..Storage::directory(settings.data_dir.clone())
        },
        transport: Arc::new(Channels::new(identity.clone(), tasks.clone())),
        clock: machine.clock,
    };
    let replica = Replica::open_on(seams, settings, publish, &metrics, &tasks).await?;
    take_own(&config, (&identity, standing), &replica, &disk)?;

    let bound = Bound::bind(&config)?;
    let views = hub.local_views(&tasks);
    let federation = Federation::start(federation::Deps {
        replica: replica.clone(),
        hub: Arc::clone(&hub),
        identity: identity.clone(),
        addresses: vec![config.advertise.federation.clone()],
        tasks: tasks.clone(),
        metrics: metrics.clone(),
    });
    let parts = Arc::new(Parts {
        trust_domain: card.trust_domain,
        node: card.node,
        identity,
        replica,
        hub,
        views,
        federation,
        desk: Desk::new(card.node, &metrics),
        meters,
        tasks: tasks.clone(),
        config,
        files: machine.files,
        addresses: OnceLock::new(),
        diagnosing: Semaphore::new(api::DIAGNOSES_MAX),
    });
    let dns = serve_dns(&parts, &metrics).await?;
    let addresses = bound.serve(&parts, &metrics, &ready, dns)?;
    // Set once, here.
    let _ = parts.addresses.set(addresses);
    watch_over(&parts, &ready, &metrics);
    tasks.spawn(
        "metrics-upkeep",
        OnExit::Ignore,
        until(tasks.stop().clone(), metrics.upkeep()),
    );
    Ok(Running {
        addresses,
        node: card.node,
        ready,
        parts,
    })
}

/// What the catalogue on disk knows of the own certificate counts before anybody is talked to.
fn take_own(
    config: &Config,
    (identity, standing): (&Identity, Standing),
    replica: &Replica,
    disk: &Disk,
) -> Result<(), Error> {
    let state = replica.state();
    if standing == Standing::ThrowAway && state.authority().is_none() {
        return Err(Error::Spoiled {
            path: disk.identity(),
            fault: "the certificate ended before this node had its region's catalogue",
        });
    }
    identity.replace_bundles(state.bundles().cloned());
    if let Some(svid) = node::renewed(config, identity, &state)? {
        svid.save(&disk.identity())?;
        identity.replace_svid(svid)?;
    }
    Ok(())
}

/// The listeners of a node, bound before anything is served: a port in use is found before any agent was told yes.
struct Bound {
    api: TcpListener,
    raft: TcpListener,
    http: TcpListener,
    federation: TcpListener,
}

fn unserved<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Listen {
        what,
        source: Box::new(source),
    }
}

impl Bound {
    fn bind(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            api: listen(config.listen.api).map_err(unserved("listen.api"))?,
            raft: listen(config.listen.raft).map_err(unserved("listen.raft"))?,
            http: listen(config.listen.http).map_err(unserved("listen.http"))?,
            federation: listen(config.listen.federation).map_err(unserved("listen.federation"))?,
        })
    }

    fn serve(self, parts: &Arc<Parts>, metrics: &Metrics, ready: &Ready, dns: SocketAddr) -> Result<Addresses, Error> {
        let address = |listener: &TcpListener, what| listener.local_addr().map_err(unserved::<std::io::Error>(what));
        let addresses = Addresses {
            api: address(&self.api, "listen.api")?,
            raft: address(&self.raft, "listen.raft")?,
            http: address(&self.http, "listen.http")?,
            federation: address(&self.federation, "listen.federation")?,
            dns,
        };
        let joins = Arc::new(Joins(Arc::clone(parts)));
        let grpc = |name, listener, routes| {
            let limits = parts.config.limits;
            let options = Serve {
                connections_max: limits.connections,
                newcomers: limits.newcomers(),
                handshakes_per_source: limits.handshakes_per_source,
                streams_max: limits.streams_per_connection,
                age: limits.connection_age,
                gate: Arc::new(Door::new(name, parts.trust_domain.clone(), limits, metrics)),
                drain: parts.config.stop_deadline,
                // Tokens are shown without a certificate; the gate judges each call by its caller.
                ..Serve::new(name, ClientAuth::Optional)
            };
            let (identity, tasks) = (parts.identity.clone(), parts.tasks.clone());
            let served = grpc::serve(listener, identity, options, routes, tasks, metrics.clone());
            parts.tasks.spawn(name, OnExit::StopProcess, served);
        };
        grpc(
            "raft",
            self.raft,
            Routes::new(parts.replica.service(parts.identity.clone(), joins)),
        );
        grpc("federation", self.federation, Routes::new(parts.federation.server()));
        grpc("api", self.api, api_routes(parts));
        let pages = api::pages(
            Admin::new(Arc::clone(parts)),
            ready.clone(),
            metrics.clone(),
            parts.config.limits.http_requests,
        );
        let served = ops::admin::serve(self.http, pages, parts.tasks.stop().clone());
        parts.tasks.spawn("http", OnExit::StopProcess, served);
        Ok(addresses)
    }
}

fn api_routes(parts: &Arc<Parts>) -> Routes {
    let message_bytes = parts.config.limits.message_bytes;
    let leases = ingest::Leases::default();
    let agents = Agents::new(Arc::clone(parts), leases.clone());
    let watch = ingest::Watch {
        replica: parts.replica.clone(),
        node: parts.node,
        leases,
        times: ingest::LeaseTimes {
            ttl: parts.config.lease.ttl,
            grace: parts.config.lease.grace,
        },
        stop: parts.tasks.stop().clone(),
    };
    let expiry = ingest::watch(watch, parts.meters.clone());
    parts.tasks.spawn("expiry", OnExit::StopProcess, expiry);
    let admin = AdminApi(Admin::new(Arc::clone(parts)));
    Routes::new(RegisterServer::new(RegisterApi(agents)).max_decoding_message_size(message_bytes))
        .add_service(
            CertificatesServer::new(CertificateApi(Arc::clone(parts))).max_decoding_message_size(message_bytes),
        )
        .add_service(
            AdminServer::new(admin)
                .max_decoding_message_size(message_bytes)
                .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX),
        )
        .add_service(WatchService::new(Arc::clone(&parts.hub), parts.tasks.clone()))
}

async fn serve_dns(parts: &Arc<Parts>, metrics: &Metrics) -> Result<SocketAddr, Error> {
    let config = &parts.config;
    let from = Locality {
        region: config.region.clone(),
        zone: config.node.zone.clone(),
    };
    let serving = dns::serve(
        config.dns.clone(),
        config.listen.dns,
        parts.views.clone(),
        from,
        &parts.tasks,
        metrics,
    );
    Ok(serving.await.map_err(unserved("listen.dns"))?.address)
}

/// The tasks that live as long as the node.
fn watch_over(parts: &Arc<Parts>, ready: &Ready, metrics: &Metrics) {
    let tasks = &parts.tasks;
    Audit::start(parts, metrics);
    Rotator::start(parts);
    tasks.spawn("renewal", OnExit::StopProcess, Renewal::new(Arc::clone(parts)).run());
    tasks.spawn(
        "gauges",
        OnExit::StopProcess,
        Gauges::new(Arc::clone(parts), metrics).run(),
    );
    let quotas = parts.desk.clone().run(parts.replica.clone(), tasks.stop().clone());
    tasks.spawn("quotas", OnExit::StopProcess, quotas);
    let pending = ready.hold("a leader, a vote and the region's catalogue");
    let (parts, stop) = (Arc::clone(parts), tasks.stop().clone());
    tasks.spawn("first-read", OnExit::Ignore, async move {
        until(stop, first_read(parts)).await;
        drop(pending);
    });
}

/// Returns once this node votes and has answered a linearizable read of an initialised catalogue.
async fn first_read(parts: Arc<Parts>) {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        let replica = &parts.replica;
        if replica.linearize().await.is_ok() && replica.votes() && replica.state().region().is_some() {
            return;
        }
    }
}

async fn until(stop: Stop, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.ordered() => {}
        () = work => {}
    }
}
