//! Serving: accept, handshake beside each other, then gRPC. Whoever has not shown who it is can be crowded out, whoever has
//! cannot. On stop: no new connections, running calls may finish until the deadline, the rest is cut.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use metrics::Counter;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tracing::{debug, warn};

use super::{
    Caller, Gate, Open,
    connection::{Connection, Sweep},
    exchange,
};
use crate::{
    identity::{ClientAuth, Identity, Side},
    net::{
        allowance::{self, Accounts},
        listen::{Accepted, Acceptor},
        newcomers::{self, source},
    },
    ops::Metrics,
    runtime::{Drain, OnExit, Stop, Tasks, clock},
};

/// A stranger's patience is not ours.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// One line about failed handshakes in this time; the metric counts all of them.
const LOG_INTERVAL_MS: i64 = 1_000;
/// Who showed no certificate wants one call answered, which takes seconds at most.
const STRANGER_AGE: Duration = Duration::from_secs(60);

/// How a listener serves.
#[derive(Clone)]
pub struct Serve {
    /// In logs, metrics and task names.
    pub name: &'static str,
    /// Whether callers need a certificate.
    pub client_auth: ClientAuth,
    /// Beyond it connections are reset.
    pub connections_max: usize,
    /// Connections that have not shown a certificate; beyond, each takes the place of an older one. At most a quarter of
    /// the connections count.
    pub newcomers: newcomers::Bounds,
    /// Handshakes of one source address a second, with as many at once as come in two seconds; beyond, connections are
    /// reset. 0 is no bound.
    pub handshakes_per_source: u32,
    /// Calls at a time on one connection; a client keeps more of them back by itself.
    pub streams_max: u32,
    /// After this long, less up to a tenth, a connection takes no new calls, and its streams end in order. Shorter than a
    /// certificate's life, so that nobody goes on with one that has ended.
    pub age: Duration,
    /// How long running calls may take to finish after the order to stop.
    pub drain: Duration,
    /// Who may do what.
    pub gate: Arc<dyn Gate>,
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Serve {
    /// 10 000 connections, 2 500 newcomers and 1 000 of one source, 1 000 handshakes of one source a second, 4 096 calls
    /// at a time, half an hour, 5 s to drain, and a gate that is open.
    #[must_use]
    pub fn new(name: &'static str, client_auth: ClientAuth) -> Self {
        Self {
            name,
            client_auth,
            connections_max: 10_000,
            newcomers: newcomers::Bounds {
                total_max: 2_500,
                source_max: 1_000,
            },
            handshakes_per_source: 1_000,
            streams_max: 4_096,
            age: Duration::from_secs(1800),
            drain: Duration::from_secs(5),
            gate: Arc::new(Open),
        }
    }
}

struct Meters {
    failed: Counter,
    swept: Counter,
    flooded: Counter,
    turned_away: Counter,
}

impl Meters {
    fn new(name: &'static str, metrics: &Metrics) -> Self {
        let label = [("listener", name)];
        let counter = |name, help| metrics.counter(name, help, &label);
        Self {
            failed: counter(
                "isthmus_handshake_failed_total",
                "TLS handshakes that failed or took too long",
            ),
            swept: counter(
                "isthmus_connections_swept_total",
                "connections closed because bundles changed and their peer is no longer trusted",
            ),
            flooded: counter(
                "isthmus_handshakes_limited_total",
                "connections reset because their source opens more of them a second than it may",
            ),
            turned_away: counter(
                "isthmus_connections_limited_total",
                "connections closed because their caller holds as many as it may",
            ),
        }
    }
}

/// What every connection needs.
struct Desk {
    identity: Identity,
    options: Serve,
    counter: exchange::Counter,
    stop: Stop,
    cut: Stop,
    drain: Drain,
    /// Guards the table only.
    sources: Mutex<Accounts<IpAddr>>,
    began: Instant,
    /// When a failure was last logged, in milliseconds: strangers must not be able to fill the log.
    logged: AtomicI64,
    meters: Meters,
}

/// Serves `routes` until the tasks' stop is ordered and running calls have finished or were cut. Run it as a task.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    options: Serve,
    routes: Routes,
    tasks: Tasks,
    metrics: Metrics,
) {
    let mut acceptor =
        Acceptor::new(listener, options.name, options.connections_max, &metrics).with_newcomers(options.newcomers);
    let desk = Arc::new(Desk {
        identity,
        counter: exchange::Counter {
            routes: routes.prepare(),
            gate: Arc::clone(&options.gate),
            streams_max: options.streams_max,
            tasks: tasks.clone(),
        },
        stop: tasks.stop().clone(),
        cut: Stop::default(),
        drain: Drain::default(),
        sources: Mutex::default(),
        began: clock::now(),
        logged: AtomicI64::default(),
        meters: Meters::new(options.name, &metrics),
        options,
    });
    loop {
        let accepted = tokio::select! {
            () = desk.stop.ordered() => break,
            accepted = acceptor.accept() => accepted,
        };
        let guard = desk.drain.guard();
        let serving = Arc::clone(&desk);
        tasks.spawn(desk.options.name, OnExit::Ignore, async move {
            let _guard = guard;
            // Boxed where it is made: each wrapper around a task would keep room for it.
            Box::pin(serving.serve(accepted)).await;
        });
    }
    // Clients that are refused go elsewhere.
    drop(acceptor);
    let left = desk.drain.finish(desk.options.drain).await;
    if left > 0 {
        debug!(listener = desk.options.name, left, "connections cut at the deadline");
    }
    desk.cut.order();
}

impl Desk {
    async fn serve(&self, accepted: Accepted) {
        let Accepted { stream, peer, mut slot } = accepted;
        if let Err(allowance::Over::Rate { .. } | allowance::Over::Held) = self.take_turn(peer.ip()) {
            self.meters.flooded.increment(1);
            crate::net::listen::reset_on_close(&stream);
            return;
        }
        let shaken = tokio::select! {
            () = self.stop.ordered() => return,
            () = slot.evicted() => return,
            shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake(stream, peer)) => shaken,
        };
        let (connection, caller) = match shaken {
            Ok(Ok(shaken)) => shaken,
            Ok(Err(error)) => {
                self.meters.failed.increment(1);
                if self.may_log() {
                    warn!(listener = self.options.name, %peer, error, "TLS handshake failed");
                }
                return;
            }
            Err(_) => {
                self.meters.failed.increment(1);
                debug!(listener = self.options.name, %peer, "TLS handshake took too long");
                return;
            }
        };
        let _pass = match self.options.gate.connection(&caller) {
            Ok(pass) => pass,
            Err(reason) => {
                self.meters.turned_away.increment(1);
                if self.may_log() {
                    warn!(listener = self.options.name, %peer, id = ?caller.id, reason, "connection closed");
                }
                return;
            }
        };
        let mut age = self.options.age.mul_f64(1.0 - fastrand::f64() / 10.0);
        if caller.id.is_some() {
            slot.settle();
        } else {
            age = age.min(STRANGER_AGE);
        }
        tokio::select! {
            () = self.counter.serve(connection, caller, age, &self.stop) => {}
            () = self.cut.ordered() => {}
            () = slot.evicted() => {}
        }
    }

    fn take_turn(&self, address: IpAddr) -> Result<(), allowance::Over> {
        let per_second = f64::from(self.options.handshakes_per_source);
        let bounds = allowance::Bounds {
            per_second,
            burst: per_second * 2.0,
            held_max: u32::MAX,
        };
        let since = clock::now().saturating_duration_since(self.began);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.charge(&source(address), &bounds, since)
    }

    fn may_log(&self) -> bool {
        let now = clock::wall().0;
        let last = self.logged.swap(now, Ordering::Relaxed);
        if now.saturating_sub(last) >= LOG_INTERVAL_MS {
            return true;
        }
        self.logged.store(last, Ordering::Relaxed);
        false
    }

    async fn shake(&self, stream: TcpStream, peer: std::net::SocketAddr) -> Result<(Connection, Caller), String> {
        let changed = self.identity.changed();
        let config = self.identity.control_config(self.options.client_auth);
        let tls = TlsAcceptor::from(config)
            .accept(stream)
            .await
            .map_err(|error| error.to_string())?;
        let (_, state) = tls.get_ref();
        let id = self
            .identity
            .peer(state, Side::Client)
            .map_err(|fault| fault.to_string())?;
        let caller = Caller { id, address: peer };
        let sweep = state.peer_certificates().map(|chain| {
            let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
            let swept = self.meters.swept.clone();
            Sweep::new(self.identity.clone(), Side::Client, chain, changed, swept)
        });
        let connection = Connection::new(tls.into(), caller.clone(), sweep, self.cut.clone());
        Ok((connection, caller))
    }
}
